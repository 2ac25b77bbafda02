"""Everything that is said about one file of results: under one protocol or several, with a diagnosis if wanted."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.case_wtal.evaluation.average_precision import Evaluation, evaluate
from examples.case_wtal.evaluation.checks import Checked, OnUnknown, check
from examples.case_wtal.evaluation.detections import Detections
from examples.case_wtal.evaluation.diagnosis import (
    ACTIVITYNET_BINS,
    OUTCOMES,
    THUMOS14_BINS,
    ErrorProfile,
    Sensitivity,
    error_profile,
    sensitivity,
)
from examples.case_wtal.evaluation.ground_truth import GroundTruth
from examples.case_wtal.evaluation.protocol import DISPUTED, PROTOCOLS, RULES, Protocol, range_text
from examples.case_wtal.evaluation.recall import AverageRecall, average_recall

if TYPE_CHECKING:
    from examples.case_wtal.data.recording import LocalizationData

ALL = "all"
RANGES = ((0.1, 0.5), (0.3, 0.7), (0.1, 0.7))
"""Ranges of thresholds that papers average over."""


@dataclass(frozen=True)
class Diagnosis:
    """What goes beyond mAP, under the first protocol."""

    recall: AverageRecall
    profile: ErrorProfile
    sensitivity: Sensitivity


@dataclass(frozen=True)
class Origin:
    """Where detections on a data set of the example come from.

    Attributes:
        data: What the data are.
        split: Name of the evaluated split.
        recordings: In it.
        weights: Which epoch's made the detections.
        foreground_auc: Foreground map -> its area, see `foreground_auc`; empty where only the detections are known.
    """

    data: str
    split: str
    recordings: int
    weights: str
    foreground_auc: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, data: "LocalizationData", weights: str, foreground_auc: Mapping[str, float] | None = None) -> "Origin":
        """Detections on the test split of a data set."""
        return cls(data.note, data.test_split, len(data.test), weights, foreground_auc or {})

    def describe(self) -> str:
        """One line to print beside every number."""
        return f"Data: {self.data} {self.recordings} recordings of split {self.split}. Weights: {self.weights}."


@dataclass(frozen=True)
class Outcome:
    """Evaluations of one file of results.

    Attributes:
        results: Name of the file.
        truth: What it was compared with.
        evaluations: Under each protocol.
        checked: What was seen in the detections, for each protocol.
        notes: Sentences for the user, each once.
        diagnosis: If asked for.
        origin: Of the detections, if known.
    """

    results: str
    truth: GroundTruth
    evaluations: tuple[Evaluation, ...]
    checked: tuple[Checked, ...]
    notes: tuple[str, ...]
    diagnosis: Diagnosis | None = None
    origin: Origin | None = None

    def to_plain(self) -> dict[str, Any]:
        """Content of `evaluation.json`."""
        content: dict[str, Any] = {
            "results": self.results,
            "ground_truth": self.truth.describe(),
            "origin": None if self.origin is None else asdict(self.origin),
            "notes": list(self.notes),
            "protocols": [_plain(e, c) for e, c in zip(self.evaluations, self.checked, strict=True)],
        }
        if self.diagnosis is not None:
            content |= _plain_diagnosis(self.diagnosis, self.evaluations[0].protocol)
        return content

    def write(self, path: Path) -> None:
        """Write `to_plain` as JSON."""
        path.write_text(json.dumps(self.to_plain(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def evaluate_results(
    truth: GroundTruth,
    detections: Detections,
    protocol: str = "thumos14",
    *,
    results: str = "results",
    tious: Sequence[float] = (),
    on_unknown: OnUnknown = "error",
    diagnose: bool = False,
    origin: Origin | None = None,
) -> Outcome:
    """Evaluate detections under a named protocol, or under all.

    Args:
        truth: Ground truth.
        detections: What was found.
        protocol: Name in `PROTOCOLS`, or "all". Under "all", protocols that differ by two videos of THUMOS14 are left
            out where these occur nowhere.
        results: Name of the file, for messages.
        tious: Other thresholds than the protocol's.
        on_unknown: See `check`.
        diagnose: Average recall, error profile and sensitivity too, under the first protocol.
        origin: Where the detections come from, to be told beside the numbers.

    Raises:
        ValueError: There is no such protocol, names are unknown, or no instance is left to find.
    """
    chosen, notes = _choose(protocol, truth, detections, results)
    if tious:
        chosen = [one.at(*tious) for one in chosen]
    checked = [check(truth, detections, one, on_unknown, results) for one in chosen]
    evaluations = [
        evaluate(truth.segments, seen.detections, one, ambiguous=truth.ambiguous)
        for one, seen in zip(chosen, checked, strict=True)
    ]
    short = any(v.startswith("video_test_") for v in truth.segments) and not {*DISPUTED} & {*truth.segments}
    for one in chosen:
        if one.rules != "activitynet" and not truth.ambiguous:
            notes.append(f"No ambiguous segments are known, so {one.name} excuses no detection.")
        if short and one.name.startswith("thumos") and not one.drop_videos:
            notes.append(f"{one.name} means 212 videos elsewhere; this ground truth lacks {' and '.join(DISPUTED)}.")
    notes += [note for seen in checked for note in seen.notes]
    diagnosis = _diagnose(truth, checked[0].detections, chosen[0], notes) if diagnose else None
    unique = tuple(dict.fromkeys(notes))
    return Outcome(results, truth, tuple(evaluations), tuple(checked), unique, diagnosis, origin)


def _choose(name: str, truth: GroundTruth, detections: Detections, results: str) -> tuple[list[Protocol], list[str]]:
    if name != ALL:
        if name not in PROTOCOLS:
            raise ValueError(
                f"`protocol` must be one of {', '.join(PROTOCOLS)} or {ALL}, got {name!r}. Choose one of them."
            )
        return [PROTOCOLS[name]], []
    present = {*truth.segments, *detections.video.tolist()}
    same = [p.name for p in PROTOCOLS.values() if p.drop_videos and not present & set(p.drop_videos)]
    note = f"{' and '.join(same)} left out: the videos in question are neither in {truth.source} nor in {results}."
    return [p for p in PROTOCOLS.values() if p.name not in same], [note] if same else []


def _diagnose(truth: GroundTruth, detections: Detections, protocol: Protocol, notes: list[str]) -> Diagnosis:
    """DETAD's thresholds are .5 for THUMOS14 and all ten for ActivityNet."""
    small = min(protocol.tious) < 0.5 and 0.5 in protocol.tious
    chosen = replace(protocol, tious=(0.5,)) if small else protocol
    if protocol.rules != "activitynet":
        notes.append("The diagnosis matches by ActivityNet's rule, whatever the protocol.")
    bins = ACTIVITYNET_BINS if protocol.name.startswith("activitynet") else THUMOS14_BINS
    hard = sensitivity(truth.segments, detections, chosen, durations=truth.durations, bins=bins)
    if "coverage" not in hard.bins:
        notes.append("No sensitivity to coverage: the ground truth does not say how long every video is.")
    return Diagnosis(
        average_recall(truth.segments, detections, protocol), error_profile(truth.segments, detections, chosen), hard
    )


def _plain(evaluation: Evaluation, checked: Checked) -> dict[str, Any]:
    protocol = evaluation.protocol
    return {
        "name": protocol.name,
        "protocol": protocol.describe(),
        "rules": RULES[protocol.rules],
        "tious": protocol.tious,
        "round_to": protocol.round_to,
        "drop_videos": protocol.drop_videos,
        "keep_detections": protocol.keep_detections,
        "detections": len(checked.detections),
        "detections_without_length": checked.without_length,
        "unknown_videos": dict(checked.unknown_videos),
        "unknown_labels": dict(checked.unknown_labels),
        "classes_without_instances": dict(checked.absent_classes),
        "average": evaluation.average,
        "averages": averages(evaluation),
        "mean_ap": evaluation.mean_ap.tolist(),
        "ap": dict(zip(evaluation.classes, evaluation.ap.tolist(), strict=True)),
        "instances": dict(zip(evaluation.classes, evaluation.instances.tolist(), strict=True)),
    }


def averages(evaluation: Evaluation) -> dict[str, float]:
    """The averages of `RANGES` that the protocol has thresholds for."""
    tious = evaluation.protocol.tious
    result = {}
    for low, high in RANGES:
        grid = tuple(i / 10 for i in range(round(10 * low), round(10 * high) + 1))
        if tuple(t for t in tious if low <= t <= high) == grid:
            result[range_text(grid)] = evaluation.average_over(low, high)
    return result


def _plain_diagnosis(diagnosis: Diagnosis, protocol: Protocol) -> dict[str, Any]:
    recall, profile, hard = diagnosis.recall, diagnosis.profile, diagnosis.sensitivity
    return {
        "diagnosed_under": protocol.name,
        "average_recall": {
            "tious": recall.tious.tolist(),
            "area": recall.area,
            "proposals": recall.proposals.tolist(),
            "average": recall.average.tolist(),
        },
        "error_profile": {
            "tious": profile.tious,
            "outcomes": OUTCOMES,
            "counts": profile.counts.tolist(),
            "shares": profile.shares.tolist(),
            "average": profile.average,
            "normalised_average": profile.normalised_average,
            "gains": dict(profile.gains),
            "normalised_gains": dict(profile.normalised_gains),
        },
        "sensitivity": {
            "tious": hard.tious,
            "normalised_average": hard.overall,
            "missed": hard.missed,
            "bins": {name: [_finite(vars(one)) for one in bins] for name, bins in hard.bins.items()},
        },
    }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
