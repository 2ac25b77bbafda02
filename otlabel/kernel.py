r"""The scores as a log-kernel, and Sinkhorn's two steps on it in float64.

The log-kernel is :math:`L = S/\epsilon + w \log R`, with forbidden entries at minus infinity. `DenseKernel` defines it,
and answers in float64 from the scores as they came, one block of rows at a time: masks and priors need no copy, and
neither large scores nor a small epsilon cost accuracy. What solvers iterate on is made from it: `otlabel.absorbed`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otlabel.pages import empty
from otlabel.sides import Side

# Entries of one float64 block for each thread: small enough to stay in a core's cache, large enough to hide the cost of
# a call. Blocks for more threads than MOST_THREADS would take more memory than they gain time.
CPU_BLOCK_ENTRIES = 2**17
MOST_THREADS = 16
CUDA_BLOCK_ENTRIES = 2**26
Sums = Literal["checked", "logs", "plain"]
# Column sums below this are worked out again as log-sums: the exponentials of single entries may have underflowed.
SMALLEST_SUM = 1e-280
# Added to exponents that a mask forbids, where minus infinity would cost slow calls; no other is below half of it.
LOWEST = -1e305
# Columns below which the maxima of several rows are taken at once: float32 is slow at single ones.
FEW_COLUMNS = 32
# Logarithm of the largest mass of a row: nothing bounds the mass of plans that are relaxed on both sides.
LARGEST_LOG_MASS = 600.0


@dataclass(slots=True, eq=False)
class DenseKernel:
    """Scores in memory, one problem per leading index.

    `column_step` and `row_step` are Sinkhorn's iteration in float64, and `finish` gives the labels at any class duals.

    Attributes:
        scores: As they came, half precision included.
        strength: Epsilon, a number where all problems share one, else float64.
        given_weight: Sample weights of total mass one, float64; None for all alike.
        has_holes: Whether an entry may be minus infinity.
        has_infinities: Whether that may be by a score, the prior, or the dual of a class without mass.
        scale: 1 / epsilon where all problems share one and float64 can hold it.
    """

    scores: Float[Tensor, "b n k"]
    strength: float | Float[Tensor, " b"]
    given_weight: Float[Tensor, "b n"] | None = None
    log_prior: Float[Tensor, "b n k"] | None = None
    prior_weight: float = 1.0
    mask: Bool[Tensor, "b n k"] | None = None
    has_holes: bool = True
    has_infinities: bool = True
    scale: float | None = field(init=False)

    def __post_init__(self) -> None:
        strength = self.strength
        self.scale = 1.0 / strength if not isinstance(strength, Tensor) and strength > 1e-300 else None

    @property
    def epsilon(self) -> Float[Tensor, " b"]:
        """Epsilon of each problem."""
        if isinstance(self.strength, Tensor):
            return self.strength
        return self.scores.new_full(self.scores.shape[:1], self.strength, dtype=torch.float64)

    @property
    def weight(self) -> Float[Tensor, "b n"]:
        """Sample weights of total mass one."""
        if self.given_weight is not None:
            return self.given_weight
        batch, n, _ = self.scores.shape
        return self.scores.new_full((batch, n), 1.0 / n, dtype=torch.float64)

    @property
    def log_weight(self) -> Float[Tensor, "b n"]:
        """Logarithm of the sample weights."""
        return self.weight.log()

    def column_step(self, log_u: Float[Tensor, "b n"], cooling: float = 1.0) -> Float[Tensor, "b k"]:
        """Log of the column sums of `exp(L / cooling + log_u)`, safe whatever the range of the scores."""
        total = self.weight.new_full((self.scores.shape[0], self.scores.shape[2]), -torch.inf)
        origin = torch.zeros_like(total)
        for rows in self.row_blocks():
            block = self.log_block(rows, origin, cooling=cooling).add_(log_u[:, rows, None])
            total = torch.logaddexp(total, torch.logsumexp(block, dim=-2))
        return self.log_total(total)

    def column_max(self) -> Float[Tensor, "b k"]:
        """Largest entry of `L + log_weight` in each column, up to a constant; 0 where nothing is allowed."""
        if self.scale is not None and self.log_prior is None and self.mask is None and self.given_weight is None:
            largest = _column_max(self.scores).to(torch.float64).mul_(self.scale)
        else:
            origin = self.weight.new_zeros(self.scores.shape[0], self.scores.shape[2])
            largest = torch.full_like(origin, -torch.inf)
            for rows in self.row_blocks():
                block = self.log_block(rows, origin, lowest=LOWEST)
                if self.given_weight is not None:
                    block.add_(self.given_weight[:, rows, None].log())
                largest = torch.maximum(largest, block.amax(dim=-2))
        return largest.masked_fill_(largest < 0.5 * LOWEST, 0.0)

    def row_step(self, log_v: Float[Tensor, "b k"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b k"]]:
        """Scale the rows exactly, and sum the columns of the plan that results, in one read of the scores.

        Returns:
            `log_u` with which the rows of `exp(L + log_u + log_v)` sum to the sample weights, and that plan's column
            sums. The sums are plain, not logarithms: after any exact column step they are at least (smallest sample
            weight) x (class proportion), far above float64's underflow.
        """
        return self._row_step(log_v, None)

    def finish(
        self, log_v: Float[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b n"], Float[Tensor, "b k"]]:
        """A last `row_step`, with the labels: softmax of each row of `L + log_v`, zero where no class may take it.

        Returns:
            Labels, and what `row_step` returns.
        """
        labels = empty(self.scores.shape, label_dtype(self.scores.dtype), self.scores.device)
        return labels, *self._row_step(log_v, labels)

    def _row_step(
        self, log_v: Float[Tensor, "b k"], labels: Float[Tensor, "b n k"] | None
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b k"]]:
        """`row_step`, which on its way also writes the labels where they are wanted."""
        log_weight = self.log_weight
        log_u = torch.empty_like(log_weight)
        mass = torch.zeros_like(log_v)
        for rows in self.row_blocks():
            block, row_max, row_sum = self._exp_block(rows, log_v)
            log_u[:, rows], scale = _row_scaling(log_weight[:, rows], row_max, row_sum)
            mass += (block * scale[..., None]).sum(dim=-2)
            if labels is not None:
                labels[:, rows] = block.div_(row_sum.clamp_min(torch.finfo(torch.float64).tiny)[..., None])
        return log_u, mass

    def relaxed_step(
        self, log_v: Float[Tensor, "b k"], samples: Side, cooling: float = 1.0, *, sums: Sums = "checked"
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"], Float[Tensor, "b k"]]:
        """Scale the rows by the rule of their side, and sum the columns.

        One read of the scores with `"plain"` sums, which may underflow far from any exact column step, two with
        `"logs"`; `"checked"` looks whether two are needed, and so waits for the device.

        Returns:
            Log-sums of the rows of `exp(L / cooling + log_v)`, their duals `log_u`, and the log of the column sums of
            `exp(L / cooling + log_u)`; -inf where nothing can be reached.
        """
        row_sums = torch.empty_like(samples.log_target)
        mass = torch.zeros_like(log_v)
        for rows in self.row_blocks():
            block, row_max, row_sum = self._exp_block(rows, log_v, cooling)
            row_sums[:, rows] = row_max + row_sum.log()
            log_u = samples.rows(rows).log_scaling(row_sums[:, rows])
            mass += (block * (log_u + row_max).clamp_max_(LARGEST_LOG_MASS).exp_()[..., None]).sum(dim=-2)
        log_u = samples.log_scaling(row_sums)
        mass = self.total(mass)
        is_empty = log_v == -torch.inf
        if sums == "logs" or (sums == "checked" and bool(((mass < SMALLEST_SUM) & ~is_empty).any())):
            return row_sums, log_u, self.column_step(log_u, cooling)
        mass.clamp_min_(1e-300)
        return row_sums, log_u, torch.where(is_empty, 0.0, mass.log() - log_v)

    def gram(
        self, log_v: Float[Tensor, "b k"], row_weight: Float[Tensor, "b n"], cooling: float = 1.0
    ) -> Float[Tensor, "b k k"]:
        """Products of the label columns over the rows, `P' diag(row_weight) P`, with P the softmax rows at `log_v`."""
        total = log_v.new_zeros((*log_v.shape, log_v.shape[-1]))
        for rows in self.row_blocks():
            block, _, row_sum = self._exp_block(rows, log_v, cooling)
            block.div_(row_sum.clamp_min(torch.finfo(torch.float64).tiny)[..., None])
            total.baddbmm_((block * row_weight[:, rows, None]).mT, block)
        return self.total(total)

    @property
    def is_sharded(self) -> bool:
        """Whether other processes hold samples of the same problems."""
        return False

    def total(self, value: Tensor) -> Tensor:
        """Sum over all samples, given that over the samples held here; may change `value`."""
        return value

    def log_total(self, value: Tensor) -> Tensor:
        """Log-sum over all samples, given that over the samples held here; may change `value`."""
        return value

    def largest(self, value: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape"]:
        """Largest over all samples, the last dimension; -inf where there are none."""
        return value.amax(dim=-1) if value.shape[-1] else value.new_full(value.shape[:-1], -torch.inf)

    def agreed(self, value: Tensor) -> Tensor:
        """A value that should be the same wherever samples are held, made so to the last bit."""
        return value

    def row_blocks(self) -> Iterator[slice]:
        """Rows of blocks that stay in cache in float64."""
        batch, n, k = self.scores.shape
        rows = max(1, block_entries(self.scores.device) // (batch * k))
        return (slice(start, min(n, start + rows)) for start in range(0, n, rows))

    def take(self, index: Tensor) -> "DenseKernel":
        """The problems at `index`, copied."""
        return replace(
            self,
            scores=self.scores[index],
            strength=self.strength[index] if isinstance(self.strength, Tensor) else self.strength,
            given_weight=None if self.given_weight is None else self.given_weight[index],
            log_prior=None if self.log_prior is None else self.log_prior[index],
            mask=None if self.mask is None else self.mask[index],
        )

    def log_block(
        self,
        rows: slice,
        log_v: Float[Tensor, "b k"],
        problems: slice = slice(None),
        cooling: float = 1.0,
        *,
        out: Float[Tensor, "g r k"] | None = None,
        lowest: float = -math.inf,
    ) -> Float[Tensor, "g r k"]:
        """`L / cooling + log_v` of some rows of some problems, float64, the caller's to change in place.

        `out` may take it. What the mask forbids is minus infinity, or about `lowest`.
        """
        scores, log_v = within(self.scores, problems, rows), within(log_v.unsqueeze(1), problems)
        if self.scale is not None:
            # Two calls are faster than one on numbers of two dtypes.
            block = scores.to(log_v.dtype, copy=True) if out is None else out.copy_(scores)
            torch.add(log_v, block, alpha=self.scale / cooling, out=block)
        else:
            block = (scores / (self.epsilon * cooling)[problems, None, None]).add_(log_v)
        if self.log_prior is not None:
            block.add_(within(self.log_prior, problems, rows), alpha=self.prior_weight / cooling)
        if self.mask is not None:
            forbidden = ~within(self.mask, problems, rows)
            if lowest == -math.inf:
                block.masked_fill_(forbidden, lowest)
            else:
                block.add_(numbers(forbidden), alpha=lowest)
        return block

    def _exp_block(
        self, rows: slice, log_v: Float[Tensor, "b k"], cooling: float = 1.0
    ) -> tuple[Float[Tensor, "b r k"], Float[Tensor, "b r"], Float[Tensor, "b r"]]:
        """`exp(L / cooling + log_v - row_max)`, its row maxima (0 for rows without an allowed entry) and row sums."""
        block = self.log_block(rows, log_v, cooling=cooling)
        row_max = block.amax(dim=-1)
        row_max = row_max.masked_fill(row_max == -torch.inf, 0.0)
        block.sub_(row_max[..., None]).exp_()
        return block, row_max, block.sum(dim=-1)


def _row_scaling(
    log_weight: Float[Tensor, "b r"], row_max: Float[Tensor, "b r"], row_sum: Float[Tensor, "b r"]
) -> tuple[Float[Tensor, "b r"], Float[Tensor, "b r"]]:
    """`log_u` of rows, and the factor that gives the rows of `exp(L + log_v - row_max)` their weight."""
    # A weightless row has log_u = -inf even where no class may take it (there row_sum = 0).
    log_u = torch.where(log_weight == -torch.inf, log_weight, log_weight - row_max - row_sum.log())
    return log_u, log_weight.exp() / row_sum.clamp_min(torch.finfo(torch.float64).tiny)


def _column_max(scores: Float[Tensor, "b n k"]) -> Float[Tensor, "b k"]:
    batch, n, k = scores.shape
    fold = min(64 // k, n) if k <= FEW_COLUMNS and scores.is_contiguous() else 1
    if fold == 1:
        return scores.amax(dim=-2)
    whole = n // fold * fold
    folded = scores[:, :whole].reshape(batch, -1, fold * k).amax(dim=1).view(batch, fold, k)
    return torch.cat([folded, scores[:, whole:]], dim=1).amax(dim=1)


def block_entries(device: torch.device) -> int:
    """Entries that are worked on at once, of what needs no product."""
    return CPU_BLOCK_ENTRIES * min(threads(), MOST_THREADS) if device.type == "cpu" else CUDA_BLOCK_ENTRIES


def threads() -> int:
    """Threads that work on one call; a compiler sees none."""
    return 1 if torch.compiler.is_compiling() else torch.get_num_threads()


def label_dtype(dtype: torch.dtype) -> torch.dtype:
    """Labels of half-precision scores are float32: rows of bfloat16 labels could not sum to one."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def numbers(truth: Tensor) -> Tensor:
    """A boolean tensor to calculate with: its bytes on the CPU, where they become floats several times faster."""
    return truth.view(torch.uint8) if truth.is_cpu and not torch.compiler.is_compiling() else truth


def within(value: Tensor, problems: slice, rows: slice = slice(None)) -> Tensor:
    """`value[problems, rows]`, without the call where that is all."""
    batch, n = value.shape[:2]
    if not problems.start and (problems.stop is None or problems.stop >= batch):
        return value if not rows.start and (rows.stop is None or rows.stop >= n) else value[:, rows]
    return value[problems, rows]
