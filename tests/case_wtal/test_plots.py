"""The picture of a recording: its size, and what it shows."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image

from examples.case_wtal.evaluation import Detections
from examples.case_wtal.inference import detect, score_recordings
from examples.case_wtal.plots import COLOURS, PIXELS, draw_recording, plot_recording
from examples.case_wtal.plots import recording as plots
from examples.case_wtal.plots.style import colours_of
from tests.case_wtal.test_model import make_module
from tests.case_wtal.tiny import tiny_config, tiny_data


@pytest.fixture(scope="module")
def scored():
    data, module = tiny_data(), make_module()
    return data, score_recordings(module, data.test)


def texts(figure):
    found = [label.get_text() for axis in figure.axes for label in axis.get_yticklabels()]
    return found + [t.get_text() for axis in figure.axes for t in axis.texts]


def test_picture_is_written_at_the_promised_size(scored, tmp_path):
    data, scores = scored
    path = tmp_path / "new" / "recording.png"
    config = tiny_config()
    assert plot_recording(scores[0], detect(scores, data.classes, config), data, config, path) == path
    pixels = image.imread(path)
    assert pixels.shape[:2] == (PIXELS[1], PIXELS[0])
    assert pixels[..., :3].std() > 0.05


def test_picture_shows_every_true_segment_and_no_detection_of_another_recording(scored):
    data, scores = scored
    config = tiny_config()
    for score in scores:
        figure = draw_recording(score, detect(scores, data.classes, config), data, config)
        true = [bar for bar in figure.axes[0].patches if bar.get_gid() == "segment"]
        spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in true)
        np.testing.assert_allclose(spans, sorted((s.start, s.end) for s in score.recording.segments))
        found = detect([score], data.classes, config)
        assert len([bar for bar in figure.axes[-1].patches if bar.get_gid() == "detection"]) <= len(found)
        assert set(score.recording.labels) <= set(texts(figure))
        assert score.recording.name in figure.get_suptitle()
        assert data.note in figure.get_supxlabel()


def test_picture_says_why_a_class_has_no_detection(scored):
    data, scores = scored
    silent = replace(scores[0], video_scores=np.zeros(3))
    figure = draw_recording(silent, Detections.empty(), data, tiny_config())
    assert any(text.startswith("not searched: score 0.00") for text in texts(figure))


def test_only_the_best_detections_of_each_class_are_drawn(scored):
    data, scores = scored
    found = detect(scores, data.classes, tiny_config())
    few = plots._best(found, 1)
    assert len(few) == len(set(found.label.tolist()))
    for label, score in zip(few.label, few.score, strict=True):
        assert score == found.score[found.label == label].max()


def test_a_class_has_one_colour_in_all_pictures_while_classes_are_few():
    assert colours_of(["b"], ["a", "b"]) == {"b": COLOURS[1]}
    many = [str(i) for i in range(len(COLOURS) + 1)]
    assert colours_of(many[1:], many)["1"] == COLOURS[0]
    assert colours_of(many)[many[-1]] == COLOURS[0]
