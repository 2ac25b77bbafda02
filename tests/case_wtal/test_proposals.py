"""Proposals: against a slow program of plain loops, and on sequences solved by hand."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.case_wtal.proposals import NMS_KINDS, ProposalConfig, propose, suppress

CLASSES = ("a", "b", "c")
# One sample per snippet and one threshold, nothing else in the score: answers can be read off the sequence.
PLAIN = ProposalConfig(thresholds=(0.5,), upsample=1, class_weight=0.0)


def rows_of(found):
    return list(zip(found.label.tolist(), found.start.tolist(), found.end.tolist(), found.score.tolist(), strict=True))


def one_class(values, config=PLAIN, seconds=None, video_score=1.0):
    """(start, end, score) of the proposals for one class with these scores, one second per snippet by default."""
    column = np.array(values, float)[:, None]
    found = propose("v", column, np.array([video_score]), seconds or len(values), ["a"], config)
    return [row[1:] for row in rows_of(found)]


def slow_nms(segments, config):
    """(start, end, score) segments -> those that remain, by descending score."""
    competing = sorted(segments, key=lambda s: -s[2])
    result = []
    while competing:
        best = competing.pop(0)
        group, still = [best], []
        for start, end, score in competing:
            inner = max(0.0, min(end, best[1]) - max(start, best[0]) + config.length_offset)
            lengths = (end - start + config.length_offset, best[1] - best[0] + config.length_offset)
            tiou = inner / (sum(lengths) - inner)
            decay = math.exp(-(tiou**2) / config.decay_alpha)
            if config.nms == "soft":
                still.append((start, end, score * decay if score > 0 else score))
            elif tiou <= config.nms_tiou:
                still.append((start, end, score))
            elif config.nms == "released_decay":
                result.append((start, end, score * decay))
            elif config.nms == "fusion":
                group.append((start, end, score))
        weights = [math.exp((score - best[2]) / config.fusion_temperature) for _, _, score in group]
        times = [sum(w * s[i] for w, s in zip(weights, group, strict=True)) / sum(weights) for i in (0, 1)]
        result.append((*times, best[2]))
        competing = sorted(still, key=lambda s: -s[2])
    return sorted(result, key=lambda s: -s[2])


def slow_runs(values, threshold):
    runs, start = [], None
    for i, value in enumerate([*values, -1.0]):
        if value > threshold and start is None:
            start = i
        if value <= threshold and start is not None:
            runs.append((start, i))
            start = None
    return runs


def slow_propose(class_scores, video_scores, seconds, config):
    """(class index, start, end, score) rows."""
    length, width = class_scores.shape
    searched = [g for g in range(width) if video_scores[g] > config.class_gate] or [int(np.argmax(video_scores))]
    total = length * config.upsample
    result = []
    for g in searched:
        series = torch.from_numpy(class_scores[:, g])[None, None]
        values = torch.nn.functional.interpolate(series, size=total, mode="linear", align_corners=False)[0, 0].tolist()
        segments = []
        for threshold in config.thresholds:
            for start, end in slow_runs(values, threshold):
                margin = int(config.oic_margin * (end - start))
                outside = values[max(start - margin, 0) : start] + values[end : end + margin]
                contrast = sum(values[start:end]) / (end - start) - (sum(outside) / len(outside) if outside else 0.0)
                score = contrast + config.class_weight * video_scores[g]
                segments.append((start * seconds / total, end * seconds / total, score))
        result += [(g, *segment) for segment in slow_nms(segments, config)]
    return result


configs = st.builds(
    ProposalConfig,
    thresholds=st.sampled_from([(0.5,), (0.0, 0.3, 0.9), tuple(i / 10 for i in range(1, 10))]),
    upsample=st.sampled_from([1, 2, 5, 24]),
    oic_margin=st.sampled_from([0.0, 0.15, 0.25, 1.5]),
    class_weight=st.sampled_from([0.0, 0.2]),
    class_gate=st.sampled_from([0.1, 0.25, 0.9]),
    nms_tiou=st.sampled_from([0.0, 0.4, 0.7, 1.0]),
    nms=st.sampled_from(NMS_KINDS),
    decay_alpha=st.sampled_from([0.35, 2.0]),
    length_offset=st.sampled_from([0.0, 1.0]),
)


@settings(max_examples=150, deadline=None)
@given(configs, st.integers(1, 25), st.integers(0, 2**32 - 1))
def test_matches_the_slow_program(config, length, seed):
    rng = np.random.default_rng(seed)
    class_scores, video_scores = rng.random((length, 3)) ** rng.choice([0.3, 1, 3]), rng.random(3)
    seconds = length * config.upsample / 2  # steps of 0.5 s, exact: a tIoU of 0.4 is 0.4 in both
    found = propose("v", class_scores, video_scores, seconds, CLASSES, config)
    expected = slow_propose(class_scores, video_scores, seconds, config)
    assert found.label.tolist() == [CLASSES[row[0]] for row in expected]
    # Cumulative sums round differently from sums. Sorted, since scores equal on paper may then change places.
    ours = sorted((label, round(s, 6), round(e, 6), round(x, 6)) for label, s, e, x in rows_of(found))
    theirs = sorted((CLASSES[g], round(s, 6), round(e, 6), round(x, 6)) for g, s, e, x in expected)
    np.testing.assert_allclose([r[1:] for r in ours], [r[1:] for r in theirs], rtol=0, atol=3e-6)


@pytest.mark.parametrize("kind", NMS_KINDS)
@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), st.integers(-3, 9)), max_size=25),
    tiou=st.sampled_from([0.0, 0.25, 0.4, 1.0]),
    offset=st.sampled_from([0.0, 1.0]),
)
def test_nms_matches_the_slow_loop(kind, rows, tiou, offset):
    config = ProposalConfig(nms=kind, nms_tiou=tiou, length_offset=offset)
    segments = [(float(start), float(start + length), score / 10) for start, length, score in rows]
    start, end, score = np.array(segments).reshape(-1, 3).T
    before = start.copy(), end.copy(), score.copy()
    found = suppress(start, end, score, config)
    ours = sorted(zip(*(np.round(column, 9) for column in found), strict=True))
    expected = [tuple(np.round(s, 9).tolist()) for s in slow_nms(segments, config)]
    np.testing.assert_allclose(ours, sorted(expected), atol=2e-9)
    assert (np.diff(found[2]) <= 0).all()
    np.testing.assert_array_equal(before, (start, end, score))


def test_the_score_is_mean_inside_minus_mean_of_the_pooled_sides():
    # a run of 4, so a margin of one: inside mean .8, outside (.1 + .3) / 2
    values = [0.0, 0.1, 0.9, 0.7, 0.7, 0.9, 0.3, 0.0]
    assert one_class(values) == [(2.0, 6.0, pytest.approx(0.8 - 0.2, abs=1e-12))]


def test_sides_are_cut_at_the_ends_of_the_recording():
    # only one sample is left outside, on the right; its weight is its own, not half
    assert one_class([0.8, 0.8, 0.8, 0.8, 0.3, 0.1]) == [(0.0, 4.0, pytest.approx(0.5, abs=1e-12))]


@pytest.mark.parametrize("values", [[0.8, 0.6], [0.1, 0.8, 0.6, 0.1]], ids=["whole recording", "margin below one step"])
def test_nothing_outside_counts_as_zero(values):
    assert one_class(values)[0][2] == pytest.approx(0.7, abs=1e-12)


def test_the_margin_is_cut_to_whole_steps():
    # 0.25 * 7 = 1.75: one step on each side, of .2 and .4; the .1 beyond do not count
    assert one_class([0.1, 0.2, *[0.9] * 7, 0.4, 0.1])[0][2] == pytest.approx(0.9 - 0.3, abs=1e-12)


def test_runs_at_the_first_and_the_last_snippet_are_found():
    assert [row[:2] for row in one_class([0.9, 0.1, 0.1, 0.9])] == [(0.0, 1.0), (3.0, 4.0)]


def test_a_run_is_above_its_threshold_not_at_it():
    assert one_class([0.5, 0.5]) == []


def test_seconds_scale_with_the_recording_and_the_end_is_one_past_the_last_step():
    config = replace(PLAIN, upsample=2)
    # at half-pixel positions: 0 0 .25 .75 1 1
    assert [row[:2] for row in one_class([0, 0, 1], replace(config, thresholds=(0.6,)), seconds=0.6)] == [
        (pytest.approx(0.4), pytest.approx(0.6))
    ]
    assert [row[:2] for row in one_class([0, 0, 1], replace(config, thresholds=(0.2,)), seconds=12)] == [(6.0, 12.0)]


@pytest.mark.parametrize("length", [1, 2, 7])
def test_upsampling_is_that_of_torch(length):
    # Every threshold crossing lies where torch puts it.
    values = np.random.default_rng(length).random(length)
    config = ProposalConfig(thresholds=(0.37,), nms_tiou=1.0)
    dense = torch.nn.functional.interpolate(torch.tensor(values)[None, None], scale_factor=24, mode="linear")[0, 0]
    starts_and_ends = sorted(row[:2] for row in one_class(values, config, seconds=24 * length))
    np.testing.assert_allclose(starts_and_ends, np.array(slow_runs(dense, 0.37)), atol=1e-9)


@pytest.mark.parametrize(
    ("video_scores", "expected"),
    [
        ([0.3, 0.2, 0.26], ["a", "c"]),
        ([0.3, 0.2, 0.2], ["a"]),
        ([0.2, 0.1, 0.1], ["a"]),
        ([0.1, 0.1, 0.2], ["c"]),
        ([0.25, 0.1, 0.1], ["a"]),
    ],
    ids=["two pass", "class 0 passes alone", "none passes, class 0 highest", "none passes", "at the gate"],
)
def test_classes_above_the_gate_are_searched_else_the_highest(video_scores, expected):
    found = propose("v", np.full((4, 3), 0.9), np.array(video_scores), 4.0, CLASSES, PLAIN)
    assert found.label.tolist() == expected


def test_a_recording_without_runs_gives_nothing():
    assert one_class([0.1, 0.2]) == []


def test_arguments_are_left_as_they_were():
    class_scores, video_scores = np.random.default_rng(0).random((9, 3)), np.ones(3)
    before = class_scores.copy(), video_scores.copy()
    propose("v", class_scores, video_scores, 1.0, CLASSES, ProposalConfig(nms="released_decay"))
    np.testing.assert_array_equal(class_scores, before[0])
    np.testing.assert_array_equal(video_scores, before[1])


def test_released_decay_keeps_the_suppressed_out_of_competition():
    # The second overlaps the first (tIoU 6/10) and, once suppressed, must not suppress the third (tIoU 6/12 with it).
    start, end, score = np.array([0.0, 0, 3]), np.array([10.0, 6, 9]), np.array([0.9, 0.8, 0.3])
    config = ProposalConfig(nms="released_decay", nms_tiou=0.59)
    kept_start, _, kept_score = suppress(start, end, score, config)
    decay = math.exp(-(0.6**2) / 0.35)
    assert kept_start.tolist() == [0, 0, 3]
    np.testing.assert_allclose(kept_score, [0.9, 0.8 * decay, 0.3 * decay])


def test_a_tiou_at_the_nms_threshold_is_no_overlap():
    start, end, score = np.array([0.0, 0.0]), np.array([10.0, 5.0]), np.array([0.9, 0.8])
    assert suppress(start, end, score, ProposalConfig(nms_tiou=0.5))[1].tolist() == [10, 5]
    assert suppress(start, end, score, ProposalConfig(nms_tiou=0.49))[1].tolist() == [10]


def test_the_length_offset_makes_neighbours_overlap():
    # Two actions of 2 s, half a second apart: (-0.5 + 1) / (3 + 3 - 0.5) = 0.09.
    start, end, score = np.array([0.0, 2.5]), np.array([2.0, 4.5]), np.array([0.9, 0.8])
    config = ProposalConfig(nms_tiou=0.09)
    assert suppress(start, end, score, config)[0].tolist() == [0, 2.5]
    assert suppress(start, end, score, replace(config, length_offset=1.0))[0].tolist() == [0]


def test_fusion_averages_the_boundaries_of_a_group_by_their_scores():
    start, end, score = np.array([0.0, 2, 50]), np.array([10.0, 12, 60]), np.array([0.9, 0.8, 0.3])
    config = ProposalConfig(nms="fusion", fusion_temperature=0.1)
    share = 1 / (1 + math.exp(-1))
    found = suppress(start, end, score, config)
    np.testing.assert_allclose(found[0], [2 * (1 - share), 50])
    np.testing.assert_allclose(found[1], [10 * share + 12 * (1 - share), 60])
    np.testing.assert_allclose(found[2], [0.9, 0.3])


def test_soft_nms_does_not_lift_negative_scores():
    start, end, score = np.zeros(3), np.full(3, 10.0), np.array([0.9, 0.8, -0.5])
    assert suppress(start, end, score, ProposalConfig(nms="soft"))[2][-1] == -0.5


OTHER_VALUES = {
    "thresholds": (0.2, 0.45),
    "upsample": 3,
    "oic_margin": 1.0,
    "class_weight": 0.5,
    "class_gate": 0.7,
    "nms_tiou": 0.9,
    "nms": "hard",
    "decay_alpha": 1.0,
    "fusion_temperature": 5.0,
    "length_offset": 1.0,
}


@pytest.mark.parametrize("field", [field.name for field in fields(ProposalConfig)])
def test_every_setting_changes_the_answer(field):
    rng = np.random.default_rng(3)
    base = ProposalConfig(nms="fusion" if field == "fusion_temperature" else "released_decay")
    arguments = ("v", rng.random((20, 3)), np.array([0.9, 0.6, 0.3]), 6.0, CLASSES)
    assert getattr(base, field) != OTHER_VALUES[field]
    changed = propose(*arguments, replace(base, **{field: OTHER_VALUES[field]}))
    assert rows_of(propose(*arguments, base)) == rows_of(propose(*arguments, base))
    assert rows_of(changed) != rows_of(propose(*arguments, base))


def test_the_default_settings_are_those_of_the_field():
    assert ProposalConfig().thresholds == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    arguments = ("v", np.random.default_rng(0).random((9, 3)), np.ones(3), 6.0, CLASSES)
    assert rows_of(propose(*arguments)) == rows_of(propose(*arguments, ProposalConfig()))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("thresholds", ()),
        ("thresholds", (0.5, 1.0)),
        ("thresholds", (-0.1,)),
        ("thresholds", (math.nan,)),
        ("upsample", 0),
        ("upsample", 1.5),
        ("oic_margin", -0.1),
        ("oic_margin", math.inf),
        ("class_weight", -1.0),
        ("class_gate", 1.1),
        ("nms_tiou", math.nan),
        ("nms", "gentle"),
        ("decay_alpha", 0.0),
        ("fusion_temperature", 0.0),
        ("length_offset", -1.0),
    ],
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(
        ValueError, match=rf"`{field}` must be .*, got .*\. Correct it, or leave it out for the default"
    ):
        ProposalConfig(**{field: value})


@pytest.mark.parametrize("shape", [(4, 2), (0, 3), (3,), (1, 4, 3)])
def test_class_scores_of_another_shape_are_an_error(shape):
    with pytest.raises(ValueError, match=r"`class_scores` must have shape \(T, 3\) .* got \(.*\) for video 'v'\. Give"):
        propose("v", np.zeros(shape), np.ones(3), 1.0, CLASSES)


@pytest.mark.parametrize("value", [math.nan, 3.5, -0.2])
def test_class_scores_that_are_no_probabilities_are_named(value):
    class_scores = np.zeros((4, 3))
    class_scores[2, 1] = value
    message = (
        rf"`class_scores` must lie in \[0, 1\], got {value} at snippet 2 of class 'b' in video 'v' and 0 more\. Pass"
    )
    with pytest.raises(ValueError, match=message):
        propose("v", class_scores, np.ones(3), 1.0, CLASSES)


@pytest.mark.parametrize("video_scores", [np.ones(2), np.array([1, np.nan, 1]), np.ones((1, 3))])
def test_video_scores_are_checked(video_scores):
    with pytest.raises(
        ValueError, match=r"`video_scores` must be finite with shape \(3,\), got shape .* 'v'\. Give one"
    ):
        propose("v", np.zeros((4, 3)), video_scores, 1.0, CLASSES)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_recording_without_length_is_an_error(seconds):
    with pytest.raises(
        ValueError, match=r"`seconds` must be positive and finite, got .* for video 'v'\. Give the length"
    ):
        propose("v", np.zeros((4, 3)), np.ones(3), seconds, CLASSES)


@pytest.mark.parametrize(
    "columns", [([0.0], [1.0, 2.0], [0.5]), ([[0.0]], [[1.0]], [[0.5]]), ([0.0], [1.0], [math.nan])]
)
def test_nms_checks_its_columns(columns):
    with pytest.raises(ValueError, match=r"`start`, `end` and `score` must be finite, 1-D .* got shapes .*\. Give one"):
        suppress(*map(np.array, columns), ProposalConfig())
