"""The helpers for users' tests: the reference solver solves, and the assertions fail when they should."""

import pytest
import torch

from otlabel import ConvergenceError
from otlabel.testing import assert_feasible, reference_solve
from tests.otlabel.helpers import assert_labels_close, rand, randn


def test_reference_plan_meets_both_marginals():
    weight, marginal = 0.1 + rand(6), 0.1 + rand(3)
    plan, _, _ = reference_solve(randn(6, 3), epsilon=0.5, sample_weight=weight, marginal=marginal)
    assert_feasible(plan, sample_weight=weight, marginal=marginal, atol=1e-11)


def test_reference_plan_is_what_its_duals_say():
    scores, log_prior = randn(6, 3), randn(6, 3, seed=1)
    plan, log_u, log_v = reference_solve(scores, epsilon=0.5, log_prior=log_prior, prior_weight=0.5)
    assert_labels_close(plan, (scores / 0.5 + 0.5 * log_prior + log_u[:, None] + log_v).exp(), atol=1e-15)


def test_reference_solve_of_two_by_two_by_hand():
    """Symmetric scores: Q = (p, 1/2 - p; 1/2 - p, p) with p / (1/2 - p) = exp(1 / epsilon)."""
    plan, _, _ = reference_solve(torch.eye(2), epsilon=0.5)
    ratio = torch.tensor(2.0, dtype=torch.float64).exp()
    assert_labels_close(plan[0, 0], 0.5 * ratio / (1 + ratio), atol=1e-14)


def test_reference_solve_respects_the_mask():
    mask = torch.tensor([[True, False], [True, True], [True, True]])
    plan, _, _ = reference_solve(randn(3, 2), epsilon=0.5, mask=mask)
    assert plan[0, 1] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 1.0},
        {"sample_weight": 0.1 + rand(6)},
        {"marginal": 0.1 + rand(3)},
        {"log_prior": randn(6, 3, seed=1)},
        {"mask": torch.arange(18).reshape(6, 3) % 5 > 0},
        {"tol": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_argument_changes_the_reference_plan(change):
    plain, _, _ = reference_solve(randn(6, 3), epsilon=0.5)
    changed, _, _ = reference_solve(randn(6, 3), **{"epsilon": 0.5, **change})
    assert (plain - changed).abs().max() > 1e-3


def test_prior_weight_changes_the_reference_plan():
    log_prior = randn(6, 3, seed=1)
    one, two = (
        reference_solve(randn(6, 3), epsilon=0.5, log_prior=log_prior, prior_weight=weight)[0] for weight in (1, 2)
    )
    assert (one - two).abs().max() > 1e-3


def test_reference_prior_of_weight_zero_is_no_prior():
    log_prior = torch.full((6, 3), -torch.inf)
    ignored, _, _ = reference_solve(randn(6, 3), epsilon=0.5, log_prior=log_prior, prior_weight=0.0)
    assert torch.equal(ignored, reference_solve(randn(6, 3), epsilon=0.5)[0])


def test_reference_solve_gives_up():
    with pytest.raises(ConvergenceError, match="within max_iter=2 iterations"):
        reference_solve(randn(6, 3), max_iter=2)


FEASIBLE = torch.full((4, 2), 0.125)


def test_feasible_plan_passes():
    assert_feasible(FEASIBLE)


def test_feasible_batch_passes_with_marginals_of_any_scale():
    plan = torch.tensor([[0.1, 0.3], [0.2, 0.4]]).expand(3, 2, 2)
    assert_feasible(plan, sample_weight=torch.tensor([4.0, 6.0]), marginal=torch.tensor([30.0, 70.0]), atol=1e-6)


def infeasible(**entries) -> torch.Tensor:
    plan = FEASIBLE.clone()
    for place, value in entries.items():
        plan[int(place[1]), int(place[2])] = value
    return plan


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (infeasible(_00=float("nan")), "`plan` must be finite"),
        (infeasible(_00=float("inf")), "`plan` must be finite"),
        (infeasible(_00=-0.125, _01=0.375), r"`plan` must be non-negative, got -0\.125"),
        (infeasible(_00=0.25, _01=0.25, _10=0.0, _11=0.0), r"row marginal to 1\.0e-04, got an L1 error of 5\.000e-01"),
        (infeasible(_00=0.25, _01=0.0), r"column marginal to 1\.0e-04, got an L1 error of 2\.500e-01"),
    ],
)
def test_broken_plan_fails(plan, words):
    with pytest.raises(AssertionError, match=words):
        assert_feasible(plan)


def test_wrong_sample_weight_fails():
    with pytest.raises(AssertionError, match="row marginal"):
        assert_feasible(FEASIBLE, sample_weight=torch.tensor([1, 2, 3, 4]))


def test_wrong_marginal_fails():
    with pytest.raises(AssertionError, match="column marginal"):
        assert_feasible(FEASIBLE, marginal=torch.tensor([0.4, 0.6]))


def test_one_broken_plan_of_a_batch_fails():
    with pytest.raises(AssertionError, match="column marginal"):
        assert_feasible(torch.stack([FEASIBLE, infeasible(_00=0.25, _01=0.0)]))


def test_atol_is_the_largest_error_that_passes():
    assert_feasible(infeasible(_00=0.25, _01=0.0), atol=0.251)
