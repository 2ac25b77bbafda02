"""Exact counts from blocks of scores: against the answer in memory, with few candidates, from any prices."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otlabel import InfeasibleProblemError, sinkhorn_label
from otlabel.hard import capacity_labels, capacity_labels_of_blocks, streamed
from otlabel.hard.candidates import Candidates, survey
from otlabel.hard.descent import Graph, Point, nearest_changes
from otlabel.streaming import as_blocks
from tests.otlabel.helpers import clustered, patched, rand, randn
from tests.otlabel.strategies import tensors

# Sums of up to thirty float64 numbers, and of prices that may be k times as large, relative to the largest score.
ROUNDING = 1e-11


class Counted:
    """Blocks that know how often they were read."""

    def __init__(self, scores, size=64):
        self.scores, self.size, self.passes = scores, size, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.scores.split(self.size))


def counts(labels, k):
    return torch.bincount(labels, minlength=k)


def size(scores):
    """Largest finite score, or one."""
    return max(1.0, scores[scores > -torch.inf].abs().amax().item())


def score_of(scores, labels):
    return scores.double().gather(1, labels[:, None]).sum()


def zeros(scores):
    return torch.zeros(scores.shape[1], dtype=torch.float64)


@st.composite
def problems(draw):
    """Scores of every kind, with holes, and bounds: those by default, exact counts, or any."""
    n, k = draw(st.integers(1, 24), label="n"), draw(st.integers(1, 9), label="k")
    scores = draw(tensors((n, k), -1.0, 1.0), label="scores")
    kind = draw(st.sampled_from(["general", "tied", "huge", "outliers", "rank one", "alike", "half"]), label="kind")
    scores = {
        "general": scores,
        "tied": (scores * 2).round(),
        "huge": scores * 1e4,
        "outliers": scores + scores.sign() * 1e4,
        "rank one": scores[:, :1] * scores[:1],
        "alike": torch.full_like(scores, 0.3),
        "half": scores.half(),
    }[kind]
    if draw(st.booleans(), label="has holes"):
        holes = draw(hnp.arrays(np.bool_, (n, k)).map(torch.from_numpy), label="holes")
        scores = scores.masked_fill(holes, -torch.inf)
        scores[torch.arange(n), torch.arange(n) % k] = 0.5
    bounds = draw(st.sampled_from(["default", "exact", "any"]), label="bounds")
    if bounds == "default":
        return scores, None, None
    if bounds == "exact":
        classes = draw(hnp.arrays(np.int64, (n,), elements=st.integers(0, k - 1)), label="classes")
        return scores, counts(torch.from_numpy(classes), k), None
    upper, lower = (draw(hnp.arrays(np.int64, (k,), elements=st.integers(0, n)), label="bound") for _ in range(2))
    assume(upper.sum() >= n)
    return scores, torch.from_numpy(upper), torch.from_numpy(np.minimum(upper, lower) // 2)


def within(labels, scores, capacity, minimum):
    """Whether the counts are between their bounds."""
    n, k = scores.shape
    even = 0 if capacity is not None else n // k
    capacity = -(-n // k) if capacity is None else capacity
    count = counts(labels, k)
    return bool(((count <= capacity) & (count >= (even if minimum is None else minimum))).all())


def drawn_prices(data, scores):
    return data.draw(st.just(zeros(scores)) | tensors((scores.shape[1],), -1.0, 1.0), label="prices") * size(scores)


@given(problem=problems(), data=st.data())
def test_few_candidates_at_any_prices_reach_the_optimum_or_show_that_there_is_none(problem, data):
    scores, capacity, minimum = problem
    blocks = scores.split(data.draw(st.integers(1, len(scores)), label="size of the blocks"))
    prices = drawn_prices(data, scores)
    candidates = data.draw(st.integers(1, 4), label="candidates")
    try:
        want = capacity_labels(scores, capacity, minimum=minimum)
    except InfeasibleProblemError:
        with pytest.raises(InfeasibleProblemError):
            capacity_labels_of_blocks(blocks, prices, capacity, minimum=minimum, candidates=candidates)
        return
    have = capacity_labels_of_blocks(blocks, prices, capacity, minimum=minimum, candidates=candidates)
    assert within(have.labels, scores, capacity, minimum)
    slack = ROUNDING * size(scores)
    assert have.score.item() == pytest.approx(score_of(scores, have.labels).item(), abs=slack)
    assert have.score.item() == pytest.approx(want.score.item(), abs=slack)
    assert have.gap.item() <= slack


@given(problem=problems(), data=st.data())
def test_bound_is_true_however_early_the_passes_end(problem, data):
    scores, capacity, minimum = problem
    prices = drawn_prices(data, scores)
    try:
        want = capacity_labels(scores, capacity, minimum=minimum).score.item()
    except InfeasibleProblemError:
        return
    blocks, passes = scores.split(5), data.draw(st.integers(2, 4), label="max_passes")
    have = capacity_labels_of_blocks(blocks, prices, capacity, minimum=minimum, candidates=1, max_passes=passes)
    assert within(have.labels, scores, capacity, minimum)
    slack = ROUNDING * size(scores)
    assert have.score.item() == pytest.approx(score_of(scores, have.labels).item(), abs=slack)
    assert have.score.item() - slack <= want <= have.bound.item() + slack


@given(problem=problems())
def test_bound_is_the_dual_value_of_the_prices(problem):
    scores, capacity, minimum = problem
    try:
        result = capacity_labels_of_blocks([scores], zeros(scores), capacity, minimum=minimum, candidates=2)
    except InfeasibleProblemError:
        return
    n, k = scores.shape
    upper = torch.full((k,), -(-n // k)) if capacity is None else capacity
    lower = torch.full((k,), n // k if capacity is None else 0) if minimum is None else minimum
    net = (scores.double() - result.prices).masked_fill(upper == 0, -torch.inf)
    value = net.amax(dim=1).sum() + (upper * result.prices.clamp(min=0) + lower * result.prices.clamp(max=0)).sum()
    assert result.bound.item() == pytest.approx(value.item(), abs=ROUNDING * size(scores))


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (9, 3), (1, 1), (1, 4), (5, 1)])
def test_default_counts_are_as_even_as_possible(shape):
    n, k = shape
    scores = randn(n, k)
    count = counts(capacity_labels_of_blocks(scores.split(2), zeros(scores)).labels, k)
    assert int(count.min()) == n // k
    assert int(count.max()) == -(-n // k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_dtypes_are_solved_as_the_numbers_they_are(dtype):
    scores = clustered(600, 20).to(dtype)
    result = capacity_labels_of_blocks(scores.split(100), zeros(scores), candidates=4)
    assert result.gap <= 1e-10  # sums of 600 float64 numbers of size one
    assert result.score.item() == pytest.approx(capacity_labels(scores.double()).score.item(), abs=1e-10)


@pytest.mark.parametrize("scale", [1e-200, 1e-6, 1e6, 1e290])
def test_labels_do_not_depend_on_the_unit_of_the_scores(scale):
    scores = randn(60, 6)
    scaled = capacity_labels_of_blocks([scores * scale], zeros(scores), candidates=2)
    assert torch.equal(scaled.labels, capacity_labels_of_blocks([scores], zeros(scores), candidates=2).labels)


@pytest.mark.parametrize("make", [lambda s: s.split(7), lambda s: [s], lambda s: s.split([0, 299, 1, 0])])
def test_size_of_the_blocks_changes_no_bit(make):
    scores = clustered(300, 12)
    whole = capacity_labels_of_blocks([scores], zeros(scores), candidates=2)
    result = capacity_labels_of_blocks(make(scores), zeros(scores), candidates=2)
    for name in ("labels", "score", "bound", "prices"):
        assert torch.equal(getattr(result, name), getattr(whole, name))


def test_answer_does_not_depend_on_the_size_of_the_inner_blocks():
    scores = clustered(300, 12)
    whole = capacity_labels_of_blocks([scores], zeros(scores), candidates=2)
    with patched(CACHED_ENTRIES=40, FIRST_ROWS=8):
        result = capacity_labels_of_blocks([scores], zeros(scores), candidates=2)
    assert result.gap <= 1e-11
    assert result.score.item() == pytest.approx(whole.score.item(), abs=1e-11)


def test_arrays_and_mapped_files_are_blocks_too(tmp_path):
    scores = clustered(200, 8).half()
    want = capacity_labels_of_blocks([scores], zeros(scores))
    np.save(tmp_path / "scores.npy", scores.numpy())
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    have = capacity_labels_of_blocks([mapped[:90], mapped[90:]], zeros(scores))
    assert torch.equal(have.labels, want.labels)


@pytest.mark.parametrize("entries", [1, 8 * 7, 10**6])
def test_an_array_is_read_by_its_rows(tmp_path, entries):
    scores = clustered(200, 8).half()
    want = capacity_labels_of_blocks([scores], zeros(scores), candidates=2)
    np.save(tmp_path / "scores.npy", scores.numpy())
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "ARRAY_ENTRIES", entries)
        for source in (scores, scores.numpy(), mapped, as_blocks(mapped)):
            have = capacity_labels_of_blocks(source, zeros(scores), candidates=2)
            assert torch.equal(have.labels, want.labels)
            assert torch.equal(have.prices, want.prices)


def test_nothing_given_is_changed_and_no_gradient_flows():
    scores = clustered(100, 8).requires_grad_()
    prices, capacity, minimum = randn(8), torch.full((8,), 20), torch.full((8,), 5)
    before = [value.detach().clone() for value in (scores, prices, capacity, minimum)]
    result = capacity_labels_of_blocks([scores], prices, capacity, minimum=minimum, candidates=3)
    for value, copy in zip((scores, prices, capacity, minimum), before, strict=True):
        assert torch.equal(value, copy)
    assert not result.score.requires_grad


def test_bounds_that_do_not_bind_leave_the_argmax():
    scores = randn(50, 4)
    assert torch.equal(capacity_labels_of_blocks([scores], zeros(scores), 50).labels, scores.argmax(dim=1))


def test_minimum_fills_an_unpopular_class():
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, 0.1]])
    result = capacity_labels_of_blocks([scores], zeros(scores), 3, minimum=torch.tensor([0, 1]), candidates=1)
    assert result.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("start", [torch.inf, -torch.inf])
def test_class_without_capacity_stays_empty_whatever_its_price(start):
    scores = randn(12, 3)
    result = capacity_labels_of_blocks([scores], torch.tensor([0.0, start, 0.0]), torch.tensor([6, 0, 6]), candidates=1)
    assert counts(result.labels, 3).tolist() == [6, 0, 6]
    assert result.gap <= ROUNDING


def test_class_that_lacks_samples_everywhere_is_read_whole():
    """Nobody has the last class among the first two, so its scores are unknown until the second pass."""
    scores = rand(400, 10)
    scores[:, -1] -= 5
    blocks = Counted(scores)
    result = capacity_labels_of_blocks(blocks, zeros(scores), candidates=2)
    assert blocks.passes >= 2
    assert counts(result.labels, 10).tolist() == [40] * 10
    assert result.score.item() == pytest.approx(capacity_labels(scores).score.item(), abs=1e-10)


def test_one_pass_is_enough_where_the_candidates_are():
    scores = clustered(500, 10)
    soft = sinkhorn_label(scores, epsilon=0.02)
    blocks = Counted(scores)
    result = capacity_labels_of_blocks(blocks, -0.02 * soft.log_v, candidates=10)
    assert blocks.passes == 1
    assert result.gap <= 1e-11


def test_more_candidates_take_fewer_passes():
    scores, passes = clustered(3000, 100), []
    for candidates in (1, 4, 30):
        blocks = Counted(scores)
        assert capacity_labels_of_blocks(blocks, zeros(scores), candidates=candidates).gap <= 1e-10
        passes.append(blocks.passes)
    assert passes == sorted(passes, reverse=True)
    assert passes[0] > passes[-1]


def test_prices_of_soft_labels_save_passes():
    scores = clustered(3000, 100)
    cold, warm = Counted(scores), Counted(scores)
    capacity_labels_of_blocks(cold, zeros(scores), candidates=16)
    result = capacity_labels_of_blocks(warm, -0.05 * sinkhorn_label(scores).log_v, candidates=16)
    assert result.gap <= 1e-10
    assert warm.passes < cold.passes


def test_classes_far_above_and_just_at_their_counts_take_few_passes_and_sweeps(monkeypatch):
    """The first class is liked best by a sixth of the samples and may hold 40; others by 41 or 39 of them.

    The prices of the former are far off, those of the latter must cross a gap in which they change nothing.
    """
    scores = clustered(12_000, 300, features=512).half()
    assert counts(scores.argmax(dim=1), 300).max() > 1500
    blocks, sweeps, sweep = Counted(scores, 2048), [], Candidates.blocks
    monkeypatch.setattr(Candidates, "blocks", lambda table: sweeps.append(1) or sweep(table))
    with patched(SAMPLE_ENTRIES=2**18):
        result = capacity_labels_of_blocks(blocks, -0.05 * sinkhorn_label(scores).log_v, candidates=8)
    assert result.gap <= 1e-10
    assert blocks.passes <= 6
    assert len(sweeps) <= 100


@pytest.mark.parametrize("passes", [2, 3, 6])
def test_passes_are_not_more_than_allowed(passes):
    scores = randn(300, 60)
    blocks = Counted(scores)
    result = capacity_labels_of_blocks(blocks, randn(60, seed=1), candidates=1, max_passes=passes)
    assert blocks.passes <= passes
    assert set(counts(result.labels, 60).tolist()) == {5}


def test_more_passes_close_the_gap():
    scores = randn(300, 60)
    early = capacity_labels_of_blocks([scores], randn(60, seed=1), candidates=1, max_passes=2)
    exact = capacity_labels_of_blocks([scores], randn(60, seed=1), candidates=1)
    assert early.gap > 1e-3
    assert exact.gap <= 1e-11
    assert early.score <= exact.score <= early.bound


def test_start_from_a_sample_of_the_samples_reaches_the_optimum():
    scores = clustered(3000, 50)
    want = capacity_labels(scores).score.item()
    with patched(SAMPLE_ENTRIES=10_000):
        result = capacity_labels_of_blocks(scores.split(170), zeros(scores), candidates=8)
        again = capacity_labels_of_blocks([scores], zeros(scores), candidates=8)
    assert result.score.item() == pytest.approx(want, abs=1e-9)
    assert torch.equal(result.labels, again.labels)


@pytest.mark.parametrize("kind", ["clustered", "alike", "tied", "normal"])
def test_twenty_thousand_samples_are_proved_optimal(kind):
    scores = {
        "clustered": clustered(20_000, 100),
        "alike": torch.full((20_000, 100), 0.3),
        "tied": (clustered(20_000, 100) * 10).round(),
        "normal": randn(20_000, 100, dtype=torch.float32),
    }[kind]
    result = capacity_labels_of_blocks(scores.half().split(3000), zeros(scores))
    assert torch.equal(counts(result.labels, 100), torch.full((100,), 200))
    assert result.gap <= 1e-8  # sums of 20,000 float64 numbers of size up to ten


@pytest.mark.parametrize("k", [2**15, 2**15 + 1])
def test_candidates_are_the_best_classes_however_many_there_are(k):
    scores = randn(3, k)
    is_open, none = torch.ones(k, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
    table = survey([scores], zeros(scores), is_open, count=k // 2, columns=none, labels=None, size=None).table
    assert torch.equal(table.classes.long(), scores.topk(k // 2, dim=1).indices)
    assert int(table.classes.max()) > 2**14


@st.composite
def tables(draw, candidates=2):
    """Candidates of some samples, with a ceiling and a whole column, and prices."""
    n, k = draw(st.integers(2, 12), label="n"), draw(st.integers(4, 7), label="k")
    scores = draw(tensors((n, k), -1.0, 1.0), label="scores")
    prices = draw(tensors((k,), -0.5, 0.5), label="prices").double()
    is_open, column = torch.ones(k, dtype=torch.bool), torch.tensor([draw(st.integers(0, k - 1), label="column")])
    table = survey([scores], prices, is_open, count=candidates, columns=column, labels=None, size=None).table
    return table, prices + 0.1 * draw(tensors((k,), -1.0, 1.0), label="change").double()


def point_of(table, prices, count):
    return Point(table, 0.3, count, count, prices)


@given(drawn=tables(), data=st.data())
def test_excess_and_graph_are_the_derivatives_of_the_objective(drawn, data):
    table, prices = drawn
    k = len(prices)
    count = torch.full((k,), table.shape[0] / k, dtype=torch.float64)
    way = data.draw(tensors((k,), -1.0, 1.0), label="way").double()
    back, here, ahead = (point_of(table, prices + shift * way, count) for shift in (-1e-4, 0.0, 1e-4))
    # The prices are the dual variables: mass falls where they rise. Error of the third derivative, 1e-8 / 0.3 ** 2.
    slope = (ahead.objective - back.objective) / 2e-4
    assert slope == pytest.approx(-torch.dot(here.excess, way).item(), abs=1e-5)
    with patched(LEAST_LABEL=1e-12):
        graph = Graph(point_of(table, prices, count), torch.zeros(k, dtype=torch.bool))
    torch.testing.assert_close(graph.image(way / 0.3), (back.excess - ahead.excess) / 2e-4, rtol=0.0, atol=1e-5)


@given(drawn=tables(candidates=7), data=st.data())
def test_price_that_moves_to_its_nearest_change_meets_the_count_alone(drawn, data):
    table, prices = drawn
    k = len(prices)
    count = counts(table.best(prices)[0], k)
    label = data.draw(st.integers(0, k - 1), label="class")
    excess = torch.zeros(k, dtype=torch.int64)
    excess[label] = data.draw(st.integers(-int(table.shape[0] - count[label]), int(count[label])), label="excess")
    change = nearest_changes(table, prices, excess)
    assert bool((change[excess == 0] == 0).all())
    assert change[label] * excess[label] >= 0
    wanted = count[label] - excess[label]
    for nudge in (-1e-9, 1e-9):
        moved = prices + change
        moved[label] += nudge
        met = counts(table.best(moved)[0], k)[label]
        # At the tie itself either side is right.
        assert excess[label] == 0 or (met >= wanted if nudge < 0 else met <= wanted)
