"""What a solve costs, in counts: looks at values, exponentials, memory, passes, modules. No clock."""

import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from otlabel import Auto, Newton, Sinkhorn, Status, sinkhorn_label, sinkhorn_marginal_label, sinkhorn_prior_label
from otlabel.absorbed import AbsorbedKernel
from otlabel.problem import LabelProblem
from tests.otlabel.helpers import SOLVERS, clustered, patched, rand, randn

SWAV = Sinkhorn(max_iter=3, tol=None)
# What waits for a device: the first for `item`, `bool` and `float`, the others because their shape depends on values.
LOOKS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "unique_dim", "_unique2"}
EXPONENTIALS = {
    "exp",
    "exp_",
    "exp2",
    "exp2_",
    "expm1",
    "logsumexp",
    "logaddexp",
    "_softmax",
    "_log_softmax",
    "sigmoid",
}


class Counts(TorchDispatchMode):
    """Calls of each operation, and the entries that they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.entries = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        self.entries[name] += args[0].numel() if args and isinstance(args[0], Tensor) else 0
        return func(*args, **(kwargs or {}))

    @property
    def looks(self) -> dict[str, int]:
        return {name: count for name, count in self.calls.items() if name in LOOKS}

    @property
    def exponentials(self) -> int:
        return sum(count for name, count in self.entries.items() if name in EXPONENTIALS)


class Memory(TorchDispatchMode):
    """Bytes of the storages that were made while the mode was on and are still alive; `peak` is their most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        # An address may be used again: what is dead must go before it is taken for what is new.
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in given:  # a view, or written in place
                    self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


# ---------------------------------------------------------------- looks at values

N, K = 40, 6
PROBLEMS = {
    "single": {},
    "float64": {"scores": randn(N, K)},
    "half": {"scores": randn(N, K, dtype=torch.bfloat16)},
    "batch": {"scores": randn(4, N, K, dtype=torch.float32)},
    "marginal": {"marginal": torch.full((K,), 1 / K)},
    "weights": {"sample_weight": 0.1 + rand(N)},
    "epsilons": {"scores": randn(4, N, K, dtype=torch.float32), "epsilon": torch.tensor([0.1, 0.5, 1.0, 2.0])},
    "log prior": {"log_prior": -rand(N, K)},
    "prior": {"prior": 0.1 + rand(N, K)},
    "mask": {"mask": torch.ones(N, K, dtype=torch.bool)},
    "small epsilon": {"epsilon": 1e-3},
}
LOOPS = {
    "three": SWAV,
    "sixty": Sinkhorn(max_iter=60, tol=None),  # long enough for the kernel to be absorbed anew
    "rows first": Sinkhorn(max_iter=3, tol=None, order="rows_first"),
}


def arguments(problem: str) -> dict[str, object]:
    return {"scores": randn(N, K, dtype=torch.float32), "epsilon": 0.5, **PROBLEMS[problem]}


@pytest.mark.parametrize("tile", [None, 50])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("problem", [name for name in PROBLEMS if name != "prior"])
def test_truncated_loop_looks_at_no_value(problem, loop, tile, monkeypatch):
    unread = LabelProblem.build(**arguments(problem), reads_values=False)
    # On the CPU `tolist` does not pass the dispatcher; on a device it waits as `item` does.
    monkeypatch.setattr(Tensor, "tolist", lambda self: pytest.fail("the loop looked at values by tolist"))
    cut = {} if tile is None else {"TILE_ENTRIES": tile, "TILE_ROWS": 1, "UNCUT_ENTRIES": 0}
    with patched(**cut), Counts() as counts:
        result = LOOPS[loop](unread)
    assert result.status is Status.TRUNCATED
    assert counts.looks == {}


def test_looks_at_values_are_counted():
    """The test above can fail: with a tolerance the loop looks."""
    problem = LabelProblem.build(randn(N, K), epsilon=0.5)
    with Counts() as counts:
        Sinkhorn(max_iter=30, tol=1e-3)(problem).marginal_error.max().item()
    assert counts.looks


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_truncated_labels_of_tensors_without_values(problem, loop):
    """On the meta device there is nothing to look at, so a look raises: what runs there never waits for a device."""
    there = {
        name: value.to("meta") if isinstance(value, Tensor) else value for name, value in arguments(problem).items()
    }
    common = {"epsilon": there.pop("epsilon"), "solver": LOOPS[loop]}
    labeler = {"prior": sinkhorn_prior_label, "log prior": sinkhorn_prior_label, "marginal": sinkhorn_marginal_label}
    first = labeler.get(problem, sinkhorn_label)(**there, **common)
    again = labeler.get(problem, sinkhorn_label)(**there, **common, init=first)
    assert (first.labels.device.type, first.labels.shape) == ("meta", there["scores"].shape)
    assert (again.labels.device.type, again.labels.shape) == ("meta", there["scores"].shape)


@pytest.mark.parametrize("loop", LOOPS)
def test_truncated_report_is_not_made_before_somebody_looks(loop):
    result = sinkhorn_label(randn(N, K), epsilon=0.5, solver=LOOPS[loop])
    with Counts() as counts:
        assert result.labels is not None
        assert result.status is Status.TRUNCATED
    assert not counts.calls
    if loop != "rows first":  # which has its report at hand
        with Counts() as counts:
            assert result.n_iter == LOOPS[loop].max_iter
        assert counts.calls


# ---------------------------------------------------------------- exponentials


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(200, 30), (4, 200, 30), (4096, 300), (64, 200, 30)], ids=str)
@pytest.mark.parametrize("steps", [1, 3, 30])
def test_truncated_loop_exponentiates_each_score_once(steps, shape, dtype):
    scores = rand(*shape).to(dtype)
    with Counts() as counts:
        sinkhorn_label(scores, epsilon=0.05, solver=Sinkhorn(max_iter=steps, tol=None))
    assert counts.exponentials == scores.numel()


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
def test_iterations_need_no_exponentials(epsilon):
    """However many there are: those of the first column step, and of the labels, are all."""
    scores = rand(4096, 30, dtype=torch.float32)
    few, many = Counts(), Counts()
    for counts, steps in ((few, 1), (many, 8)):
        with counts:
            sinkhorn_label(scores, epsilon=epsilon, solver=Sinkhorn(max_iter=steps, tol=None))
    assert few.exponentials <= many.exponentials <= scores.numel() * 1.01


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_exponentiate_far_less_than_they_pass(solver):
    scores = clustered(2000, 40)
    with Counts() as counts:
        result = sinkhorn_label(scores, epsilon=0.05, solver=SOLVERS[solver].__class__())
    # The start, six stages of annealing at most, and the duals' own.
    assert counts.exponentials <= 8 * scores.numel() + 2 * result.n_iter * sum(scores.shape)


def test_newton_goes_on_from_the_exponentials_of_the_steps_before_it():
    scores = clustered(20_000, 16)
    with Counts() as counts:
        result = sinkhorn_label(scores, epsilon=0.05, solver=Auto(tol=1e-6))
    assert result.converged
    assert "_linalg_solve_ex" in counts.calls
    assert counts.exponentials <= scores.numel() + 100 * scores.shape[1]


# ---------------------------------------------------------------- memory


def bound(scores: Tensor, *, work: int) -> float:
    """One copy of the scores in the dtype of the labels, a few vectors, and what is worked on at a time, in bytes."""
    n, k = scores.shape[-2:]
    copy = scores.numel() * (8 if scores.dtype == torch.float64 else 4)
    vectors = 8 * (n + k) * max(1, scores.numel() // (n * k))
    return copy + 6 * vectors + work


SHAPES = [(500, 64), (64, 512, 64), (8, 3000, 100), (4097, 301), (25_000, 100), (3000, 900)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_truncated_solve_needs_one_copy_of_the_scores(shape, dtype):
    scores = rand(*shape).to(dtype)
    with Memory() as memory:
        result = sinkhorn_label(scores, epsilon=0.05, solver=SWAV)
    tile = min(2**17, scores.numel()) * scores.element_size()
    assert result.labels.numel() * result.labels.element_size() <= memory.peak <= bound(scores, work=tile)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_truncated_solve_at_small_epsilon_needs_one_copy_of_the_scores(shape):
    scores = rand(*shape, dtype=torch.float32)
    with Memory() as memory:
        sinkhorn_label(scores, epsilon=0.005, solver=SWAV)
    # Exponents are formed in float64, a block at a time: the block, what it is made from, and what is made of it.
    assert memory.peak <= bound(scores, work=3 * 8 * 2**17)


@pytest.mark.parametrize("solver", SOLVERS)
def test_result_keeps_the_labels_and_vectors_only(solver):
    scores = clustered(3000, 40)
    with Memory() as memory:
        result = sinkhorn_label(scores, epsilon=0.05, solver=SOLVERS[solver].__class__())
        torch.empty(1)  # looks again at what is alive
    assert result.labels.untyped_storage().nbytes() == scores.numel() * 4
    kept = sum(size for reference, size in memory.alive.values() if not reference.expired())
    assert kept <= scores.numel() * 4 + 8 * 8 * sum(scores.shape)


@pytest.mark.parametrize("loop", [SWAV, *(solver.__class__() for solver in SOLVERS.values())], ids=repr)
@pytest.mark.parametrize("shape", [(500, 64), (3000, 64), (3, 40, 6)], ids=str)
def test_result_keeps_no_reference_to_the_scores(shape, loop):
    scores = rand(*shape, dtype=torch.float32)
    storage = StorageWeakRef(scores.untyped_storage())
    result = sinkhorn_label(scores, epsilon=0.1, solver=loop)
    del scores
    assert storage.expired()
    assert result.marginal_error.isfinite().all()  # and the report can be made without them


@pytest.mark.parametrize("solver", SOLVERS)
def test_result_keeps_no_reference_to_init(solver):
    scores = rand(500, 64, dtype=torch.float32)
    init = sinkhorn_label(scores, epsilon=0.1)
    storage = StorageWeakRef(init.labels.untyped_storage())
    result = sinkhorn_label(scores, epsilon=0.1, solver=SOLVERS[solver].__class__(), init=init)
    del init
    assert storage.expired()
    assert result.converged


def test_peak_of_memory_is_counted():
    """The tests above can fail: two copies alive at once are seen, one after the other are not."""
    scores = rand(1000, 10)
    with Memory() as memory:
        _ = (scores + 1).exp()
    assert memory.peak == 2 * scores.numel() * 8
    with Memory() as memory:
        for number in range(3):
            (scores + number).exp_()
    assert memory.peak == scores.numel() * 8


# ---------------------------------------------------------------- passes


def passes(solver, monkeypatch) -> tuple[int, int]:
    """Passes that are reported and that are made, on clusters of 7,500 samples and 16 classes at epsilon 0.005."""
    made, sums = [], AbsorbedKernel.sums
    monkeypatch.setattr(AbsorbedKernel, "sums", lambda self, factor: made.append(1) or sums(self, factor))
    result = sinkhorn_label(clustered(7500, 16), epsilon=0.005, solver=solver)
    assert result.converged
    return int(result.n_iter), len(made)


@pytest.mark.parametrize("solver", [Auto(), Newton(), Newton(dense_classes=1)], ids=repr)
def test_forty_passes_at_most(solver, monkeypatch):
    reported, made = passes(solver, monkeypatch)
    assert made <= 1.2 * reported  # absorbing the kernel anew repeats a pass
    assert reported <= 40


def test_sinkhorn_needs_many(monkeypatch):
    """The measure of the one above."""
    reported, made = passes(Sinkhorn(max_iter=10_000), monkeypatch)
    assert reported == made
    assert 1000 < reported < 3000


def test_skewed_proportions_of_many_classes_take_fifty_passes_at_most():
    """Without damping, conjugate gradients need 75."""
    share = 1.0 / torch.arange(1, 301)
    result = sinkhorn_marginal_label(clustered(1200, 300), share / share.sum(), epsilon=0.005, solver=Newton(tol=1e-3))
    assert result.converged
    assert result.n_iter <= 50


# ---------------------------------------------------------------- calls


@pytest.mark.parametrize(("shape", "most"), [((64, 10), 18), ((7500, 16), 26), ((10, 750, 16), 32)], ids=str)
@pytest.mark.parametrize("epsilon", [0.05, 0.005])
def test_small_problem_takes_few_calls_for_each_pass(epsilon, shape, most):
    """On small problems the calls of the tensor library cost more than the arithmetic: Newton's step was 45 once."""
    *batch, n, k = shape
    scores = clustered(n, k, batch=batch[0] if batch else 0)
    with Counts() as counts:
        result = sinkhorn_label(scores, epsilon=epsilon, solver=Newton(tol=1e-6))
    assert sum(counts.calls.values()) <= most * int(result.n_iter.max())


# ---------------------------------------------------------------- modules


def test_solving_brings_no_triton():
    code = """
import sys, torch, otlabel
scores = torch.randn(3000, 20, generator=torch.Generator().manual_seed(0))
for solver in (otlabel.Auto(), otlabel.Newton(), otlabel.Newton(dense_classes=1), otlabel.Anderson(),
               otlabel.Sinkhorn(), otlabel.Sinkhorn(max_iter=3, tol=None)):
    for epsilon in (0.5, 0.05):
        result = otlabel.sinkhorn_label(scores, epsilon=epsilon, solver=solver)
        result.predict(scores[:5])
        repr(otlabel.sinkhorn_label(scores[:90].reshape(3, 30, 20), epsilon=0.5, solver=solver))
print("triton" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "False\n", "")
