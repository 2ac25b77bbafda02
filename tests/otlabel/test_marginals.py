"""The builders of `marginal`, against plain arithmetic."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otlabel import marginals, sinkhorn_marginal_label
from tests.otlabel.helpers import rand, randn


def assert_shares(have, want):
    """Float64 sums of a few terms."""
    torch.testing.assert_close(have, torch.as_tensor(want, dtype=have.dtype), rtol=1e-12, atol=1e-14)


@given(k=st.integers(1, 50))
def test_uniform_shares_are_one_over_k(k):
    assert_shares(marginals.uniform(k, dtype=torch.float64), [1 / k] * k)


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), smoothing=st.floats(0, 5))
def test_counts_become_smoothed_proportions(counts, smoothing):
    total = sum(count + smoothing for count in counts)
    have = marginals.from_counts(torch.tensor(counts, dtype=torch.float64), smoothing=smoothing)
    assert_shares(have, [(count + smoothing) / total for count in counts])


def test_smoothing_changes_the_proportions():
    counts = torch.tensor([3, 0])
    assert marginals.from_counts(counts, smoothing=1)[1] > marginals.from_counts(counts)[1] == 0


def test_counts_of_a_batch_are_normalised_each():
    have = marginals.from_counts(torch.tensor([[1, 3], [2, 2]]).double())
    assert_shares(have, [[0.25, 0.75], [0.5, 0.5]])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float16, torch.float32])
def test_counts_of_any_dtype_become_float32(dtype):
    have = marginals.from_counts(torch.tensor([1, 1, 0]).to(dtype))
    assert (have.dtype, have.tolist()) == (torch.float32, [0.5, 0.5, 0.0])


def test_zero_counts_with_smoothing_are_uniform():
    assert marginals.from_counts(torch.zeros(4), smoothing=0.5).tolist() == [0.25] * 4


def test_empirical_shares_are_the_mean_of_the_labels():
    labels = torch.softmax(randn(7, 3), dim=1)
    assert_shares(marginals.empirical(labels), [sum(labels[:, j].tolist()) / 7 for j in range(3)])


def test_empirical_shares_of_weighted_labels():
    labels, weight = torch.softmax(randn(7, 3), dim=1), rand(7)
    rows = zip(weight.tolist(), labels.tolist(), strict=True)
    sums = [sum(column) for column in zip(*([w * x for x in row] for w, row in rows), strict=True)]
    assert_shares(marginals.empirical(labels, sample_weight=weight), [value / sum(sums) for value in sums])


def test_empirical_shares_of_a_batch_are_those_of_its_problems():
    labels, weight = rand(2, 5, 3), rand(2, 5, seed=1)
    have = marginals.empirical(labels, sample_weight=weight)
    for i in range(2):
        assert_shares(have[i], marginals.empirical(labels[i], sample_weight=weight[i]))


def test_sample_weight_changes_the_empirical_shares():
    labels = torch.eye(2)
    weighted = marginals.empirical(labels, sample_weight=torch.tensor([3.0, 1.0]))
    assert weighted.tolist() == [0.75, 0.25] != marginals.empirical(labels).tolist()


def test_labels_of_a_result_have_the_marginal_that_made_them():
    marginal = torch.tensor([0.2, 0.3, 0.5])
    labels = sinkhorn_marginal_label(randn(20, 3), marginal, epsilon=0.5).labels
    assert (marginals.empirical(labels) - marginal).abs().sum() <= 1e-4  # the tolerance of the solver


@given(k=st.integers(1, 20), exponent=st.floats(-3, 3))
def test_power_law_is_rank_to_the_minus_exponent(k, exponent):
    powers = [(j + 1) ** -exponent for j in range(k)]
    have = marginals.power_law(k, exponent, dtype=torch.float64)
    assert_shares(have, [power / sum(powers) for power in powers])


def test_power_law_defaults_to_zipf():
    assert_shares(marginals.power_law(3, dtype=torch.float64), [6 / 11, 3 / 11, 2 / 11])


def test_exponent_changes_the_power_law():
    assert marginals.power_law(3, 2.0)[0] > marginals.power_law(3)[0]


def test_steep_power_law_does_not_overflow():
    assert marginals.power_law(1000, 500.0).tolist()[:2] == [1.0, 0.0]


@pytest.mark.parametrize("builder", [marginals.uniform, marginals.power_law])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_builder_gives_the_dtype_asked_for(builder, dtype):
    assert builder(4, dtype=dtype).dtype == dtype


@pytest.mark.parametrize("builder", [marginals.uniform, marginals.power_law])
def test_builder_gives_the_device_asked_for(builder):
    assert builder(4, device="meta").device.type == "meta"


@pytest.mark.parametrize("builder", [marginals.from_counts, marginals.empirical])
def test_builder_keeps_the_gradient_out(builder):
    assert not builder(rand(4, 3).requires_grad_()).requires_grad


def test_empirical_shares_keep_the_gradient_of_the_weights_out():
    assert not marginals.empirical(rand(4, 3), sample_weight=rand(4).requires_grad_()).requires_grad


@pytest.mark.parametrize("builder", [marginals.from_counts, marginals.empirical])
def test_shares_of_huge_numbers_still_sum_to_one(builder):
    total = builder(torch.full((2, 2), 3e38)).sum(dim=-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0.0, atol=1e-6)  # two roundings of float32


@pytest.mark.parametrize("builder", [marginals.from_counts, marginals.empirical])
def test_builder_does_not_change_its_input(builder):
    value = rand(4, 3)
    builder(value)
    assert torch.equal(value, rand(4, 3))
