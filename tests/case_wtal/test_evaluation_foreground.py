"""Area under the ROC curve of a foreground score."""

from pathlib import Path

import numpy as np
import pytest

from examples.case_wtal.data.recording import Recording, Segment
from examples.case_wtal.evaluation import foreground_auc
from examples.case_wtal.evaluation.foreground import foreground_notes, has_both_kinds


def recording(name, length, *segments):
    return Recording(name, {"x": np.zeros((length, 1), np.float32)}, 0.5, tuple(segments), ())


def test_foreground_auc_counts_ordered_pairs_pooled_over_recordings():
    # centres .25 .75 1.25 1.75: the segment [.75, 1.75) holds the two in the middle
    pair = [recording("r", 4, Segment(0.75, 1.75, "a")), recording("s", 2, Segment(0, 0.5, "a"), Segment(0, 0.4, "b"))]
    scores = [np.array([0.1, 0.9, 0.4, 0.4]), np.array([0.3, 0.2])]
    # foreground .9 .4 .3 against background .1 .4 .2: 3 + 2.5 + 2 of 9 pairs
    assert foreground_auc(scores, pair) == pytest.approx(7.5 / 9)


def test_foreground_auc_needs_a_score_per_snippet():
    one = [recording("r", 4, Segment(0, 1, "a"))]
    with pytest.raises(
        ValueError, match=r"`scores` must hold .* 1 recordings, got shape \(3,\) for 'r'\. Give one score"
    ):
        foreground_auc([np.zeros(3)], one)
    with pytest.raises(ValueError, match=r"`scores` must hold .* 1 recordings, got 2 arrays\. Give one score"):
        foreground_auc([np.zeros(4), np.zeros(4)], one)


def test_foreground_auc_refuses_nan():
    with pytest.raises(ValueError, match=r"`scores` must be finite, got NaN or infinity for \['r'\]\. Repair"):
        foreground_auc([np.array([0, 1, np.nan, 0])], [recording("r", 4, Segment(0, 1, "a"))])


@pytest.mark.parametrize("recordings", [[], [recording("r", 4)], [recording("r", 4, Segment(0, 9, "a"))]])
def test_foreground_auc_needs_both_kinds_of_snippet(recordings):
    assert not has_both_kinds(recordings)
    with pytest.raises(
        ValueError, match=r"`recordings` must hold foreground and background .* foreground of \d\. Check"
    ):
        foreground_auc([np.zeros(4) for _ in recordings], recordings)


def test_attention_below_chance_is_a_collapse_that_is_named():
    sound = foreground_notes({"attention": 0.5, "clusters": 0.4})
    assert sound == ["Foreground AUC of snippets: attention 0.500, clusters 0.400."]
    numbers, collapse = foreground_notes({"attention": 0.4996, "clusters": 0.9})
    assert numbers == "Foreground AUC of snippets: attention 0.500, clusters 0.900."
    assert collapse.startswith("COLLAPSED: a foreground AUC of the attention below 0.5 says that it is high between")
    assert "--train.seed" in collapse
    assert foreground_notes({}) == []


def test_the_page_that_a_collapse_points_to_has_that_heading():
    (_, collapse) = foreground_notes({"attention": 0.1})
    page, heading = collapse.removesuffix(".").split("more in ")[1].split(", ")
    assert f"\n### {heading}\n" in (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
