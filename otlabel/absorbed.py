"""The fused kernel that solvers iterate on: it keeps the exponentials, so that a pass is two products."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from otlabel.kernel import LOWEST, DenseKernel, block_entries, label_dtype, numbers, threads, within
from otlabel.pages import empty
from otlabel.products import FETCHED_ROW, GROUP_ROWS, LONG_ROW, Products, divisor, row_sums

# Entries of one tile for each thread: a mebibyte of float32, read twice from the core's own cache. Tiles of long rows
# have at least TILE_ROWS, else their column sums would outweigh them.
TILE_ENTRIES = 2**18
TILE_ROWS = 32
# Entries up to which one problem is multiplied at once, and twice as many of a batch of small ones: they fit the cache
# that cores share, and one call for all costs less than tiles gain.
UNCUT_ENTRIES = 2**21
# Entries up to which the kernel is float64 whatever the scores: there the calls cost more than the numbers.
FLOAT64_ENTRIES = 2**15
# Exponents of absorbed entries are raised to FLOOR, and duals may move by REACH before the kernel is absorbed anew;
# their sum stays inside what the dtype can hold.
FLOOR = {torch.float32: -70.0, torch.float64: -600.0}
REACH = {torch.float32: 35.0, torch.float64: 300.0}
# Range of exponents up to which one shift serves all rows: no dual that Sinkhorn's iteration visits can overflow then.
DIRECT_RANGE = 50.0
# Shorter rows are halved before their largest float32 is sought: twice as fast for k = 16.
SHORT_ROW = 64
# Longer rows are normalised by a sum of their own in the end.
ACCURATE_ROW = 128


def _row_max(block: Tensor) -> Tensor:
    """Largest entry of each row, which float32 is slow to find in short rows."""
    k = block.shape[-1]
    if block.dtype == torch.float32 and k < SHORT_ROW and block.numel() > k * SHORT_ROW:
        half = (k + 1) // 2
        block = torch.maximum(block[..., :half], block[..., -half:])
    return block.amax(dim=-1, keepdim=True)


def is_uncut(shape: torch.Size) -> bool:
    """Whether a kernel of this shape (b, n, k) is multiplied at once on the CPU."""
    entries, k = shape[1:].numel(), shape[2]
    if shape[0] > 1 and entries <= TILE_ENTRIES:
        return shape.numel() <= 2 * UNCUT_ENTRIES
    return shape.numel() <= TILE_ENTRIES or (shape[0] == 1 and k <= LONG_ROW and entries <= UNCUT_ENTRIES)


@dataclass(frozen=True)
class _Tile:
    """Part of the kernel that stays in cache: rows of one problem (2-D) or a few whole problems (3-D)."""

    problems: slice
    rows: slice
    block: Tensor  # (r, k) or (g, r, k)
    weight: Tensor  # (r,) or (g, r)
    row_sum: Tensor  # same shape
    groups: list[tuple[slice, Tensor, Tensor]]  # rows of (m, size, k), and where their m column sums go, (m, 1, k)
    is_shared: bool = False  # whether threads share it, each with groups of its own


class AbsorbedKernel:
    """The kernel made linear at duals v0: `E = exp(L / cooling + v0 - shift)`, entries in [0, 1], in one buffer.

    With `factor = exp(v - v0)` one pass is two products, `r = E factor` and `c = E' (a / r)`: no exponential, and one
    read of E, because each tile of rows serves both while it is in cache. The plan at v has exact rows and the column
    sums `factor * c`. The buffer becomes the labels at the end, so the kernel is the only copy of the scores.

    E is float32 for scores of at most float32, and float64 for small problems, where it costs nothing. Exponents are
    formed in float64 before they are rounded, and sums over rows are carried in float64 from group to group: both would
    limit the marginal error that float32 can reach otherwise. Exponents below FLOOR count as FLOOR: denormal numbers
    would slow every pass, and no allowed column may look empty. Forbidden entries are exactly zero.

    Attributes:
        log_v: v0, float64, shape (b, k); None for v0 = 0 with one shift for all rows.
        shift: float64, shape (b, n), or what broadcasts to it.
        row_sum: r of the last pass, shape (b, n).
    """

    def __init__(self, kernel: DenseKernel, *, precise: bool = False, block: Tensor | None = None) -> None:
        """Make a buffer, or take `block` for it where that has the right dtype."""
        scores = kernel.scores
        self.kernel = kernel
        self.dtype = torch.float64 if precise or scores.numel() <= FLOAT64_ENTRIES else label_dtype(scores.dtype)
        if block is None or block.dtype != self.dtype:
            block = empty(scores.shape, self.dtype, scores.device)
        self.block = block.view(scores.shape)
        self.weight = kernel.weight.to(self.dtype).contiguous()  # viewed in other shapes
        self.log_v: Tensor | None = None
        self.shift: Tensor | float = 0.0
        self._prepare(torch.empty_like(self.weight))

    def _prepare(self, row_sum: Tensor) -> None:
        """Choose how to multiply: at once where the kernel fits a tile or the device cuts for itself, else by tiles."""
        self.row_sum = row_sum
        self._products = None
        self._exponent: Tensor | None = None  # spares a small problem that is absorbed often new memory
        if is_uncut(self.block.shape) or self.block.device.type != "cpu":
            self._products = Products(self.block, self.weight, self.row_sum)
        else:
            self._cut()

    def _cut(self) -> None:
        """Cut the buffer into tiles, and tiles into groups of rows whose columns are summed in the dtype of E."""
        batch, n, k = self.block.shape
        count = threads()
        self._tiles: list[_Tile] = []
        if 2 * n * k <= TILE_ENTRIES:
            size = divisor(n) if self.dtype == torch.float32 and n > GROUP_ROWS else n
            step, parts = max(1, count * TILE_ENTRIES // (n * k)), n // size
            self._partial = self.block.new_empty(batch * parts, 1, k)
            for start in range(0, batch, step):
                problems = slice(start, min(batch, start + step))
                out = self._partial[problems.start * parts : problems.stop * parts]
                block = self.block[problems]
                groups = [(slice(None), block.view(-1, size, k), out)]
                tile = _Tile(problems, slice(None), block, self.weight[problems], self.row_sum[problems], groups)
                self._tiles.append(tile)
            return
        size, step = self._tile_size(count)
        cuts = [slice(start, min(n, start + step)) for start in range(0, n, step)]
        self._partial = self.block.new_empty(batch * sum(-(-(rows.stop - rows.start) // size) for rows in cuts), 1, k)
        at = 0
        for i in range(batch):
            for rows in cuts:
                block, groups = self.block[i, rows], []
                whole = block.shape[0] // size * size
                for part in (slice(0, whole), slice(whole, block.shape[0])):
                    if part.start < part.stop:
                        group = block[part].view(-1, min(size, part.stop - part.start), k)
                        groups.append((part, group, self._partial[at : at + group.shape[0]]))
                        at += group.shape[0]
                vectors = self.weight[i, rows], self.row_sum[i, rows]
                self._tiles.append(_Tile(slice(i, i + 1), rows, block, *vectors, groups, count > 1))

    def _tile_size(self, count: int) -> tuple[int, int]:
        """Rows of a group and of a tile of one problem, for so many threads."""
        _, n, k = self.block.shape
        if count == 1:
            size, step = GROUP_ROWS if self.dtype == torch.float32 else n, min(n, max(TILE_ROWS, TILE_ENTRIES // k))
            return size, step - step % size if size < step < n else step
        # Products share out groups, so each thread needs some, and the same ones in both products.
        each = max(TILE_ROWS, TILE_ENTRIES // k)
        if k > LONG_ROW:  # there a tile is copied
            each = TILE_ROWS // count
        each = max(1, min(each, n // count))
        size = min(GROUP_ROWS, each)
        return size, count * (each - each % size)

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Problems and rows of blocks to be made or finished one after the other."""
        batch, n, k = self.block.shape
        entries = block_entries(self.block.device)
        problems = min(batch, max(1, entries // (n * k)))
        rows = n if problems > 1 else min(n, max(1, entries // k))
        for first in range(0, batch, problems):
            for start in range(0, n, rows):
                yield slice(first, first + problems), slice(start, start + rows)

    # ------------------------------------------------------------------ building E

    @property
    def is_direct(self) -> bool:
        """Whether E was made with one shift for all rows, at v0 = 0."""
        return self.log_v is None

    def absorb_direct(self, top: float, prior_peak: float, cooling: float = 1.0) -> None:
        """E at v0 = 0 with one shift for all rows, that of the score `top` and of the prior's largest exponent.

        For exponents that span at most DIRECT_RANGE, none of them minus infinity; 0 for exponents that need no shift,
        which saves it.
        """
        prior, mask = self.kernel.log_prior, self.kernel.mask
        assert self.kernel.scale is not None  # noqa: S101 - for the type checker
        scale, prior_weight, prior_peak = (
            value / cooling for value in (self.kernel.scale, self.kernel.prior_weight, prior_peak)
        )
        for problems, rows in self._blocks():
            scores, block = within(self.kernel.scores, problems, rows), within(self.block, problems, rows)
            if scores.dtype != block.dtype:
                scores = block.copy_(scores)
            if top == 0.0:
                torch.mul(scores, scale, out=block)
            else:
                torch.sub(scores, top, out=block).mul_(scale)
            if prior is not None:
                block.add_(within(prior, problems, rows), alpha=prior_weight)
                if prior_peak != 0.0:
                    block.sub_(prior_peak)
            block.exp_()
            if mask is not None:
                block.mul_(numbers(within(mask, problems, rows)))
        self.log_v, self.shift = None, top * scale + prior_peak

    def absorb(self, log_v: Float[Tensor, "b k"], cooling: float = 1.0, *, is_rough: bool = False) -> None:
        """E at `log_v`; `cooling` divides L, as if epsilon and the inverse prior weight were larger by that factor.

        A rough one is made of exponents in the dtype of E, for scores without holes that share one epsilon.
        """
        kernel, floor = self.kernel, FLOOR[self.dtype]
        shift: Tensor | None = None
        is_double = self.dtype == torch.float64
        if self._exponent is None and self.block.numel() <= TILE_ENTRIES and not is_rough:
            self._exponent = self.block if is_double else torch.empty_like(self.block, dtype=torch.float64)
        start = log_v.to(self.dtype) if is_rough else log_v
        for problems, rows in self._blocks():
            block = within(self.block, problems, rows)
            out = block if is_rough else None if self._exponent is None else within(self._exponent, problems, rows)
            exponent = kernel.log_block(rows, start, problems, cooling, out=out, lowest=LOWEST)
            row_max = _row_max(exponent)
            if kernel.has_holes:
                row_max.masked_fill_(row_max < 0.5 * LOWEST, 0.0)
            if row_max.numel() == self.weight.numel():
                shift = row_max.squeeze(-1).to(torch.float64)
            else:
                shift = torch.empty_like(self.weight, dtype=torch.float64) if shift is None else shift
                shift[problems, rows] = row_max.squeeze(-1).to(torch.float64)
            exponent.sub_(row_max)
            if exponent is not block:
                block.copy_(exponent)
            allowed = block > -torch.inf if kernel.has_infinities else None
            block.clamp_(min=floor).exp_()  # exponentials that underflow are slow
            if allowed is not None:
                block.mul_(numbers(allowed))
            if kernel.mask is not None:
                block.mul_(numbers(within(kernel.mask, problems, rows)))
        assert shift is not None  # noqa: S101 - for the type checker
        self.log_v, self.shift = log_v, shift

    # ------------------------------------------------------------------ passes

    def column_sums(self, weight: Float[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        """`E' weight` in float64: the columns before any row is scaled."""
        weight = weight.to(self.dtype)
        if self._products is not None:
            return self._products.columns(weight)
        return self._accumulate(lambda tile: weight[tile.problems, tile.rows].view(tile.weight.shape))

    def sums(self, factor: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """One pass: leaves `row_sum` = r, and returns c."""
        if self._products is not None:
            self._products.set_rows(factor)
            self._positive(self.row_sum)
            return self._products.scaled_columns()
        factor = factor.to(self.dtype)
        return self._accumulate(lambda tile: tile.weight / self._tile_row_sums(tile, factor))

    def finish_rows(self, factor: Float[Tensor, "b k"]) -> None:
        """Leave `row_sum` at `factor`, as `sums` does, and nothing else."""
        if self._products is not None:
            self._products.set_rows(factor)
            self._positive(self.row_sum)
            return
        factor = factor.to(self.dtype)
        for tile in self._tiles:
            self._tile_row_sums(tile, factor)

    def _tile_row_sums(self, tile: _Tile, factor: Tensor) -> Tensor:
        return self._positive(self._rows(tile, factor, tile.row_sum))

    @staticmethod
    def _rows(tile: _Tile, factor: Tensor, out: Tensor) -> Tensor:
        """`E factor` of a tile."""
        factor, k = factor[tile.problems], factor.shape[-1]
        if not tile.is_shared or (k > LONG_ROW and factor.dtype == torch.float32):
            return row_sums(tile.block, factor, out=out)
        if k > FETCHED_ROW:
            tile.block.sum()  # as in row_sums
        for part, rows, _ in tile.groups:  # the product with a matrix runs on one thread, with a batch of them on all
            torch.bmm(factor.expand(rows.shape[0], 1, k), rows.mT, out=out[part].view(rows.shape[0], 1, rows.shape[1]))
        return out

    def product(self, factor: Float[Tensor, "b k"], vector: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """`P' diag(a) P vector` for the labels P at `factor`, whose pass must have been the last."""
        scaled = (factor * vector).to(self.dtype)
        if self._products is not None:
            means = self._products.rows(scaled).mul_(self.weight).div_(self.row_sum).div_(self.row_sum)
            return factor * self._products.columns(means)

        def row_scale(tile: _Tile) -> Tensor:
            means = self._rows(tile, scaled, torch.empty_like(tile.row_sum))
            return means.mul_(tile.weight).div_(tile.row_sum).div_(tile.row_sum)

        return factor * self._accumulate(row_scale)

    def gram(self, stride: int = 1) -> Float[Tensor, "b k k"]:
        """`E' diag(a / r^2) E` in float64 after a pass, from every so many rows."""
        # A buffer that is kept saves a small problem calls, but would cost a large one memory.
        if self._products is not None and stride == 1 and self.block.numel() <= TILE_ENTRIES:
            return self._products.gram()
        scale = self.weight.sqrt().div_(self.row_sum).unsqueeze(-1)
        if stride > 1:
            block = self.block[:, ::stride] * scale[:, ::stride]
            return torch.bmm(block.mT, block).to(torch.float64)
        batch, _, k = self.block.shape
        total = self.block.new_zeros(batch, k, k, dtype=torch.float64)
        for problems, rows in self._blocks():
            block = within(self.block, problems, rows) * within(scale, problems, rows)
            total[problems] += torch.bmm(block.mT, block)
        return total

    def _accumulate(self, row_scale: Callable[[_Tile], Tensor]) -> Tensor:
        """`E' scale`, group by group of rows, and in float64 over the groups."""
        batch, _, k = self.block.shape
        for tile in self._tiles:
            scale = row_scale(tile)
            for part, rows, out in tile.groups:
                torch.bmm(scale[..., part].view(rows.shape[0], 1, rows.shape[1]), rows, out=out)
        return self._partial.view(batch, -1, k).sum(dim=1, dtype=torch.float64)

    def _positive(self, row_sum: Tensor) -> Tensor:
        """Row sums to divide by: rows without an allowed entry have no weight, or the problem has no solution."""
        return row_sum.clamp_(min=torch.finfo(self.dtype).tiny) if self.kernel.has_holes else row_sum

    # ------------------------------------------------------------------ the end

    def labels(self, factor: Float[Tensor, "b k"]) -> Float[Tensor, "b n k"]:
        """Labels at `factor`, whose pass must have been the last; written over E where the dtype allows."""
        dtype = label_dtype(self.kernel.scores.dtype)
        factor = factor.to(self.dtype)
        labels = self.block if dtype == self.dtype else empty(self.block.shape, dtype, self.block.device)
        factor, row_sum = factor.unsqueeze(1), self.row_sum.unsqueeze(-1)
        normalises = self.dtype == torch.float32 and self.block.shape[-1] > ACCURATE_ROW
        for problems, rows in self._blocks():
            block = within(self.block, problems, rows).mul_(within(factor, problems))
            if normalises:
                torch.sum(block, dim=-1, out=within(self.row_sum, problems, rows))
                self._positive(within(self.row_sum, problems, rows))
            torch.div(block, within(row_sum, problems, rows), out=within(labels, problems, rows))
        return labels

    def take(self, index: Tensor) -> "AbsorbedKernel":
        """The problems at `index`, copied; they need a pass before anything else."""
        taken = copy.copy(self)
        taken.kernel = self.kernel.take(index)
        taken.block, taken.weight = self.block[index], self.weight[index]
        taken.log_v = None if self.log_v is None else self.log_v[index]
        taken.shift = self.shift[index] if isinstance(self.shift, Tensor) else self.shift
        taken._prepare(self.row_sum[index])
        return taken

    def put(self, index: Tensor, part: "AbsorbedKernel") -> None:
        """Take back what `take` gave, as it is now."""
        self.block[index], self.row_sum[index] = part.block, part.row_sum
        if part.log_v is None:
            return
        if self.log_v is None:  # the part was absorbed anew, the others keep their one shift
            log_v = torch.zeros_like(part.log_v[:1]).repeat(self.block.shape[0], 1)
            shift = torch.zeros_like(self.row_sum, dtype=torch.float64) + self.shift
        else:
            assert isinstance(self.shift, Tensor)  # noqa: S101 - for the type checker
            log_v, shift = self.log_v.clone(), self.shift
        log_v[index], shift[index] = part.log_v, part.shift
        self.log_v, self.shift = log_v, shift
