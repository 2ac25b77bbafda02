r"""Sinkhorn's iteration: scale the columns to the class proportions, scale the rows to the sample weights, repeat.

On the semi-dual, :math:`\log v \leftarrow \log v + \log b - \log p(v)` with p(v) the column sums once the rows are
exact (Sinkhorn and Knopp 1967; Cuturi, "Sinkhorn Distances", NeurIPS 2013).
"""

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from otlabel.absorbed import REACH
from otlabel.errors import require, require_count
from otlabel.problem import LabelProblem
from otlabel.result import LabelResult, Status
from otlabel.solvers.base import Solver
from otlabel.solvers.iterate import EMPTIEST, Iterate, has_one_shift
from otlabel.solvers.lean import LeanIterate, is_lean
from otlabel.solvers.scaling import Criterion, Order, scale


@dataclass(frozen=True)
class Sinkhorn(Solver):
    """Settings of Sinkhorn's iteration.

    With a tolerance it runs until the marginals are met. Without one it runs exactly `max_iter` iterations, the
    truncated loop of SwAV, DINO and the released CASE program (3 of them); there the order and the start are part of
    the answer, and the host never waits for the device.

    Attributes:
        max_iter: Most iterations (column step and row step), at least 1.
        tol: Largest L1 error of the marginal on the side that the loop does not end on, or None to run all iterations.
        on_failure: What to do when `tol` is missed: `"warn"` (ConvergenceWarning), `"raise"` (ConvergenceError) or
            `"ignore"`.
        check_every: Iterations between two looks at the error; on CUDA each look waits for the device.
        order: `"columns_first"` starts on the classes from unscaled rows and ends on the rows, so the sample weights
            are met exactly and `tol` is about the class proportions. `"rows_first"` is the reverse: the proportions
            of the plan are exact and `tol` is about the samples; `labels` are its rows rescaled to one.
        criterion: What must be at most `tol`. `"marginal"`: the L1 error above. The others stop as published programs
            do and say less about the answer: `"sample_scaling_relative"`, the sum over samples of the relative change
            of exp(log_u) (SeLa); `"class_scaling_l2"` and `"class_scaling_mean"`, Euclidean norm and mean of the change
            of exp(log_v) (P2OT; Megatron-LM); `"scalings_relative"`, the mean over both sides of the largest change of
            a scaling relative to the largest scaling or one (POT's unbalanced solver); `"row_sum_change"`, the largest
            change of a row sum of the plan (PT-MAP; rows first only).
        first_check: Iteration of the first look; default `check_every`.

    Raises:
        TypeError: If an iteration count is not an integer, or `tol` not a number or None.
        ValueError: If a setting is out of range or unknown.

    Example:
        >>> import torch, otlabel
        >>> scores = torch.eye(3)
        >>> int(otlabel.sinkhorn_label(scores, solver=Sinkhorn(max_iter=3, tol=None)).n_iter)
        3
    """

    check_every: int = 10
    order: Order = "columns_first"
    criterion: Criterion = "marginal"
    first_check: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self.check_every, "check_every", "Ten is a good value.")
        self._require_option("order", get_args(Order))
        self._require_option("criterion", get_args(Criterion))
        require(
            self.criterion != "row_sum_change" or self.order == "rows_first",
            "`criterion` must not be 'row_sum_change' with order={!r}, got it. That loop ends on the rows, whose sums "
            "never change; take 'marginal', or rows first.",
            self.order,
        )
        if self.first_check is not None:
            require_count(self.first_check, "first_check", "1 looks after the first iteration.")

    @property
    def _met(self) -> Status:
        return Status.CONVERGED if self.criterion == "marginal" else Status.CRITERION_MET

    def _may_be_below_rounding(self, problem: LabelProblem) -> bool:
        return self.criterion == "marginal" and super()._may_be_below_rounding(problem)

    @property
    def _has_own_stop(self) -> bool:
        return self.tol is not None and (self.criterion != "marginal" or self.first_check is not None)

    def __call__(self, problem: LabelProblem, *, init: Tensor | None = None) -> LabelResult:
        """Solve from the class duals `init` (default: unscaled rows)."""
        if problem.sides is not None or self.order == "rows_first" or self._has_own_stop:
            labels, report = scale(
                problem,
                order=self.order,
                max_iter=self.max_iter,
                tol=self.tol,
                criterion=self.criterion,
                first_check=self.check_every if self.first_check is None else self.first_check,
                check_every=self.check_every,
                init=init,
            )
            has_ended = self.tol is not None and bool(report.converged.all())
            return self._report(problem, labels, report, has_ended=has_ended)
        if self.tol is None and init is None and is_lean(problem):
            lean = LeanIterate(problem, None)
            lean.run(self.max_iter)
            if lean.is_sound:
                labels, measure = lean.finish()
                return self._report(problem, labels, measure, has_ended=False)
        return super().__call__(problem, init=init)

    def _iterate(self, state: Iterate) -> None:
        factor = first_column_step(state)
        if self.tol is None:
            self._run(state, factor)
            return
        next_check = self.check_every
        for iteration in range(1, self.max_iter + 1):
            if iteration > 1:
                factor = self._column_step(state)
            state.move(factor)
            if iteration == next_check:
                next_check += self.check_every
                if state.look(self.tol):
                    return
        state.look(self.tol)

    def _run(self, state: Iterate, factor: Tensor) -> None:
        """All iterations, each a whole step however long."""
        may_move_far, looks = self._may_move_far(state), state.problem.top is not None
        next_recentre = self._steps_in_reach(state)
        for iteration in range(1, self.max_iter + 1):
            if iteration > 1:
                factor = state.marginal / state.sums
            if may_move_far:
                # Without a look at the device only the worst case is known.
                is_beyond = not state.reaches(factor) if looks else iteration > next_recentre
                if is_beyond:
                    state.absorb(state.log_v_at(factor))
                    factor, next_recentre = state.factor, iteration + self._steps_in_reach(state)
            if iteration == self.max_iter:
                state.end_on_rows(factor)
            else:
                state.move(factor)

    def _column_step(self, state: Iterate) -> Tensor:
        """The next factor, after absorbing anew if it could leave what the dtype holds."""
        if self._may_move_far(state) and state.passes >= state.next_recentre:
            self._recentre(state)
            # A step beyond the reach is taken in parts.
            size = math.exp(state.longest_step)
            return state.factor * (state.marginal / state.mass).clamp_(1.0 / size, size)
        return state.marginal / state.sums

    @staticmethod
    def _may_move_far(state: Iterate) -> bool:
        """Whether duals that Sinkhorn's iteration visits may leave the reach of the kernel."""
        return not state.kernel.is_direct or state.kernel.kernel.has_holes

    def _recentre(self, state: Iterate) -> None:
        """Absorb the kernel if need be, and say when to ask again."""
        reach = REACH[state.kernel.dtype]
        # Sinkhorn's map does not expand differences of duals, so no later step is longer than this one.
        step = (state.marginal / state.mass).log()
        length = max((step.amax(dim=-1) - step.amin(dim=-1)).max().item(), 1e-9)
        room = reach - state.spread()
        if room < length:
            state.recentre(measures=False)
            room = reach
        state.longest_step = reach
        state.next_recentre = state.passes + max(1, int(min(room / length, 1000)))

    @staticmethod
    def _steps_in_reach(state: Iterate) -> int:
        return max(1, int(REACH[state.kernel.dtype] / max(state.problem.movement, 1.0)))


def first_column_step(state: Iterate) -> Tensor:
    """Put the kernel in place and return the factor after one column step, from unscaled rows or from `init`."""
    problem, kernel = state.problem, state.kernel
    if state.init is not None:
        # Duals of another problem may be far off: only true log-sums follow a step of any length.
        log_u, _ = problem.kernel.row_step(state.init.masked_fill(problem.marginal == 0, -torch.inf))
        state.absorb(_column_scaling(problem.log_marginal, problem.kernel.column_step(log_u)))
        return state.factor
    if has_one_shift(state.problem):
        state.absorb_direct()
        sums = kernel.column_sums(kernel.weight)
        return state.marginal / (sums.clamp_(min=EMPTIEST[kernel.dtype]) if problem.kernel.has_holes else sums)
    # Unscaled, the largest entry of each column is one: no sum is empty, and no later factor is large.
    state.absorb(-problem.kernel.column_max())
    sums = kernel.column_sums((problem.kernel.log_weight + kernel.shift).exp())
    return state.marginal / sums.clamp_(min=EMPTIEST[kernel.dtype])


def _column_scaling(log_b: Tensor, log_sum: Tensor) -> Tensor:
    """`log_v` of the column step, from the log column sums without it."""
    return torch.where(log_b == -torch.inf, log_b, log_b - log_sum)
