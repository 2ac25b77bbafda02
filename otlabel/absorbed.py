"""The fused kernel that solvers iterate on: it keeps the exponentials, so that a pass is two products."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from otlabel.kernel import CPU_BLOCK_ENTRIES, CUDA_BLOCK_ENTRIES, DenseKernel, label_dtype

# Entries of one tile: half a mebibyte of float32, read twice from a core's own cache. Tiles of long rows have at least
# TILE_ROWS, else their column sums would outweigh them.
TILE_ENTRIES = 2**17
TILE_ROWS = 32
# Entries up to which a batch of small problems is multiplied at once: it fits the cache that cores share, and one call
# for all costs less than tiles gain.
UNCUT_ENTRIES = 2**22
# Entries up to which the kernel is float64 whatever the scores: there the calls cost more than the numbers.
FLOAT64_ENTRIES = 2**15
# Exponents of absorbed entries are raised to FLOOR, and duals may move by REACH before the kernel is absorbed anew;
# their sum stays inside what the dtype can hold.
FLOOR = {torch.float32: -70.0, torch.float64: -600.0}
REACH = {torch.float32: 35.0, torch.float64: 300.0}
# Range of exponents up to which one shift serves all rows: no dual that Sinkhorn's iteration visits can overflow then.
DIRECT_RANGE = 50.0
# Matrix-vector products add one by one, which loses 2e-6 on 7,500 float32 rows. So columns are summed in groups of
# GROUP_ROWS before float64 takes over, rows longer than ACCURATE_ROW are normalised by a sum of their own in the end,
# and rows longer than LONG_ROW are summed like that in every pass.
GROUP_ROWS = 64
ACCURATE_ROW = 128
LONG_ROW = 8192
# Tiles of rows longer than this are read once before they are multiplied: 1.6 to 2.7 times faster (k = 3,000 and 100)
# than the product alone on memory that is not in cache; slower for k = 16.
FETCHED_ROW = 32


@dataclass(frozen=True)
class _Tile:
    """Part of the kernel that stays in cache: rows of one problem (2-D) or a few whole problems (3-D)."""

    problems: slice
    rows: slice
    block: Tensor  # (r, k) or (g, r, k)
    weight: Tensor  # (r,) or (g, r)
    row_sum: Tensor  # same shape
    groups: list[tuple[slice, Tensor, Tensor]]  # rows of (m, size, k), and where their m column sums go, (m, 1, k)


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

    def __init__(self, kernel: DenseKernel, *, precise: bool = False) -> None:
        scores = kernel.scores
        self.kernel = kernel
        self.dtype = torch.float64 if precise or scores.numel() <= FLOAT64_ENTRIES else label_dtype(scores.dtype)
        self.block = torch.empty(scores.shape, dtype=self.dtype, device=scores.device)
        self.weight = kernel.weight.to(self.dtype)
        self.log_v: Tensor | None = None
        self.shift: Tensor | float = 0.0
        self._prepare()

    def _prepare(self) -> None:
        """Choose how to multiply: at once where the kernel fits a tile or the device cuts for itself, else by tiles."""
        self.row_sum = torch.empty_like(self.weight)
        self._products = None
        batch, n, k = self.block.shape
        small_batch = batch > 1 and n * k <= TILE_ENTRIES and self.block.numel() <= UNCUT_ENTRIES
        if small_batch or self.block.numel() <= TILE_ENTRIES or self.block.device.type != "cpu":
            self._products = products(self.block)
        else:
            self._cut()

    def _cut(self) -> None:
        """Cut the buffer into tiles, and tiles into groups of rows whose columns are summed in the dtype of E."""
        batch, n, k = self.block.shape
        size = GROUP_ROWS if self.dtype == torch.float32 else n
        self._tiles: list[_Tile] = []
        if 2 * n * k <= TILE_ENTRIES:
            size = _divisor(n) if size < n else n
            step, parts = max(1, TILE_ENTRIES // (n * k)), n // size
            self._partial = self.block.new_empty(batch * parts, 1, k)
            for start in range(0, batch, step):
                problems = slice(start, min(batch, start + step))
                out = self._partial[problems.start * parts : problems.stop * parts]
                block = self.block[problems]
                groups = [(slice(None), block.view(-1, size, k), out)]
                tile = _Tile(problems, slice(None), block, self.weight[problems], self.row_sum[problems], groups)
                self._tiles.append(tile)
            return
        step = min(n, max(TILE_ROWS, TILE_ENTRIES // k))
        step -= step % size if size < step < n else 0
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
                tile = _Tile(slice(i, i + 1), rows, block, self.weight[i, rows], self.row_sum[i, rows], groups)
                self._tiles.append(tile)

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Problems and rows of blocks to be made or finished one after the other."""
        batch, n, k = self.block.shape
        entries = CPU_BLOCK_ENTRIES if self.block.device.type == "cpu" else CUDA_BLOCK_ENTRIES
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

    def absorb_direct(self, top: float) -> None:
        """E at v0 = 0 with one shift for all rows, that of the score `top`.

        For plain scores whose exponents span at most DIRECT_RANGE; 0 for exponents that need no shift, which saves it.
        """
        scale = self.kernel.scale
        assert scale is not None  # noqa: S101 - for the type checker
        for problems, rows in self._blocks():
            scores, block = self.kernel.scores[problems, rows], self.block[problems, rows]
            if scores.dtype != block.dtype:
                scores = block.copy_(scores)
            if top == 0.0:
                torch.mul(scores, scale, out=block).exp_()
            else:
                torch.sub(scores, top, out=block).mul_(scale).exp_()
        self.log_v, self.shift = None, top * scale

    def absorb(self, log_v: Float[Tensor, "b k"], cooling: float = 1.0) -> None:
        """E at `log_v`; `cooling` divides L, as if epsilon and the inverse prior weight were larger by that factor."""
        kernel, floor = self.kernel, FLOOR[self.dtype]
        shift = torch.empty_like(self.weight, dtype=torch.float64)
        for problems, rows in self._blocks():
            exponent = kernel.log_block(rows, log_v, problems, cooling)
            row_max = exponent.amax(dim=-1, keepdim=True)
            if kernel.has_holes:
                row_max.masked_fill_(row_max == -torch.inf, 0.0)
            shift[problems, rows] = row_max.squeeze(-1)
            block = torch.sub(exponent, row_max, out=self.block[problems, rows])
            if kernel.has_holes:
                forbidden = block == -torch.inf
                block.clamp_(min=floor).exp_().masked_fill_(forbidden, 0.0)
            else:
                block.clamp_(min=floor).exp_()
        self.log_v, self.shift = log_v, shift

    # ------------------------------------------------------------------ passes

    def column_sums(self, weight: Float[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        """`E' weight` in float64: the columns before any row is scaled."""
        weight = weight.to(self.dtype)
        if self._products is not None:
            return self._products[1](weight).to(torch.float64)
        return self._accumulate(lambda tile: weight[tile.problems, tile.rows].view(tile.weight.shape))

    def sums(self, factor: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """One pass: leaves `row_sum` = r, and returns c."""
        factor = factor.to(self.dtype)
        if self._products is not None:
            rows, columns = self._products
            self.row_sum = self._positive(rows(factor))
            return columns(self.weight / self.row_sum).to(torch.float64)

        return self._accumulate(lambda tile: tile.weight / self._tile_row_sums(tile, factor))

    def finish_rows(self, factor: Float[Tensor, "b k"]) -> None:
        """Leave `row_sum` at `factor`, as `sums` does, and nothing else."""
        factor = factor.to(self.dtype)
        if self._products is not None:
            self.row_sum = self._positive(self._products[0](factor))
            return
        for tile in self._tiles:
            self._tile_row_sums(tile, factor)

    def _tile_row_sums(self, tile: _Tile, factor: Tensor) -> Tensor:
        _row_sums(tile.block, factor[tile.problems], out=tile.row_sum)
        return self._positive(tile.row_sum)

    def product(self, factor: Float[Tensor, "b k"], vector: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """`P' diag(a) P vector` for the labels P at `factor`, whose pass must have been the last."""
        scaled = (factor * vector).to(self.dtype)
        if self._products is not None:
            rows, columns = self._products
            return factor * columns(rows(scaled).mul_(self.weight).div_(self.row_sum).div_(self.row_sum))

        def row_scale(tile: _Tile) -> Tensor:
            means = _row_sums(tile.block, scaled[tile.problems])
            return means.mul_(tile.weight).div_(tile.row_sum).div_(tile.row_sum)

        return factor * self._accumulate(row_scale)

    def gram(self, stride: int = 1) -> Float[Tensor, "b k k"]:
        """`E' diag(a / r^2) E` in float64 after a pass, from every so many rows."""
        scale = self.weight.sqrt().div_(self.row_sum)
        if self._products is not None or stride > 1:
            block = self.block[:, ::stride] * scale[:, ::stride, None]
            return torch.bmm(block.transpose(1, 2), block).to(torch.float64)
        batch, _, k = self.block.shape
        total = self.block.new_zeros(batch, k, k, dtype=torch.float64)
        for tile in self._tiles:
            block = tile.block * scale[tile.problems, tile.rows].view(*tile.weight.shape, 1)
            total[tile.problems] += torch.matmul(block.transpose(-1, -2), block)
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
        labels = self.block if dtype == self.dtype else torch.empty_like(self.block, dtype=dtype)
        normalises = self.dtype == torch.float32 and self.block.shape[-1] > ACCURATE_ROW
        for problems, rows in self._blocks():
            block = self.block[problems, rows].mul_(factor[problems, None])
            if normalises:
                torch.sum(block, dim=-1, out=self.row_sum[problems, rows])
                self._positive(self.row_sum[problems, rows])
            block.div_(self.row_sum[problems, rows, None])
            if labels is not self.block:
                labels[problems, rows] = block
        return labels

    def take(self, index: Tensor) -> "AbsorbedKernel":
        """The problems at `index`, copied; they need a pass before anything else."""
        part = copy.copy(self)
        part.kernel = self.kernel.take(index)
        part.block, part.weight = self.block[index], self.weight[index]
        part.log_v = None if self.log_v is None else self.log_v[index]
        part.shift = self.shift[index] if isinstance(self.shift, Tensor) else self.shift
        part._prepare()
        part.row_sum.copy_(self.row_sum[index])
        return part

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


def products(block: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """`factor -> block @ factor` and `scale -> block' @ scale` of a block (n, k), or for each of a batch (b, n, k)."""
    sums_at_once = block.dtype == torch.float64 or block.device.type != "cpu"
    if block.ndim == 3:
        batch, n, k = block.shape
        if batch == 1:
            single, wide = block[0], block[0].t()
            if n <= 4 * GROUP_ROWS or sums_at_once:
                return lambda factor: torch.mm(factor, wide), lambda scale: torch.mm(scale, single)
            columns = products(single)[1]
            return lambda factor: torch.mm(factor, wide), lambda scale: columns(scale[0])[None]
        size = n if sums_at_once else _divisor(n)
        parts = block.view(-1, size, k)
        return (
            lambda factor: _row_sums(block, factor),
            lambda scale: torch.bmm(scale.view(-1, 1, size), parts).view(batch, -1, k).sum(dim=1),
        )
    n, k = block.shape
    transposed = block.t()
    if n <= 4 * GROUP_ROWS or sums_at_once:
        return lambda factor: torch.mv(block, factor), lambda scale: torch.mv(transposed, scale)
    whole = n // GROUP_ROWS * GROUP_ROWS
    parts, rest = block[:whole].view(-1, GROUP_ROWS, k), block[whole:].t()

    def grouped(scale: Tensor) -> Tensor:
        total = torch.bmm(scale[:whole].view(-1, 1, GROUP_ROWS), parts).sum(dim=(0, 1))
        return total if whole == n else total.add_(torch.mv(rest, scale[whole:]))

    return lambda factor: torch.mv(block, factor), grouped


def _divisor(n: int) -> int:
    """Largest number of rows that divides n and is at most GROUP_ROWS."""
    return next(size for size in range(min(GROUP_ROWS, n), 0, -1) if n % size == 0)


def _row_sums(block: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """`block @ factor` for one problem (r, k) @ (1, k), or a few (g, r, k) @ (g, k)."""
    if block.ndim == 2:
        k = block.shape[1]
        if block.device.type == "cpu":
            if k > LONG_ROW and block.dtype == torch.float32:
                return torch.sum(block * factor, dim=-1, out=out)
            if k > FETCHED_ROW:
                block.sum()  # fetches the tile at full bandwidth, which the product alone does not reach
        return torch.mv(block, factor[0], out=out)
    # (1, k) @ (k, r) is several times faster on the CPU than (r, k) @ (k, 1).
    wide = None if out is None else out[:, None]
    return torch.bmm(factor[:, None], block.transpose(1, 2), out=wide).squeeze(1)
