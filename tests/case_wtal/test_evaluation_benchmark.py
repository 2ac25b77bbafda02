"""The benchmark of the evaluation compares like with like."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evaluation import plain_evaluate, report
from examples.case_wtal.evaluation import THUMOS14, evaluate
from tests.case_wtal.test_evaluation import detected, detections, ground_truths


@settings(max_examples=100, deadline=None)
@given(ground_truths, st.lists(detected, max_size=30))
def test_the_plain_loops_give_the_same_ap(truth, rows):
    proper = {video: [s for s in own if s.end > s.start] for video, own in truth.items()}
    rows = [row for row in rows if row[3] > row[2]]
    plain = plain_evaluate(proper, rows, THUMOS14.tious)
    # The two sum the same terms in different orders.
    np.testing.assert_allclose(evaluate(truth, detections(*rows)).ap, list(plain.values()), rtol=0, atol=1e-12)


def test_the_report_says_what_was_measured(tmp_path):
    segment = {"segment": [0, 10], "label": "jump"}
    (tmp_path / "gt.json").write_text(
        json.dumps({"database": {"v": {"subset": "test", "duration": 20, "annotations": [segment]}}})
    )
    (tmp_path / "found.json").write_text(json.dumps({"results": {"v": [{**segment, "score": 1.0}]}}))
    text = "\n".join(report(tmp_path / "found.json", tmp_path / "gt.json", rounds=2))
    assert "found.json: 1 detections, 1 classes; gt.json: 1 videos, 1 instances" in text
    assert "| thumos14, 7 thresholds |" in text
    assert "Largest difference of an AP between the two: 0e+00." in text
