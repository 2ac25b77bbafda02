"""Products with an absorbed kernel: what they sum, however the rows are grouped."""

import pytest
import torch

from otlabel.products import GROUP_ROWS, LEAST_GROUP, Products, products
from tests.otlabel.helpers import rand

SIZES = {
    "one group": (1, 4 * GROUP_ROWS),
    "groups that fit": (1, 5 * GROUP_ROWS),
    "groups and a rest": (1, 331),  # a prime
    "batch": (3, 2 * LEAST_GROUP),
    "batch without divisor": (3, 7),
}
# Sums of at most GROUP_ROWS, or of a few hundred, float32 numbers between 0 and 2.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-14}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_products_of_a_kernel_however_rows_are_grouped(size, dtype):
    batch, n = SIZES[size]
    block, weight, factor = rand(batch, n, 5).to(dtype), rand(batch, n).to(dtype), 0.5 + rand(batch, 5)
    row_sum = torch.empty_like(weight)
    fused = Products(block, weight, row_sum)
    fused.set_rows(factor)
    exact = block.double()
    rows = torch.einsum("bnk,bk->bn", exact, factor.to(dtype).double())
    scaled = exact / rows[..., None] * weight.double().sqrt()[..., None]
    wanted = {
        "row sums": (row_sum, rows),
        "rows": (fused.rows(factor.to(dtype)), rows),
        "columns": (fused.columns(weight), torch.einsum("bnk,bn->bk", exact, weight.double())),
        "scaled columns": (fused.scaled_columns(), torch.einsum("bnk,bn->bk", exact, weight.double() / rows)),
        "gram": (fused.gram(), scaled.mT @ scaled),
    }
    for have, want in wanted.values():
        torch.testing.assert_close(have.double(), want, rtol=TOLERANCE[dtype], atol=0.0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_products_of_a_block_however_rows_are_grouped(size, dtype):
    batch, n = SIZES[size]
    block, scale, factor = rand(batch, n, 5).to(dtype), rand(batch, n).to(dtype), rand(batch, 5).to(dtype)
    if batch == 1:
        block, scale, factor = block[0], scale[0], factor[0]
    rows, columns = products(block)
    exact = block.double()
    assert rows(factor).dtype == columns(scale).dtype == dtype
    row = torch.einsum("...nk,...k->...n", exact, factor.double())
    column = torch.einsum("...nk,...n->...k", exact, scale.double())
    torch.testing.assert_close(rows(factor).double(), row, rtol=TOLERANCE[dtype], atol=0.0)
    torch.testing.assert_close(columns(scale).double(), column, rtol=TOLERANCE[dtype], atol=0.0)


def test_groups_are_summed_in_float64():
    """One after the other, float32 sums of so many rows are off by 1e-6 and more."""
    n = 2**15
    block, weight = rand(1, n, 2).float(), torch.ones(1, n)
    row_sum = torch.ones_like(weight)
    have = Products(block, weight, row_sum).scaled_columns()
    torch.testing.assert_close(have, block.double().sum(dim=1), rtol=2e-7, atol=0.0)
