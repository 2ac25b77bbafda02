"""Sinkhorn's iteration on a small problem: nothing but the arithmetic, because there the calls cost most."""

import math

import torch
from torch import Tensor

from otlabel.absorbed import ACCURATE_ROW, DIRECT_RANGE, FLOOR, TILE_ENTRIES, is_uncut
from otlabel.kernel import LOWEST, numbers
from otlabel.pages import empty
from otlabel.problem import LabelProblem
from otlabel.products import products
from otlabel.result import LastPass
from otlabel.solvers.iterate import FLOAT32_TOL, LARGEST_PRIOR, norms
from otlabel.solvers.momentum import Momentum

# Largest exponent that float32 can exponentiate, and sum over all rows, as it is.
LARGEST_UNSHIFTED = 40.0
# Range of exponents that float64 holds without a shift for each row: products of two such numbers stay finite.
FLOAT64_RANGE = 300.0
# Largest logarithm of (factor / row sum) at which what underflowed, or was raised to the floor, does not matter.
SOUND = {torch.float32: 60.0, torch.float64: 550.0}


def is_lean(problem: LabelProblem) -> bool:
    """Whether `LeanIterate` can try the problem: it is small, and all share one epsilon."""
    scores = problem.kernel.scores
    if problem.exponent_range == math.inf or problem.kernel.scale is None or not scores.is_cpu:
        return False
    # Above a tile, float64 would take more memory than the scores.
    return scores.numel() <= TILE_ENTRIES or (_is_narrow(problem) and is_uncut(scores.shape))


def _is_narrow(problem: LabelProblem) -> bool:
    """Whether float32 can hold all exponentials that float32 scores may need."""
    return problem.exponent_range <= DIRECT_RANGE and abs(problem.prior_peak) <= LARGEST_PRIOR


class LeanIterate:
    """What `Iterate` does for Sinkhorn steps, without what larger or harder problems need.

    They start from unscaled rows, or with `scales_rows` by a pass at v = 0.

    The scalings are those of a total mass of one, or of n where all samples are alike: then no weights are needed. A
    single problem has no batch dimension.

    One shift serves all exponents where their range allows, else there is one for each class and each sample. Then, and
    where labels are forbidden, the duals may leave what the dtype holds: `is_sound` says that they did not.
    """

    def __init__(self, problem: LabelProblem, tol: float | None, *, scales_rows: bool = False) -> None:
        kernel = problem.kernel
        self.problem, self.tol, self.passes, self.sums_labels = problem, tol, 0, False
        self.single = kernel.scores.shape[0] == 1
        weight, marginal = self._cut(kernel.given_weight), self._cut(problem.given_marginal)
        precise = not _is_narrow(problem) or (tol is not None and tol < FLOAT32_TOL)
        self.dtype = torch.float64 if precise else problem.dtype
        self.has_one_shift = problem.exponent_range <= FLOAT64_RANGE
        self.is_sound = True
        self._looks = kernel.has_holes or not self.has_one_shift
        self.shift: Tensor | float = 0.0
        self.log_v0: Tensor | None = None
        self.column_sum: Tensor
        self.block = block = self._exponentials()
        n, k = block.shape[-2:]
        self.weight = None if weight is None else weight.to(self.dtype)
        # What the column sums have to be multiplied with for a total mass of one.
        self.mass = 1.0 / n if weight is None else 1.0
        if marginal is None:
            self.target = block.new_full((k,), 1.0 / (self.mass * k))
        else:
            self.target = marginal.to(self.dtype) if self.mass == 1.0 else marginal.to(self.dtype) * n
        self._rows, self._columns = products(block)
        self._spare: Tensor | None = None  # row sum for rows that no class may take: those weigh nothing
        if kernel.has_holes and weight is not None:
            able = (self.target > 0).to(self.dtype)
            self._spare = (self._rows(able.expand(*block.shape[:-2], k)) == 0).to(self.dtype)
        if scales_rows:
            self._pass(block.new_ones((*block.shape[:-2], k)))
        elif isinstance(self.shift, Tensor):
            unscaled = self.shift.exp() if self.weight is None else self.weight.log().add_(self.shift).exp_()
            self.column_sum = self._columns(unscaled)
        else:
            self.column_sum = block.sum(dim=-2) if self.weight is None else self._columns(self.weight)

    def _cut(self, value: Tensor | None) -> Tensor | None:
        return value if value is None or not self.single else value[0]

    def _exponentials(self) -> Tensor:
        """`exp(L - shift)`, entries in [0, 1] or unshifted."""
        problem, kernel, dtype = self.problem, self.problem.kernel, self.dtype
        top, scale = problem.top, kernel.scale
        assert top is not None  # noqa: S101 - for the type checker, here and below: values were read
        assert scale is not None  # noqa: S101
        scores, prior, mask = self._cut(kernel.scores), self._cut(kernel.log_prior), self._cut(kernel.mask)
        assert scores is not None  # noqa: S101
        scores = scores.contiguous()
        is_shifted = self.has_one_shift and problem.largest_exponent > LARGEST_UNSHIFTED
        # The call to `empty` is worth its while for large problems only.
        out = empty(scores.shape, dtype, scores.device) if scores.numel() > TILE_ENTRIES else None
        if scores.dtype != dtype:
            scores = out = scores.to(dtype) if out is None else out.copy_(scores)
        block = torch.sub(scores, top, out=out).mul_(scale) if is_shifted else torch.mul(scores, scale, out=out)
        if prior is not None:
            block.add_(prior, alpha=kernel.prior_weight)
            if is_shifted:
                block.sub_(problem.prior_peak)
        if is_shifted:
            self.shift = problem.peak
        elif not self.has_one_shift:
            self.shift, self.log_v0 = self._shift_both(block, mask)
        allowed = block > -torch.inf if kernel.has_infinities else None
        if allowed is not None or not self.has_one_shift:
            block.clamp_(min=FLOOR[dtype])  # exponentials that underflow are slow
        block.exp_()
        if allowed is not None:
            block.mul_(numbers(allowed))
        return block if mask is None else block.mul_(numbers(mask))

    def _shift_both(self, block: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Subtract from the exponents the largest of each class, then of each sample; the shifts of both."""
        if mask is not None:
            block.add_(numbers(~mask), alpha=LOWEST)
        weight = self._cut(self.problem.kernel.given_weight)
        highest = (block if weight is None else block + weight.unsqueeze(-1).log()).amax(dim=-2)
        highest.masked_fill_(highest < 0.5 * LOWEST, 0.0)
        block.sub_(highest.unsqueeze(-2))
        shift = block.amax(dim=-1)
        if self.problem.kernel.has_holes:
            shift.masked_fill_(shift < 0.5 * LOWEST, 0.0)
        block.sub_(shift.unsqueeze(-1))
        return shift, -highest

    def run(self, steps: int) -> None:
        """Steps of which the last leaves out the column sums: the report takes them from the labels, if asked for."""
        for _ in range(steps - 1):
            self.step()
        self._scale_rows(self._column_factor())
        self.sums_labels = True

    def step(self, momentum: Momentum | None = None) -> None:
        """One column step and one row step."""
        factor = self._column_factor()
        if momentum is not None:
            factor = self.factor * momentum.step((factor / self.factor).log_()).exp()
        self._pass(factor)

    def _pass(self, factor: Tensor) -> None:
        self._scale_rows(factor)
        weight = self.weight
        self.column_sum = self._columns(self.row_sum.reciprocal() if weight is None else weight / self.row_sum)

    def _column_factor(self) -> Tensor:
        if self._looks:  # a class that no sample may take has no share: 0 / 0
            self.column_sum.clamp_(min=torch.finfo(self.dtype).tiny)
        return self.target / self.column_sum

    def _scale_rows(self, factor: Tensor) -> None:
        self.factor, self.row_sum = factor, self._rows(factor)
        self.passes += 1
        if self._looks:
            if self._spare is not None:
                self.row_sum.add_(self._spare)
            limit = math.exp(SOUND[self.dtype])
            # NaN is not sound either.
            self.is_sound = self.is_sound and factor.amax().item() <= limit * self.row_sum.amin().item()

    def error(self) -> float:
        """L1 error of a single problem."""
        gradient = torch.addcmul(self.target, self.factor, self.column_sum, value=-1)
        return self.mass * norms(gradient.unsqueeze(0))[0]

    def finish(self, *, met: bool = False) -> tuple[Tensor, LastPass]:
        """Labels and report; the block becomes the labels."""
        problem, factor = self.problem, self.factor
        labels = self.block.mul_(factor if self.single else factor[:, None])
        if labels.shape[-1] > ACCURATE_ROW and labels.dtype == torch.float32:
            self.row_sum = labels.sum(dim=-1)
            if self._spare is not None:
                self.row_sum.add_(self._spare)
        labels.div_(self.row_sum.unsqueeze(-1))
        if labels.dtype != problem.dtype:
            labels = labels.to(problem.dtype)
        return labels, LastPass(
            batch_shape=problem.batch_shape,
            strength=problem.kernel.strength,
            weight=problem.kernel.given_weight,
            marginal=problem.given_marginal,
            shift=self.shift,
            log_v0=self.log_v0,
            row_sum=self.row_sum,
            factor=factor,
            column_sum=None if self.sums_labels else self.column_sum,
            labels=labels if self.sums_labels else None,
            iterations=self.passes,
            tol=self.tol,
            met=met,
            mass=self.mass,
        )
