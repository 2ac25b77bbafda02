"""The builders of `log_prior`, against loops that read like the formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from otlabel import sinkhorn_prior_label
from otlabel.priors import gaussian_rank_prior, temporal_gaussian_prior
from tests.otlabel.helpers import rand, randn


def rank_prior_by_loop(sample_score, class_score, sigma, *, order_preserving=False, keep=None):
    """The formula entry by entry; samples that are not kept have no rank and a log-prior of 0."""
    n, k = len(sample_score), len(class_score)
    keep = [True] * n if keep is None else keep
    ranks = iter(rankdata([score for score, kept in zip(sample_score, keep, strict=True) if kept], method="average"))
    count = sum(keep)
    delta = math.sqrt(1 / count**2 + 1 / k**2) if order_preserving else 1.0
    rows = []
    for kept in keep:
        position = next(ranks) / count if kept else None
        row = [0.0 if position is None else -(((position - c) / delta) ** 2) / (2 * sigma**2) for c in class_score]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


# Few distinct values, so that ties are common.
tied_scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)
unit_scores = st.lists(st.floats(0, 1), min_size=1, max_size=5)


def as_tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_log_prior(have, want):
    """Float64 formulas of a few operations each, with sigmas not far from one."""
    torch.testing.assert_close(have, want, rtol=1e-12, atol=1e-12)


@given(sample_score=tied_scores, class_score=unit_scores, sigma=st.floats(0.1, 3), order=st.booleans())
def test_rank_prior_is_the_formula_with_mean_ranks_of_ties(sample_score, class_score, sigma, order):
    have = gaussian_rank_prior(as_tensor(sample_score), as_tensor(class_score), sigma=sigma, order_preserving=order)
    assert_log_prior(have, rank_prior_by_loop(sample_score, class_score, sigma, order_preserving=order))


@given(data=st.data(), sample_score=tied_scores, class_score=unit_scores, order=st.booleans())
def test_masked_samples_take_no_rank(data, sample_score, class_score, order):
    keep = data.draw(st.lists(st.booleans(), min_size=len(sample_score), max_size=len(sample_score)).filter(any))
    have = gaussian_rank_prior(
        as_tensor(sample_score), as_tensor(class_score), sigma=0.4, order_preserving=order, mask=torch.tensor(keep)
    )
    want = rank_prior_by_loop(sample_score, class_score, 0.4, order_preserving=order, keep=keep)
    assert_log_prior(have, want)


def test_rank_prior_of_a_batch_is_the_loop_over_its_problems():
    sample_score, class_score = randn(2, 3, 7), rand(2, 3, 4)
    mask = rand(2, 3, 7, seed=1) > 0.3
    mask[..., 0] = True
    have = gaussian_rank_prior(sample_score, class_score, sigma=0.3, mask=mask)
    for i in range(2):
        for j in range(3):
            want = gaussian_rank_prior(sample_score[i, j], class_score[i, j], sigma=0.3, mask=mask[i, j])
            assert_log_prior(have[i, j], want)


def test_rank_prior_depends_on_the_ranks_only():
    sample_score, class_score = randn(9), rand(4)
    have = gaussian_rank_prior(sample_score.exp(), class_score, sigma=0.3)
    assert torch.equal(have, gaussian_rank_prior(sample_score, class_score, sigma=0.3))


def test_released_argsort_is_the_descending_argsort_used_as_a_rank():
    sample_score, class_score = randn(8), rand(3)
    order = sorted(range(8), key=lambda i: -sample_score[i].item())
    want = as_tensor([[-((order[i] / 8 - c) ** 2) / (2 * 0.3**2) for c in class_score.tolist()] for i in range(8)])
    have = gaussian_rank_prior(sample_score, class_score, sigma=0.3, rank="released_argsort")
    assert_log_prior(have, want)


def test_released_argsort_is_not_the_rank():
    sample_score, class_score = randn(8), rand(3)
    have = gaussian_rank_prior(sample_score, class_score, sigma=0.3, rank="released_argsort")
    assert (have - gaussian_rank_prior(sample_score, class_score, sigma=0.3)).abs().max() > 0.1


@pytest.mark.parametrize("change", [{"sigma": 0.6}, {"order_preserving": True}, {"mask": torch.arange(8) < 5}])
def test_argument_changes_the_rank_prior(change):
    sample_score, class_score = randn(8), rand(3)
    plain = gaussian_rank_prior(sample_score, class_score, sigma=0.3)
    changed = gaussian_rank_prior(sample_score, class_score, **{"sigma": 0.3, **change})
    assert (plain - changed).abs().max() > 0.1


def test_class_scores_change_the_rank_prior():
    one, two = (gaussian_rank_prior(randn(8), rand(3, seed=seed), sigma=0.3) for seed in (0, 1))
    assert (one - two).abs().max() > 0.1


@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_rank_prior_has_the_dtype_of_the_sample_scores(given_dtype, dtype):
    assert gaussian_rank_prior(randn(5, dtype=given_dtype), rand(3, dtype=given_dtype), sigma=1.0).dtype == dtype


def test_rank_prior_keeps_the_gradient_out():
    sample_score, class_score = randn(5).requires_grad_(), rand(3).requires_grad_()
    assert not gaussian_rank_prior(sample_score, class_score, sigma=1.0).requires_grad


def test_rank_prior_does_not_change_its_inputs():
    sample_score, class_score, mask = randn(5), rand(3), torch.arange(5) < 3
    gaussian_rank_prior(sample_score, class_score, sigma=1.0, mask=mask)
    assert torch.equal(sample_score, randn(5))


def test_rank_prior_of_one_sample_and_one_class():
    assert_log_prior(gaussian_rank_prior(as_tensor([7.0]), as_tensor([0.5]), sigma=1.0), as_tensor([[-0.125]]))


def test_rank_prior_of_narrow_width_does_not_forbid():
    """The reason for logarithms: exp(-5000) is 0."""
    log_prior = gaussian_rank_prior(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), sigma=0.01)
    assert log_prior.isfinite().all()


def test_rank_prior_puts_samples_of_high_score_into_classes_of_high_score():
    sample_score = torch.tensor([0.9, 0.1, 0.8, 0.2])
    log_prior = gaussian_rank_prior(sample_score, torch.tensor([0.1, 0.9]), sigma=0.3)
    result = sinkhorn_prior_label(torch.zeros(4, 2), log_prior=log_prior)
    assert result.hard_labels.tolist() == [1, 0, 1, 0]


def test_value_of_a_masked_sample_does_not_matter():
    mask = torch.tensor([True, True, False])
    one, two = (
        gaussian_rank_prior(as_tensor([0.3, 0.2, padding]), rand(3), sigma=0.3, mask=mask) for padding in (-9.0, 9.0)
    )
    assert torch.equal(one, two)


# ---------------------------------------------------------------- temporal


def temporal_prior_by_loop(n, k, sigma, first_index):
    rows = []
    for i in range(first_index, n + first_index):
        row = []
        for j in range(first_index, k + first_index):
            distance = abs(i / n - j / k) / math.sqrt(1 / n**2 + 1 / k**2)
            row.append(-(distance**2) / (2 * sigma**2))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@given(n=st.integers(1, 12), k=st.integers(1, 6), sigma=st.floats(0.1, 3), first_index=st.sampled_from([0, 1]))
def test_temporal_prior_is_the_formula(n, k, sigma, first_index):
    have = temporal_gaussian_prior(n, k, sigma=sigma, first_index=first_index, dtype=torch.float64)
    assert_log_prior(have, temporal_prior_by_loop(n, k, sigma, first_index))


def test_temporal_prior_defaults_to_su_and_hua():
    assert_log_prior(temporal_gaussian_prior(6, 3, dtype=torch.float64), temporal_prior_by_loop(6, 3, 1.0, 1))


@pytest.mark.parametrize("change", [{"sigma": 1.5}, {"first_index": 0}])
def test_argument_changes_the_temporal_prior(change):
    assert (temporal_gaussian_prior(6, 3) - temporal_gaussian_prior(6, 3, **change)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_temporal_prior_has_the_dtype_asked_for(dtype):
    assert temporal_gaussian_prior(6, 3, dtype=dtype).dtype == dtype


def test_temporal_prior_is_on_the_device_asked_for():
    assert temporal_gaussian_prior(6, 3, device="meta").device.type == "meta"


def test_temporal_prior_orders_the_classes_in_time():
    log_prior = temporal_gaussian_prior(6, 3, first_index=0)
    result = sinkhorn_prior_label(torch.zeros(6, 3), log_prior=log_prior, epsilon=1.0)
    assert result.hard_labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_nan_of_a_masked_sample_does_not_act():
    attention, mask = torch.tensor([0.2, float("nan"), 0.7]), torch.tensor([True, False, True])
    clusters = torch.tensor([0.0, 1.0])
    prior = gaussian_rank_prior(attention, clusters, sigma=0.5, mask=mask)
    assert torch.equal(prior[mask], gaussian_rank_prior(attention[mask], clusters, sigma=0.5))
