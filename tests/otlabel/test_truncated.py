"""The truncated loop is that of SwAV, DINO, CPSL and the released CASE program, start and order included."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from otlabel import Sinkhorn, Status, sinkhorn_label, sinkhorn_marginal_label, sinkhorn_prior_label
from otlabel.solvers.lean import LeanIterate
from tests.otlabel.helpers import Largest, Problem, assert_labels_close, generator, patched, rand, randn

SWAV = Sinkhorn(max_iter=3, tol=None)
EPSILON = 0.05
# Small problems of float32 and half precision are iterated in float32: a few roundings of labels up to one. Float64 is
# iterated in float64; sums of 96 to 200 numbers, of exponents that are rounded at 1e-14.
ATOL = {torch.float16: 1e-6, torch.bfloat16: 1e-6, torch.float32: 1e-6, torch.float64: 1e-12}


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
        assert_labels_close(have, want, atol=ATOL[dtype])

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


# ---------------------------------------------------------------- any range of scores, anything forbidden


def wild(seed):
    """A problem of any range with a plan, because its masses are those of one on the allowed entries.

    Some samples have no weight, of those some have no class; some classes have no share.
    """
    draws = generator(seed)

    def uniform(low, high):
        return low + (high - low) * torch.rand((), generator=draws, dtype=torch.float64).item()

    def chance(probability):
        return uniform(0, 1) < probability

    def part(probability):
        return torch.rand(shape, generator=draws) < probability

    n, k = round(uniform(2, 60)), round(uniform(2, 12))
    shape = (3, n, k) if chance(0.25) else (n, k)
    scores = torch.randn(shape, generator=draws, dtype=torch.float64) * 10 ** uniform(-1, 2)
    scores += 10 ** uniform(-1, 3) * torch.randn(shape[-1], generator=draws, dtype=torch.float64)
    problem = Problem(scores.to(DTYPES[seed % 4]), epsilon=10 ** uniform(-3, 0.5))
    allowed = torch.ones(shape, dtype=torch.bool)
    if chance(0.5):
        problem = replace(problem, mask=part(0.7))
        allowed &= problem.mask
    if chance(0.5):
        log_prior = torch.randn(shape, generator=draws) * 10 ** uniform(-1, 1.5) + uniform(-100, 100)
        if chance(0.5):
            log_prior = log_prior.masked_fill(part(0.1), -torch.inf)
        problem = replace(problem, log_prior=log_prior, prior_weight=uniform(0.1, 2))
        allowed &= log_prior > -torch.inf
    if chance(0.3):
        problem = replace(problem, scores=problem.scores.masked_fill(part(0.1), -torch.inf))
        allowed &= problem.scores > -torch.inf
    if chance(0.7) or not allowed.all():
        spread = 10 ** torch.randn(shape[-1], generator=draws, dtype=torch.float64).mul(uniform(0, 2))
        plan = allowed * spread * (0.1 + torch.rand(shape, generator=draws, dtype=torch.float64))
        if chance(0.5):
            plan[..., ::3, :] = 0.0
        if chance(0.3):
            plan[..., -1] = 0.0
        plan[..., -1, :] += 1e-9 * allowed[..., -1, :]
        plan[..., -2, :] += 1e-9 * allowed[..., -2, :]
        share = plan.sum(dim=-2)
        problem = replace(problem, sample_weight=plan.sum(dim=-1), marginal=share / share.sum(dim=-1, keepdim=True))
    return problem


BEYOND = 103, 190  # seeds of problems whose duals leave what the numbers of the small loop hold


def logarithmic_loop(problem, steps):
    """The loop in logarithms of float64, which hold any range; and the largest number that was rounded."""
    kernel = problem.scores.double() / problem.epsilon
    if problem.log_prior is not None:
        kernel = kernel + problem.prior_weight * problem.log_prior.double()
    if problem.mask is not None:
        kernel = kernel.masked_fill(~problem.mask, -torch.inf)
    n, k = kernel.shape[-2:]
    weight, share = problem.sample_weight, problem.marginal
    log_a = torch.full((n,), -math.log(n), dtype=torch.float64) if weight is None else weight.log()
    log_b = torch.full((k,), -math.log(k), dtype=torch.float64) if share is None else share.log()
    log_u = log_a
    for _ in range(steps):
        log_v = log_b - torch.logsumexp(kernel + log_u[..., None], dim=-2)
        log_v = log_v.masked_fill(log_b == -torch.inf, -torch.inf)
        log_u = log_a - torch.logsumexp(kernel + log_v[..., None, :], dim=-1)
        log_u = log_u.masked_fill(log_a == -torch.inf, -torch.inf)
    largest = max(value[value.isfinite()].abs().max().item() for value in (kernel, log_v, log_u))
    return torch.softmax(kernel + log_v[..., None, :], dim=-1).nan_to_num(nan=0.0), largest


CUT = {"UNCUT_ENTRIES": 0, "TILE_ENTRIES": 0}


@pytest.mark.parametrize("path", [{}, CUT, {**CUT, "CPU_BLOCK_ENTRIES": 30}], ids=["lean", "general", "blocks"])
@pytest.mark.parametrize("seed", [*range(80), *BEYOND])
def test_truncated_loop_of_any_range_is_that_in_logarithms(seed, path):
    problem = wild(seed)
    for steps in (1, 3, 6):
        with patched(FLOAT64_ENTRIES=0, **path):
            have = problem.label(Sinkhorn(max_iter=steps, tol=None)).labels
        want, largest = logarithmic_loop(problem, steps)
        # Float32 rounds exponents up to 50 in size; float64 what the duals cancel.
        atol = (1e-12 if have.dtype == torch.float64 else 4e-6) + 2e-14 * largest
        assert_labels_close(have, want, atol=atol)


def test_duals_that_the_small_loop_cannot_hold_are_left_to_the_other(monkeypatch):
    sound = []
    run = LeanIterate.run
    monkeypatch.setattr(LeanIterate, "run", lambda self, steps: (run(self, steps), sound.append(self.is_sound)))
    problem = wild(BEYOND[0])
    have = problem.label(SWAV).labels
    assert sound == [False]
    want, largest = logarithmic_loop(problem, 3)
    assert_labels_close(have, want, atol=4e-6 + 2e-14 * largest)  # as above


# ---------------------------------------------------------------- inside a training step

INPUTS = {
    "single": rand(200, 20, dtype=torch.float32),
    "batch": rand(3, 40, 6, dtype=torch.float32),
    "uncut": rand(3000, 100, dtype=torch.float32),
    "tiles": rand(25_000, 100, dtype=torch.float32),
    "float64": rand(200, 20),
    "half": rand(200, 20, dtype=torch.bfloat16),
}


CASES = [
    *((name, EPSILON, "aot_eager") for name in INPUTS),
    ("single", EPSILON, "eager"),
    ("batch", 0.005, "eager"),
    ("tiles", 0.005, "aot_eager"),
]

# The shape checks of this test run are nothing that torch can compile, so it does so in an interpreter without them.
COMPILE = """
import json, torch, torch.nn.functional as F
from otlabel import Sinkhorn, sinkhorn_label, sinkhorn_marginal_label, sinkhorn_prior_label
from tests.otlabel.helpers import rand, randn
from tests.otlabel.test_truncated import CASES, INPUTS, SWAV

share, features, weight = torch.softmax(randn(20), dim=0), randn(60, 8), randn(8, 5, seed=1).requires_grad_()

def balanced(epsilon):
    return lambda scores: sinkhorn_label(scores, epsilon=epsilon, solver=SWAV).labels

def loss(weight):
    logits = features @ weight
    return F.cross_entropy(logits, sinkhorn_label(logits, epsilon=0.5, solver=SWAV).labels)

def gap(function, backend, *inputs, gradient=False):
    torch._dynamo.reset()
    have, want = torch.compile(function, backend=backend, fullgraph=True)(*inputs), function(*inputs)
    if gradient:
        have, want = (torch.autograd.grad(value, inputs)[0] for value in (have, want))
    assert have.dtype == want.dtype
    return (have - want).abs().max().item()

gaps = {
    f"{name} {epsilon} {backend}": gap(balanced(epsilon), backend, INPUTS[name]) for name, epsilon, backend in CASES
}
for name, function in {
    "marginal": lambda scores: sinkhorn_marginal_label(scores, share, solver=SWAV).labels,
    "prior": lambda scores: sinkhorn_prior_label(scores, log_prior=share.log(), solver=SWAV).labels,
    "mask": lambda scores: sinkhorn_label(scores, mask=scores < 0.9, solver=SWAV).labels,
}.items():
    gaps[name] = gap(function, "aot_eager", INPUTS["single"])
gaps["training step"] = gap(loss, "aot_eager", weight, gradient=True)
print(json.dumps(gaps))
"""


@pytest.fixture(scope="module")
def gaps():
    """Largest differences of compiled labels from eager ones; each was compiled to one graph."""
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{COMPILE}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(("scores", "epsilon", "backend"), CASES)
def test_truncated_labels_compile_to_one_graph(scores, epsilon, backend, gaps):
    # What is compiled cannot look at the values, and so takes the way of scores of any range.
    assert gaps[f"{scores} {epsilon} {backend}"] <= (1e-12 if scores == "float64" else 1e-6)


@pytest.mark.parametrize("labeler", ["marginal", "prior", "mask"])
def test_truncated_labels_of_every_labeler_compile(labeler, gaps):
    assert gaps[labeler] <= 1e-6  # as above


def test_compiled_training_step_has_the_gradient_of_the_eager_one(gaps):
    assert gaps["training step"] <= 1e-12  # in float64, as above


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize("scores", INPUTS)
def test_truncated_labels_are_the_same_under_autocast(scores, epsilon):
    scores = INPUTS[scores]
    want = sinkhorn_label(scores, epsilon=epsilon, solver=SWAV)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        have = sinkhorn_label(scores, epsilon=epsilon, solver=SWAV)
        report = have.marginal_error
        unseen = have.predict(scores)
    assert have.labels.dtype == (torch.float64 if scores.dtype == torch.float64 else torch.float32)
    assert torch.equal(have.labels, want.labels)
    assert torch.equal(report, want.marginal_error)
    assert torch.equal(unseen, want.predict(scores))


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize("scores", INPUTS)
def test_truncated_labels_are_the_same_in_inference_mode(scores, epsilon):
    scores = INPUTS[scores]
    want = sinkhorn_label(scores, epsilon=epsilon, solver=SWAV)
    with torch.inference_mode():
        have = sinkhorn_label(scores, epsilon=epsilon, solver=SWAV)
    assert torch.equal(have.labels, want.labels)
    # What was found there is of use outside.
    assert torch.equal(have.marginal_error, want.marginal_error)
    assert torch.equal(have.predict(scores), want.predict(scores))
    again = sinkhorn_label(scores, epsilon=epsilon, solver=SWAV, init=have)
    assert torch.equal(again.labels, sinkhorn_label(scores, epsilon=epsilon, solver=SWAV, init=want).labels)


@pytest.mark.parametrize("scores", INPUTS)
def test_no_gradient_flows_through_truncated_labels(scores):
    scores = INPUTS[scores].clone().requires_grad_()
    result = sinkhorn_label(scores, epsilon=EPSILON, solver=SWAV)
    assert not any(value.requires_grad for value in (result.labels, result.log_u, result.log_v, result.plan))
    (result.labels * scores).sum().backward()
    assert torch.equal(scores.grad, result.labels.to(scores.dtype))  # labels are constants
    assert torch.equal(result.labels, sinkhorn_label(scores.detach(), epsilon=EPSILON, solver=SWAV).labels)


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(96, 20), (7500, 16), (1000, 300), (30, 200, 20)], ids=str)
@pytest.mark.parametrize("epsilon", [0.05, 0.005])
def test_truncated_labels_and_their_error_are_those_of_float64(epsilon, shape, dtype):
    scores = rand(*shape).to(dtype)
    have, want = (sinkhorn_label(value, epsilon=epsilon, solver=SWAV) for value in (scores, scores.double()))
    # Float32 exponentials and sums: a few units of the last place of labels up to one, and of column sums up to one.
    assert_labels_close(have.labels, want.labels, atol=ATOL[dtype])
    torch.testing.assert_close(have.marginal_error, want.marginal_error, rtol=0.0, atol=ATOL[dtype])


@pytest.mark.parametrize("shape", [(96, 20), (7500, 16), (30, 200, 20)], ids=str)
def test_reported_error_of_truncated_float32_labels_is_theirs(shape):
    scores = rand(*shape, dtype=torch.float32)
    result = sinkhorn_label(scores, epsilon=EPSILON, solver=SWAV)
    error = (result.labels.double().mean(dim=-2) - 1 / shape[-1]).abs().sum(dim=-1)
    torch.testing.assert_close(result.marginal_error, error, rtol=0.0, atol=1e-6)  # as above
