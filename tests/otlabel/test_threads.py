"""Labels and calls where several threads work on one."""

from collections.abc import Iterator

import pytest
import torch

from otlabel import Anderson, Auto, Newton, Sinkhorn, sinkhorn_label
from tests.otlabel.helpers import assert_labels_close, clustered, patched
from tests.otlabel.test_costs import Counts

SOLVERS = {
    "three": Sinkhorn(max_iter=3, tol=None),
    "auto": Auto(tol=1e-6),
    "newton": Newton(tol=1e-6),
    "conjugate gradients": Newton(tol=1e-6, dense_classes=1),
    "anderson": Anderson(tol=1e-6, max_iter=5000),
}
TILES = {"UNCUT_ENTRIES": 0, "TILE_ENTRIES": 4096}


@pytest.fixture(params=[2, 3])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def one_thread(scores, solver):
    many = torch.get_num_threads()
    torch.set_num_threads(1)
    result = sinkhorn_label(scores, epsilon=0.05, solver=solver)
    torch.set_num_threads(many)
    return result


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(997, 24, 0), (64, 300, 0), (40, 24, 5)], ids=str)
def test_threads_share_the_work_and_give_the_same_labels(shape, dtype, solver, threads):
    n, k, batch = shape
    scores = clustered(n, k, batch=batch).to(dtype)
    with patched(**TILES, FLOAT64_ENTRIES=0):
        have = sinkhorn_label(scores, epsilon=0.05, solver=SOLVERS[solver])
        want = one_thread(scores, SOLVERS[solver])
    assert have.status is want.status
    # Both are within 1e-6 of the optimum's proportions: labels differ by that over the smallest share, 1/300, at most.
    truncated = SOLVERS[solver].tol is None
    assert_labels_close(
        have.labels, want.labels, atol=(1e-12 if dtype == torch.float64 else 1e-6) if truncated else 3e-4
    )


@pytest.mark.parametrize("shape", [(997, 24), (64, 300)], ids=str)
def test_products_of_shared_tiles_are_batched(shape, threads):
    """A product with a matrix runs on one thread, one with a batch of matrices on all."""
    scores = clustered(*shape)
    with patched(**TILES, FLOAT64_ENTRIES=0), Counts() as counts:
        sinkhorn_label(scores, epsilon=0.05, solver=SOLVERS["three"])
    assert counts.calls["bmm"]
    assert not counts.calls.keys() & {"mv", "mm", "addmv"}
    with patched(**TILES, FLOAT64_ENTRIES=0), Counts() as counts:  # this can fail: one thread's are not
        one_thread(scores, SOLVERS["three"])
    assert counts.calls.keys() & {"mv", "mm", "addmv"}
