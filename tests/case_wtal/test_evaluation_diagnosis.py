"""Error profile, sensitivity and average recall, against loops written from their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.case_wtal.evaluation import THUMOS14, Detections, Protocol, evaluate
from examples.case_wtal.evaluation.diagnosis import OUTCOMES, THUMOS14_BINS, error_profile, sensitivity
from examples.case_wtal.evaluation.ground_truth import GroundTruth
from examples.case_wtal.evaluation.recall import average_recall
from examples.case_wtal.segments import Segment
from tests.case_wtal.shared_data import require
from tests.case_wtal.test_evaluation import detected, detections, ground_truths, reversed_stable, slow_tiou

TIOUS = (0.5, 0.75)
PROTOCOL = Protocol("p", TIOUS)
found_rows = st.lists(detected, max_size=40)


def overlap(segment, row):
    return slow_tiou((segment.start, segment.end), row[2:4]) if row[3] > row[2] else 0.0


def slow_problem(truth, rows, threshold):
    """Proper instances as (video, segment), rows by descending score, and the instance that each row takes."""
    instances = [(v, s) for v, own in truth.items() for s in own if s.end > s.start]
    rows = [rows[i] for i in reversed_stable([row[4] for row in rows])]
    rows = [row for row in rows if row[1] in {s.label for _, s in instances}]
    taken = []
    for row in rows:
        overlaps = [overlap(s, row) if (v, s.label) == row[:2] else -1.0 for v, s in instances]
        free = [i for i in reversed_stable(overlaps) if i not in taken and overlaps[i] >= threshold]
        taken.append(free[0] if free else None)
    return instances, rows, taken


def slow_outcome(instances, row, match, threshold):
    if match is not None:
        return "true positive"
    near = [(overlap(s, row), s.label == row[1]) for v, s in instances if v == row[0]]
    top, own = max(near, default=(0.0, False))
    if top >= threshold:
        return "double detection" if own else "wrong label"
    if top >= 0.1:
        return "localization error" if own else "confusion error"
    return "background error"


def slow_normalised_ap(hits, instances, normaliser):
    """AP from precision R N / (R N + FP); N equal to `instances` is the plain one."""
    precision = []
    true = false = 0
    for hit in hits:
        true, false = true + hit, false + (not hit)
        weight = true / instances * normaliser
        precision.append(weight / (weight + false) if weight else 0.0)
    return sum(max(precision[i:]) for i, hit in enumerate(hits) if hit) / instances


@settings(max_examples=150, deadline=None)
@given(ground_truths, found_rows)
def test_error_profile_matches_its_definition(truth, rows):
    profile = error_profile(truth, detections(*rows), PROTOCOL)
    counts = np.zeros((len(TIOUS), 10, 6))
    whole, without = np.zeros(2), np.zeros((2, 6))
    for level, threshold in enumerate(TIOUS):
        instances, ordered, taken = slow_problem(truth, rows, threshold)
        labels = list(dict.fromkeys(s.label for _, s in instances))
        mean = len(instances) / len(labels)
        for label in labels:
            total = sum(s.label == label for _, s in instances)
            own = [(row, match) for row, match in zip(ordered, taken, strict=True) if row[1] == label][: 10 * total]
            outcomes = [OUTCOMES.index(slow_outcome(instances, row, match, threshold)) for row, match in own]
            for rank, outcome in enumerate(outcomes):
                counts[level, rank // total, outcome] += 1
            for i, normaliser in enumerate((total, mean)):
                share = 1 / len(labels) / len(TIOUS)
                whole[i] += share * slow_normalised_ap([o == 0 for o in outcomes], total, normaliser)
                for error in range(1, 6):
                    kept = [o == 0 for o in outcomes if o != error]
                    without[i, error] += share * slow_normalised_ap(kept, total, normaliser)
    np.testing.assert_array_equal(profile.counts, counts)
    # The two sum the same terms in different orders.
    np.testing.assert_allclose([profile.average, profile.normalised_average], whole, rtol=0, atol=1e-12)
    for i, gains in enumerate((profile.gains, profile.normalised_gains)):
        np.testing.assert_allclose(list(gains.values()), without[i, 1:] - whole[i], rtol=0, atol=1e-12)
        assert list(gains) == list(OUTCOMES[1:])


SECONDS = {"v0": 10.0, "v1": 60.0, "v2": 200.0}


def slow_value(name, truth, video, segment):
    if name == "instances":
        return sum(s.label == segment.label and s.end > s.start for s in truth[video])
    length = segment.end - segment.start
    return length if name == "length" else length / SECONDS[video]


@settings(max_examples=100, deadline=None)
@given(ground_truths, found_rows)
def test_sensitivity_matches_its_definition(truth, rows):
    bounds = {**THUMOS14_BINS, "instances": (1, 2, 3, math.inf)}
    result = sensitivity(truth, detections(*rows), PROTOCOL, durations=SECONDS, bins=bounds)
    assert list(result.bins) == list(bounds)
    for name, bins in result.bins.items():
        for one in bins:
            ap, missed = [], []
            for threshold in TIOUS:
                instances, ordered, taken = slow_problem(truth, rows, threshold)
                labels = {s.label for _, s in instances}
                inside = [one.low < slow_value(name, truth, v, s) <= one.high for v, s in instances]
                for label in labels:
                    total = sum(i and s.label == label for i, (_, s) in zip(inside, instances, strict=True))
                    hits = [
                        match is not None
                        for row, match in zip(ordered, taken, strict=True)
                        if row[1] == label and (match is None or inside[match])
                    ]
                    if total:
                        ap.append(slow_normalised_ap(hits, total, len(instances) / len(labels)))
                missed += [i not in taken for i, it_is in enumerate(inside) if it_is]
            assert one.instances == sum(inside)
            np.testing.assert_allclose(one.mean_ap, np.mean(ap) if ap else np.nan, rtol=0, atol=1e-12)
            np.testing.assert_allclose(one.missed, np.mean(missed) if missed else np.nan, rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(ground_truths, found_rows, st.integers(1, 12))
def test_average_recall_matches_its_definition(truth, rows, most):
    result = average_recall(truth, detections(*rows), most=most)
    segments = {v: [s for s in own if s.end > s.start] for v, own in truth.items()}
    segments = {v: own for v, own in segments.items() if own}
    mine = {v: [row for row in rows if row[0] == v] for v in segments}
    best = {v: [own[i] for i in reversed_stable([row[4] for row in own])] for v, own in mine.items()}
    total = sum(map(len, best.values()))
    kept = {v: own[: len(own) * most * len(best) // total] if own else [] for v, own in best.items()}
    left = sum(map(len, kept.values()))
    instances = [(v, s) for v, own in segments.items() for s in own]
    for j in range(100):
        looked = {
            v: own[: len(own) * (j + 1) * most * len(best) // (100 * left)] if own else [] for v, own in kept.items()
        }
        for level, threshold in enumerate(result.tious):
            hits = sum(any(overlap(s, row) >= threshold for row in looked[v]) for v, s in instances)
            assert result.recall[level, j] == pytest.approx(hits / len(instances), abs=1e-12)
        assert result.proposals[j] == pytest.approx((j + 1) * most / 100)
    heights, width = result.recall.mean(axis=0), most / 100
    area = sum((heights[j] + heights[j + 1]) / 2 * width for j in range(99))
    assert result.area == pytest.approx(area / most, abs=1e-12)


def test_recall_is_read_between_points():
    truth = {"v": [Segment(0, 10, "a"), Segment(20, 30, "a")]}
    result = average_recall(truth, detections(("v", "b", 0, 10, 0.9), ("v", "a", 20, 30, 0.8)), most=2)
    assert (result.at(1), result.at(2)) == (0.5, 1.0)
    assert result.at(1.99) == pytest.approx(0.75)


def test_recall_averages_over_the_thresholds_asked_for():
    truth, found = {"v": [Segment(0, 10, "a")]}, detections(("v", "a", 0, 6, 0.9))
    assert average_recall(truth, found, tious=(0.5, 0.6), most=1).at(1) == 1.0
    assert average_recall(truth, found, tious=(0.5, 0.7), most=1).at(1) == 0.5


def test_recall_takes_the_protocols_videos():
    truth = {"v": [Segment(0, 10, "a")], "w": [Segment(0, 10, "a")]}
    found = detections(("v", "a", 0, 10, 0.9))
    assert average_recall(truth, found).at(100) == 0.5
    assert average_recall(truth, found, THUMOS14.without("w")).at(100) == 1.0


def test_of_two_classes_with_the_same_instance_the_detections_own_decides():
    truth = {"v": [Segment(0, 10, "other"), Segment(0, 10, "own"), Segment(0, 10, "more")]}
    found = detections(("v", "own", 0, 10, 0.9), ("v", "own", 0, 10, 0.8))
    counts = error_profile(truth, found, PROTOCOL).counts
    assert counts[0, 1, OUTCOMES.index("double detection")] == 1


def test_shares_sum_to_one_where_there_are_detections():
    truth = {"v": [Segment(0, 10, "a")]}
    found = detections(("v", "a", 0, 10, 0.9), ("v", "a", 0, 4, 0.8))
    shares = error_profile(truth, found, PROTOCOL).shares
    np.testing.assert_allclose(shares.sum(axis=1), [1.0, 1.0, *[0.0] * 8])


def test_without_every_duration_there_is_no_coverage():
    truth = {"v": [Segment(0, 10, "a")], "w": [Segment(0, 10, "a")]}
    found = detections(("v", "a", 0, 10, 0.9))
    assert "coverage" not in sensitivity(truth, found, PROTOCOL, durations={"v": 20.0}).bins
    assert "coverage" not in sensitivity(truth, found, PROTOCOL).bins


def test_decimal_lengths_fall_on_the_bounds_they_name():
    truth = {"v": [Segment(17.1, 20.1, "a")]}  # 3.0000000000000018 seconds in floating point
    bins = sensitivity(truth, Detections.empty(), PROTOCOL).bins["length"]
    assert [one.instances for one in bins] == [1, 0, 0, 0, 0]


def test_lengths_stay_seconds_under_a_rounding_protocol():
    truth = {"v": [Segment(0, 6.4, "a")]}
    bins = sensitivity(truth, Detections.empty(), PROTOCOL.rounded(0.64)).bins["length"]
    assert [one.instances for one in bins] == [0, 0, 1, 0, 0]


def pmil():
    truth = GroundTruth.read(require("thumos14", "thumos14_v2.json"))
    return truth, Detections.read(require("detections", "pmil_base_thumos14", "pmil_base_test.json"))


def test_published_detections_mostly_suffer_from_localization():
    truth, found = pmil()
    profile = error_profile(truth.segments, found, THUMOS14.at(0.5))
    assert profile.counts[0].sum() == 27_649
    assert max(profile.gains, key=profile.gains.get) == "localization error"
    # the best 10 G detections of each class hold all that matters for AP
    assert profile.average == pytest.approx(evaluate(truth.segments, found, THUMOS14.at(0.5)).average, abs=2e-3)


def test_bins_hold_every_published_instance_once():
    truth, found = pmil()
    result = sensitivity(truth.segments, found, THUMOS14.at(0.5), durations=truth.durations)
    assert {name: sum(one.instances for one in bins) for name, bins in result.bins.items()} == {
        "coverage": 3358,
        "length": 3358,
        "instances": 3358,
    }


def test_normalised_ap_of_published_detections_is_what_detads_program_gives():
    # mAP_N in % at .1 .3 .5 .7 and the mean over .1:.1:.7, printed to one decimal
    truth, found = pmil()
    ours = [100 * sensitivity(truth.segments, found, THUMOS14.at(t), bins={}).overall for t in THUMOS14.tious]
    known = [71.2, 56.2, 35.5, 13.8, 44.7]
    np.testing.assert_allclose([*ours[::2], np.mean(ours)], known, rtol=0, atol=0.051)


def test_profile_needs_no_detection():
    profile = error_profile({"v": [Segment(0, 10, "a")]}, Detections.empty(), PROTOCOL)
    assert (profile.counts.sum(), profile.average, max(profile.gains.values())) == (0, 0.0, 0.0)
