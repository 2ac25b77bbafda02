"""The plan, the duals, the marginals and the value are those of POT."""

import pytest
import torch
from hypothesis import given, settings

from otlabel.testing import assert_feasible
from tests.otlabel.helpers import Largest, Problem, assert_labels_close, rand, randn
from tests.otlabel.oracles import pot_solve
from tests.otlabel.strategies import problems

pytest.importorskip("ot")

LABELERS = {
    "balanced": problems(),
    "marginal": problems(marginal=True),
    "prior": problems(prior=True),
}
# float64: both sides stop at an L1 error of 1e-12, which an ill-conditioned plan may magnify. float32: labels are
# rounded once, at the end, so they are off by 6e-8; a wrong accumulation would show as 1e-5 at once.
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}
EXAMPLES = settings(max_examples=min(100, settings.default.max_examples))


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("labeler", LABELERS)
def test_plan_matches_pot(labeler, dtype, record_property):
    largest = Largest("POT agreement: largest plan difference", str(dtype).removeprefix("torch."))

    @EXAMPLES
    @given(problem=LABELERS[labeler])
    def check(problem: Problem) -> None:
        problem = problem.to(dtype)
        plan, _, _ = pot_solve(problem)
        result = problem.label()
        assert result.labels.dtype == dtype
        largest.add(result.plan, plan)
        assert_labels_close(result.plan, plan, atol=BOUNDS[dtype])

    check()
    largest.record(record_property)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("n", "k"), [(400, 16), (64, 100), (3, 40)])
@pytest.mark.parametrize("labeler", LABELERS)
def test_plan_of_larger_problems_matches_pot(labeler, n, k, dtype, record_property):
    problem = Problem(
        scores=0.25 * randn(n, k, seed=n),  # cosines of random directions
        epsilon=0.1,
        sample_weight=0.1 + rand(n, seed=1),
        marginal=None if labeler == "balanced" else torch.softmax(randn(k, seed=2), dim=0),
        log_prior=0.5 * randn(n, k, seed=3) if labeler == "prior" else None,
    ).to(dtype)
    plan, _, _ = pot_solve(problem)
    result = problem.label()
    assert_labels_close(result.plan, plan, atol=BOUNDS[dtype])
    largest = Largest("POT agreement: largest plan difference", str(dtype).removeprefix("torch."))
    largest.add(result.plan, plan)
    largest.record(record_property)


@pytest.mark.parametrize("labeler", LABELERS)
def test_duals_match_pot_up_to_the_gauge(labeler, record_property):
    largest = Largest("POT agreement: largest dual difference (up to the gauge)", "float64")

    @EXAMPLES
    @given(problem=LABELERS[labeler])
    def check(problem: Problem) -> None:
        _, log_u, log_v = pot_solve(problem)
        result = problem.label()
        gauge = (result.log_v - log_v)[..., :1]  # a constant may move from one side to the other
        for have, want in ((result.log_v - gauge, log_v), (result.log_u + gauge, log_u)):
            largest.add(have, want)
            # An error of 1e-12 in a column of share 1/50 moves its dual by 5e-11, and slow problems stop further off.
            torch.testing.assert_close(have, want, rtol=0.0, atol=1e-9)

    check()
    largest.record(record_property)


@pytest.mark.parametrize("labeler", LABELERS)
def test_plan_is_what_the_duals_say(labeler):
    @EXAMPLES
    @given(problem=LABELERS[labeler])
    def check(problem: Problem) -> None:
        result = problem.label()
        exponent = problem.scores / problem.epsilon + result.log_u[:, None] + result.log_v
        if problem.log_prior is not None:
            exponent = exponent + problem.prior_weight * problem.log_prior
        assert_labels_close(result.plan, exponent.exp(), atol=1e-13)  # the same sum, rounded differently

    check()


@pytest.mark.parametrize("labeler", LABELERS)
def test_plan_meets_both_marginals(labeler):
    @EXAMPLES
    @given(problem=LABELERS[labeler])
    def check(problem: Problem) -> None:
        # Twice the tolerance of the solver, and the rounding of the sums.
        assert_feasible(problem.label().plan, sample_weight=problem.rows, marginal=problem.columns, atol=3e-12)

    check()


@pytest.mark.parametrize("labeler", LABELERS)
def test_dual_value_matches_the_primal_value_of_pot(labeler):
    """At the optimum <Q, S> - eps KL(Q | R) without its constant is -eps (<a, log_u> + <b, log_v>)."""

    @EXAMPLES
    @given(problem=LABELERS[labeler])
    def check(problem: Problem) -> None:
        plan, _, _ = pot_solve(problem)
        result = problem.label()
        log_ratio = plan.log()
        if problem.log_prior is not None:
            log_ratio = log_ratio - problem.prior_weight * problem.log_prior
        primal = (plan * problem.scores).sum() - problem.epsilon * (plan * log_ratio).sum()
        dual = -problem.epsilon * ((problem.rows * result.log_u).sum() + (problem.columns * result.log_v).sum())
        # Both are off by (error of the marginals, 1e-12) x (size of the duals, about 10).
        torch.testing.assert_close(dual, primal, rtol=0.0, atol=1e-10)

    check()


def test_prior_plan_does_not_match_pot_without_the_shifted_cost():
    """The comparison can fail: the same problem without its prior is far off."""
    problem = Problem(
        scores=torch.zeros(4, 2, dtype=torch.float64),
        log_prior=torch.tensor([[0.0, -1.0], [-1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]], dtype=torch.float64),
    )
    unaware, _, _ = pot_solve(Problem(scores=problem.scores, epsilon=problem.epsilon))
    assert (problem.label().plan - unaware).abs().max() > 0.05
