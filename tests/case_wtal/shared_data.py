"""Published annotations and detections that tests compare with; kept beside the repository, not in it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from examples.case_wtal.data.recording import Segment
from examples.case_wtal.evaluation import Detections

SHARED = Path(os.environ.get("OTLABEL_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


def require(*parts):
    """Path of a file or folder under SHARED; skips the test if it is not there."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{Path(*parts)} not found; set OTLABEL_DATA to the folder that holds it")
    return path


def thumos14_truth_210():
    """THUMOS14 test ground truth of BaS-Net's file: 210 videos, 3,311 instances."""
    database = json.loads(require("thumos14", "basnet_gt.json").read_text())["database"]
    return {
        video: [Segment(*map(float, a["segment"]), a["label"]) for a in entry["annotations"]]
        for video, entry in database.items()
        if entry["subset"] == "test"
    }


def thumos14_truth_212():
    """THUMOS14 test ground truth of W-TALC's file: 212 videos, 3,358 instances."""
    videos = json.loads(require("thumos14", "wtalc_thumos14reduced.json").read_text())["videos"]
    return {
        entry["video"]: [Segment(*s, label) for s, label in zip(entry["segments"], entry["labels"], strict=True)]
        for entry in videos
        if entry["subset"] == "test"
    }


def autoloc(name):
    """Ground truth, detections, thresholds and printed mAP (the mean last) of one published AutoLoc table."""
    gt_file, table_file = {"th14": ("th14_test", "th14_map"), "an12": ("an12_val", "an12_map")}[name]
    folder = ("detections", "autoloc")
    truth = {}
    for label, video, start, end in _csv(require(*folder, f"{gt_file}_gt.csv")):
        truth.setdefault(video, []).append(Segment(float(start), float(end), label))
    label, video, start, end, score = _csv(require(*folder, f"{gt_file}_detections.csv")).T
    detections = Detections(video, label, start.astype(float), end.astype(float), score.astype(float))
    rows = [line.split("|")[2:-1] for line in require(*folder, f"{table_file}.tbl").read_text().splitlines()]
    tious, printed = (row for row in rows if row)
    return truth, detections, tuple(map(float, tious[:-1])), np.array([float(value) for value in printed])


def _csv(path):
    return np.array([line.split(",") for line in path.read_text().split("\n")[1:] if line])
