"""All solvers find the one answer, at small epsilon, in batches and from an earlier result, and every setting acts."""

import dataclasses
import itertools
import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from otlabel import (
    Anderson,
    Auto,
    ConvergenceError,
    ConvergenceWarning,
    LabelResult,
    Newton,
    NumericalWarning,
    Sinkhorn,
    Solver,
    Status,
    sinkhorn_label,
    sinkhorn_marginal_label,
)
from otlabel.absorbed import AbsorbedKernel
from otlabel.testing import reference_solve
from tests.otlabel.helpers import (
    FAST,
    SOLVERS,
    Problem,
    assert_labels_close,
    clustered,
    generator,
    patched,
    rand,
    randn,
)
from tests.otlabel.strategies import masked_problems, problems, problems_with_idle_rows

EXAMPLES = settings(max_examples=min(40, settings.default.max_examples))
NEWTONS = [name for name in FAST if name != "Anderson"]


def silent(name: str, **changes) -> Solver:
    """A solver of the table, with other settings, that says nothing of a missed tolerance."""
    return replace(SOLVERS[name], on_failure="ignore", **changes)


def true_plan(problem: Problem, result: LabelResult) -> Tensor:
    """The plan from the duals and the scores, in float64."""
    epsilon = torch.as_tensor(problem.epsilon, dtype=torch.float64)[..., None, None]
    return (problem.scores.double() / epsilon + result.log_u[..., None] + result.log_v[..., None, :]).exp()


def true_error(problem: Problem, result: LabelResult) -> Tensor:
    """Error of the class proportions from the duals and the scores, in float64."""
    return (true_plan(problem, result).sum(dim=-2) - problem.columns).abs().sum(dim=-1)


# ---------------------------------------------------------------- one answer

# Epsilons ten times smaller than the range of the scores: the reference is asked for 3,000 iterations at most.
SMALLER = st.floats(0.1, 1.0)
KINDS = {
    "plain": problems(largest=(20, 6)),
    "marginal and prior": problems(marginal=True, prior=True, largest=(20, 6)),
    "masked": masked_problems(),
    "idle rows and empty classes": problems_with_idle_rows(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_answer_is_that_of_the_reference(solver, kind):
    @EXAMPLES
    @given(problem=KINDS[kind], epsilon=SMALLER)
    def check(problem: Problem, epsilon: float) -> None:
        problem = replace(problem, epsilon=epsilon)
        try:
            plan, log_u, log_v = reference_solve(
                **{field: value for field, value in vars(problem).items() if field != "solver"}, max_iter=3000
            )
        except ConvergenceError:
            assume(False)
        result = problem.label(SOLVERS[solver])
        # Both stop at an L1 error of 1e-12; slow problems stop further from the answer.
        assert_labels_close(result.plan, plan, atol=1e-9)
        acting, filled = problem.rows > 0, problem.columns > 0
        assert_labels_close(result.labels[acting], plan[acting] / problem.rows[acting, None], atol=1e-8)
        assert (result.log_u[~acting] == -torch.inf).all()
        assert (result.log_v[~filled] == -torch.inf).all()
        if problem.mask is None:  # else samples and classes may fall apart in groups, each with a gauge of its own
            gauge = (result.log_v - log_v)[filled][0]
            have, want = torch.cat([result.log_u + gauge, result.log_v - gauge]), torch.cat([log_u, log_v])
            some = torch.cat([acting, filled])
            torch.testing.assert_close(have[some], want[some], rtol=0.0, atol=1e-7)  # 1e-9 over a share of 1/100

    check()


@pytest.mark.parametrize("epsilon", [0.05, 0.01, 0.005])
@pytest.mark.parametrize("solver", FAST)
def test_empty_classes_cost_no_pass(solver, epsilon):
    """Classes without mass take no part: the passes are about those of the problem without them."""
    share, exact = torch.softmax(randn(6), dim=0), silent(solver, tol=1e-8)
    scores = clustered(200, 6).double()
    narrow = sinkhorn_marginal_label(scores, share, epsilon=epsilon, solver=exact)
    scores, share = torch.cat([scores, rand(200, 3)], dim=1), torch.cat([share, torch.zeros(3)])
    wide = sinkhorn_marginal_label(scores, share, epsilon=epsilon, solver=exact)
    assert wide.n_iter <= 1.2 * narrow.n_iter + 3
    assert_labels_close(wide.labels[:, :6], narrow.labels, atol=1e-5)  # columns off by 1e-8, slow problems


@pytest.mark.parametrize(
    ("n", "epsilon", "seed"),
    [(8, 0.02, 4), (8, 0.02, 9), (8, 0.02, 25), (20, 0.015, 16), (20, 0.01, 3), (25, 0.01, 21)],
)
def test_anderson_converges_where_sinkhorn_does(n, epsilon, seed):
    problem = Problem(scores=rand(n, 2, seed=seed), epsilon=epsilon)
    plain, accelerated = (problem.label(silent(name, tol=1e-4, max_iter=1000)) for name in ("Sinkhorn", "Anderson"))
    assert plain.converged
    assert accelerated.converged


# ---------------------------------------------------------------- small epsilon


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("epsilon", [0.05, 0.005, 0.001])
@pytest.mark.parametrize(("n", "k"), [(7500, 16), (2000, 40), (1500, 300)])
@pytest.mark.parametrize("solver", NEWTONS)
def test_small_epsilon_on_long_tailed_clusters_converges(solver, n, k, epsilon, dtype):
    problem = Problem(scores=clustered(n, k).to(dtype), epsilon=epsilon)
    result = problem.label(silent(solver, tol=1e-6))
    assert result.converged
    assert result.marginal_error <= 1e-6
    # Sums of n exponentials rounded to float32, and duals that were found from them.
    rounding = 1e-7 if dtype == torch.float32 else 1e-12
    truth = true_error(problem, result)
    torch.testing.assert_close(result.marginal_error, truth, rtol=0.1, atol=rounding)
    error = (result.labels.double().mean(dim=0) - 1 / k).abs().sum()
    torch.testing.assert_close(result.marginal_error, error, rtol=0.1, atol=rounding)


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
def test_reported_error_is_the_true_one_far_from_the_answer(epsilon):
    problem = Problem(scores=clustered(2000, 40), epsilon=epsilon)
    for name, max_iter in itertools.product(SOLVERS, (1, 3, 8, 20)):
        result = problem.label(silent(name, tol=1e-6, max_iter=max_iter))
        torch.testing.assert_close(result.marginal_error, true_error(problem, result), rtol=0.1, atol=1e-7)


# ---------------------------------------------------------------- batches


def stack(count: int = 12) -> Problem:
    """Problems that are done after very different numbers of passes: epsilons over two orders of magnitude."""
    return Problem(
        scores=rand(count, 30, 6),
        epsilon=torch.logspace(-1.5, 0.5, count, dtype=torch.float64)[torch.randperm(count, generator=generator(7))],
        sample_weight=0.1 + rand(count, 30, seed=1),
        marginal=torch.softmax(randn(count, 6, seed=2), dim=-1),
    )


def with_empty_classes(problem: Problem) -> Problem:
    """Every other problem without two of its classes."""
    share = problem.marginal.clone()
    share[::2, 1] = share[::4, 4] = 0.0
    return replace(problem, marginal=share / share.sum(dim=-1, keepdim=True))


def plain(problem: Problem) -> Problem:
    """The same scales by the scores: with one epsilon for all the kernel starts from one shift."""
    scores = problem.scores / problem.epsilon[:, None, None]
    return replace(problem, scores=scores, epsilon=1.0)


BATCHES = {
    "epsilons": stack(),
    "scales": plain(stack()),
    "easy scales": replace(plain(stack()), scores=plain(stack()).scores.clamp(max=30)),
    "empty classes": with_empty_classes(stack()),
    "easy scales and empty classes": with_empty_classes(plain(stack())),
}


def alone(problem: Problem, at: int) -> Problem:
    """One problem of a batch."""
    epsilon = problem.epsilon[at].item() if isinstance(problem.epsilon, Tensor) else problem.epsilon
    rest = {name: getattr(problem, name)[at] for name in ("scores", "sample_weight", "marginal")}
    return replace(problem, epsilon=epsilon, **rest)


@pytest.mark.parametrize("reach", [None, 3.0, 0.1])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_problem_of_a_batch_has_the_labels_it_has_alone(solver, batch, reach):
    problem, exact = BATCHES[batch], silent(solver, tol=1e-9, max_iter=20_000)
    with patched(reach=reach):
        together = problem.label(exact)
    assert together.converged.all()
    assert len(set(together.n_iter.tolist())) > 1  # else all were done at once, and this shows nothing
    # Duals and labels are gathered apart. Exponents up to a few hundred are rounded at 1e-14.
    assert_labels_close(together.plan, true_plan(problem, together), atol=1e-12)
    for at in range(problem.scores.shape[0]):
        labels = alone(problem, at).label(Newton(tol=1e-11, on_failure="raise")).labels
        # Columns off by 1e-9 move a label by that over the share, 1/50, times the slowness of the problem.
        assert_labels_close(together.labels[at], labels, atol=1e-6)


@pytest.mark.parametrize("reach", [None, 3.0])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_problem_of_a_float32_batch_has_the_labels_it_has_alone(solver, batch, reach):
    problem = BATCHES[batch]
    problem = replace(problem, scores=problem.scores.float())
    with patched(reach=reach, FLOAT64_ENTRIES=0):
        together = problem.label(silent(solver, tol=2e-6, max_iter=20_000))
    assert together.converged.all()
    assert_labels_close(together.plan, true_plan(problem, together), atol=1e-6)  # float32 exponentials
    for at in range(problem.scores.shape[0]):
        labels = alone(problem, at).label(Newton(tol=1e-11, on_failure="ignore")).labels
        assert_labels_close(together.labels[at], labels, atol=1e-3)  # as above, from 2e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_problems_that_are_done_leave_the_batch(solver, monkeypatch):
    left = []
    take = AbsorbedKernel.take
    monkeypatch.setattr(AbsorbedKernel, "take", lambda self, index: left.append(len(index)) or take(self, index))
    with patched(COMPACT_ENTRIES=0):
        BATCHES["epsilons"].label(silent(solver, tol=1e-9, max_iter=20_000))
    assert left
    assert max(left) < 12


def test_small_problems_that_are_done_do_not_leave_the_batch(monkeypatch):
    """The calls to copy the others would cost more than the passes."""
    monkeypatch.setattr(AbsorbedKernel, "take", lambda self, index: pytest.fail("a copy was made"))
    BATCHES["epsilons"].label(silent("Newton", tol=1e-9, max_iter=20_000))


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_problem_that_is_done_stays_where_it_is(batch, leaves):
    """Iterated on, its error would go on falling."""
    problem, settings = BATCHES[batch], Sinkhorn(max_iter=20_000, tol=1e-3, check_every=1)
    with patched(COMPACT_FROM=1 if leaves else 10**9, COMPACT_ENTRIES=0):
        together = problem.label(settings)
    for at in range(problem.scores.shape[0]):
        one = alone(problem, at).label(settings)
        assert together.n_iter[at] == one.n_iter
        # Sums of float64 numbers, of exponents up to a few hundred.
        torch.testing.assert_close(together.marginal_error[at], one.marginal_error, rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_answer_does_not_depend_on_when_problems_leave_the_batch(solver, batch):
    problem, exact = BATCHES[batch], silent(solver, tol=1e-9, max_iter=20_000)
    with patched(COMPACT_FROM=10**9):
        stay = problem.label(exact)
    with patched(COMPACT_FROM=1, COMPACT_SHARE=10**9, COMPACT_ENTRIES=0):
        leave = problem.label(exact)
    assert stay.converged.all()
    assert leave.converged.all()
    assert_labels_close(stay.labels, leave.labels, atol=1e-6)  # as above


@pytest.mark.parametrize("solver", SOLVERS)
def test_problem_without_a_plan_does_not_spoil_the_others_of_its_batch(solver):
    mask = torch.ones(9, 16, 13, dtype=torch.bool)
    mask[4, :7, 2:] = False  # seven of sixteen samples confined to two of thirteen classes
    problem = Problem(scores=randn(9, 16, 13), mask=mask)
    result = problem.label(silent(solver, tol=1e-6, max_iter=200))
    feasible = torch.arange(9) != 4
    assert result.status is Status.MAX_ITER_REACHED
    assert torch.equal(result.converged, feasible)
    assert result.labels.isfinite().all()
    want = Problem(scores=problem.scores[feasible]).label(silent("Newton")).labels
    assert_labels_close(result.labels[feasible], want, atol=1e-3)  # columns off by 1e-6 over shares of 1/13


# ---------------------------------------------------------------- warm start


def checked_at_once(name: str, **changes) -> Solver:
    """Sinkhorn looks at the error after each iteration, as the others do."""
    return silent(name, **({"check_every": 1} if name == "Sinkhorn" else {}), **changes)


WARM = {
    "single": Problem(scores=clustered(300, 10), epsilon=0.05),
    "large": Problem(scores=clustered(7500, 16), epsilon=0.05),
    "batch": Problem(scores=clustered(200, 8, batch=10), epsilon=0.05),
    "marginal": Problem(scores=clustered(300, 10), epsilon=0.05, marginal=torch.softmax(randn(10), dim=0)),
    "masked": Problem(scores=clustered(300, 10), epsilon=0.05, mask=rand(300, 10) < 0.9),
    "weighted": Problem(scores=clustered(300, 10), epsilon=0.05, sample_weight=0.1 + rand(300)),
}


@pytest.mark.parametrize("problem", WARM)
@pytest.mark.parametrize("solver", SOLVERS)
def test_init_of_the_converged_result_needs_two_passes_at_most(solver, problem):
    settings = checked_at_once(solver, tol=1e-5, max_iter=10_000)
    first = WARM[problem].label(settings)
    again = WARM[problem].label(settings, init=first)
    assert first.converged.all()
    assert again.converged.all()
    assert (again.n_iter <= 2).all()
    assert_labels_close(again.labels, first.labels, atol=1e-3)  # columns off by 1e-5 over shares of 1/16


@pytest.mark.parametrize("problem", WARM)
@pytest.mark.parametrize("solver", SOLVERS)
def test_init_of_a_perturbed_problem_needs_fewer_passes(solver, problem):
    problem, settings = WARM[problem], checked_at_once(solver, tol=5e-5, max_iter=10_000)
    noise = 0.01 * randn(*problem.scores.shape, seed=3, dtype=problem.scores.dtype)
    perturbed = replace(problem, scores=problem.scores + noise)
    cold, warm = (perturbed.label(settings, init=init) for init in (None, problem.label(settings)))
    assert warm.converged.all()
    assert warm.n_iter.max() < cold.n_iter.max()
    assert_labels_close(warm.labels, cold.labels, atol=1e-2)  # columns off by 5e-5 over shares of 1/16


@pytest.mark.parametrize("epsilon", [0.005, 0.001])
@pytest.mark.parametrize("solver", NEWTONS)
def test_init_of_a_perturbed_problem_needs_fewer_passes_at_small_epsilon(solver, epsilon):
    scores, settings = clustered(2000, 16), silent(solver, tol=1e-4)
    first = sinkhorn_label(scores, epsilon=epsilon, solver=settings)
    perturbed = scores + 0.001 * randn(2000, 16, seed=3, dtype=torch.float32)
    cold, warm = (sinkhorn_label(perturbed, epsilon=epsilon, solver=settings, init=init) for init in (None, first))
    assert warm.converged
    assert 2 * warm.n_iter < cold.n_iter


def log_domain_loop(log_kernel: Tensor, log_v: Tensor, steps: int) -> Tensor:
    """Labels of the loop with columns first from class duals, by nothing but logsumexp, for uniform marginals."""
    n, k = log_kernel.shape
    for _ in range(steps):
        log_u = -math.log(n) - torch.logsumexp(log_kernel + log_v, dim=1, keepdim=True)
        log_v = -math.log(k) - torch.logsumexp(log_kernel + log_u, dim=0)
    return torch.softmax(log_kernel + log_v, dim=1)


@pytest.mark.parametrize(("n", "dtype", "atol"), [(60, torch.float64, 1e-11), (6000, torch.float32, 2e-6)], ids=str)
@pytest.mark.parametrize("before", [0.05, 0.005, 0.0005], ids=lambda before: f"from {before}")
@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize("steps", [1, 3])
def test_truncated_loop_from_init_is_its_transcription(steps, epsilon, before, n, dtype, atol):
    """Also where the earlier duals are far from those of this problem: they came from a smaller epsilon."""
    scores = clustered(n, 7).to(dtype)
    init = sinkhorn_label(scores, epsilon=before)
    labels = sinkhorn_label(scores, epsilon=epsilon, solver=Sinkhorn(max_iter=steps, tol=None), init=init).labels
    # Float64 is exact but for the rounding of exponents up to 2000; large float32 problems keep float32 exponentials.
    assert_labels_close(labels, log_domain_loop(scores.double() / epsilon, init.log_v, steps), atol=atol)


@pytest.mark.parametrize("order", ["columns_first", "rows_first"])
def test_init_changes_the_labels_of_a_truncated_solve(order):
    scores, solver = rand(30, 4), Sinkhorn(max_iter=1, tol=None, order=order)
    init = sinkhorn_label(scores.flip(0) + rand(4), epsilon=0.1)
    cold, warm = (sinkhorn_label(scores, epsilon=0.1, solver=solver, init=start).labels for start in (None, init))
    assert (warm - cold).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("before", "epsilon"), [(0.005, 0.05), (0.001, 0.05), (0.0005, 0.05), (0.0001, 0.05)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_init_of_a_smaller_epsilon_does_no_harm(solver, before, epsilon, dtype):
    """Duals of the wrong size make a bad start; they must not end in wrong labels that claim to have converged."""
    scores = clustered(7500, 16).to(dtype)
    init = sinkhorn_label(scores, epsilon=before)
    problem = Problem(scores=scores, epsilon=epsilon)
    result = problem.label(checked_at_once(solver, tol=1e-5, max_iter=3000), init=init)
    torch.testing.assert_close(result.marginal_error, true_error(problem, result), rtol=0.1, atol=1e-7)
    assert result.converged
    want = problem.label(silent("Newton")).labels
    assert_labels_close(result.labels, want, atol=5e-3)  # columns off by 1e-5, and this problem magnifies it


@pytest.mark.parametrize(("n", "k"), [(300, 10), (7500, 16)])
@pytest.mark.parametrize("solver", NEWTONS)
def test_init_of_a_larger_epsilon_does_no_harm(solver, n, k):
    scores = clustered(n, k)
    problem = Problem(scores=scores, epsilon=0.001)
    result = problem.label(silent(solver, tol=1e-5), init=sinkhorn_label(scores, epsilon=0.05))
    torch.testing.assert_close(result.marginal_error, true_error(problem, result), rtol=0.1, atol=1e-7)
    assert result.converged


@pytest.mark.parametrize("solver", SOLVERS)
def test_class_that_had_no_mass_in_init_has_its_share_now(solver):
    scores, filled = rand(40, 4), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    empty = torch.tensor([0.0, 0.2, 0.4, 0.4], dtype=torch.float64)
    init = sinkhorn_marginal_label(scores, empty, epsilon=0.1)
    have = sinkhorn_marginal_label(scores, filled, epsilon=0.1, solver=silent(solver), init=init)
    want = sinkhorn_marginal_label(scores, filled, epsilon=0.1, solver=silent(solver))
    assert_labels_close(have.labels, want.labels, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_class_that_had_mass_in_init_has_none_now(solver):
    scores, filled = rand(40, 4), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    empty = torch.tensor([0.0, 0.2, 0.4, 0.4], dtype=torch.float64)
    init = sinkhorn_marginal_label(scores, filled, epsilon=0.1)
    have = sinkhorn_marginal_label(scores, empty, epsilon=0.1, solver=silent(solver), init=init)
    want = sinkhorn_marginal_label(scores, empty, epsilon=0.1, solver=silent(solver))
    assert (have.labels[:, 0] == 0).all()
    assert_labels_close(have.labels, want.labels, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_init_may_have_other_samples_and_another_dtype(solver):
    init = sinkhorn_label(rand(50, 4, dtype=torch.float32), epsilon=0.1)
    have = sinkhorn_label(rand(30, 4, seed=1), epsilon=0.1, solver=silent(solver), init=init)
    want = sinkhorn_label(rand(30, 4, seed=1), epsilon=0.1, solver=silent(solver))
    assert_labels_close(have.labels, want.labels, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_init_is_not_changed(solver):
    init = sinkhorn_label(rand(50, 4), epsilon=0.1)
    before = init.log_v.clone()
    sinkhorn_label(rand(50, 4, seed=1), epsilon=0.1, solver=silent(solver), init=init)
    assert torch.equal(init.log_v, before)


# ---------------------------------------------------------------- settings

DEFAULTS = {
    Auto: {"max_iter": 1000, "tol": 1e-4, "on_failure": "warn"},
    Newton: {"max_iter": 1000, "tol": 1e-4, "on_failure": "warn", "dense_classes": 256},
    Anderson: {"max_iter": 1000, "tol": 1e-4, "on_failure": "warn", "memory": 8},
    Solver: {"max_iter": 1000, "tol": 1e-4, "on_failure": "warn"},
}
# Two values of each setting between which labels or passes differ.
CHANGES = {
    "max_iter": ({"max_iter": 3, "tol": 1e-8, "on_failure": "ignore"}, {"max_iter": 300, "tol": 1e-8}),
    "tol": ({"tol": 1e-1}, {"tol": 1e-8}),
    "dense_classes": ({"dense_classes": 9, "tol": 1e-1}, {"dense_classes": 10, "tol": 1e-1}),
    "memory": ({"memory": 1}, {"memory": 8}),
}
SETTINGS = [
    (kind, setting)
    for kind in (Auto, Newton, Anderson)
    for setting in DEFAULTS[kind]
    if setting != "on_failure"  # see below
]


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_the_documented_ones(kind):
    assert dataclasses.asdict(kind()) == DEFAULTS[kind]


@pytest.mark.parametrize("kind", DEFAULTS)
def test_settings_cannot_be_changed(kind):
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().tol = 1.0


@pytest.mark.parametrize("kind", [Auto, Newton, Anderson, Sinkhorn])
def test_every_solver_is_a_solver(kind):
    assert issubclass(kind, Solver)


@pytest.mark.parametrize("kind", [Auto, Newton, Anderson])
def test_every_setting_is_documented(kind):
    assert all(f"{name}: " in kind.__doc__ for name in DEFAULTS[kind])


@pytest.mark.parametrize(("kind", "setting"), SETTINGS, ids=lambda value: getattr(value, "__name__", value))
def test_setting_changes_the_answer(kind, setting):
    scores = clustered(300, 10).double()
    one, other = (sinkhorn_label(scores, epsilon=0.01, solver=kind(**change)) for change in CHANGES[setting])
    assert one.n_iter != other.n_iter
    assert (one.labels - other.labels).abs().max() > 1e-9


@pytest.mark.parametrize("kind", [Auto, Newton, Anderson])
def test_missed_tolerance_warns_raises_or_is_silent(kind):
    scores = clustered(300, 10)
    with pytest.warns(ConvergenceWarning, match=f"{kind.__name__} stopped at max_iter"):
        warned = sinkhorn_label(scores, epsilon=0.005, solver=kind(max_iter=2))
    with pytest.raises(ConvergenceError, match=f"{kind.__name__} stopped at max_iter"):
        sinkhorn_label(scores, epsilon=0.005, solver=kind(max_iter=2, on_failure="raise"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ignored = sinkhorn_label(scores, epsilon=0.005, solver=kind(max_iter=2, on_failure="ignore"))
    assert torch.equal(warned.labels, ignored.labels)
    assert ignored.status is Status.MAX_ITER_REACHED
    assert not ignored.converged


@pytest.mark.parametrize("kind", [Auto, Newton, Anderson])
def test_warning_points_at_the_line_of_the_caller(kind):
    scores = clustered(300, 10)
    for category, solver in ((ConvergenceWarning, kind(max_iter=2)), (NumericalWarning, kind(tol=1e-9))):
        with pytest.warns(category) as caught:
            sinkhorn_label(scores, epsilon=0.05, solver=solver)
        assert {warning.filename for warning in caught} == {__file__}


# ---------------------------------------------------------------- tolerance and rounding


@pytest.mark.parametrize("tol", [1e-5, 1e-6, 5e-7, 2e-7, 1e-8, 1e-12])
@pytest.mark.parametrize("shape", [(60, 7), (7500, 16), (1500, 300), (10, 400, 20)], ids=str)
@pytest.mark.parametrize("solver", FAST)
def test_tolerance_is_reached_or_there_is_a_warning(solver, shape, tol):
    scores = clustered(*shape[-2:], batch=shape[0] if len(shape) == 3 else 0)
    settings = replace(SOLVERS[solver], tol=tol, on_failure="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = sinkhorn_label(scores, epsilon=0.05, solver=settings)
    kinds = {warning.category for warning in caught}
    assert bool(result.converged.all()) == (ConvergenceWarning not in kinds)
    assert (result.marginal_error <= tol).all() == (ConvergenceWarning not in kinds)
    assert (NumericalWarning in kinds) == (tol < 1.2e-7)  # half the distance of 1 to the next float32
    assert result.converged.all()  # small tolerances are met in float64, others are within reach of float32
    error = (result.labels.double().mean(dim=-2) - 1 / shape[-1]).abs().sum(dim=-1)
    assert (error <= tol + 1e-7).all()  # labels rounded to float32


# ---------------------------------------------------------------- the end of patience


@pytest.mark.parametrize("max_iter", [1, 2, 3, 5, 8, 13, 30])
@pytest.mark.parametrize("epsilon", [0.5, 0.05, 0.005, 0.0005])
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_more_than_max_iter_passes(solver, epsilon, max_iter):
    for scores in (clustered(300, 10), clustered(200, 8, batch=9)):
        result = sinkhorn_label(scores, epsilon=epsilon, solver=silent(solver, max_iter=max_iter, tol=1e-6))
        assert result.n_iter.max() <= max_iter


@pytest.mark.parametrize("max_iter", [1, 4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_more_than_max_iter_passes_from_init(solver, max_iter):
    init = sinkhorn_label(clustered(300, 10, seed=1), epsilon=0.005)
    settings = silent(solver, max_iter=max_iter, tol=1e-8)
    assert sinkhorn_label(clustered(300, 10), epsilon=0.005, solver=settings, init=init).n_iter <= max_iter


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_problem_without_a_plan_ends_with_finite_labels(solver, spread, dtype):
    mask = torch.ones(16, 13, dtype=torch.bool)
    mask[:7, 2:] = False  # no single class shows it, and thirteen are too many to check all sets
    problem = Problem(scores=(spread * randn(16, 13)).to(dtype), epsilon=0.05, mask=mask)
    result = problem.label(silent(solver, tol=1e-4, max_iter=300))
    assert result.status is Status.MAX_ITER_REACHED
    assert result.labels.isfinite().all()
    assert_labels_close(result.labels.sum(dim=1), torch.ones(16), atol=1e-6)
    # 7/16 of the mass for classes that hold 2/13 of it: the surplus and the equal lack are the least error there is.
    assert result.marginal_error >= 2 * (7 / 16 - 2 / 13) - 1e-6
    error = (result.labels.double().mean(dim=0) - 1 / 13).abs().sum()
    torch.testing.assert_close(result.marginal_error, error, rtol=0.0, atol=1e-6)  # labels rounded to float32
