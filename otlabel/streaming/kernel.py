"""The kernel interface for scores that are read block by block: one read a pass, memory that n does not enter."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from otlabel.errors import InfeasibleProblemError, require
from otlabel.kernel import DenseKernel, Sums
from otlabel.sides import Side
from otlabel.streaming.journal import Journal
from otlabel.streaming.sources import Blocks, split

# Column sums of the plan are trusted down to here; below, the pass is taken again in logarithms.
SMALLEST_SUM = {torch.float32: 1e-25, torch.float64: 1e-280}
# Rows that are summed in float32; the sums of these groups are in float64. Threads share out groups.
GROUP = 64

OnBlock = Callable[[int, int], None]


@dataclass(slots=True, eq=False)
class StreamKernel(DenseKernel):
    """Scores elsewhere; `scores` is a meta tensor of their shape. Samples are exact, so nothing is kept for each.

    Attributes:
        blocks: The rows.
        row_weight: Weights of all samples, total mass one, on the host; None for all alike.
        is_precise: Whether exponentials are float64.
        journal: Remembers the passes.
        on_block: Told the pass and the rows read so far.
        passes: Passes so far, those from the journal included.
    """

    blocks: Blocks = field(kw_only=True)
    row_weight: Tensor | None = field(kw_only=True)
    is_precise: bool = field(kw_only=True)
    journal: Journal = field(kw_only=True)
    on_block: OnBlock | None = field(kw_only=True)
    passes: int = field(default=0, kw_only=True)

    @property
    def weight(self) -> Tensor:
        """Nothing: no number is kept for each sample."""
        return self.epsilon.new_zeros(1, 0)

    def relaxed_step(
        self, log_v: Tensor, samples: Side, cooling: float = 1.0, *, sums: Sums = "checked"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass; the sample side is exact and nothing is kept of it."""
        del samples, sums
        asked = torch.cat([log_v[0], log_v.new_tensor([cooling])])
        log_sums = self._answer(asked, lambda: self._log_sums(log_v[0], cooling))
        return self.weight, self.weight, log_sums[None]

    def column_step(self, log_u: Tensor, cooling: float = 1.0) -> Tensor:
        """Log-sums of the columns with unscaled rows."""
        del log_u
        return self._answer(self.epsilon.new_tensor([cooling]), lambda: self._far_log_sums(None, cooling))[None]

    def gram(self, log_v: Tensor, row_weight: Tensor, cooling: float = 1.0) -> Tensor:
        """Products of the label columns over the rows, weighted by the samples."""
        del row_weight
        k = self.blocks.k
        asked = torch.cat([log_v[0], log_v.new_tensor([cooling, 0.0])])
        return self._answer(asked, lambda: self._products(log_v[0], cooling).flatten()).reshape(1, k, k)

    def _answer(self, asked: Tensor, work: Callable[[], Tensor]) -> Tensor:
        """What a pass gives: as the journal has it, or worked out and noted."""
        self.passes += 1
        known = self.journal.recall(asked)
        if known is None:
            answer = work()
            self.journal.note(asked, answer, answer.new_tensor([self.blocks.n]))
            return answer
        answer, rows = known
        self.blocks.count(int(rows))
        return answer

    def _log_sums(self, log_v: Tensor, cooling: float) -> Tensor:
        """Log of the column sums of the plan with exact rows, without the class duals."""
        is_empty = log_v == -torch.inf
        dtype = torch.float64 if self.is_precise else torch.float32
        mass = self._mass(log_v, cooling, dtype)
        if mass is None or not bool(((mass >= SMALLEST_SUM[dtype]) | is_empty).all()):
            return self._far_log_sums(log_v, cooling)
        return torch.where(is_empty, 0.0, mass.log() - log_v)

    def _mass(self, log_v: Tensor, cooling: float, dtype: torch.dtype) -> Tensor | None:
        """Column sums of the plan with exact rows; None where a sample has no class."""
        # Centred, so that float32 exponents are small where it matters.
        bias = (log_v - log_v[log_v > -torch.inf].mean()).to(dtype)
        mass, stuck = torch.zeros_like(log_v), torch.zeros((), dtype=torch.int64)
        for tile, weight in self._watched():
            labels = torch.softmax(torch.add(bias.to(tile.device), tile.to(dtype), alpha=self._scale(cooling)), dim=1)
            if self.has_holes:  # the softmax of -inf alone is NaN
                stuck += (labels[:, 0].isnan() & (weight > 0)).sum().to(stuck)
                labels.nan_to_num_(nan=0.0)
            mass += _column_sums(weight.to(dtype), labels).to(mass)
        if not self.has_holes and bool(mass.isnan().any()):
            self.has_holes = True
            return self._mass(log_v, cooling, dtype)
        return None if stuck else mass / mass.sum()

    def _far_log_sums(self, log_v: Tensor | None, cooling: float) -> Tensor:
        """`_log_sums` (with unscaled rows if there are no duals) in logarithms: slow, and right at any range.

        Raises what is wrong with the scores.
        """
        sums = self.epsilon.new_full((self.blocks.k,), -torch.inf)
        mass, stuck = self.epsilon.new_zeros(()), torch.zeros((), dtype=torch.int64)
        for tile, weight in self._watched():
            exponent = self._exponents(tile, cooling)
            rows = torch.zeros_like(weight)
            if log_v is not None:
                rows = (exponent + log_v.to(tile.device)).logsumexp(dim=1)
                stuck += ((rows == -torch.inf) & (weight > 0)).sum().to(stuck)
                rows.masked_fill_(rows == -torch.inf, 0.0)
            exponent.add_((weight.log() - rows)[:, None])
            sums = torch.logaddexp(sums, exponent.logsumexp(dim=0).to(sums))
            mass += weight.sum().to(mass)
        if not bool((sums < torch.inf).all()):
            self.blocks.check_values()
            raise ValueError(
                f"`epsilon` must keep `scores / epsilon` within the range of float64, got {float(self.epsilon[0])} for "
                f"{self.blocks.name}. Raise it, or scale the scores down."
            )
        if stuck:
            raise InfeasibleProblemError(
                f"`source` must allow every weighted sample a class with mass, got {int(stuck)} of {self.blocks.n} "
                f"rows of {self.blocks.name} without. Allow them one, or give them a `sample_weight` of 0."
            )
        if log_v is None:
            return sums - mass.log()
        is_empty = log_v == -torch.inf
        unreached = ((sums == -torch.inf) & ~is_empty).nonzero().flatten().tolist()
        if unreached:
            raise InfeasibleProblemError(
                f"`source` must leave every class with mass a weighted sample, got {len(unreached)} without, first "
                f"class {unreached[0]} of {self.blocks.name}. Allow it a sample, or give it a `marginal` of 0."
            )
        return torch.where(is_empty, 0.0, sums - mass.log())

    def _products(self, log_v: Tensor, cooling: float) -> Tensor:
        k = self.blocks.k
        total, mass = log_v.new_zeros(k, k), log_v.new_zeros(())
        for tile, weight in self._watched():
            exponent = self._exponents(tile, cooling).add_(log_v.to(tile.device))
            labels = torch.softmax(exponent, dim=1).nan_to_num_(nan=0.0)  # a weightless sample may have no class
            total += ((labels * weight[:, None]).T @ labels).to(total)
            mass += weight.sum().to(mass)
        return total / mass

    def _scale(self, cooling: float) -> float:
        return 1.0 / (float(self.epsilon[0]) * cooling)

    def _exponents(self, tile: Tensor, cooling: float) -> Tensor:
        """Float64, the caller's to change: the tile may be the user's tensor."""
        return tile.to(torch.float64) * self._scale(cooling)

    def _watched(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Tiles and the weights of their rows, reported as they are done."""
        start = 0
        for tile, weight in tiles(self.blocks, self.row_weight):
            yield tile, weight
            start += len(tile)
            if self.on_block is not None:
                self.on_block(self.passes, start)

    def finish(self, log_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """No labels: they are made block by block when somebody asks."""
        nothing = self.weight
        return log_v.new_zeros(1, 0, self.blocks.k), nothing, log_v


def tiles(blocks: Blocks, row_weight: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles of the blocks, and the weights of their rows."""
    rows = 0
    for block in blocks:
        if row_weight is not None:
            require_weights(row_weight, f"at least {rows + len(block)}", fits=rows + len(block) <= len(row_weight))
        for tile in split(block):
            if row_weight is None:
                weight = torch.ones(len(tile), dtype=torch.float64, device=tile.device)
            else:
                weight = row_weight[rows : rows + len(tile)].to(tile.device)
            yield tile, weight
            rows += len(tile)
    if row_weight is not None:
        require_weights(row_weight, str(rows), fits=rows == len(row_weight))


def require_weights(row_weight: Tensor, rows: str, *, fits: bool) -> None:
    """Raise unless there is a weight for each of the rows."""
    require(
        fits,
        "`sample_weight` must have shape (n,), got {} for {} rows. Give one weight for each row.",
        tuple(row_weight.shape),
        rows,
    )


def _column_sums(weight: Tensor, rows: Tensor) -> Tensor:
    """`weight @ rows` in float64: plain float32 sums over many rows would cost two digits."""
    count, k = len(rows) // GROUP, rows.shape[1]
    whole = count * GROUP
    groups = torch.bmm(weight[:whole].view(count, 1, GROUP), rows[:whole].view(count, GROUP, k))
    return groups.sum(dim=0, dtype=torch.float64)[0] + weight[whole:] @ rows[whole:]
