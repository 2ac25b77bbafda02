"""The default: picks the solver by the range of the exponents, by shape, and by what a few Sinkhorn steps show."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from otlabel.problem import LabelProblem
from otlabel.result import LabelResult
from otlabel.solvers.anderson import accelerate
from otlabel.solvers.base import Solver
from otlabel.solvers.iterate import Iterate, has_one_shift
from otlabel.solvers.lean import LeanIterate, is_lean
from otlabel.solvers.newton import DENSE_CLASSES, SAMPLED_FROM, SAMPLED_ROWS, anneal, climb, climb_from_init

Plan = Literal["done", "stop", "accelerate", "climb", "anneal"]

# Beyond this range of the exponents Sinkhorn's iteration is not worth trying.
EASY_RANGE = 50.0
PROBING_STEPS = 6
LONGEST_RUN = 4
# Error after the probing steps up to which the problem counts as easy.
EASY_ERROR = 0.35
# It must be smaller where a Newton step costs more than so many passes, because far from the optimum many fail.
COSTLY = 8.0
COSTLY_EASY_ERROR = 0.2
# Newton steps that an easy problem takes, and one that has to be annealed.
NEWTON_STEPS = 4
ANNEALED_STEPS = 8
# Calls of the tensor library in a pass, and what a step of the others makes besides.
PASS_CALLS = 4
NEWTON_CALLS = 25
ANDERSON_CALLS = 30
# Sinkhorn steps that an accelerated one replaces, after the first few.
ANDERSON_GAIN = 2.5
ANDERSON_START = 3


@dataclass(frozen=True)
class Auto(Solver):
    """Settings of the default solver.

    Scores that span more than 50 epsilons are annealed with Newton's method at once. Others get six Sinkhorn steps;
    where these show that few more will do, they follow, else Anderson acceleration (many classes) or Newton's method.

    Attributes:
        max_iter: Most passes over the scores, at least 1.
        tol: Largest L1 error of the class proportions.
        on_failure: What to do when `tol` is missed: `"warn"` (ConvergenceWarning), `"raise"` (ConvergenceError) or
            `"ignore"`.

    Raises:
        TypeError: If a setting has a wrong type.
        ValueError: If a setting is out of range or unknown.

    Example:
        >>> import torch, otlabel
        >>> otlabel.sinkhorn_label(torch.eye(3), epsilon=1e-3, solver=Auto(tol=1e-6)).status.name
        'CONVERGED'
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_tolerance()

    def __call__(self, problem: LabelProblem, *, init: Tensor | None = None) -> LabelResult:
        """Solve from the class duals `init` (default: none known)."""
        if (
            init is None
            and problem.sides is None
            and self._is_easy(problem)
            and problem.kernel.scores.shape[0] == 1
            and is_lean(problem)
        ):
            lean = LeanIterate(problem, self.tol, scales_rows=True)
            plan = self._probe(problem, lean)
            if plan == "done":
                labels, measure = lean.finish(met=True)
                return self._report(problem, labels, measure, has_ended=True)
            state = Iterate(problem, self.tol)
            state.absorb(lean.log_v())
            state.move(state.factor)
            state.passes = lean.passes  # the same point again
            self._go_on(state, plan)
            labels, measure = state.finish()
            return self._report(problem, labels, measure, has_ended=state.has_ended)
        return super().__call__(problem, init=init)

    @staticmethod
    def _is_easy(problem: LabelProblem) -> bool:
        return problem.exponent_range <= EASY_RANGE

    def _iterate(self, state: Iterate) -> None:
        tol, max_iter = self.tol, self.max_iter
        assert tol is not None  # noqa: S101 - checked above
        if state.init is not None and climb_from_init(state, tol, max_iter, DENSE_CLASSES):
            return
        if self._is_easy(state.problem):
            if has_one_shift(state.problem):
                state.absorb_direct()
            else:
                state.absorb(torch.zeros_like(state.marginal))
            state.move(state.factor)
            self._go_on(state, self._probe(state.problem, _Steps(state, tol)))
        else:
            anneal(state, tol, max_iter, dense_classes=DENSE_CLASSES)

    def _probe(self, problem: LabelProblem, run: "LeanIterate | _Steps") -> Plan:
        """Take Sinkhorn steps as long as they are the cheapest way; what to do then."""
        assert self.tol is not None  # noqa: S101 - for the type checker
        pass_cost, newton_cost = _costs(problem)
        easy_error = EASY_ERROR if newton_cost < COSTLY * pass_cost else COSTLY_EASY_ERROR
        before, steps = math.inf, min(PROBING_STEPS - 2, self.max_iter - run.passes)
        while True:
            for _ in range(steps):
                run.step()
            error = run.error()
            if error <= self.tol:
                return "done"
            if run.passes >= self.max_iter:
                return "stop"
            if before < math.inf:
                left = steps * math.log(self.tol / error) / math.log(error / before) if error < before else math.inf
                newton = (NEWTON_STEPS if error < easy_error else ANNEALED_STEPS) * newton_cost
                anderson = (left / ANDERSON_GAIN + ANDERSON_START) * (pass_cost + ANDERSON_CALLS)
                if left * pass_cost > min(newton, anderson if error < easy_error else math.inf):
                    if error > easy_error:
                        return "anneal"
                    return "accelerate" if anderson < newton else "climb"
                steps = min(math.ceil(left), LONGEST_RUN)
            else:
                steps = 2
            steps = min(steps, self.max_iter - run.passes)
            before = error

    def _go_on(self, state: Iterate, plan: Plan) -> None:
        tol, max_iter = self.tol, self.max_iter
        assert tol is not None  # noqa: S101 - for the type checker
        if plan == "accelerate" and accelerate(state, tol, min(max_iter, state.passes + 24), slowest=0.6):
            return
        if plan in ("accelerate", "climb"):
            climb(state, tol, max_iter, dense_classes=DENSE_CLASSES)
        elif plan == "anneal":
            anneal(state, tol, max_iter, dense_classes=DENSE_CLASSES)
        else:
            state.look(tol)


class _Steps:
    """Sinkhorn steps of an `Iterate`, as `LeanIterate` has them."""

    def __init__(self, state: Iterate, tol: float) -> None:
        self.state, self.tol = state, tol

    @property
    def passes(self) -> int:
        return self.state.passes

    def step(self) -> None:
        state = self.state
        state.move(state.factor * (state.marginal / state.mass))

    def error(self) -> float:
        """Largest error of the problems that are under way."""
        self.state.look(self.tol)
        return max(self.state.errors)


def _costs(problem: LabelProblem) -> tuple[float, float]:
    """Rough costs of a pass and of a Newton step, in calls of the tensor library; a call is worth 10,000 entries."""
    batch, n, k = problem.kernel.scores.shape
    entries = batch * n * k / 1e4
    rows = min(1.0, SAMPLED_ROWS * k / n) if batch == 1 and n * k > SAMPLED_FROM else 1.0
    gram = rows * k / 8 if k <= DENSE_CLASSES else 20.0
    return PASS_CALLS + entries, NEWTON_CALLS + entries * (1.0 + gram)
