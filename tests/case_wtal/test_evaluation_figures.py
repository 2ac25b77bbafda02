"""Plots of an evaluation: they are there, and they say what they show."""

import re
import xml.etree.ElementTree as ET

import pytest

from examples.case_wtal.evaluation import Detections
from examples.case_wtal.evaluation.figures import MOST_CLASSES, draw_precision_recall, write_figures
from examples.case_wtal.evaluation.ground_truth import GroundTruth
from examples.case_wtal.evaluation.outcome import evaluate_results
from examples.case_wtal.segments import Segment
from tests.case_wtal.test_evaluation import detections

TRUTH = GroundTruth(
    {
        "v": (Segment(0, 10, "jump"), Segment(20, 30, "jump")),
        "w": (Segment(5, 6.5, "throw"),),
    },
    "test",
    "truth.json",
    durations={"v": 40.0, "w": 50.0},
)
FOUND = detections(("v", "jump", 0, 10, 0.9), ("v", "jump", 20, 29, 0.8), ("w", "throw", 5, 6, 0.7))


def test_plots_are_written_twice_each_and_name_the_protocol(tmp_path):
    outcome = evaluate_results(TRUTH, FOUND, diagnose=True)
    paths = write_figures(outcome, tmp_path)
    names = ["precision_recall", "average_recall", "errors", "sensitivity"]
    assert [path.name for path in paths] == [f"{name}.{ending}" for name in names for ending in ("png", "svg")]
    for path in paths[::2]:
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in paths[1::2]:
        comments = re.findall(r"<!-- (.*?) -->", path.read_text())
        assert "thumos14: ActivityNet-style AP, tIoU .1:.1:.7" in comments
        assert ET.parse(path).getroot().tag.endswith("svg")


@pytest.mark.parametrize("protocol", ["activitynet", "thumos15-kit"])
def test_every_protocol_can_be_drawn_without_any_detection(protocol, tmp_path):
    outcome = evaluate_results(TRUTH, Detections.empty(), protocol, diagnose=protocol == "activitynet")
    assert all(path.stat().st_size > 1000 for path in write_figures(outcome, tmp_path))


def test_panels_are_named_by_class_and_hold_its_ap():
    outcome = evaluate_results(TRUTH, FOUND)
    axes = draw_precision_recall(outcome.evaluations[0]).axes
    assert [axis.get_title(loc="left") for axis in axes] == ["jump  (2)", "throw  (1)"]
    ap = 100 * outcome.evaluations[0].ap[:, 4]
    assert [axis.texts[0].get_text() for axis in axes] == [f"{value:.0f}" for value in ap]


def test_of_many_classes_those_with_most_instances_are_drawn():
    segments = tuple(Segment(i, i + 1, f"class {k}") for k in range(MOST_CLASSES + 5) for i in range(k + 1))
    outcome = evaluate_results(GroundTruth({"v": segments}, "test", "t"), Detections.empty())
    drawn = [axis.get_title(loc="left") for axis in draw_precision_recall(outcome.evaluations[0]).axes]
    assert (len(drawn), drawn[0], drawn[-1]) == (40, "class 44  (45)", "class 5  (6)")
