"""Sinkhorn's iteration on a small plain problem: nothing but the arithmetic, because there the calls cost most."""

import torch
from torch import Tensor

from otlabel.absorbed import ACCURATE_ROW, DIRECT_RANGE, TILE_ENTRIES, products
from otlabel.problem import LabelProblem
from otlabel.result import LastPass
from otlabel.solvers.iterate import FLOAT32_TOL

# Largest exponent that float32 can exponentiate, and sum over all rows, as it is.
LARGEST_UNSHIFTED = 40.0
# Range of exponents that float64 holds without a shift for each row: products of two such numbers stay finite.
FLOAT64_RANGE = 300.0
# Steps after which the constant in the scalings is put right; it changes by n / k a step.
DRIFT_STEPS = 2


def is_lean(problem: LabelProblem) -> bool:
    """Whether `LeanIterate` can take the problem: it fits a tile, and one shift serves all rows."""
    kernel = problem.kernel
    is_plain = problem.exponent_range <= FLOAT64_RANGE and not kernel.has_holes and kernel.scale is not None
    return is_plain and kernel.scores.numel() <= TILE_ENTRIES and kernel.scores.is_cpu


class LeanIterate:
    """What `Iterate` does for Sinkhorn steps, without what larger or harder problems need.

    They start from unscaled rows, or with `scales_rows` by a pass at v = 0.

    The scalings are those of a total mass of one up to a constant, which the labels do not see: with all samples and
    classes alike they are reciprocals, and the constant is put right now and then. A single problem has no batch
    dimension.
    """

    def __init__(self, problem: LabelProblem, tol: float | None, *, scales_rows: bool = False) -> None:
        kernel, top, scale = problem.kernel, problem.top, problem.kernel.scale
        assert top is not None  # noqa: S101 - for the type checker, here and below: there is one shift
        assert scale is not None  # noqa: S101
        self.problem, self.tol, self.passes, self.sums_labels = problem, tol, 0, False
        scores, weight, marginal = kernel.scores.contiguous(), kernel.given_weight, problem.given_marginal
        self.single = scores.shape[0] == 1
        if self.single:
            scores = scores.squeeze(0)
            weight = None if weight is None else weight[0]
            marginal = None if marginal is None else marginal[0]
        precise = problem.exponent_range > DIRECT_RANGE or (tol is not None and tol < FLOAT32_TOL)
        dtype = torch.float64 if precise else problem.dtype
        if problem.largest_exponent > LARGEST_UNSHIFTED:
            block = torch.sub(scores, top) if scores.dtype == dtype else scores.to(dtype).sub_(top)
            block.mul_(scale)
        else:
            top = 0.0
            block = torch.mul(scores, scale) if scores.dtype == dtype else scores.to(dtype).mul_(scale)
        self.block, self.shift = block.exp_(), top * scale
        self.weight = None if weight is None else weight.to(dtype)
        self.marginal = None if marginal is None else marginal.to(dtype)
        self._rows, self._columns = products(block)
        if scales_rows:
            self._pass(torch.ones_like(block[..., 0, :]))
        else:
            self.column_sum = block.sum(dim=-2) if self.weight is None else self._columns(self.weight)
        # What the column sums have to be multiplied with for a total mass of one.
        n, k = scores.shape[-2:]
        self.mass = 1.0 / n if self.weight is None else 1.0
        self._drift = ((n if weight is None else 1.0) / (k if marginal is None else 1.0)) ** DRIFT_STEPS

    def run(self, steps: int) -> None:
        """Steps of which the last leaves out the column sums: the report takes them from the labels, if asked for."""
        for _ in range(steps - 1):
            self.step()
        self.factor = self._column_step()
        self.row_sum = self._rows(self.factor)
        self.passes += 1
        self.sums_labels = True

    def step(self) -> None:
        """One column step and one row step."""
        self._pass(self._column_step())

    def _column_step(self) -> Tensor:
        factor = self.column_sum.reciprocal() if self.marginal is None else self.marginal / self.column_sum
        if self.passes % DRIFT_STEPS == DRIFT_STEPS - 1:
            factor.mul_(self._drift)
        return factor

    def _pass(self, factor: Tensor) -> None:
        weight = self.weight
        self.factor, self.row_sum = factor, self._rows(factor)
        self.column_sum = self._columns(self.row_sum.reciprocal() if weight is None else weight / self.row_sum)
        self.passes += 1

    def error(self) -> float:
        """L1 error of a single problem."""
        mass = self.factor * self.column_sum
        if self.marginal is None:
            mass.mul_(self.mass).sub_(1.0 / mass.shape[-1])
        else:
            mass.mul_(self.mass).sub_(self.marginal)
        return mass.abs_().sum().item()

    def log_v(self) -> Tensor:
        """Class duals, with a batch dimension."""
        return self.factor.to(torch.float64).log().reshape(-1, self.factor.shape[-1])

    def finish(self, *, met: bool = False) -> tuple[Tensor, LastPass]:
        """Labels and report; the block becomes the labels."""
        problem, factor = self.problem, self.factor
        labels = self.block.mul_(factor if self.single else factor[:, None])
        if labels.shape[-1] > ACCURATE_ROW and labels.dtype == torch.float32:
            self.row_sum = labels.sum(dim=-1)
        labels = labels.div_(self.row_sum.unsqueeze(-1)).to(problem.dtype)
        return labels, LastPass(
            batch_shape=problem.batch_shape,
            strength=problem.kernel.strength,
            weight=problem.kernel.given_weight,
            marginal=problem.given_marginal,
            shift=self.shift,
            log_v0=None,
            row_sum=self.row_sum,
            factor=factor,
            column_sum=None if self.sums_labels else self.column_sum,
            labels=labels if self.sums_labels else None,
            iterations=self.passes,
            tol=self.tol,
            met=met,
            mass=self.mass,
        )
