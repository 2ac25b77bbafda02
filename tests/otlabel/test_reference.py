"""Masks, weights of zero, batches, the limit of epsilon -> 0 and closed forms, against other ways to the answer."""

import math

import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import brentq
from scipy.special import expit

from otlabel import Sinkhorn, sinkhorn_label, sinkhorn_marginal_label, sinkhorn_prior_label
from otlabel.testing import reference_solve
from tests.otlabel.helpers import EXACT, Problem, assert_labels_close, rand, randn
from tests.otlabel.oracles import exact_plan
from tests.otlabel.strategies import masked_problems, problems, problems_with_idle_rows

# Both stop at an L1 error of 1e-12; masks and idle classes make some problems converge slowly, which magnifies it.
ATOL = 1e-10
EXAMPLES = settings(max_examples=min(60, settings.default.max_examples))


def reference(problem: Problem):
    """The plan and duals of `otlabel.testing.reference_solve`."""
    return reference_solve(
        problem.scores,
        epsilon=problem.epsilon,
        sample_weight=problem.sample_weight,
        marginal=problem.marginal,
        log_prior=problem.log_prior,
        prior_weight=problem.prior_weight,
        mask=problem.mask,
    )


@EXAMPLES
@given(problem=problems(marginal=True, prior=True, largest=(20, 6)))
def test_plan_matches_reference(problem):
    assert_labels_close(problem.label().plan, reference(problem)[0], atol=ATOL)


@EXAMPLES
@given(problem=masked_problems())
def test_masked_plan_matches_reference(problem):
    assert_labels_close(problem.label().plan, reference(problem)[0], atol=ATOL)


@EXAMPLES
@given(problem=masked_problems())
def test_masked_entries_get_exactly_no_label(problem):
    assert (problem.label().labels[~problem.mask] == 0).all()


@EXAMPLES
@given(problem=masked_problems())
def test_minus_infinite_scores_are_a_mask(problem):
    scores = problem.scores.masked_fill(~problem.mask, -torch.inf)
    forbidden = Problem(
        scores=scores,
        epsilon=problem.epsilon,
        sample_weight=problem.sample_weight,
        marginal=problem.marginal,
        log_prior=problem.log_prior,
    )
    # A mask that forbids nothing still takes the way of those that do.
    assert_labels_close(forbidden.label().labels, problem.label().labels, atol=ATOL)


@EXAMPLES
@given(problem=problems_with_idle_rows())
def test_plan_with_weightless_samples_and_empty_classes_matches_reference(problem):
    assert_labels_close(problem.label().plan, reference(problem)[0], atol=ATOL)


@EXAMPLES
@given(problem=problems(marginal=True, largest=(6, 4)))
def test_duals_match_reference_up_to_the_gauge(problem):
    _, log_u, log_v = reference(problem)
    result = problem.label()
    gauge = (result.log_v - log_v)[:1]
    torch.testing.assert_close(result.log_u + gauge, log_u, rtol=0.0, atol=1e-9)  # plan error over a share of 1/50


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_batch_with_an_epsilon_for_each_problem_matches_reference(shape):
    count = math.prod(shape)
    scores = rand(*shape, 11, 4)
    epsilon = torch.linspace(0.2, 2.0, count, dtype=torch.float64).reshape(shape)
    marginal = torch.softmax(randn(*shape, 4), dim=-1)
    log_prior = -rand(*shape, 11, 4, seed=1)
    result = sinkhorn_prior_label(scores, log_prior=log_prior, marginal=marginal, epsilon=epsilon, solver=EXACT)
    flat = zip(
        scores.flatten(0, -3),
        epsilon.flatten().tolist(),
        marginal.flatten(0, -2),
        log_prior.flatten(0, -3),
        strict=True,
    )
    plans = [
        reference(Problem(scores=one, epsilon=strength, marginal=share, log_prior=near))[0]
        for one, strength, share, near in flat
    ]
    assert_labels_close(result.plan, torch.stack(plans).reshape(*shape, 11, 4), atol=ATOL)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.1, 0.02])
def test_value_is_within_the_entropy_bound_of_the_linear_program(epsilon, seed):
    problem = Problem(
        scores=rand(8, 3, seed=seed),
        epsilon=epsilon,
        sample_weight=0.2 + rand(8, seed=seed + 10),
        marginal=torch.softmax(randn(3, seed=seed), dim=0),
    )
    best = (exact_plan(problem) * problem.scores).sum()
    plan = problem.label(Sinkhorn(max_iter=200_000, tol=1e-9, on_failure="raise")).plan
    gap = (best - (plan * problem.scores).sum()).item()
    # Entropies of plans on n k entries lie between 0 and log(n k); scores of range 1 turn 1e-9 of mass into 1e-9.
    assert -1e-8 <= gap <= epsilon * math.log(8 * 3) + 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_small_epsilon_finds_the_unique_plan_of_the_linear_program(seed):
    planted = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    problem = Problem(scores=planted + 0.3 * rand(12, 3, seed=seed), epsilon=0.02)
    # Any other assignment of these sizes loses at least 2 (1 - 0.3) of score for two samples: exp(-0.7 / 0.02) is 0.
    assert_labels_close(problem.label().plan, exact_plan(problem), atol=1e-9)


def test_masked_linear_program_is_found_by_small_epsilon():
    mask = torch.tensor([[True, True], [True, True], [False, True], [True, False]])
    scores = torch.tensor([[0.0, 1.0], [1.0, 0.0], [9.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    problem = Problem(scores=scores, epsilon=0.05, mask=mask)
    # Swapping the two free samples costs 2 for two entries: they differ from the limit by exp(-1 / 0.05) / 4 = 5e-10.
    assert_labels_close(problem.label().plan, exact_plan(problem), atol=1e-9)


def test_one_class_takes_every_sample():
    assert torch.equal(sinkhorn_label(randn(5, 1)).labels, torch.ones(5, 1, dtype=torch.float64))


def test_one_sample_gets_the_marginal_as_its_label():
    marginal = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    result = sinkhorn_marginal_label(randn(1, 3), marginal, solver=EXACT)
    assert_labels_close(result.labels[0], marginal, atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_two_classes_solve_one_scalar_equation(share, epsilon):
    """With two classes a label is a sigmoid with one common threshold, fixed by the share of the first class."""
    scores, weight = rand(30, 2), 0.1 + rand(30, seed=1)
    logit = ((scores[:, 0] - scores[:, 1]) / epsilon).numpy()
    mass = (weight / weight.sum()).numpy()
    threshold = brentq(lambda shift: mass @ expit(logit + shift) - share, -100, 100, xtol=1e-13, rtol=1e-14)
    marginal = torch.tensor([share, 1 - share], dtype=torch.float64)
    result = sinkhorn_marginal_label(scores, marginal, epsilon=epsilon, sample_weight=weight, solver=EXACT)
    assert_labels_close(result.labels[:, 0], torch.from_numpy(expit(logit + threshold)), atol=ATOL)


def test_scores_of_rank_one_in_the_exponent_give_the_product_plan():
    scores = randn(7, 1) + randn(1, 4, seed=1)
    marginal = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    problem = Problem(scores=scores, epsilon=0.05, sample_weight=0.1 + rand(7), marginal=marginal)
    assert_labels_close(problem.label().plan, problem.rows[:, None] * marginal, atol=1e-12)


def test_constant_scores_give_every_sample_the_marginal():
    marginal = torch.tensor([0.7, 0.1, 0.2], dtype=torch.float64)
    labels = sinkhorn_marginal_label(torch.full((6, 3), 3.5, dtype=torch.float64), marginal, solver=EXACT).labels
    assert_labels_close(labels, marginal.expand(6, 3), atol=1e-12)


def test_prior_alone_is_scaled_to_the_marginals():
    prior = 0.1 + rand(6, 3)
    plan = prior / prior.sum()
    problem = Problem(
        scores=torch.zeros(6, 3, dtype=torch.float64),
        sample_weight=plan.sum(dim=1),
        marginal=plan.sum(dim=0),
        log_prior=prior.log(),
    )
    assert_labels_close(problem.label().plan, plan, atol=1e-12)  # it meets the marginals already


def test_prior_weight_is_a_power_of_the_prior():
    prior = 0.1 + rand(6, 3)
    weighted = sinkhorn_prior_label(randn(6, 3), prior, prior_weight=2.5, epsilon=0.5, solver=EXACT)
    power = sinkhorn_prior_label(randn(6, 3), prior**2.5, epsilon=0.5, solver=EXACT)
    assert_labels_close(weighted.labels, power.labels, atol=1e-10)
