r"""Sinkhorn's iteration: scale the columns to the class proportions, scale the rows to the sample weights, repeat.

On the semi-dual, :math:`\log v \leftarrow \log v + \log b - \log p(v)` with p(v) the column sums once the rows are
exact (Sinkhorn and Knopp 1967; Cuturi, "Sinkhorn Distances", NeurIPS 2013).
"""

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from otlabel.errors import (
    ConvergenceError,
    ConvergenceWarning,
    NumericalWarning,
    require,
    require_count,
    require_number,
)
from otlabel.problem import LabelProblem
from otlabel.result import LabelResult, Status

Order = Literal["columns_first", "rows_first"]
OnFailure = Literal["warn", "raise", "ignore"]


class _State:
    """Where an iteration stands; everything with a leading batch dimension, duals in float64."""

    def __init__(self, problem: LabelProblem) -> None:
        self.log_u = problem.kernel.log_weight
        self.log_v = problem.log_marginal
        self.done = torch.zeros_like(problem.kernel.epsilon, dtype=torch.bool)
        self.n_iter = torch.ones_like(self.done, dtype=torch.int64)

    def update(self, log_u: Tensor, log_v: Tensor) -> None:
        """Move on the problems that are not done."""
        self.log_u = torch.where(self.done[:, None], self.log_u, log_u)
        self.log_v = torch.where(self.done[:, None], self.log_v, log_v)
        self.n_iter = self.n_iter + ~self.done


@dataclass(frozen=True)
class Sinkhorn:
    """Settings of Sinkhorn's iteration.

    If it does not converge: raise `epsilon` (iterations grow like its inverse, or worse), raise `max_iter`, or accept
    the `marginal_error` that the result reports. With `tol=None` it runs exactly `max_iter` iterations, the truncated
    loop of SwAV, DINO and the released CASE program (3 of them); there the order and the start are part of the answer.

    Attributes:
        max_iter: Most iterations (column step and row step), at least 1.
        tol: Largest L1 error of the marginal on the side that the loop does not end on, or None to run all iterations.
        check_every: Iterations between two looks at the error; on CUDA each look waits for the device.
        order: `"columns_first"` starts on the classes from unscaled rows and ends on the rows, so the sample weights
            are met exactly and `tol` is about the class proportions. `"rows_first"` is the reverse: the proportions
            of the plan are exact and `tol` is about the samples; `labels` are its rows rescaled to one.
        on_failure: What to do when `tol` is missed: `"warn"` (ConvergenceWarning), `"raise"` (ConvergenceError) or
            `"ignore"`.

    Raises:
        TypeError: If `max_iter` or `check_every` is not an integer, or `tol` not a number or None.
        ValueError: If a setting is out of range or unknown.

    Example:
        >>> import torch, otlabel
        >>> scores = torch.eye(3)
        >>> int(otlabel.sinkhorn_label(scores, solver=Sinkhorn(max_iter=3, tol=None)).n_iter)
        3
    """

    max_iter: int = 1000
    tol: float | None = 1e-4
    check_every: int = 10
    order: Order = "columns_first"
    on_failure: OnFailure = "warn"

    def __post_init__(self) -> None:
        require_count(self.max_iter, "max_iter", "Three is the truncated loop of SwAV.")
        require_count(self.check_every, "check_every", "Ten is a good value.")
        if self.tol is not None:
            require_number(self.tol, "tol", "1e-4 is usual; None runs all iterations.")
            require(
                0 < self.tol < 2,
                "`tol` must lie between 0 and 2, got {}. None runs all iterations.",
                self.tol,
            )
        for name, options in (("order", get_args(Order)), ("on_failure", get_args(OnFailure))):
            value = getattr(self, name)
            require(
                value in options,
                "`{}` must be one of {}, got {!r}. Choose one of them.",
                name,
                options,
                value,
            )

    def __call__(self, problem: LabelProblem, *, stacklevel: int = 2) -> LabelResult:
        """Solve; `stacklevel` is that of `warnings.warn`, seen from the caller of this method."""
        kernel, batch_shape = problem.kernel, problem.batch_shape
        state = _State(problem)
        (self._columns_first if self.order == "columns_first" else self._rows_first)(problem, state)
        labels, next_u, mass = kernel.finish(state.log_v)
        if self.order == "columns_first":
            log_u, row_mass = next_u, kernel.log_weight.exp()
            error = (mass - problem.log_marginal.exp()).abs().sum(dim=-1)
        else:
            log_u, row_mass = state.log_u, _row_mass(kernel.log_weight, state.log_u, next_u)
            error = (row_mass - kernel.log_weight.exp()).abs().sum(dim=-1)
        # The loop may have ended on an error that, summed in another order, rounds to the tolerance's other side.
        converged = torch.zeros_like(state.done) if self.tol is None else state.done | (error <= self.tol)
        status = Status.TRUNCATED
        if self.tol is not None:
            status = Status.CONVERGED if bool(converged.all()) else Status.MAX_ITER_REACHED
            self._report(problem, log_u, state.log_v, error, status, stacklevel + 1)

        def unflatten(value: Tensor) -> Tensor:
            return value.reshape((*batch_shape, *value.shape[1:]))

        return LabelResult(
            labels=unflatten(labels),
            log_u=unflatten(log_u),
            log_v=unflatten(state.log_v),
            row_mass=unflatten(row_mass),
            marginal_error=unflatten(error),
            n_iter=unflatten(state.n_iter),
            converged=unflatten(converged),
            status=status,
            epsilon=unflatten(kernel.epsilon),
            prior_weight=problem.prior_weight,
        )

    def _columns_first(self, problem: LabelProblem, state: "_State") -> None:
        """Leave in `state` the `log_v` whose exact rows are the last half of the last iteration."""
        kernel, log_b = problem.kernel, problem.log_marginal
        marginal, row_step = log_b.exp(), kernel.row_steps(log_b)
        # The first column step starts from unscaled rows, whose sums may underflow: it alone needs true log-sums.
        state.log_v = _column_scaling(log_b, kernel.column_step(kernel.log_weight))
        for iteration in range(1, self.max_iter):
            log_u, mass = row_step(state.log_v)
            if self._ends(iteration, state, (mass - marginal).abs()):
                return
            state.update(log_u, _column_scaling(log_b, _log_sum(mass, state.log_v)))

    def _rows_first(self, problem: LabelProblem, state: "_State") -> None:
        """Leave in `state` the duals of the last row step and of the column step after it."""
        kernel, log_b = problem.kernel, problem.log_marginal
        row_step = kernel.row_steps(log_b)
        state.log_u, _ = kernel.row_step(log_b.masked_fill(log_b > -torch.inf, 0.0))
        state.log_v = _column_scaling(log_b, kernel.column_step(state.log_u))
        for iteration in range(1, self.max_iter):
            next_u, mass = row_step(state.log_v)
            row_error = (_row_mass(kernel.log_weight, state.log_u, next_u) - kernel.log_weight.exp()).abs()
            if self._ends(iteration, state, row_error):
                return
            state.update(next_u, _column_scaling(log_b, _log_sum(mass, state.log_v)))

    def _ends(self, iteration: int, state: "_State", violation: Tensor) -> bool:
        """Mark the problems that meet the tolerance, which are not touched any more; True when all do."""
        if self.tol is None or iteration % self.check_every:
            return False
        state.done |= violation.sum(dim=-1) <= self.tol
        return bool(state.done.all())

    def _report(
        self, problem: LabelProblem, log_u: Tensor, log_v: Tensor, error: Tensor, status: Status, stacklevel: int
    ) -> None:
        assert self.tol is not None  # noqa: S101 - for the type checker
        if self.on_failure != "ignore":
            size = sum(torch.where(dual.isfinite(), dual.abs(), 0.0).max().item() for dual in (log_u, log_v))
            # Labels are rounded to their dtype; the exponents L + log_u + log_v cancel numbers as large as the duals.
            reach = max(torch.finfo(problem.dtype).eps, 4 * torch.finfo(torch.float64).eps * size)
            if self.tol < reach:
                warnings.warn(
                    f"`tol` must be at least {reach:.1e} to mean anything for these scores and {problem.dtype} labels, "
                    f"got {self.tol:.1e}. Raise it, or pass float64 scores.",
                    NumericalWarning,
                    stacklevel=stacklevel,
                )
        if status is Status.CONVERGED or self.on_failure == "ignore":
            return
        message = (
            f"Sinkhorn {status.value}: marginal_error {error.max().item():.2e} after {self.max_iter} iterations, "
            f"tol {self.tol:.2e}. Raise `epsilon` or `max_iter`, or accept the error with on_failure='ignore'; "
            "if a `mask` forbids many labels, check that the proportions can be met at all."
        )
        if self.on_failure == "raise":
            raise ConvergenceError(message)
        warnings.warn(message, ConvergenceWarning, stacklevel=stacklevel)


def _column_scaling(log_b: Tensor, log_sum: Tensor) -> Tensor:
    """`log_v` of the column step, from the log column sums without it."""
    return torch.where(log_b == -torch.inf, log_b, log_b - log_sum)


def _log_sum(mass: Tensor, log_v: Tensor) -> Tensor:
    """Log column sums without `log_v`, from those of the present plan."""
    # Positive by theory after one exact column step; the clamp keeps an infeasible problem from making infinities.
    return mass.clamp_min(1e-300).log() - log_v


def _row_mass(log_weight: Tensor, log_u: Tensor, next_u: Tensor) -> Tensor:
    """Row sums of the present plan: what the next row step would divide by, times the weights."""
    return torch.where(log_weight == -torch.inf, 0.0, (log_weight + log_u - next_u).exp())
