"""Sinkhorn's iteration on a small plain problem: nothing but the arithmetic, because there the calls cost most."""

import torch
from torch import Tensor

from otlabel.absorbed import ACCURATE_ROW, DIRECT_RANGE, TILE_ENTRIES
from otlabel.problem import LabelProblem
from otlabel.products import products
from otlabel.result import LastPass
from otlabel.solvers.iterate import FLOAT32_TOL, norms

# Largest exponent that float32 can exponentiate, and sum over all rows, as it is.
LARGEST_UNSHIFTED = 40.0
# Range of exponents that float64 holds without a shift for each row: products of two such numbers stay finite.
FLOAT64_RANGE = 300.0


def is_lean(problem: LabelProblem) -> bool:
    """Whether `LeanIterate` can take the problem: it fits a tile, and one shift serves all rows."""
    kernel = problem.kernel
    is_plain = problem.exponent_range <= FLOAT64_RANGE and not kernel.has_holes and kernel.scale is not None
    return is_plain and kernel.scores.numel() <= TILE_ENTRIES and kernel.scores.is_cpu


class LeanIterate:
    """What `Iterate` does for Sinkhorn steps, without what larger or harder problems need.

    They start from unscaled rows, or with `scales_rows` by a pass at v = 0.

    The scalings are those of a total mass of one, or of n where all samples are alike: then no weights are needed. A
    single problem has no batch dimension.
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
        n, k = scores.shape[-2:]
        self.weight = None if weight is None else weight.to(dtype)
        # What the column sums have to be multiplied with for a total mass of one.
        self.mass = 1.0 / n if weight is None else 1.0
        if marginal is None:
            self.target = block.new_full((k,), 1.0 / (self.mass * k))
        else:
            self.target = marginal.to(dtype) if self.mass == 1.0 else marginal.to(dtype) * n
        self._rows, self._columns = products(block)
        if scales_rows:
            self._pass(block.new_ones((*block.shape[:-2], k)))
        else:
            self.column_sum = block.sum(dim=-2) if self.weight is None else self._columns(self.weight)

    def run(self, steps: int) -> None:
        """Steps of which the last leaves out the column sums: the report takes them from the labels, if asked for."""
        for _ in range(steps - 1):
            self.step()
        self.factor = self.target / self.column_sum
        self.row_sum = self._rows(self.factor)
        self.passes += 1
        self.sums_labels = True

    def step(self) -> None:
        """One column step and one row step."""
        self._pass(self.target / self.column_sum)

    def _pass(self, factor: Tensor) -> None:
        weight = self.weight
        self.factor, self.row_sum = factor, self._rows(factor)
        self.column_sum = self._columns(self.row_sum.reciprocal() if weight is None else weight / self.row_sum)
        self.passes += 1

    def error(self) -> float:
        """L1 error of a single problem."""
        gradient = torch.addcmul(self.target, self.factor, self.column_sum, value=-1)
        return self.mass * norms(gradient.unsqueeze(0))[0]

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
