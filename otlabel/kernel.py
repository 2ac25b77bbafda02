r"""What a solver may ask of the scores, and its fused, log-domain implementation in plain torch.

The log-kernel is :math:`L = S/\epsilon + w \log R`, with forbidden entries at minus infinity. It never exists as a
whole: each pass rebuilds it one block of rows at a time from the scores as they came (half precision included), in
float64, so that neither large scores nor a small epsilon cost accuracy, and so that masks and priors need no copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Entries of one block: small enough to stay in a core's cache as float64, large enough to hide the cost of a call.
CPU_BLOCK_ENTRIES = 2**17
CUDA_BLOCK_ENTRIES = 2**26
# Entries up to which iterations keep the exponentials (8 MiB), iterations for which they are kept at most, and how far
# duals may move meanwhile: float64 holds exp(+-700).
ABSORBED_ENTRIES = 2**20
ABSORBED_STEPS = 10
ABSORBED_SPREAD = 600.0


@dataclass(frozen=True)
class DenseKernel:
    """Scores in memory, one problem per leading index.

    A solver sees three verbs: `column_step` and `row_step` of Sinkhorn's iteration, and `finish` at the end. All duals
    and masses are float64.
    """

    scores: Float[Tensor, "b n k"]
    epsilon: Float[Tensor, " b"]
    log_weight: Float[Tensor, "b n"]
    log_prior: Float[Tensor, "b n k"] | None = None
    prior_weight: float = 1.0
    mask: Bool[Tensor, "b n k"] | None = None

    def column_step(self, log_u: Float[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        """Log of the column sums of `exp(L + log_u)`, safe whatever the range of the scores."""
        total = self.log_weight.new_full((self.scores.shape[0], self.scores.shape[2]), -torch.inf)
        for rows in self._blocks():
            block = self._log_block(rows).add_(log_u[:, rows, None])
            total = torch.logaddexp(total, torch.logsumexp(block, dim=-2))
        return total

    def row_step(self, log_v: Float[Tensor, "b k"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b k"]]:
        """Scale the rows exactly, and sum the columns of the plan that results, in one read of the scores.

        Returns:
            `log_u` with which the rows of `exp(L + log_u + log_v)` sum to the sample weights, and that plan's column
            sums. The sums are plain, not logarithms: after any exact column step they are at least (smallest sample
            weight) x (class proportion), far above float64's underflow.
        """
        return self._row_step(log_v, None)

    def row_steps(self, log_marginal: Float[Tensor, "b k"]) -> "RowSteps":
        """`row_step` for a loop: the same answers up to rounding, cheaper for problems that fit in cache."""
        return RowSteps(self, log_marginal)

    def finish(
        self, log_v: Float[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b n"], Float[Tensor, "b k"]]:
        """A last `row_step`, with the labels: softmax of each row of `L + log_v`, zero where no class may take it.

        Returns:
            Labels, and what `row_step` returns.
        """
        dtype = label_dtype(self.scores.dtype)
        labels = torch.empty_like(self.scores, dtype=dtype, memory_format=torch.contiguous_format)
        return labels, *self._row_step(log_v, labels)

    def _row_step(
        self, log_v: Float[Tensor, "b k"], labels: Float[Tensor, "b n k"] | None
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b k"]]:
        """`row_step`, which on its way also writes the labels where they are wanted."""
        log_u = torch.empty_like(self.log_weight)
        mass = torch.zeros_like(log_v)
        for rows in self._blocks():
            block, row_max, row_sum = self._exp_block(rows, log_v)
            log_u[:, rows], scale = _row_scaling(self.log_weight[:, rows], row_max, row_sum)
            mass += (block * scale[..., None]).sum(dim=-2)
            if labels is not None:
                labels[:, rows] = block.div_(row_sum.clamp_min(torch.finfo(torch.float64).tiny)[..., None])
        return log_u, mass

    def _blocks(self) -> Iterator[slice]:
        batch, n, k = self.scores.shape
        entries = CPU_BLOCK_ENTRIES if self.scores.device.type == "cpu" else CUDA_BLOCK_ENTRIES
        rows = max(1, entries // (batch * k))
        return (slice(start, start + rows) for start in range(0, n, rows))

    def _log_block(self, rows: slice) -> Float[Tensor, "b r k"]:
        # Dividing by a float64 tensor converts in the same read; the result is ours to change in place.
        block = self.scores[:, rows] / self.epsilon[:, None, None]
        if self.log_prior is not None:
            block.add_(self.log_prior[:, rows], alpha=self.prior_weight)
        if self.mask is not None:
            block.masked_fill_(~self.mask[:, rows], -torch.inf)
        return block

    def _exp_block(
        self, rows: slice, log_v: Float[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b r k"], Float[Tensor, "b r"], Float[Tensor, "b r"]]:
        """`exp(L + log_v - row_max)` with its row maxima (0 for rows without an allowed entry) and row sums."""
        block = self._log_block(rows).add_(log_v[:, None, :])
        row_max = block.amax(dim=-1)
        row_max = row_max.masked_fill(row_max == -torch.inf, 0.0)
        block.sub_(row_max[..., None]).exp_()
        return block, row_max, block.sum(dim=-1)


class RowSteps:
    """Repeated `row_step`, with the kernel absorbed at some duals v0: E = exp(L + v0 - row_max), entries in [0, 1].

    A step at v is then two products with E, r = E w and E' (a / r) with w = exp(v - v0), and no exponential of the
    scores. A step moves the duals by at most log(1 / (smallest weight x smallest proportion)); E is made anew before
    that adds up to ABSORBED_SPREAD, which keeps w finite and the entries that underflowed in E negligible.
    """

    def __init__(self, kernel: DenseKernel, log_marginal: Float[Tensor, "b k"]) -> None:
        self.kernel = kernel
        self.absorbs = kernel.scores.numel() <= ABSORBED_ENTRIES
        if self.absorbs:
            masses = (kernel.log_weight, log_marginal)
            movement = -sum(log_mass[log_mass > -torch.inf].min().item() for log_mass in masses)
            self.steps = max(1, min(ABSORBED_STEPS, int(ABSORBED_SPREAD / max(movement, 1.0))))
            self.age = self.steps

    def __call__(self, log_v: Float[Tensor, "b k"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b k"]]:
        """See `DenseKernel.row_step`."""
        if not self.absorbs:
            return self.kernel.row_step(log_v)
        if self.age == self.steps:
            self.block, self.row_max, _ = self.kernel._exp_block(slice(None), log_v)
            self.log_v, self.age = log_v, 0
        self.age += 1
        # Classes without mass have log_v = -inf and an empty column; any finite factor will do there. The clamp acts on
        # problems without a solution only, whose duals run away.
        factor = (log_v - self.log_v).nan_to_num(nan=0.0).clamp(-ABSORBED_SPREAD, ABSORBED_SPREAD).exp()
        row_sum = torch.matmul(self.block, factor[..., None]).squeeze(-1)
        log_u, scale = _row_scaling(self.kernel.log_weight, self.row_max, row_sum)
        return log_u, factor * torch.matmul(scale[:, None, :], self.block).squeeze(-2)


def _row_scaling(
    log_weight: Float[Tensor, "b r"], row_max: Float[Tensor, "b r"], row_sum: Float[Tensor, "b r"]
) -> tuple[Float[Tensor, "b r"], Float[Tensor, "b r"]]:
    """`log_u` of rows, and the factor that gives the rows of `exp(L + log_v - row_max)` their weight."""
    # A weightless row has log_u = -inf even where no class may take it (there row_sum = 0).
    log_u = torch.where(log_weight == -torch.inf, log_weight, log_weight - row_max - row_sum.log())
    return log_u, log_weight.exp() / row_sum.clamp_min(torch.finfo(torch.float64).tiny)


def label_dtype(dtype: torch.dtype) -> torch.dtype:
    """Labels of half-precision scores are float32: rows of bfloat16 labels could not sum to one."""
    return torch.float64 if dtype == torch.float64 else torch.float32
