"""What the script of the report reads: every recording's maps, segments and detections, small enough for one file.

Probabilities are rounded to 1/255 and kept as bytes; times and scores are single precision; all as base64.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data import LocalizationData, Recording
from examples.case_wtal.evaluation import Detections, Protocol, evaluate
from examples.case_wtal.evaluation.average_precision import prepare, ranked
from examples.case_wtal.evaluation.matching import match_detections, numbering
from examples.case_wtal.inference import RecordingScores

TIOU = 0.5
"""A detection is drawn as right if it finds an instance at this threshold."""


def build_payload(
    scores: Sequence[RecordingScores],
    detections: Detections,
    data: LocalizationData,
    config: CaseConfig,
    protocol: Protocol,
    foreground: np.ndarray,
    *,
    most: int | None = None,
) -> dict[str, Any]:
    """The content of the report's data block.

    Args:
        scores: Of the test recordings.
        detections: Of all of them.
        data: For the classes.
        config: For the thresholds and the way of fusing.
        protocol: Of the average precision of each recording.
        foreground: Q^C[:, foreground], shape (K,); empty without clusters.
        most: Recordings kept, spread evenly from the worst to the best; None keeps all.
    """
    hit = match(detections, [s.recording for s in scores], TIOU)
    precision = [recording_precision(s.recording, detections, protocol) for s in scores]
    kept = spread([-1.0 if p is None else p for p in precision], most)
    recordings = [
        _recording(scores[i], detections, hit, precision[i], data, config, clusters=len(foreground) > 0) for i in kept
    ]
    return {
        "classes": list(data.classes),
        "split": data.test_split,
        "tiou": TIOU,
        "assisted": config.inference.foreground != "attention",
        "thresholds": [round(float(t), 4) for t in config.proposal.thresholds],
        "gate": config.proposal.class_gate,
        "foreground": [round(float(f), 4) for f in foreground],
        "score": best_threshold(detections, hit, sum(len(s.recording.segments) for s in scores)),
        "scores": [float(detections.score.min()), float(detections.score.max())] if len(detections) else [0.0, 1.0],
        "recordings": recordings,
        "left_out": len(scores) - len(kept),
    }


def to_script(payload: Any) -> str:
    """JSON that can stand inside a `<script>` element: no name in it can end the element."""
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def match(detections: Detections, recordings: Sequence[Recording], tiou: float) -> np.ndarray:
    """True for each detection that takes an instance, by the rules of `evaluate`, bool, shape (N,)."""
    hit = np.zeros(len(detections), dtype=bool)
    segments = {r.name: r.segments for r in recordings}
    if any(s.end > s.start for own in segments.values() for s in own):
        instances, _ = prepare(segments, Detections.empty(), Protocol("any", (tiou,)))
        found, true = ranked(instances, detections, numbering(instances.label), numbering(instances.video))
        hit[found.row] = match_detections(found, true, np.array([tiou]))[0] >= 0
    return hit


def recording_precision(recording: Recording, detections: Detections, protocol: Protocol) -> float | None:
    """Average precision within one recording, mean over its classes and the thresholds; None without instances."""
    if recording.name in protocol.drop_videos or not any(s.end > s.start for s in recording.segments):
        return None
    alone = replace(protocol, drop_videos=())
    return float(evaluate({recording.name: recording.segments}, detections.of(recording.name), alone).average)


def best_threshold(detections: Detections, hit: np.ndarray, instances: int) -> float:
    """The score at which F1 is best: a start for looking, chosen with the true segments."""
    if not len(detections):
        return 0.0
    order = np.argsort(-detections.score, kind="stable")
    f1 = 2 * np.cumsum(hit[order]) / (np.arange(1, len(order) + 1) + max(instances, 1))
    return float(detections.score[order[int(f1.argmax())]])


def f1_of(recording: Recording, detections: Detections, hit: np.ndarray, score: float) -> float:
    """F1 of one recording's detections from a score on; 1 if there is nothing to find and nothing is found."""
    shown = (detections.video == recording.name) & (detections.score >= score)
    wanted = int(shown.sum()) + len(recording.segments)
    return 2 * float(hit[shown].sum()) / wanted if wanted else 1.0


def spread(values: Sequence[float], most: int | None) -> list[int]:
    """Indices of at most `most` values, spread evenly from the smallest to the largest, in their own order."""
    if most is None or len(values) <= most:
        return list(range(len(values)))
    order = np.argsort(values, kind="stable")
    return sorted(order[np.linspace(0, len(values) - 1, most).round().astype(int)].tolist())


def _recording(
    scores: RecordingScores,
    detections: Detections,
    hit: np.ndarray,
    precision: float | None,
    data: LocalizationData,
    config: CaseConfig,
    *,
    clusters: bool,
) -> dict[str, Any]:
    recording = scores.recording
    rows = np.flatnonzero(detections.video == recording.name)
    found = detections.select(rows)
    number = {name: i for i, name in enumerate(data.classes)}
    # Maps of the other classes would make the file larger, and the picture harder to read.
    there = {*recording.labels, *(s.label for s in recording.segments), *found.label.tolist()}
    shown = [i for i, name in enumerate(data.classes) if name in there]
    fused = scores.class_map(config.inference)
    maps = [scores.attention, scores.cluster_foreground, *scores.class_activation.T[shown], *fused.T[shown]]
    return {
        "name": recording.name,
        "ap": None if precision is None else round(precision, 4),
        "step": recording.snippet_seconds,
        "length": len(recording),
        "segments": [[round(s.start, 3), round(s.end, 3), number[s.label]] for s in recording.segments],
        "shown": shown,
        "video": [round(float(scores.video_scores[i]), 4) for i in shown],
        "maps": _base64(np.clip(np.rint(255 * np.array(maps)), 0, 255), "u1"),
        "cluster": _base64(scores.cluster_probability.argmax(axis=1), "<u2") if clusters else "",
        "found": _base64(np.array([found.start, found.end, found.score]), "<f4"),
        "found_class": _base64(np.array([number.get(name, 0) for name in found.label.tolist()]), "<u2"),
        "found_hit": _base64(hit[rows], "u1"),
    }


def _base64(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode("ascii")
