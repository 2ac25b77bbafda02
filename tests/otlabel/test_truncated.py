"""The truncated loop is that of SwAV, DINO, CPSL and the released CASE program, start and order included."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from otlabel import Sinkhorn, Status, sinkhorn_label, sinkhorn_marginal_label, sinkhorn_prior_label
from tests.otlabel.helpers import Largest, assert_labels_close, rand, randn

SWAV = Sinkhorn(max_iter=3, tol=None)
EPSILON = 0.05
# Labels are float32, rounded once at the end (6e-8); the loop itself runs in float64 on both sides.
ATOL = 1e-6


def transcription(scores, steps=3, *, epsilon=EPSILON, marginal=None, log_prior=None, rows_first=False):
    """The loop as it is published, in the exponential domain of float64: scale columns, scale rows, repeat.

    Q starts from exp(S / epsilon) divided by its total. Rows of the answer are divided by their sums, which undoes
    the last factor 1 / n of the published loop.
    """
    scores = scores.double().numpy()
    n, k = scores.shape
    share = np.full(k, 1 / k) if marginal is None else marginal.double().numpy()
    plan = np.exp(scores / epsilon) * (1 if log_prior is None else np.exp(log_prior.double().numpy()))
    plan /= plan.sum()

    def scale_columns(plan):
        return plan * (share / plan.sum(axis=0))

    def scale_rows(plan):
        return plan / plan.sum(axis=1, keepdims=True) / n

    for _ in range(steps):
        plan = scale_columns(scale_rows(plan)) if rows_first else scale_rows(scale_columns(plan))
    return torch.from_numpy(plan / plan.sum(axis=1, keepdims=True))


def cosines(n=96, k=20):
    features, prototypes = F.normalize(randn(n, 16), dim=1), F.normalize(randn(k, 16, seed=1), dim=1)
    return features @ prototypes.T


def logits(n=96, k=20):
    return 4 * randn(n, k)


SCORES = {"cosines": cosines, "logits": logits}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture
def record(record_property):
    def add(have, want, dtype):
        largest = Largest("Truncated loop: largest label difference", str(dtype).removeprefix("torch."))
        largest.add(have, want)
        largest.record(record_property)
        assert_labels_close(have, want, atol=ATOL)

    return add


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", SCORES)
def test_truncated_loop_is_that_of_swav(kind, steps, dtype, record):
    scores = SCORES[kind]().to(dtype)
    result = sinkhorn_label(scores, epsilon=EPSILON, solver=Sinkhorn(max_iter=steps, tol=None))
    record(result.labels, transcription(scores, steps), dtype)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", SCORES)
def test_truncated_loop_with_rows_first_is_its_transcription(kind, steps, record):
    scores = SCORES[kind]().float()
    solver = Sinkhorn(max_iter=steps, tol=None, order="rows_first")
    result = sinkhorn_label(scores, epsilon=EPSILON, solver=solver)
    record(result.labels, transcription(scores, steps, rows_first=True), torch.float32)


@pytest.mark.parametrize("order", ["columns_first", "rows_first"])
@pytest.mark.parametrize("kind", SCORES)
def test_truncated_loop_with_a_marginal_is_that_of_cpsl(kind, order, record):
    scores, marginal = SCORES[kind]().float(), torch.softmax(randn(20, seed=2), dim=0)
    result = sinkhorn_marginal_label(scores, marginal, solver=Sinkhorn(max_iter=3, tol=None, order=order))
    want = transcription(scores, marginal=marginal, rows_first=order == "rows_first")
    record(result.labels, want, torch.float32)


@pytest.mark.parametrize("kind", SCORES)
def test_truncated_loop_with_a_prior_is_that_of_case(kind, record):
    scores, log_prior = SCORES[kind]().float(), -4 * rand(96, 20, seed=3, dtype=torch.float32)
    result = sinkhorn_prior_label(scores, log_prior=log_prior, solver=SWAV)
    record(result.labels, transcription(scores, log_prior=log_prior), torch.float32)


@pytest.mark.parametrize("epsilon", [0.03, 0.07])
def test_truncated_loop_of_another_temperature_is_that_of_dino(epsilon, record):
    scores = cosines(200, 64).float()
    result = sinkhorn_label(scores, epsilon=epsilon, solver=SWAV)
    record(result.labels, transcription(scores, epsilon=epsilon), torch.float32)


def test_truncated_batch_is_the_loop_over_its_problems(record):
    scores = torch.stack([cosines(), cosines().flip(0), logits()]).float()
    want = torch.stack([transcription(one) for one in scores])
    record(sinkhorn_label(scores, solver=SWAV).labels, want, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("scale", [1.0, 100.0, 10_000.0])
def test_truncated_labels_of_half_precision_are_finite(dtype, scale):
    labels = sinkhorn_label((scale * randn(64, 100)).to(dtype), epsilon=EPSILON, solver=SWAV).labels
    assert labels.isfinite().all()


def test_row_shift_changes_the_truncated_answer_as_it_does_in_the_published_loop(record):
    shifted = cosines()
    shifted[::2] += 0.3
    record(sinkhorn_label(shifted, solver=SWAV).labels, transcription(shifted), torch.float64)


def test_row_shift_is_no_rounding_matter():
    shifted = cosines()
    shifted[::2] += 0.3
    labels, plain = (sinkhorn_label(scores, solver=SWAV).labels for scores in (shifted, cosines()))
    assert (labels - plain).abs().max() > 1e-2


def test_column_shift_does_not_change_the_truncated_answer():
    labels, shifted = (sinkhorn_label(cosines() + shift, solver=SWAV).labels for shift in (0.0, randn(20)))
    assert_labels_close(shifted, labels, atol=1e-11)  # scores / 0.05 are rounded at 1e-15 x 20


def test_truncated_row_sums_are_one_and_columns_are_off_by_the_reported_error():
    result = sinkhorn_label(logits(), solver=SWAV)
    error = (result.labels.mean(dim=0) - 1 / 20).abs().sum()
    torch.testing.assert_close(result.marginal_error, error, rtol=0.0, atol=1e-12)  # sums of 96 float64 numbers


def test_truncated_columns_are_far_off_on_logits():
    """Three rounds do not balance: the reason why the error is reported."""
    assert sinkhorn_label(logits(), solver=SWAV).marginal_error > 0.05


def test_truncated_rows_first_meets_the_columns_exactly():
    result = sinkhorn_label(logits(), solver=Sinkhorn(max_iter=3, tol=None, order="rows_first"))
    assert_labels_close(result.plan.sum(dim=0), torch.full((20,), 1 / 20, dtype=torch.float64), atol=1e-12)


def test_truncated_rows_first_reports_the_error_of_the_rows():
    result = sinkhorn_label(logits(), solver=Sinkhorn(max_iter=3, tol=None, order="rows_first"))
    error = (result.plan.sum(dim=1) - 1 / 96).abs().sum()
    torch.testing.assert_close(result.marginal_error, error, rtol=0.0, atol=1e-12)


def test_weightless_rows_do_not_act_in_the_truncated_loop(record):
    scores = cosines()
    weight = torch.ones(96)
    weight[-30:] = 0.0
    labels = sinkhorn_label(scores, sample_weight=weight, solver=SWAV).labels[:-30]
    record(labels, transcription(scores[:-30]), torch.float64)


def test_truncated_status_says_so():
    assert sinkhorn_label(cosines(), solver=SWAV).status is Status.TRUNCATED


def test_truncated_loop_never_claims_convergence():
    constant = torch.zeros(4, 2)  # solved exactly after one iteration
    assert not sinkhorn_label(constant, solver=SWAV).converged.any()
