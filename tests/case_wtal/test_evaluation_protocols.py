"""Named protocols: known numbers of published detections, and the THUMOS kit's rules written out slowly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.case_wtal.evaluation import (
    PROTOCOLS,
    THUMOS14,
    THUMOS14_210_GT,
    THUMOS14_KIT,
    THUMOS15_KIT,
    Detections,
    Protocol,
    evaluate,
)
from examples.case_wtal.evaluation.ground_truth import GroundTruth
from examples.case_wtal.segments import Segment
from tests.case_wtal.shared_data import require
from tests.case_wtal.test_evaluation import detections, ground_truths, rows_of, slow_tiou

# mAP in % at .1 .3 .5 .7 and the mean over .1:.1:.7 of the same 31,587 detections: what the ActivityNet toolkit gives
# (first four), and the function of the THUMOS challenge's kit, ambiguous segments excused.
KNOWN = {
    "thumos14": [68.35, 53.60, 33.48, 12.23, 42.43],
    "thumos14-210-gt": [69.10, 54.24, 33.94, 12.47, 42.97],
    "thumos14-210": [69.70, 54.63, 34.10, 12.47, 43.28],
    "thumos14-rounded": [68.12, 54.09, 37.15, 12.37, 43.64],
    "thumos14-kit": [19.1, 15.6, 11.3, 6.0, 13.1],
}


def kit_truth():
    return GroundTruth.read(require("thumos14", "official_test"))


def pmil():
    return Detections.read(require("detections", "pmil_base_thumos14", "pmil_base_test.json"))


def lines_of(path):
    return path.read_text().splitlines()


def percent(result):
    return 100 * np.append(result.mean_ap[[0, 2, 4, 6]], result.average)


@pytest.mark.parametrize("name", KNOWN)
def test_one_file_of_detections_scores_differently_under_each_protocol(name):
    truth = GroundTruth.read(
        require("thumos14", "thumos14_v2.json"), ambiguous=require("thumos14", "Ambiguous_test.txt")
    )
    ours = percent(evaluate(truth.segments, pmil(), PROTOCOLS[name], ambiguous=truth.ambiguous))
    # The toolkit breaks ties in tIoU by an unstable sort; the kit's numbers are known to one decimal.
    np.testing.assert_allclose(ours, KNOWN[name], rtol=0, atol=0.05 if name == "thumos14-kit" else 0.02)
    assert f"{ours[-1]:.1f}" == f"{KNOWN[name][-1]:.1f}"


def test_the_kits_own_files_give_the_same_numbers_as_the_json():
    truth = kit_truth()
    assert len(truth.segments) == 213
    np.testing.assert_allclose(percent(evaluate(truth.segments, pmil())), KNOWN["thumos14"], rtol=0, atol=0.02)


def test_a_ground_truth_of_210_videos_gives_what_the_protocol_of_that_name_gives():
    short = GroundTruth.read(require("thumos14", "basnet_gt.json")).segments
    whole = GroundTruth.read(require("thumos14", "thumos14_v2.json")).segments
    np.testing.assert_allclose(
        evaluate(short, pmil()).mean_ap, evaluate(whole, pmil(), THUMOS14_210_GT).mean_ap, rtol=1e-12
    )


def test_the_later_kit_gives_the_published_row_of_turn():
    # TURN-TAP (Gao et al., ICCV 2017) with S-CNN's classifier, flow features; a file of detections for each threshold
    truth = kit_truth()
    classes = dict(map(str.split, lines_of(require("thumos14", "official_test", "detclasslist.txt"))))
    ours = []
    for tenth in range(1, 6):
        path = require("detections", "turn_thumos14", f"TURN-FLOW-16_SCNN_thumos14_iou0.{tenth}.txt")
        video, start, end, label, score = zip(*map(str.split, lines_of(path)), strict=True)
        found = Detections(video, [classes[c] for c in label], *(np.array(c, float) for c in (start, end, score)))
        ours.append(evaluate(truth.segments, found, THUMOS15_KIT.at(tenth / 10), ambiguous=truth.ambiguous).average)
    np.testing.assert_array_equal(np.round(ours, 3), [0.540, 0.509, 0.441, 0.349, 0.256])


def slow_kit_ap(truth, excusing, rows, threshold, edition):
    """AP of one class by the kit: `truth` and `excusing` map a video to [(start, end)], rows (video, s, e, score)."""
    true, false = [], []
    for video in sorted({row[0] for row in rows}):
        own = sorted((row for row in rows if row[0] == video), key=lambda row: -row[3])
        free = list(range(len(own)))
        for segment in truth.get(video, []):
            overlaps = [slow_tiou(segment, own[i][1:3]) if own[i][2] > own[i][1] else 0.0 for i in free]
            if overlaps and max(overlaps) > threshold:
                del free[overlaps.index(max(overlaps))]
        for i, (_, start, end, score) in enumerate(own):
            if i not in free:
                true.append((score, video, i))
            elif not any(min(end, b) > max(start, a) for a, b in excusing.get(video, [])):
                false.append((score, video, i))
    entries = [(row, True) for row in true] + [(row, False) for row in false]
    if edition == 2014:
        entries.sort(key=lambda entry: -entry[0][0])  # stable: true positives first
    else:
        entries.sort(key=lambda entry: (-entry[0][0], *entry[0][1:]))
    found, precision, recall = 0, [], []
    total = sum(map(len, truth.values()))
    for rank, (_, hit) in enumerate(entries, start=1):
        found += hit
        precision.append(found / rank)
        recall.append(found)
    if edition == 2014:
        return (
            sum(
                max([p for p, r in zip(precision, recall, strict=True) if 10 * r >= k * total], default=0)
                for k in range(11)
            )
            / 11
        )
    return sum(p for p, (_, hit) in zip(precision, entries, strict=True) if hit) / total


seconds = st.integers(0, 12).map(float)
rows = st.tuples(
    st.sampled_from(["v0", "v1", "v2", "unseen"]),
    st.sampled_from("abcx"),
    seconds,
    seconds,
    st.integers(0, 4).map(float) | st.floats(-1, 1, allow_subnormal=False),
)
spans = st.tuples(seconds, seconds).filter(lambda pair: pair[1] > pair[0])


@pytest.mark.parametrize(("protocol", "edition"), [(THUMOS14_KIT, 2014), (THUMOS15_KIT, 2015)])
@settings(max_examples=150, deadline=None)
@given(
    ground_truths,
    st.lists(rows, max_size=30),
    st.dictionaries(st.sampled_from(["v0", "v1"]), st.lists(spans, max_size=2)),
)
def test_the_kits_rules_match_a_slow_evaluator(protocol, edition, truth, rows, excusing):
    found = detections(*rows)
    ambiguous = {video: [Segment(a, b, "Ambiguous") for a, b in own] for video, own in excusing.items()}
    result = evaluate(truth, found, protocol, ambiguous=ambiguous)
    for label, ap in zip(result.classes, result.ap, strict=True):
        own = {v: [(s.start, s.end) for s in segs if s.label == label and s.end > s.start] for v, segs in truth.items()}
        mine = [(v, s, e, score) for v, name, s, e, score in rows_of(found) if name == label]
        slow = [slow_kit_ap(own, excusing, mine, t, edition) for t in protocol.tious]
        # The two sum the same terms in different orders.
        np.testing.assert_allclose(ap, slow, rtol=0, atol=1e-12)


@pytest.mark.parametrize("protocol", [THUMOS14_KIT, THUMOS15_KIT])
def test_the_kit_wants_more_than_the_threshold(protocol):
    truth, found = {"v": [Segment(0, 10, "a")]}, detections(("v", "a", 0, 3, 1.0))
    np.testing.assert_array_equal(evaluate(truth, found, protocol.at(0.2, 0.3)).ap, [[1.0, 0.0]])


def test_the_kit_gives_an_instance_to_the_closest_detection_whatever_its_score():
    truth, found = {"v": [Segment(0, 10, "a")]}, detections(("v", "a", 0, 6, 0.9), ("v", "a", 0, 10, 0.1))
    assert evaluate(truth, found, THUMOS15_KIT.at(0.5)).average == 0.5
    assert evaluate(truth, found, THUMOS14.at(0.5)).average == 1.0


def test_ambiguous_segments_excuse_only_under_the_kits_rules():
    truth, excusing = {"v": [Segment(0, 10, "a")]}, {"v": [Segment(20, 30, "Ambiguous")]}
    found = detections(("v", "a", 29.9, 40, 0.9), ("v", "a", 0, 10, 0.1))
    assert evaluate(truth, found, THUMOS15_KIT, ambiguous=excusing).average == 1.0
    assert evaluate(truth, found, THUMOS15_KIT).average == 0.5
    assert evaluate(truth, found, THUMOS14, ambiguous=excusing).average == 0.5


def test_detections_in_left_out_videos_stay_as_false_positives_if_the_protocol_says_so():
    truth = {"v": [Segment(0, 10, "a")], "w": [Segment(0, 10, "a")]}
    found = detections(("w", "a", 0, 10, 0.9), ("v", "a", 0, 10, 0.1))
    without = THUMOS14.without("w")
    kept = Protocol("kept", without.tious, drop_videos=("w",), keep_detections=True)
    assert evaluate(truth, found, without).average == 1.0
    assert evaluate(truth, found, kept).average == 0.5


@pytest.mark.parametrize(
    ("protocol", "line"),
    [
        (THUMOS14_KIT, "thumos14-kit: matching of the THUMOS kit, 11-point AP, tIoU .1:.1:.7"),
        (
            THUMOS15_KIT.at(0.5),
            "thumos15-kit@.5: matching of the THUMOS kit, mean precision at the true positives, tIoU .5",
        ),
        (
            THUMOS14_210_GT,
            "thumos14-210-gt: ActivityNet-style AP, tIoU .1:.1:.7, without video_test_0000270 video_test_0001496 "
            "(detections in them are false positives)",
        ),
        (
            PROTOCOLS["thumos14-rounded"],
            "thumos14-rounded: ActivityNet-style AP, tIoU .1:.1:.7, ground truth rounded to 0.64 s",
        ),
    ],
)
def test_named_protocols_describe_themselves(protocol, line):
    assert protocol.describe() == line


def test_every_protocol_is_listed_under_its_name():
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


def test_unknown_rules_are_an_error():
    with pytest.raises(ValueError, match=r"`rules` must be one of activitynet, .*, got 'voc'\. Choose"):
        Protocol("p", (0.5,), rules="voc")


def test_precision_and_recall_follow_the_ranks():
    truth = {"v": [Segment(0, 10, "a"), Segment(20, 30, "a")]}
    found = detections(("v", "a", 0, 10, 0.9), ("v", "a", 50, 60, 0.8), ("v", "a", 20, 30, 0.7))
    precision, recall = evaluate(truth, found).precision_recall("a", 0.5)
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3], rtol=1e-15)
    np.testing.assert_array_equal(recall, [0.5, 0.5, 1.0])


@pytest.mark.parametrize(("label", "tiou"), [("b", 0.5), ("a", 0.55)])
def test_precision_of_what_was_not_evaluated_is_an_error(label, tiou):
    result = evaluate({"v": [Segment(0, 1, "a")]}, Detections.empty())
    with pytest.raises(
        ValueError, match=r"`label` and `tiou` must be a class and a threshold .* Choose among a and \.1"
    ):
        result.precision_recall(label, tiou)
