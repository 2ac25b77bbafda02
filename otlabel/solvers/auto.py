"""The default: picks the solver by the range of the exponents, by shape, and by what a few Sinkhorn steps show."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from otlabel.problem import LabelProblem
from otlabel.result import LabelResult
from otlabel.solvers.base import Solver
from otlabel.solvers.iterate import Iterate
from otlabel.solvers.lean import LeanIterate, is_lean
from otlabel.solvers.momentum import STALLED, Momentum
from otlabel.solvers.newton import DENSE_CLASSES, SAMPLED_FROM, SAMPLED_ROWS, anneal, climb, climb_from_init

Plan = Literal["done", "stop", "climb", "anneal"]

# Beyond this range of the exponents Sinkhorn's iteration is not worth trying.
EASY_RANGE = 50.0
PROBING_STEPS = 6
LONGEST_RUN = 3
# Error after the probing steps up to which the problem counts as easy.
EASY_ERROR = 0.35
# It must be smaller where a Newton step costs more than so many passes, because far from the optimum many fail.
COSTLY = 8.0
COSTLY_EASY_ERROR = 0.2
# Growth of the error a step at which momentum is given up at once. It is at the second rate above STALLED.
WORSE = 1.5
# Newton steps that an easy problem takes, and one that has to be annealed.
# Momentum is learned from below: more steps are left than it says.
PESSIMISM = 1.5
NEWTON_STEPS = 5
ANNEALED_STEPS = 8
# Calls of the tensor library in a pass, for its momentum, and what a Newton step makes besides.
PASS_CALLS = 4
MOMENTUM_CALLS = 4
# After each pass that costs more calls than so many the error is looked at.
COSTLY_PASS = 50
NEWTON_CALLS = 30


@dataclass(frozen=True)
class Auto(Solver):
    """Settings of the default solver.

    Scores that span more than 50 epsilons are annealed with Newton's method at once. Others get Sinkhorn steps, soon
    with momentum, as long as these are the cheapest way, then Newton's.

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
            and not problem.kernel.has_holes
            and is_lean(problem)
        ):
            lean = LeanIterate(problem, self.tol, scales_rows=True)
            plan = self._probe(problem, lean)
            if plan == "done":
                labels, measure = lean.finish(met=True)
                return self._report(problem, labels, measure, has_ended=True)
            state = Iterate(problem, self.tol, block=lean.block)
            state.go_on_from(lean.block, lean.shift, lean.factor.to(torch.float64).unsqueeze(0))
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
            state.start()
            state.move(state.factor)
            self._go_on(state, self._probe(state.problem, _Steps(state, tol)))
        else:
            anneal(state, tol, max_iter, dense_classes=DENSE_CLASSES)

    def _probe(self, problem: LabelProblem, run: "LeanIterate | _Steps") -> Plan:
        """Take Sinkhorn steps, with momentum where it helps, as long as they are the cheapest way; what to do then."""
        assert self.tol is not None  # noqa: S101 - for the type checker
        pass_cost, newton_cost = _costs(problem)
        easy_error = EASY_ERROR if newton_cost < COSTLY * pass_cost else COSTLY_EASY_ERROR
        learned, momentum = Momentum(), None
        before, steps, setbacks = math.inf, min(PROBING_STEPS - 2, self.max_iter - run.passes), 0
        while True:
            for step in range(1, steps + 1):
                run.step(momentum)
                if (step == steps or pass_cost > COSTLY_PASS) and (error := run.error()) <= self.tol:
                    return "done"
            if run.passes >= self.max_iter:
                return "stop"
            if before == math.inf:
                steps = 2
            else:
                rate, gain = (error / before) ** (1.0 / steps), math.log(self.tol / error)
                if rate < STALLED:
                    learned.learn(rate)
                    left, cost = PESSIMISM * gain / math.log(learned.rate), pass_cost + MOMENTUM_CALLS
                    if momentum is None and gain / math.log(rate) * pass_cost <= left * cost:
                        left, cost = gain / math.log(rate), pass_cost
                    else:
                        momentum = learned
                    steps = min(math.ceil(left), LONGEST_RUN)
                    newton = (NEWTON_STEPS if error < easy_error else ANNEALED_STEPS) * newton_cost
                    is_slow = left * cost > newton
                else:
                    setbacks += 1
                    is_slow = setbacks > 1 or not rate < WORSE
                if is_slow:
                    return "climb" if error <= easy_error else "anneal"
            steps = min(steps, self.max_iter - run.passes)
            before = error

    def _go_on(self, state: Iterate, plan: Plan) -> None:
        tol, max_iter = self.tol, self.max_iter
        assert tol is not None  # noqa: S101 - for the type checker
        if plan == "climb":
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

    def step(self, momentum: Momentum | None) -> None:
        state = self.state
        change = state.marginal / state.mass
        state.move(state.factor * (change if momentum is None else momentum.step(change.log_()).exp()))

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
