"""mAP: against published tables, against a slow evaluator written step by step, and on problems solved by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.case_wtal.data.recording import Segment
from examples.case_wtal.evaluation import (
    ACTIVITYNET,
    PROTOCOLS,
    THUMOS14,
    THUMOS14_210,
    THUMOS14_WIDE,
    Detections,
    Protocol,
    evaluate,
)
from tests.case_wtal.shared_data import autoloc, thumos14_truth_210, thumos14_truth_212

TWO_VIDEOS = THUMOS14_210.drop_videos


def detections(*rows):
    """Detections from (video, label, start, end, score) tuples."""
    return Detections(*map(np.array, zip(*rows, strict=True))) if rows else Detections.empty()


def assert_same_rows(actual, expected):
    for column in ("video", "label", "start", "end", "score"):
        np.testing.assert_array_equal(getattr(actual, column), getattr(expected, column), err_msg=column)


def rows_of(found):
    return list(zip(*(getattr(found, c).tolist() for c in ("video", "label", "start", "end", "score")), strict=True))


def slow_tiou(a, b):
    inner = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inner / ((a[1] - a[0]) + (b[1] - b[0]) - inner)


def reversed_stable(values):
    """Indices by descending value, the last of equals first."""
    return sorted(range(len(values)), key=lambda i: values[i])[::-1]


def slow_ap(truth, rows, threshold):
    """AP of one class: `truth` maps a video to [(start, end)], `rows` are (video, start, end, score)."""
    taken, hits = set(), []
    for i in reversed_stable([row[3] for row in rows]):
        video, start, end, _ = rows[i]
        hit = False
        if end > start:
            overlaps = [slow_tiou((start, end), segment) for segment in truth.get(video, [])]
            for j in reversed_stable(overlaps):
                if overlaps[j] < threshold:
                    break
                if (video, j) not in taken:
                    taken.add((video, j))
                    hit = True
                    break
        hits.append(hit)
    recall, precision, found = [0.0], [0.0], 0
    total = sum(map(len, truth.values()))
    for rank, hit in enumerate(hits, start=1):
        found += hit
        recall.append(found / total)
        precision.append(found / rank)
    recall.append(1.0)
    precision.append(0.0)
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def slow_evaluate(truth, found, tious):
    """Class name -> AP per threshold."""
    labels = []
    for segments in truth.values():
        for segment in segments:
            if segment.end > segment.start and segment.label not in labels:
                labels.append(segment.label)
    result = {}
    for label in labels:
        own = {
            video: [(s.start, s.end) for s in segments if s.label == label and s.end > s.start]
            for video, segments in truth.items()
        }
        rows = [(v, s, e, score) for v, name, s, e, score in rows_of(found) if name == label]
        result[label] = [slow_ap(own, rows, threshold) if rows else 0.0 for threshold in tious]
    return result


# Few whole seconds and few scores: ties in tIoU, in score and with thresholds are the rule, not the exception.
seconds = st.integers(0, 12).map(float)
scores = st.integers(0, 4).map(float) | st.floats(-1, 1, allow_subnormal=False)
detected = st.tuples(st.sampled_from(["v0", "v1", "v2", "unseen"]), st.sampled_from("abcx"), seconds, seconds, scores)
instance = st.builds(Segment, seconds, seconds, st.sampled_from("abc"))
ground_truths = st.fixed_dictionaries({v: st.lists(instance, max_size=7) for v in ("v0", "v1", "v2")}).filter(
    lambda truth: any(s.end > s.start for segments in truth.values() for s in segments)
)


@settings(max_examples=300, deadline=None)
@given(ground_truths, st.lists(detected, max_size=40))
def test_matches_the_slow_evaluator(truth, rows):
    found = detections(*rows)
    result = evaluate(truth, found, THUMOS14_WIDE)
    expected = slow_evaluate(truth, found, THUMOS14_WIDE.tious)
    assert result.classes == tuple(expected)
    # The two sum the same terms in different orders.
    np.testing.assert_allclose(result.ap, list(expected.values()), rtol=0, atol=1e-12)


wide = st.tuples(st.floats(-1e6, 1e6), st.floats(0, 50), st.sampled_from("ab"), st.sampled_from(["v0", "v1"]))


@settings(max_examples=150, deadline=None)
@given(st.lists(wide, min_size=1, max_size=12), st.lists(st.tuples(st.integers(0, 11), st.floats(-9, 9)), max_size=12))
def test_matches_the_slow_evaluator_on_long_recordings(segments, near):
    truth = {"v0": [], "v1": []}
    for start, length, label, video in segments:
        truth[video].append(Segment(start, start + length, label))
    rows = []
    for i, (which, shift) in enumerate(near):
        start, length, label, video = segments[which % len(segments)]
        rows.append((video, label, start + shift, start + length, float(i % 5)))
    if any(s.end > s.start for own in truth.values() for s in own):
        expected = slow_evaluate(truth, detections(*rows), THUMOS14.tious)
        # The two sum the same terms in different orders.
        np.testing.assert_allclose(evaluate(truth, detections(*rows)).ap, list(expected.values()), rtol=0, atol=1e-12)


def test_times_near_the_largest_number_are_matched_too():
    truth = {"v": [Segment(0, 1, "a"), Segment(0, 1e308, "a")]}
    found = detections(("v", "a", 0, 1, 0.9), ("v", "a", 0, 1e308, 0.8))
    with np.errstate(over="ignore"):
        assert evaluate(truth, found).average == 0.5  # the union of two such segments is infinite


@settings(max_examples=50, deadline=None)
@given(ground_truths, st.lists(detected, max_size=30, unique_by=lambda row: row[4]), st.randoms())
def test_order_of_input_does_not_matter_without_ties(truth, rows, random):
    truth = {
        video: [Segment(s.start + 0.0137 * i, s.end + 0.0291 * i * i, s.label) for i, s in enumerate(segments)]
        for video, segments in truth.items()
    }
    shuffled = random.sample(rows, len(rows))
    turned = {video: truth[video] for video in reversed(truth)}
    first, second = evaluate(truth, detections(*rows)), evaluate(turned, detections(*shuffled))
    np.testing.assert_array_equal(first.ap[np.argsort(first.classes)], second.ap[np.argsort(second.classes)])


@pytest.mark.parametrize(("name", "values"), [("th14", 10), ("an12", 11)])
def test_autoloc_tables_to_the_printed_digits(name, values):
    truth, found, tious, printed = autoloc(name)
    result = evaluate(truth, found, Protocol(name, tious))
    ours = np.append(result.mean_ap, result.average)
    assert len(printed) == values
    np.testing.assert_array_equal(np.round(ours, 3), printed)


def test_thumos14_ground_truths_count_as_published():
    assert evaluate(thumos14_truth_210(), Detections.empty()).instances.sum() == 3311
    assert evaluate(thumos14_truth_212(), Detections.empty()).instances.sum() == 3358
    assert set(thumos14_truth_212()) - set(thumos14_truth_210()) == set(TWO_VIDEOS)


TRUTH = {"v": [Segment(0, 10, "a"), Segment(20, 30, "a")], "w": [Segment(5, 6, "b")]}
PERFECT = detections(("v", "a", 0, 10, 0.9), ("w", "b", 5, 6, 0.1), ("v", "a", 20, 30, 0.2))


def test_perfect_detections_score_one():
    np.testing.assert_array_equal(evaluate(TRUTH, PERFECT, THUMOS14_WIDE).ap, 1.0)


def test_a_class_without_detections_counts_zero():
    np.testing.assert_array_equal(evaluate(TRUTH, PERFECT.of("v")).mean_ap, 0.5)
    assert evaluate(TRUTH, Detections.empty()).average == 0.0


def test_a_class_that_the_ground_truth_lacks_changes_nothing():
    extra = Detections.concatenate([PERFECT, detections(("v", "other", 0, 10, 5.0))])
    np.testing.assert_array_equal(evaluate(TRUTH, extra).ap, 1.0)


def test_a_detection_in_an_unknown_video_is_a_false_positive():
    extra = Detections.concatenate([PERFECT, detections(("nowhere", "b", 5, 6, 5.0))])
    np.testing.assert_array_equal(evaluate(TRUTH, extra).ap[1], 0.5)


@pytest.mark.parametrize("segment", [(5, 5), (6, 5), (7, 3)], ids=["zero", "inverted", "inverted, long"])
def test_a_detection_without_length_is_a_false_positive(segment):
    extra = Detections.concatenate([PERFECT, detections(("w", "b", *segment, 5.0))])
    np.testing.assert_array_equal(evaluate(TRUTH, extra).ap[1], 0.5)


@pytest.mark.parametrize("segment", [(5, 5), (6, 5)], ids=["zero", "inverted"])
def test_ground_truth_without_length_is_dropped(segment):
    truth = {**TRUTH, "u": [Segment(*segment, "b"), Segment(*segment, "only here")]}
    result = evaluate(truth, PERFECT)
    assert result.classes == ("a", "b")
    np.testing.assert_array_equal(result.ap, 1.0)


@pytest.mark.parametrize("tious", [(0.3,), (0.1 + 0.2,), tuple(np.arange(0.1, 0.35, 0.1)[2:])])
def test_a_tiou_of_exactly_the_threshold_is_enough(tious):
    result = evaluate({"v": [Segment(0, 10, "a")]}, detections(("v", "a", 0, 3, 1.0)), Protocol("one", tious))
    np.testing.assert_array_equal(result.ap, [[1.0]])


def test_a_second_detection_of_a_found_instance_is_a_false_positive():
    found = detections(("v", "a", 0, 10, 0.9), ("v", "a", 0, 10, 0.8), ("v", "a", 20, 30, 0.7))
    # precision 1 where the first instance is found, 2/3 where the second is
    np.testing.assert_allclose(evaluate({"v": TRUTH["v"]}, found).ap, (1 + 2 / 3) / 2, rtol=1e-15)


def test_the_second_best_free_instance_is_taken():
    truth = {"v": [Segment(0, 10, "a"), Segment(2, 12, "a")]}
    found = detections(("v", "a", 0, 10, 0.9), ("v", "a", 0, 10, 0.8))
    # tIoU with the second instance is 8/12
    np.testing.assert_array_equal(evaluate(truth, found, Protocol("p", (0.6, 0.7))).ap, [[1.0, 0.5]])


def test_of_equal_tious_the_last_instance_of_the_input_is_taken():
    truth = {"v": [Segment(0, 4, "a"), Segment(4, 8, "a")]}
    found = detections(("v", "a", 0, 8, 0.9), ("v", "a", 4, 8, 0.8))
    # the long one takes the second instance, with which the short one would have matched
    assert evaluate(truth, found, Protocol("p", (0.5,))).average == 0.5
    truth["v"].reverse()
    assert evaluate(truth, found, Protocol("p", (0.5,))).average == 1.0


def test_of_equal_scores_the_last_of_the_input_goes_first():
    truth = {"v": [Segment(0, 4, "a")]}
    found = detections(("v", "a", 0, 4, 0.5), ("v", "a", 8, 9, 0.5))
    assert evaluate(truth, found).average == 0.5
    assert evaluate(truth, found.select(np.array([1, 0]))).average == 1.0


def test_protocols_have_the_thresholds_of_their_data_sets():
    assert THUMOS14.tious == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert THUMOS14_WIDE.tious == (*THUMOS14.tious, 0.8, 0.9)
    assert ACTIVITYNET.tious == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert PROTOCOLS["thumos14"] is THUMOS14


def test_thresholds_are_rounded_to_ten_digits():
    assert Protocol("p", np.arange(0.1, 0.75, 0.1)) == Protocol("p", THUMOS14.tious)


@pytest.mark.parametrize(
    ("protocol", "line"),
    [
        (THUMOS14, "thumos14: ActivityNet-style AP, tIoU .1:.1:.7"),
        (ACTIVITYNET, "activitynet: ActivityNet-style AP, tIoU .5:.05:.95"),
        (Protocol("two", (0.5, 1)), "two: ActivityNet-style AP, tIoU .5 1"),
        (
            THUMOS14.rounded(0.64).without("x", "y"),
            "thumos14-rounded-0.64s-without-2: ActivityNet-style AP, tIoU .1:.1:.7, "
            "ground truth rounded to 0.64 s, without x y",
        ),
    ],
)
def test_a_protocol_describes_itself(protocol, line):
    assert protocol.describe() == line


def test_rounding_moves_ground_truth_to_whole_snippets():
    truth = {"v": [Segment(1.2, 2.9, "a")]}
    found = detections(("v", "a", 1.0, 3.0, 1.0))
    strict = Protocol("strict", (0.99,))
    assert evaluate(truth, found, strict).average == 0.0
    assert evaluate(truth, found, strict.rounded(1.0)).average == 1.0


def test_rounding_leaves_detections():
    found = detections(("v", "a", 1.2, 2.9, 1.0))
    assert evaluate({"v": [Segment(1, 3, "a")]}, found, Protocol("p", (0.85, 0.86)).rounded(1.0)).average == 0.5


def test_rounding_meets_a_tiou_of_one_half_on_the_snippet_grid():
    # In seconds the tIoU is 0.4999999999999998.
    truth, found = {"v": [Segment(19.2, 20.48, "a")]}, detections(("v", "a", 19.2, 19.84, 1.0))
    assert evaluate(truth, found, Protocol("p", (0.5,)).rounded(0.64)).average == 1.0


def test_an_instance_rounded_to_nothing_still_counts():
    truth = {"v": [Segment(0, 4, "a"), Segment(7.9, 8.1, "a")]}
    result = evaluate(truth, detections(("v", "a", 0, 4, 1.0), ("v", "a", 7.9, 8.1, 0.5)), THUMOS14.rounded(1.0))
    assert (result.instances.tolist(), result.average) == ([2], 0.5)


def test_dropped_videos_lose_ground_truth_and_detections():
    found = Detections.concatenate([detections(("w", "a", 0, 9, 5.0)), PERFECT])
    result = evaluate(TRUTH, found, THUMOS14.without("w"))
    assert result.classes == ("a",)
    np.testing.assert_array_equal(result.ap, 1.0)


def test_average_over_takes_both_ends():
    result = evaluate({"v": [Segment(0, 10, "a")]}, detections(("v", "a", 0, 3, 1.0)))
    np.testing.assert_array_equal(result.mean_ap, [1, 1, 1, 0, 0, 0, 0])
    assert result.average == pytest.approx(3 / 7)
    assert result.average_over(0.1, 0.5) == pytest.approx(3 / 5)
    assert result.average_over(0.3, 0.7) == pytest.approx(1 / 5)
    assert result.average_over(0.3, 0.3) == 1.0


def test_the_table_names_protocol_classes_and_means():
    result = evaluate(TRUTH, PERFECT.select(PERFECT.label == "a"))
    lines = result.lines()
    assert lines[0] == THUMOS14.describe()
    assert lines[2].split() == ["AP", "in", "%", "instances", ".1", ".2", ".3", ".4", ".5", ".6", ".7", "mean"]
    assert lines[4].split() == ["a", "2", *["100.0"] * 8]
    assert lines[-1].split() == ["mean", "of", "2", "classes", "3", *["50.0"] * 8]
    assert len({len(line) for line in lines[1:]}) == 1
    assert repr(result).splitlines() == [*lines[:4], lines[-1]]


def test_detections_survive_a_results_file(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(3, 50)) * np.logspace(-300, 300, 50)
    names = np.repeat(["b", "a", "c", "é|,"], [20, 5, 24, 1])
    found = Detections(names, names[::-1], *numbers)
    found.write(tmp_path / "results.json", version="v1")
    assert_same_rows(Detections.read(tmp_path / "results.json"), found)
    content = json.loads((tmp_path / "results.json").read_text())
    assert set(content) == {"version", "results", "external_data"}
    assert content["results"]["b"][0]["segment"] == [found.start[0], found.end[0]]


def test_a_results_file_without_entries_reads_as_empty():
    assert len(Detections.from_results({"results": {"v": []}})) == 0
    assert len(Detections.from_results(Detections.empty().to_results())) == 0


def test_of_picks_one_video_in_order():
    assert rows_of(PERFECT.of("v")) == [("v", "a", 0.0, 10.0, 0.9), ("v", "a", 20.0, 30.0, 0.2)]
    assert repr(PERFECT.of("nowhere")) == "Detections(0 segments, 0 videos)"


def test_concatenate_keeps_order_and_long_names():
    parts = [detections(("v", "a", 0, 1, 1)), Detections.empty(), detections(("a longer name", "b", 2, 3, 4))]
    assert rows_of(Detections.concatenate(parts)) == [("v", "a", 0, 1, 1), ("a longer name", "b", 2, 3, 4)]
    assert len(Detections.concatenate([])) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("column", "place"), [("start", 2), ("end", 3), ("score", 4)])
def test_times_and_scores_that_are_not_finite_are_named(column, place, value):
    row = ["vid", "lab", 0.0, 1.0, 0.5]
    row[place] = value
    message = rf"`{column}` must be finite, got {value} at index 1 \(video vid, label lab\) and 0 more\. Drop"
    with pytest.raises(ValueError, match=message):
        detections(("v", "a", 0.0, 1.0, 0.5), tuple(row))


def test_columns_of_different_length_are_an_error():
    with pytest.raises(ValueError, match=r"`score` must be 1-D and of one length, got shapes .*\(2,\).* Give one row"):
        Detections(["v"], ["a"], [0.0], [1.0], [0.5, 0.6])


@pytest.mark.parametrize("results", [{}, {"results": []}, [1]])
def test_a_file_of_another_form_is_an_error(results):
    with pytest.raises(ValueError, match=r"`results` must be a mapping .* got (dict|list) without it\. Pass the whole"):
        Detections.from_results(results)


@pytest.mark.parametrize(
    "entry",
    [
        {"score": 1.0, "segment": [0, 1]},
        {"label": "a", "score": 1.0, "segment": [0]},
        {"label": "a", "segment": [0, 1]},
    ],
)
def test_a_malformed_entry_is_named(entry):
    good = {"label": "a", "score": 1.0, "segment": [0, 1]}
    with pytest.raises(ValueError, match=r"`results` must hold entries .* \(video v, index 1\)\. Correct or drop"):
        Detections.from_results({"results": {"v": [good, entry]}})


@pytest.mark.parametrize("tious", [(), (0.0, 0.5), (0.5, 1.1), (0.5, 0.3), (0.5, 0.5), (math.nan,)])
def test_thresholds_out_of_range_are_an_error(tious):
    with pytest.raises(ValueError, match=r"`tious` must be ascending thresholds in \(0, 1\], got .* Use for example"):
        Protocol("p", tious)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_snippet_without_length_is_an_error(seconds):
    with pytest.raises(ValueError, match=r"`round_to` must be None or positive seconds, got .*\. Give"):
        THUMOS14.rounded(seconds)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.75), (0.15, 0.5), (0.5, 0.1)])
def test_averaging_outside_the_protocol_is_an_error(low, high):
    result = evaluate(TRUTH, PERFECT)
    with pytest.raises(ValueError, match=r"`low` and `high` must be thresholds .* Choose among \.1:\.1:\.7, or"):
        result.average_over(low, high)


@pytest.mark.parametrize("truth", [{}, {"v": []}, {"v": [Segment(3, 3, "a")]}])
def test_empty_ground_truth_is_an_error(truth):
    message = (
        rf"`ground_truth` must hold at least one .* got none in {len(truth)} videos under protocol 'thumos14'\. Check"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(truth, PERFECT)


def test_ground_truth_that_is_not_finite_is_named():
    truth = {"v": [Segment(0, 1, "a"), Segment(0, math.nan, "a")]}
    with pytest.raises(ValueError, match=r"`ground_truth` must be finite, got .*nan.* \(video v, index 1\)\. Corr"):
        evaluate(truth, PERFECT)
