"""What holds for every labeler, dtype and batch shape: one `check_*` function for each claim, then the edges."""

import copy
import itertools
import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from otlabel import (
    Auto,
    ConvergenceWarning,
    LabelResult,
    Sinkhorn,
    Status,
    marginals,
    sinkhorn_label,
    sinkhorn_marginal_label,
    sinkhorn_prior_label,
)
from tests.otlabel.helpers import EXACT, FAST, SOLVERS, Problem, assert_labels_close, generator, patched, rand, randn

LABELERS = ["balanced", "weighted", "marginal", "prior", "prior and marginal"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(), (3,), (2, 2)]
N, K = 12, 4


def grid(*shape: int, steps: int, per_unit: int, seed: int) -> Tensor:
    """Integers between plus and minus `steps`, divided by a power of two: exact in every dtype, sums of a few too."""
    return torch.randint(-steps, steps + 1, shape, generator=generator(seed)).double() / per_unit


def log_prior_of(shape: tuple[int, ...]) -> Tensor:
    """A log-prior which times epsilon = 0.5 lies on the grid of the scores."""
    return grid(*shape, N, K, steps=8, per_unit=8, seed=1)


def make_problem(labeler: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Problem:
    """Scores between -1 and 1 in steps of 1/16, with what the labeler takes."""
    return Problem(
        scores=grid(*shape, N, K, steps=16, per_unit=16, seed=0).to(dtype),
        sample_weight=0.1 + rand(*shape, N) if labeler == "weighted" else None,
        marginal=torch.softmax(randn(*shape, K, seed=2), dim=-1) if "marginal" in labeler else None,
        log_prior=log_prior_of(shape).to(dtype) if "prior" in labeler else None,
    )


def rounding(dtype: torch.dtype) -> float:
    """Labels are rounded once: two that agree before differ by 1.2e-7 in float32; float64 sees only the solver's."""
    return 1e-10 if dtype == torch.float64 else 1.3e-7


def assert_same_labels(problem: Problem, other: Problem) -> None:
    """Both converged label sets agree to the rounding of their dtype."""
    assert_labels_close(other.label().labels, problem.label().labels, atol=rounding(problem.scores.dtype))


def true_plan(problem: Problem, result: LabelResult) -> Tensor:
    """The plan from the duals and the scores, in float64."""
    exponent = problem.scores.double() / problem.epsilon + result.log_u[..., None] + result.log_v[..., None, :]
    if problem.log_prior is not None:
        exponent = exponent + problem.prior_weight * problem.log_prior.double()
    return exponent.exp()


def check_rows_sum_to_one(problem: Problem) -> None:
    sums = problem.label_roughly().labels.sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0.0, atol=5e-7)  # K roundings of float32


def check_row_mass_is_the_sample_weight(problem: Problem) -> None:
    torch.testing.assert_close(problem.label_roughly().row_mass, problem.rows, rtol=1e-14, atol=0.0)  # exp(log(a))


def check_columns_meet_the_marginal_within_the_reported_error(problem: Problem) -> None:
    result = problem.label_roughly()
    error = (result.proportions - problem.columns).abs().sum(dim=-1)
    assert (error <= result.marginal_error + 1e-6).all()  # labels rounded to float32


def true_error(problem: Problem, result: LabelResult) -> Tensor:
    """Error of the class proportions from the duals and the scores, in float64."""
    return (true_plan(problem, result).sum(dim=-2) - problem.columns).abs().sum(dim=-1)


def check_reported_error_is_the_true_one(problem: Problem) -> None:
    # Sums of 12 numbers; unless the scores are float64 they may be rounded to float32, as the exponentials are.
    atol = 1e-13 if problem.scores.dtype == torch.float64 else 1e-6
    truncated = [Sinkhorn(max_iter=steps, tol=None) for steps in (1, 2, 3)]
    for solver, entries in itertools.product([replace(problem.solver, tol=1e-2), *truncated], (0, 2**15)):
        with patched(FLOAT64_ENTRIES=entries):
            result = problem.label(solver)
        torch.testing.assert_close(result.marginal_error, true_error(problem, result), rtol=0.0, atol=atol)


def check_reported_error_of_rows_first_is_the_true_one(problem: Problem) -> None:
    result = problem.label(Sinkhorn(max_iter=1, tol=None, order="rows_first"))
    error = (true_plan(problem, result).sum(dim=-1) - problem.rows).abs().sum(dim=-1)
    torch.testing.assert_close(result.marginal_error, error, rtol=0.0, atol=1e-13)


def check_both_orders_converge_to_one_answer(problem: Problem) -> None:
    rows_first = problem.label(replace(EXACT, order="rows_first"))
    assert_labels_close(rows_first.labels, problem.label().labels, atol=rounding(problem.scores.dtype))


def check_labels_are_not_negative(problem: Problem) -> None:
    assert (problem.label_roughly().labels >= 0).all()


def check_labels_are_float64_for_float64_and_float32_else(problem: Problem) -> None:
    want = torch.float64 if problem.scores.dtype == torch.float64 else torch.float32
    assert problem.label_roughly().labels.dtype == want


def check_shapes_of_the_result(problem: Problem) -> None:
    result, batch = problem.label_roughly(), problem.scores.shape[:-2]
    shapes = {name: tuple(getattr(result, name).shape) for name in TENSORS}
    assert shapes == {
        "labels": (*batch, N, K),
        "log_u": (*batch, N),
        "log_v": (*batch, K),
        "row_mass": (*batch, N),
        **dict.fromkeys(["marginal_error", "n_iter", "converged", "epsilon"], tuple(batch)),
    }


def check_constant_added_to_a_row_changes_nothing(problem: Problem) -> None:
    shift = torch.arange(-1, 2).repeat(N // 3)[:, None].to(problem.scores.dtype)
    assert_same_labels(problem, replace(problem, scores=problem.scores + shift))


def check_constant_added_to_a_column_changes_nothing(problem: Problem) -> None:
    shift = torch.arange(-1, K - 1).to(problem.scores.dtype)
    assert_same_labels(problem, replace(problem, scores=problem.scores + shift))


def check_permuted_samples_get_permuted_labels(problem: Problem) -> None:
    order = torch.randperm(N, generator=generator(3))
    weight, prior = problem.sample_weight, problem.log_prior
    permuted = replace(
        problem,
        scores=problem.scores[..., order, :],
        sample_weight=None if weight is None else weight[..., order],
        log_prior=None if prior is None else prior[..., order, :],
    )
    want = problem.label().labels[..., order, :]
    assert_labels_close(permuted.label().labels, want, atol=rounding(problem.scores.dtype))


def check_permuted_classes_get_permuted_labels(problem: Problem) -> None:
    order = torch.randperm(K, generator=generator(4))
    share, prior = problem.marginal, problem.log_prior
    permuted = replace(
        problem,
        scores=problem.scores[..., order],
        marginal=None if share is None else share[..., order],
        log_prior=None if prior is None else prior[..., order],
    )
    want = problem.label().labels[..., order]
    assert_labels_close(permuted.label().labels, want, atol=rounding(problem.scores.dtype))


def check_scores_and_epsilon_have_one_scale(problem: Problem) -> None:
    doubled = replace(problem, scores=2 * problem.scores, epsilon=2 * problem.epsilon)
    assert torch.equal(doubled.label().labels, problem.label().labels)  # powers of two: not even a rounding


def check_prior_that_is_the_same_everywhere_changes_nothing(problem: Problem) -> None:
    flat = torch.full((K,), -1.0) if problem.log_prior is None else problem.log_prior - 1
    assert_same_labels(problem, replace(problem, log_prior=flat))


def check_prior_is_a_shift_of_the_scores(problem: Problem) -> None:
    log_prior = log_prior_of(problem.scores.shape[:-2])
    shifted = problem.scores + (problem.epsilon * log_prior).to(problem.scores.dtype)
    assert_same_labels(replace(problem, log_prior=log_prior), replace(problem, scores=shifted, log_prior=None))


def check_prior_of_weight_zero_is_no_prior(problem: Problem) -> None:
    log_prior = log_prior_of(problem.scores.shape[:-2])
    log_prior[..., 0, :2] = -torch.inf  # which would forbid, if it acted
    ignored = replace(problem, log_prior=log_prior, prior_weight=0.0)
    assert torch.equal(ignored.label().labels, replace(problem, log_prior=None).label().labels)


def check_batch_is_the_loop_over_its_problems(problem: Problem) -> None:
    batch = problem.scores.shape[:-2]
    epsilon = torch.logspace(-0.5, 1, math.prod(batch), dtype=torch.float64).reshape(batch)
    together = replace(problem, epsilon=epsilon).label()
    for at in itertools.product(*map(range, batch)):
        one = replace(
            problem,
            epsilon=epsilon[at].item(),
            **{
                name: value[at]
                for name in ("scores", "sample_weight", "marginal", "log_prior")
                if (value := getattr(problem, name)) is not None
            },
        )
        alone = one.label()
        assert_labels_close(together.labels[at], alone.labels, atol=rounding(problem.scores.dtype))
        if isinstance(problem.solver, Sinkhorn):  # problems share the line searches and the stages of the others
            assert alone.n_iter == together.n_iter[at]
            # A problem that is done is left alone, else its error would go on falling.
            torch.testing.assert_close(together.marginal_error[at], alone.marginal_error, rtol=0.1, atol=1e-14)


def check_sample_of_weight_zero_is_a_removed_sample(problem: Problem) -> None:
    weight = problem.rows.clone()
    weight[..., 2] = 0.0
    keep = torch.arange(N) != 2
    prior = problem.log_prior
    removed = replace(
        problem,
        scores=problem.scores[..., keep, :],
        sample_weight=weight[..., keep],
        log_prior=None if prior is None else prior[..., keep, :],
    )
    have = replace(problem, sample_weight=weight).label().labels[..., keep, :]
    assert_labels_close(have, removed.label().labels, atol=rounding(problem.scores.dtype))


def check_sample_of_weight_two_is_two_copies(problem: Problem) -> None:
    weight = problem.rows.clone()
    twice = torch.cat([torch.arange(N), torch.tensor([5])])
    prior = problem.log_prior
    copies = replace(
        problem,
        scores=problem.scores[..., twice, :],
        sample_weight=weight[..., twice],
        log_prior=None if prior is None else prior[..., twice, :],
    )
    weight[..., 5] *= 2
    have = replace(problem, sample_weight=weight).label().labels[..., twice, :]
    assert_labels_close(have, copies.label().labels, atol=rounding(problem.scores.dtype))


# Constants that force another path through the kernel, and only change the rounding: tiles, blocks and groups of one
# row, or that do not divide the rows, or of whole problems; tiles that threads share; row maxima where one shift would
# do; rows normalised by a sum of their own, at the end or in every pass. Where nothing stays uncut and no tile holds an
# entry, small problems are kept from their lean loop.
CUT = {"UNCUT_ENTRIES": 0, "TILE_ENTRIES": 0}
SMALL = {**CUT, "TILE_ENTRIES": 20, "TILE_ROWS": 1}
SHARED = {"threads": lambda: 3}
PATHS = [
    {**CUT, "TILE_ROWS": 1},
    CUT,
    {"TILE_ENTRIES": 0},
    SMALL,
    {**SMALL, "GROUP_ROWS": 2},
    {**CUT, "TILE_ENTRIES": 30, "TILE_ROWS": 5, "GROUP_ROWS": 2},
    {**CUT, "TILE_ENTRIES": 47, "TILE_ROWS": 10, "GROUP_ROWS": 3},
    {**CUT, "TILE_ENTRIES": 100},
    {**CUT, "TILE_ENTRIES": 100, "GROUP_ROWS": 5},
    {**CUT, "TILE_ENTRIES": 100, **SHARED},
    {**SMALL, **SHARED},
    {**CUT, "TILE_ROWS": 4, "GROUP_ROWS": 2, "FETCHED_ROW": 1, **SHARED},
    {**SMALL, "LONG_ROW": 2, **SHARED},
    {"GROUP_ROWS": 1},
    {"GROUP_ROWS": 2},
    {**SMALL, "DIRECT_RANGE": -1.0},
    {"DIRECT_RANGE": -1.0},
    {"CPU_BLOCK_ENTRIES": 1},
    {"CPU_BLOCK_ENTRIES": 50},
    {**CUT, "CPU_BLOCK_ENTRIES": 50, "DIRECT_RANGE": -1.0},
    {"ACCURATE_ROW": 2},
    {**SMALL, "ACCURATE_ROW": 2},
    {"LONG_ROW": 2},
    {**SMALL, "LONG_ROW": 2, "ACCURATE_ROW": 1},
]


def check_answer_does_not_depend_on_the_path(problem: Problem) -> None:
    whole = problem.label().labels
    for settings in PATHS:
        with patched(**settings):
            assert_labels_close(problem.label().labels, whole, atol=rounding(problem.scores.dtype))


def check_answer_does_not_depend_on_when_the_kernel_is_absorbed(problem: Problem) -> None:
    kept = problem.label().labels
    for settings in ({}, {"DIRECT_RANGE": -1.0}, {"DIRECT_RANGE": -1.0, **SMALL}):
        with patched(reach=0.05, **settings):
            assert_labels_close(problem.label().labels, kept, atol=rounding(problem.scores.dtype))


def check_answer_does_not_depend_on_the_precision_of_the_kernel(problem: Problem) -> None:
    exact = problem.label().labels
    solver = replace(problem.solver, tol=5e-7)  # the smallest for which float32 is thought to be enough
    for settings, reach in [*((path, None) for path in PATHS), ({}, 0.05), ({"DIRECT_RANGE": -1.0}, 0.05)]:
        with patched(reach=reach, FLOAT64_ENTRIES=0, **settings):
            # Columns off by 5e-7 move a dual by that over the smallest share, about 1/50, and a label by a fifth of it.
            assert_labels_close(problem.label(solver).labels, exact, atol=5e-6)


def check_truncated_answer_does_not_depend_on_the_path(problem: Problem) -> None:
    solver = Sinkhorn(max_iter=3, tol=None)
    exact = replace(problem, scores=problem.scores.double()).label(solver).labels
    # Half precision and float32 are iterated in float32: 12 rows and 4 classes lose a few units of its last place.
    atol = 1e-13 if problem.scores.dtype == torch.float64 else 1e-6
    for settings, entries in itertools.product(PATHS, (0, 2**15)):
        with patched(FLOAT64_ENTRIES=entries, **settings):
            assert_labels_close(problem.label(solver).labels, exact, atol=atol)


def check_huge_epsilon_ignores_the_scores(problem: Problem) -> None:
    vague = replace(problem, epsilon=1e12)  # scores of 1 change labels by 1e-12
    assert_same_labels(vague, replace(problem, scores=torch.zeros_like(problem.scores)))


def check_inputs_are_not_changed(problem: Problem) -> None:
    before = copy.deepcopy(problem)
    problem.label_roughly().predict(problem.scores, log_prior=problem.log_prior)
    for name, value in vars(before).items():
        after = getattr(problem, name)
        assert torch.equal(after, value) if isinstance(value, Tensor) else after == value


def check_two_calls_give_the_same_bits(problem: Problem) -> None:
    one, two = problem.label_roughly(), problem.label_roughly()
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in TENSORS)


def check_no_gradient_flows(problem: Problem) -> None:
    wanting = replace(
        problem,
        **{
            name: value.clone().requires_grad_()
            for name, value in vars(problem).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        },
    )
    with torch.enable_grad():
        result = wanting.label_roughly()
        labels = result.predict(wanting.scores, log_prior=wanting.log_prior)
    assert not any(value.requires_grad for value in (*tensors_of(result), result.plan, labels))


def check_labels_are_the_same_under_no_grad(problem: Problem) -> None:
    with torch.no_grad():
        silent = problem.label_roughly().labels
    assert torch.equal(silent, problem.label_roughly().labels)


def check_labels_are_the_same_under_autocast(problem: Problem) -> None:
    rough = replace(problem.solver, tol=1e-6)
    for solver, entries in itertools.product((problem.solver, rough, Sinkhorn(max_iter=3, tol=None)), (0, 2**15)):
        with patched(FLOAT64_ENTRIES=entries):
            plain = problem.label(solver).labels
            with torch.autocast("cpu", dtype=torch.bfloat16):
                mixed = problem.label(solver).labels
        assert mixed.dtype == plain.dtype
        assert torch.equal(mixed, plain)  # not even the order of a sum changes


def check_any_dtype_gives_the_rounded_answer_of_float64(problem: Problem) -> None:
    exact = replace(problem, scores=problem.scores.double()).label().labels
    assert_labels_close(problem.label().labels, exact, atol=1e-7)  # one rounding to float32


def check_result_pickles(problem: Problem) -> None:
    result = problem.label_roughly()
    assert_same_result(pickle.loads(pickle.dumps(result)), result)


def check_result_moves_to_a_device(problem: Problem) -> None:
    result = problem.label_roughly()
    assert_same_result(result.to("cpu"), result)


def check_layout_of_the_scores_does_not_matter(problem: Problem) -> None:
    transposed = problem.scores.transpose(-1, -2).contiguous().transpose(-1, -2)
    expanded = problem.scores[..., :1, :].expand(problem.scores.shape)  # stride 0: all samples alike
    for solver in (problem.solver, Sinkhorn(max_iter=3, tol=None)):
        atol = 1e-6 if solver.tol is None else rounding(problem.scores.dtype)  # truncated loops keep float32
        for scores in (transposed, expanded):
            labels = replace(problem, scores=scores).label(solver).labels
            assert labels.is_contiguous()
            want = replace(problem, scores=scores.contiguous()).label(solver).labels
            assert_labels_close(labels, want, atol=atol)


def check_training_samples_are_predicted_as_labelled(problem: Problem) -> None:
    result = problem.label_roughly()
    unseen = result.predict(problem.scores, log_prior=problem.log_prior)
    # The labels come from the exponentials that were iterated on, the others from the scores in float64.
    assert_labels_close(unseen, result.labels, atol=1e-14 if problem.scores.dtype == torch.float64 else 1.3e-7)


def check_plan_and_proportions_follow_from_the_labels(problem: Problem) -> None:
    result = problem.label_roughly()
    torch.testing.assert_close(result.plan.double().sum(dim=-2), result.proportions, rtol=0.0, atol=1e-6)


TENSORS = {"labels", "log_u", "log_v", "row_mass", "marginal_error", "n_iter", "converged", "epsilon"}
CHECKS = {name.removeprefix("check_"): value for name, value in globals().items() if name.startswith("check_")}


def tensors_of(result: LabelResult) -> list[Tensor]:
    return [getattr(result, name) for name in sorted(TENSORS)]


def assert_same_result(have: LabelResult, want: LabelResult) -> None:
    """All that a user can read, bit by bit."""
    for name in (*sorted(TENSORS), "status", "prior_weight"):
        value, other = getattr(want, name), getattr(have, name)
        if not (torch.equal(other, value) if isinstance(value, Tensor) else other == value):
            raise AssertionError(f"{name} differs")


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Of labelers, dtypes and shapes each at least once, for what costs more or depends on them less.
FEW = [
    ("balanced", torch.float32, (2, 2)),
    ("weighted", torch.bfloat16, ()),
    ("marginal", torch.float64, (3,)),
    ("prior", torch.float16, (3,)),
    ("prior and marginal", torch.float64, ()),
    ("prior and marginal", torch.float32, (2, 2)),
]
ALL = list(itertools.product(LABELERS, DTYPES, SHAPES))


def contract_cases(solvers: list[str], problems: list[tuple], *, paths: bool) -> list:
    """Parameters of the test below: every check of one kind on these problems with these solvers."""
    return [
        pytest.param(check, solver, *problem, id=f"{check}-{solver}-{problem[0]}-{name_of(problem[1])}-{problem[2]}")
        for check, solver, problem in itertools.product(CHECKS, solvers, problems)
        if ("_depend_on_" in check) is paths and not (check.startswith("truncated") and solver != "Sinkhorn")
    ]


@pytest.mark.parametrize(
    ("check", "solver", "labeler", "dtype", "shape"),
    [
        *contract_cases(["Sinkhorn"], ALL, paths=False),
        *contract_cases(list(FAST), FEW, paths=False),
        *contract_cases(list(SOLVERS), FEW, paths=True),
    ],
)
def test_contract(check, solver, labeler, dtype, shape):
    CHECKS[check](replace(make_problem(labeler, dtype, shape), solver=SOLVERS[solver]))


# ---------------------------------------------------------------- edges of the sizes


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 5), (5, 1), (2, 7)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_sizes_are_solved(n, k, dtype):
    problem = Problem(scores=randn(n, k, dtype=dtype))
    plan = true_plan(problem, problem.label())
    assert_labels_close(plan.sum(dim=0), torch.full((k,), 1 / k, dtype=torch.float64), atol=1e-11)


def test_many_classes_and_few_samples_share_the_mass():
    labels = sinkhorn_label(randn(2, 50), epsilon=0.5, solver=EXACT).labels
    assert_labels_close(labels.mean(dim=0), torch.full((50,), 0.02, dtype=torch.float64), atol=1e-11)


def test_large_epsilon_gives_the_product_plan():
    marginal = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    problem = Problem(scores=randn(6, 3), epsilon=1e9, sample_weight=0.1 + rand(6), marginal=marginal)
    assert_labels_close(problem.label().plan, problem.rows[:, None] * marginal, atol=1e-8)  # scores / epsilon


# ---------------------------------------------------------------- nothing to give, nowhere to go


def test_empty_class_gets_no_label():
    marginal = torch.tensor([0.5, 0.0, 0.5])
    assert (sinkhorn_marginal_label(randn(6, 3), marginal, epsilon=0.5).labels[:, 1] == 0).all()


def test_empty_class_has_an_infinite_dual():
    assert sinkhorn_marginal_label(randn(6, 3), torch.tensor([0.5, 0.0, 0.5]), epsilon=0.5).log_v[1] == -torch.inf


def test_weightless_sample_has_an_infinite_dual():
    result = sinkhorn_label(randn(4, 2), sample_weight=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert result.log_u[1] == -torch.inf


def test_weightless_sample_is_labelled_like_unseen_data():
    scores = randn(6, 3)
    result = sinkhorn_label(scores, sample_weight=torch.tensor([1, 1, 1, 1, 1, 0]), epsilon=0.5)
    unseen = sinkhorn_label(scores[:5], epsilon=0.5).predict(scores[5:])
    assert_labels_close(result.labels[5:], unseen, atol=1e-12)


@pytest.mark.parametrize("order", ["columns_first", "rows_first"])
@pytest.mark.parametrize("tol", [None, 1e-4])
def test_fully_masked_weightless_sample_has_a_zero_label(order, tol):
    mask = torch.ones(4, 2, dtype=torch.bool)
    mask[3] = False
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    solver = Sinkhorn(order=order, tol=tol)
    assert (
        sinkhorn_label(randn(4, 2), mask=mask, sample_weight=weight, epsilon=0.5, solver=solver).labels[3] == 0
    ).all()


@pytest.mark.parametrize("tol", [None, 1e-6])
@pytest.mark.parametrize("epsilon", [0.5, 0.005])
def test_mask_whose_bytes_are_not_ones_forbids_as_any(epsilon, tol):
    # Images hold 255; `view` keeps the bytes, and torch takes all but 0 for True.
    bytes_ = torch.where(randn(40, 5, seed=2) < 1.0, 255, 0).to(torch.uint8)
    solver = Sinkhorn(max_iter=3, tol=None) if tol is None else Auto(tol=tol)
    have = sinkhorn_label(randn(40, 5), epsilon=epsilon, mask=bytes_.view(torch.bool), solver=solver)
    assert torch.equal(
        have.labels, sinkhorn_label(randn(40, 5), epsilon=epsilon, mask=bytes_ > 0, solver=solver).labels
    )


def test_fully_masked_weightless_sample_has_hard_label_minus_one():
    scores = randn(4, 2)
    scores[3] = -torch.inf
    result = sinkhorn_label(scores, sample_weight=torch.tensor([1, 1, 1, 0]), epsilon=0.5)
    assert result.hard_labels[3] == -1


def test_fully_masked_weightless_sample_does_not_act():
    scores = randn(4, 2)
    scores[3] = -torch.inf
    result = sinkhorn_label(scores, sample_weight=torch.tensor([1, 1, 1, 0]), epsilon=0.5, solver=EXACT)
    assert_labels_close(result.labels[:3], sinkhorn_label(scores[:3], epsilon=0.5, solver=EXACT).labels, atol=1e-11)


def test_padded_batch_is_the_loop_over_unpadded_problems():
    scores, sizes = randn(3, 8, 4), [8, 3, 5]
    weight = (torch.arange(8) < torch.tensor(sizes)[:, None]).float()
    padded = scores.masked_fill(weight[..., None] == 0, -1e4)
    result = sinkhorn_label(padded, sample_weight=weight, epsilon=0.5, solver=EXACT)
    for one, size, labels in zip(scores, sizes, result.labels, strict=True):
        assert_labels_close(labels[:size], sinkhorn_label(one[:size], epsilon=0.5, solver=EXACT).labels, atol=1e-11)


def test_weights_of_any_scale_are_normalised():
    weight = 0.1 + 0.9 * rand(6)  # their sum overflows at the larger scale
    small, large = (
        sinkhorn_label(randn(6, 3), epsilon=0.5, sample_weight=scale * weight).labels for scale in (1e-300, 1.6e308)
    )
    assert_labels_close(small, large, atol=1e-12)


def test_batch_with_rows_first_is_the_loop_over_its_problems():
    scores, epsilon = rand(3, 12, 4), torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    solver = Sinkhorn(tol=1e-6, order="rows_first", check_every=1)
    together = sinkhorn_label(scores, epsilon=epsilon, solver=solver)
    for index in range(3):
        alone = sinkhorn_label(scores[index], epsilon=epsilon[index].item(), solver=solver)
        for name in ("n_iter", "labels", "log_u", "log_v", "row_mass", "marginal_error"):
            # A problem that is done is left alone: one more iteration would move it by the tolerance, 1e-6.
            torch.testing.assert_close(getattr(together, name)[index], getattr(alone, name), rtol=1e-10, atol=1e-10)


def test_epsilon_keeps_its_gradient_to_itself():
    epsilon = torch.tensor([0.5, 0.6], dtype=torch.float64, requires_grad=True)
    assert not any(value.requires_grad for value in tensors_of(sinkhorn_label(randn(2, 6, 3), epsilon=epsilon)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float32])
def test_sample_weight_may_have_any_real_dtype(dtype):
    weight = torch.tensor([1, 0, 1, 1])
    labels = sinkhorn_label(randn(4, 2), epsilon=0.5, sample_weight=weight.to(dtype)).labels
    assert torch.equal(labels, sinkhorn_label(randn(4, 2), epsilon=0.5, sample_weight=weight.double()).labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_marginal_may_have_any_floating_dtype(dtype):
    marginal = torch.tensor([0.25, 0.25, 0.5], dtype=dtype)
    assert sinkhorn_marginal_label(randn(6, 3), marginal, epsilon=0.5).converged


@pytest.mark.parametrize("k", [3, 5, 7, 12, 13, 100])
def test_uniform_marginal_of_half_precision_is_accepted(k):
    marginal = marginals.uniform(k, dtype=torch.bfloat16)
    assert sinkhorn_marginal_label(torch.zeros(8, k), marginal).converged


# ---------------------------------------------------------------- edges of the numbers


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", [Sinkhorn(max_iter=20, on_failure="ignore"), Sinkhorn(max_iter=3, tol=None)])
@pytest.mark.parametrize("order", ["columns_first", "rows_first"])
def test_scores_of_ten_thousand_give_finite_labels_and_the_true_error(dtype, solver, order):
    scores = (1e4 * randn(40, 5).clamp(-1, 1)).to(dtype)
    problem = Problem(scores=scores, epsilon=0.05)
    result = problem.label(replace(solver, order=order))
    plan = true_plan(problem, result)
    side, want = (-2, problem.columns) if order == "columns_first" else (-1, problem.rows)
    assert result.labels.isfinite().all()
    # Exponents of 2e5 are rounded at 3e-11, which is the relative error of the plan.
    torch.testing.assert_close(result.marginal_error, (plan.sum(dim=side) - want).abs().sum(), rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("fraction", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_any_epsilon_down_to_a_ten_thousandth_of_the_range_gives_finite_labels_and_the_true_error(fraction, spread):
    scores = (spread * rand(200, 6)).float()
    problem = Problem(scores=scores, epsilon=spread * fraction)
    result = problem.label(Sinkhorn(max_iter=50, on_failure="ignore"))
    error = (true_plan(problem, result).sum(dim=0) - problem.columns).abs().sum()
    assert result.labels.isfinite().all()
    torch.testing.assert_close(result.marginal_error, error, rtol=0.0, atol=1e-9)  # exponents of 1e4 rounded at 2e-12


def log_domain_loop(log_kernel: Tensor, steps: int, *, rows_first: bool) -> Tensor:
    """Labels of the truncated loop by nothing but logsumexp, for uniform marginals."""
    n, k = log_kernel.shape
    log_u, log_v = torch.zeros(n, 1, dtype=torch.float64), torch.zeros(k, dtype=torch.float64)
    for step in range(2 * steps):
        if (step % 2 == 0) == rows_first:
            log_u = -math.log(n) - torch.logsumexp(log_kernel + log_v, dim=1, keepdim=True)
        else:
            log_v = -math.log(k) - torch.logsumexp(log_kernel + log_u, dim=0)
    return torch.softmax(log_kernel + log_v, dim=1)


@pytest.mark.parametrize("reach", [None, 0.05])
@pytest.mark.parametrize("epsilon", [0.05, 1e-4, 1e-8])
@pytest.mark.parametrize("order", ["columns_first", "rows_first"])
@pytest.mark.parametrize("steps", [3, 10, 11, 200])
def test_kept_exponentials_are_harmless_at_low_epsilon(steps, order, epsilon, reach):
    problem = Problem(scores=randn(60, 7), epsilon=epsilon)
    with patched(reach=reach):
        kept = problem.label(Sinkhorn(max_iter=steps, tol=None, order=order)).labels
    want = log_domain_loop(problem.scores / epsilon, steps, rows_first=order == "rows_first")
    # Exponents of 1 / epsilon are rounded at 1e-16 / epsilon in each of the steps; labels change by as much at most.
    assert_labels_close(kept, want, atol=1e-15 * steps / min(epsilon, 0.01))


@pytest.mark.parametrize("weight", [1e-35, 1e-100, 1e-300])
@pytest.mark.parametrize("order", ["columns_first", "rows_first"])
def test_sample_of_tiny_weight_that_alone_takes_a_class_gives_finite_labels(weight, order):
    scores = torch.tensor([[0.0, 0.0], [0.0, -1e4], [0.0, -1e4]], dtype=torch.float64)
    weights = torch.tensor([weight, 1.0, 1.0], dtype=torch.float64)
    solver = Sinkhorn(max_iter=100, order=order, on_failure="ignore")
    assert sinkhorn_label(scores, sample_weight=weights, solver=solver).labels.isfinite().all()


def test_error_of_the_labels_is_the_reported_one_at_low_epsilon_in_float32():
    result = sinkhorn_label(rand(500, 8).float(), epsilon=1e-4, solver=Sinkhorn(max_iter=30, on_failure="ignore"))
    error = (result.labels.double().mean(dim=0) - 1 / 8).abs().sum()
    torch.testing.assert_close(result.marginal_error, error, rtol=0.0, atol=1e-6)  # labels rounded to float32


def test_tied_extreme_scores_converge():
    scores = torch.tensor([[1e4, -1e4], [1e4, -1e4], [-1e4, 1e4], [-1e4, 1e4]])
    assert torch.equal(sinkhorn_label(scores).labels, torch.eye(2).repeat_interleave(2, dim=0))


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 3e38), (torch.float64, 1e298)], ids=str)
def test_largest_scores_of_a_dtype_give_finite_labels(dtype, scale):
    scores = scale * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=dtype)
    assert sinkhorn_label(scores, solver=Sinkhorn(on_failure="ignore")).labels.isfinite().all()


def test_prior_beyond_float64_gives_no_nan():
    log_prior = torch.tensor([[1e308, 0.0], [0.0, 0.0]], dtype=torch.float64)
    solver = Sinkhorn(on_failure="ignore")
    try:
        labels = sinkhorn_prior_label(torch.zeros(2, 2), log_prior=log_prior, prior_weight=10.0, solver=solver).labels
    except ValueError:  # a refusal that says so is as good
        return
    assert labels.isfinite().all()


@pytest.mark.parametrize("least", [1e-30, 1e-200, 5e-324])
def test_tiny_masses_on_both_sides_give_finite_labels(least):
    masses = torch.tensor([1.0, least], dtype=torch.float64)
    scores = torch.tensor([[0.0, -1e5], [0.0, 0.0]], dtype=torch.float64)
    result = sinkhorn_marginal_label(scores, masses, sample_weight=masses)
    assert result.labels.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forbidden_scores_of_any_dtype_are_the_same_under_autocast(dtype):
    scores = randn(3, 12, 4).to(dtype)
    scores[:, 0, 0] = -torch.inf
    for solver in (Sinkhorn(max_iter=3, tol=None), Sinkhorn(), Auto()):
        want = sinkhorn_label(scores, epsilon=0.5, solver=solver).labels
        with torch.autocast("cpu", dtype=torch.bfloat16):
            have = sinkhorn_label(scores, epsilon=0.5, solver=solver).labels
        assert torch.equal(have, want)


# ---------------------------------------------------------------- broadcasting


def expanded(**arguments) -> tuple[LabelResult, LabelResult]:
    """The answer with small arguments, and with the same ones written out in full."""
    scores = randn(2, 3, 6, 4)
    shapes = {"sample_weight": (2, 3, 6), "marginal": (2, 3, 4), "log_prior": (2, 3, 6, 4), "mask": (2, 3, 6, 4)}
    full = {name: value.expand(shapes[name]).clone() for name, value in arguments.items()}
    return Problem(scores=scores, **arguments).label(), Problem(scores=scores, **full).label()


MASK = torch.tensor([[True, True, True, False]] * 2 + [[True] * 4] * 4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sample_weight": 0.1 + rand(6)},
        {"sample_weight": 0.1 + rand(3, 6)},
        {"sample_weight": 0.1 + rand(2, 1, 6)},
        {"marginal": torch.softmax(randn(4), dim=-1)},
        {"marginal": torch.softmax(randn(2, 1, 4), dim=-1)},
        {"log_prior": randn(4)},
        {"log_prior": randn(6, 1)},
        {"log_prior": randn(6, 4)},
        {"log_prior": randn(3, 1, 4)},
        {"mask": MASK},
        {"mask": MASK.expand(3, 6, 4)},
    ],
    ids=lambda arguments: ", ".join(f"{name} {tuple(value.shape)}" for name, value in arguments.items()),
)
def test_small_argument_is_repeated(arguments):
    small, full = expanded(**arguments)
    assert torch.equal(small.labels, full.labels)


@pytest.mark.parametrize("epsilon", [torch.tensor(0.3), torch.tensor([0.3, 0.5, 0.7]), torch.tensor([[0.3], [0.5]])])
def test_epsilon_tensor_is_repeated(epsilon):
    scores = randn(2, 3, 6, 4)
    full = sinkhorn_label(scores, epsilon=epsilon.expand(2, 3).clone()).labels
    assert torch.equal(sinkhorn_label(scores, epsilon=epsilon).labels, full)


def test_epsilon_tensor_is_the_number():
    tensor = sinkhorn_label(randn(6, 3), epsilon=torch.tensor(0.5), solver=EXACT).labels
    # A tensor divides, the inverse of a number multiplies.
    assert_labels_close(tensor, sinkhorn_label(randn(6, 3), epsilon=0.5, solver=EXACT).labels, atol=1e-11)


def test_prior_is_its_logarithm():
    prior = 3 * rand(6, 4)
    have = sinkhorn_prior_label(randn(6, 4), prior, epsilon=0.5).labels
    assert torch.equal(have, sinkhorn_prior_label(randn(6, 4), log_prior=prior.log(), epsilon=0.5).labels)


def test_zero_of_the_prior_forbids_a_label():
    prior = torch.ones(6, 4)
    prior[2, 1] = 0.0
    mask = prior > 0
    have = sinkhorn_prior_label(randn(6, 4), prior, epsilon=0.5).labels
    assert torch.equal(have, sinkhorn_label(randn(6, 4), mask=mask, epsilon=0.5).labels)


def test_expanded_scores_are_accepted():
    scores = randn(6, 1).expand(6, 4)
    assert_labels_close(sinkhorn_label(scores).labels, torch.full((6, 4), 0.25), atol=1e-12)


# ---------------------------------------------------------------- devices


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("labeler", LABELERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_gives_the_answer_of_the_cpu(labeler, dtype):
    problem = make_problem(labeler, dtype, (3,))
    moved = {name: value.cuda() for name, value in vars(problem).items() if isinstance(value, Tensor)}
    there = replace(problem, **moved).label()
    assert_labels_close(there.labels.cpu(), problem.label().labels, atol=rounding(dtype))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_result_moves_between_devices():
    result = sinkhorn_label(randn(6, 3).cuda(), epsilon=0.5)
    assert {value.device.type for value in tensors_of(result.to("cpu"))} == {"cpu"}


def test_moved_result_leaves_the_original_where_it_was():
    result = sinkhorn_label(randn(6, 3), epsilon=0.5)
    result.to("meta")
    assert result.labels.device.type == "cpu"


def test_every_tensor_of_a_result_moves():
    moved = sinkhorn_label(randn(6, 3), epsilon=0.5).to("meta")
    assert {value.device.type for value in tensors_of(moved)} == {"meta"}


# ---------------------------------------------------------------- infeasible beyond what the checks can see


def hall_violating_mask() -> Tensor:
    """Thirteen classes, seven of sixteen samples confined to two: no plan, and no single class shows it."""
    mask = torch.ones(16, 13, dtype=torch.bool)
    mask[:7, 2:] = False
    return mask


def test_infeasible_problem_found_late_gives_finite_labels():
    solver = Sinkhorn(on_failure="ignore")
    assert sinkhorn_label(randn(16, 13), mask=hall_violating_mask(), solver=solver).labels.isfinite().all()


def test_infeasible_problem_found_late_warns():
    with pytest.warns(ConvergenceWarning, match="if a `mask` forbids many labels"):
        result = sinkhorn_label(randn(16, 13), mask=hall_violating_mask())
    assert result.status is Status.MAX_ITER_REACHED


def test_infeasible_problem_found_late_reports_the_mass_without_room():
    solver = Sinkhorn(max_iter=3000, on_failure="ignore")
    result = sinkhorn_label(torch.zeros(16, 13), mask=hall_violating_mask(), solver=solver)
    # 7/16 of the mass for classes that hold 2/13 of it: both the surplus and the equal lack count.
    assert result.marginal_error.item() == pytest.approx(2 * (7 / 16 - 2 / 13), abs=1e-3)
