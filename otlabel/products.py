"""Products of an absorbed kernel with vectors, in as few calls as accuracy allows."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

# Matrix-vector products add one by one, which loses 2e-6 on 7,500 float32 rows. So columns are summed in groups of
# GROUP_ROWS before float64 takes over, and rows longer than LONG_ROW are summed by a call of their own.
GROUP_ROWS = 64
LONG_ROW = 8192
# Fewer rows a group than this are too many groups.
LEAST_GROUP = 16
# Tiles of rows longer than this are read once before they are multiplied: 1.6 to 2.7 times faster (k = 3,000 and 100)
# than the product alone on memory that is not in cache; slower for k = 16.
FETCHED_ROW = 32


class Products:
    """Row and column sums of blocks E (b, n, k), for weights and row sums (b, n) that stay where they are.

    The views are made once: on small problems a view costs as much as a product.
    """

    def __init__(self, block: Tensor, weight: Tensor, row_sum: Tensor) -> None:
        self._block, self._weight, self._row_sum = block, weight, row_sum
        self.shape = batch, n, k = block.shape
        self._is_single = batch == 1
        self._size = size = _group_size(block)
        self._whole = whole = n // size * size
        self._is_whole, self._is_double = size == n, block.dtype == torch.float64
        # (1, k) @ (k, n) is several times faster on the CPU than (n, k) @ (k, 1).
        self._wide = block[0].t() if self._is_single else block.mT
        self._rows = row_sum if self._is_single else row_sum.unsqueeze(1)
        if self._is_whole:
            self._groups = block[0] if self._is_single else block
            self._scaling = weight if self._is_single else weight.unsqueeze(1), self._rows
        else:
            cut = (block, weight, row_sum) if whole == n else (block[:, :whole], weight[:, :whole], row_sum[:, :whole])
            self._groups = cut[0].view(-1, size, k)
            self._scaling = cut[1].view(-1, 1, size), cut[2].view(-1, 1, size)
            self._partial = block.new_empty(self._groups.shape[0], 1, k)
            self._parts = self._partial.view(batch, -1, k)
        self._rest = None if whole == n else (block[0, whole:], weight[:, whole:], row_sum[:, whole:])
        if not self._is_single:
            self._factor = block.new_empty(batch, 1, k)
            self._flat_factor = self._factor.squeeze(1)
        self._scaled: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def rows(self, factor: Tensor) -> Tensor:
        """`E factor`, shape (b, n)."""
        if self._is_single:
            return torch.mm(factor, self._wide)
        return torch.bmm(factor.unsqueeze(1), self._wide).squeeze(1)

    def set_rows(self, factor: Tensor) -> None:
        """Let the row sums be `E factor`, with a factor of any dtype."""
        if self._is_single:
            factor = factor if self._is_double else factor.to(self._block.dtype)
            torch.mm(factor, self._wide, out=self._rows)
        else:
            self._flat_factor.copy_(factor)
            torch.bmm(self._factor, self._wide, out=self._rows)

    def columns(self, scale: Tensor) -> Tensor:
        """`E' scale` for `scale` (b, n), float64, shape (b, k)."""
        if self._is_whole:
            return self._columns(scale if self._is_single else scale.unsqueeze(1))
        total = self._columns(scale[:, : self._whole].reshape(-1, 1, self._size))
        return total if self._rest is None else total.add_(torch.mm(scale[:, self._whole :], self._rest[0]))

    def scaled_columns(self) -> Tensor:
        """`E' (weight / row sums)`, float64, shape (b, k)."""
        weight, row_sum = self._scaling
        total = self._columns(weight / row_sum)
        if self._rest is not None:
            block, weight, row_sum = self._rest
            total.add_(torch.mm(weight / row_sum, block))
        return total

    def _columns(self, scale: Tensor) -> Tensor:
        if self._is_whole:
            sums = torch.mm(scale, self._groups) if self._is_single else torch.bmm(scale, self._groups).squeeze(1)
            return sums if self._is_double else sums.to(torch.float64)
        torch.bmm(scale, self._groups, out=self._partial)
        return self._parts.sum(dim=1, dtype=torch.float64)

    def gram(self) -> Tensor:
        """`E' diag(weight / row sums^2) E`, float64, shape (b, k, k)."""
        if self._scaled is None:
            scaled = torch.empty_like(self._block)
            self._scaled = self._weight.sqrt().unsqueeze(-1), self._row_sum.unsqueeze(-1), scaled, scaled.mT
        root_weight, row_sum, scaled, transposed = self._scaled
        torch.mul(self._block, root_weight / row_sum, out=scaled)
        gram = torch.bmm(transposed, scaled)
        return gram if self._is_double else gram.to(torch.float64)


def products(block: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """`factor -> block @ factor` and `scale -> block' @ scale` of a block (n, k), or for each of a batch (b, n, k)."""
    n, k = block.shape[-2:]
    if block.ndim == 3:
        batch, size, wide = block.shape[0], _group_size(block), block.mT
        parts = block.view(-1, size, k)
        return (
            lambda factor: torch.bmm(factor.unsqueeze(1), wide).squeeze(1),
            lambda scale: torch.bmm(scale.view(-1, 1, size), parts).view(batch, -1, k).sum(dim=1),
        )
    rows, columns = partial(torch.mv, block), partial(torch.mv, block.t())
    size = n if n <= 4 * GROUP_ROWS else _group_size(block)
    if size == n:
        return rows, columns
    whole = n // size * size
    parts, rest = block[:whole].view(-1, size, k), block[whole:].t()

    def grouped(scale: Tensor) -> Tensor:
        total = torch.bmm((scale if whole == n else scale[:whole]).view(-1, 1, size), parts).sum(dim=(0, 1))
        return total if whole == n else total.add_(torch.mv(rest, scale[whole:]))

    return rows, grouped


def _group_size(block: Tensor) -> int:
    """Rows whose columns one product sums, of a block (n, k) or (b, n, k)."""
    batch, n = block.shape[:-2].numel(), block.shape[-2]
    if block.dtype == torch.float64 or block.device.type != "cpu" or (batch == 1 and n <= 4 * GROUP_ROWS):
        return n
    size = divisor(n)
    return size if batch > 1 or size >= LEAST_GROUP else GROUP_ROWS


def divisor(n: int) -> int:
    """Largest number of rows that divides n and is at most GROUP_ROWS."""
    return next(size for size in range(min(GROUP_ROWS, n), 0, -1) if n % size == 0)


def row_sums(block: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """`block @ factor` for one problem (r, k) @ (1, k), or a few (g, r, k) @ (g, k)."""
    if block.ndim == 2:
        k = block.shape[1]
        if block.device.type == "cpu":
            if k > LONG_ROW and block.dtype == torch.float32:
                return torch.sum(block * factor, dim=-1, out=out)
            if k > FETCHED_ROW:
                block.sum()  # fetches the tile at full bandwidth, which the product alone does not reach
        return torch.mv(block, factor[0], out=out)
    wide = None if out is None else out[:, None]
    return torch.bmm(factor[:, None], block.mT, out=wide).squeeze(1)
