"""OTT-JAX: its Sinkhorn in the log domain, float32, compiled; compilation is not timed."""

import time
from typing import Any

import numpy as np

from benchmarks.contenders.base import Ask, Contender, Run
from benchmarks.workloads import Problem

CHECK_EVERY = 10  # OTT's default
_COMPILED: dict[Any, Any] = {}  # shared by all problems of a shape: epsilon and the tolerance are arguments
_SECONDS: dict[Any, float] = {}  # of an iteration, likewise


def _round_down(count: float) -> int:
    """The largest of 10, 20, 50, 100, ... up to `count`: few different limits, few compilations."""
    steps = [digit * 10**power for power in range(1, 6) for digit in (1, 2, 5)]
    return max([step for step in steps if step <= count] or [10])


class OttJax(Contender):
    """Plain, with a fixed momentum of 1.3, or with Anderson acceleration over five iterates."""

    family = "OTT"
    modules = ("jax", "ott.solvers.linear")
    stop = "own test"
    compiles = True
    copies = 6.0
    on_torch = False

    def __init__(self, name: str) -> None:
        self.name, self.fixed = name, name == "OTT"

    def unfit(self, problem: Problem) -> str:
        import jax

        return "jax has no CUDA" if problem.scores.is_cuda and jax.default_backend() != "gpu" else ""

    def _compile(self, shape: tuple[int, ...], max_iter: int, exactly: int | None, every: int) -> Any:
        import jax
        from ott.geometry import geometry
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import acceleration, sinkhorn

        extras = {
            "OTT": {},
            "OTT momentum 1.3": {"momentum": acceleration.Momentum(value=1.3)},
            "OTT Anderson 5": {"anderson": acceleration.AndersonAcceleration(memory=5)},
        }[self.name]

        def solve(cost: Any, epsilon: Any, tol: Any, marginal: Any) -> Any:
            solver = sinkhorn.Sinkhorn(
                threshold=tol,
                max_iterations=exactly or max_iter,
                min_iterations=exactly or 0,
                inner_iterations=exactly or every,
                **extras,
            )
            points = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
            output = solver(linear_problem.LinearProblem(points, b=marginal))
            return output.matrix, output.n_iters

        return jax.jit(jax.vmap(solve, in_axes=(0, None, None, None)) if len(shape) == 3 else solve)

    def prepare(self, problem: Problem) -> Run:
        import jax
        import jax.numpy as jnp

        cost = problem.once("jax cost", lambda: jnp.asarray(problem.cost().cpu().numpy()))
        marginal = jnp.asarray(problem.proportions.cpu().numpy(), dtype=jnp.float32)

        def run(ask: Ask) -> Any:
            exactly = ask.most if ask.iterations else None
            every = min(CHECK_EVERY, ask.expected or CHECK_EVERY)
            key = (self.name, cost.shape, ask.max_iter, exactly, every)
            if key not in _COMPILED:
                _COMPILED[key] = self._compile(cost.shape, ask.max_iter or 1000, exactly, every)
            tol = -1.0 if exactly else ask.tol
            return jax.block_until_ready(_COMPILED[key](cost, problem.epsilon, tol, marginal))

        return run

    def plan(self, answer: Any):
        return super().plan(np.asarray(answer[0]))

    def iterations(self, answer: Any) -> int:
        return int(np.max(np.asarray(answer[1])))

    def most_iterations(self, problem: Problem, run: Run, seconds: float) -> int:
        """From the cost of the ten iterations before it first looks at an error, which may be anything here."""
        key = (self.name, problem.scores.shape)
        if key not in _SECONDS:
            ask = Ask(tol=1e9, max_iter=1000)
            run(ask)  # compiles
            start = time.perf_counter()
            run(ask)
            _SECONDS[key] = (time.perf_counter() - start) / CHECK_EVERY
        return _round_down(seconds / _SECONDS[key])
