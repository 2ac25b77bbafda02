"""What is wrong with detections, and which instances are hard: the analyses of DETAD.

Source: Alwassel, Heilbron, Escorcia and Ghanem, "Diagnosing Error in Temporal Action Detectors", ECCV 2018; bins of
THUMOS14 as in the authors' released program.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from examples.case_wtal.evaluation.average_precision import Instances, interpolated_ap, prepare, ranked
from examples.case_wtal.evaluation.detections import Detections
from examples.case_wtal.evaluation.matching import Coded, match_detections, numbering, pairs_within, tiou
from examples.case_wtal.evaluation.protocol import Protocol

OUTCOMES = (
    "true positive",
    "double detection",
    "wrong label",
    "localization error",
    "confusion error",
    "background error",
)
"""What a detection can be, in this order in all arrays."""

LOWEST = 0.1
"""tIoU below which a detection has nothing to do with an instance."""

GROUPS = 10
"""Groups of detections: with G_c instances of class c, group g holds its detections of rank (g-1) G_c to g G_c."""

Bins = Mapping[str, tuple[float, ...]]
"""Characteristic -> upper bounds of its bins, ascending, the last infinite."""

THUMOS14_BINS: Bins = {
    "coverage": (0.02, 0.04, 0.06, 0.08, math.inf),
    "length": (3, 6, 12, 18, math.inf),
    "instances": (1, 40, 80, math.inf),
}
ACTIVITYNET_BINS: Bins = {
    "coverage": (0.2, 0.4, 0.6, 0.8, math.inf),
    "length": (30, 60, 120, 180, math.inf),
    "instances": (1, 4, 8, math.inf),
}
SIZES = {5: ("XS", "S", "M", "L", "XL"), 4: ("XS", "S", "M", "L")}


@dataclass(frozen=True, eq=False)
class ErrorProfile:
    """What the best detections of each class are, and what each kind of error costs.

    Attributes:
        tious: Thresholds that a true positive reaches, shape (thresholds,).
        counts: Detections by threshold, group and outcome, int, shape (thresholds, groups, 6).
        average: Average mAP of the detections in all groups, in [0, 1].
        normalised_average: The same with normalised precision (mAP_N).
        gains: Error -> what `average` gains if the detections with this error are removed.
        normalised_gains: Error -> what `normalised_average` gains.
    """

    tious: tuple[float, ...]
    counts: np.ndarray
    average: float
    normalised_average: float
    gains: Mapping[str, float]
    normalised_gains: Mapping[str, float]

    @property
    def shares(self) -> np.ndarray:
        """Share of each outcome in each group, mean over thresholds, shape (groups, 6); 0 in an empty group."""
        totals = np.maximum(self.counts.sum(axis=2, keepdims=True), 1)
        return (self.counts / totals).mean(axis=0)


@dataclass(frozen=True)
class Bin:
    """Instances of a similar kind.

    Attributes:
        name: "XS" to "XL".
        low, high: The characteristic is above `low` and at most `high`.
        instances: How many there are.
        mean_ap: Average mAP_N of finding these instances, NaN if there are none.
        missed: Share of them that no detection finds, mean over thresholds, NaN if there are none.
    """

    name: str
    low: float
    high: float
    instances: int
    mean_ap: float
    missed: float


@dataclass(frozen=True)
class Sensitivity:
    """How well instances are found by kind.

    Attributes:
        tious: Thresholds averaged over.
        overall: Average mAP_N of all instances.
        missed: Share of all instances that no detection finds, mean over thresholds.
        bins: Characteristic ("coverage" of the video, "length" in seconds, "instances" of the class in the video) ->
            its bins. Coverage is missing if a video's duration is unknown.
    """

    tious: tuple[float, ...]
    overall: float
    missed: float
    bins: Mapping[str, tuple[Bin, ...]]


@dataclass(frozen=True)
class _Matched:
    """Detections by descending score, instances, and who takes whom at each threshold."""

    found: Coded
    true: Coded
    taken: np.ndarray  # (thresholds, detections), index into `true` or -1
    counts: np.ndarray  # instances per class
    videos: tuple[str, ...]

    @classmethod
    def of(cls, ground_truth: Instances, detections: Detections, protocol: Protocol) -> "_Matched":
        instances, detections = prepare(ground_truth, detections, protocol)
        labels, videos = numbering(instances.label), numbering(instances.video)
        found, true = ranked(instances, detections, labels, videos)
        found = found.select(found.label >= 0)
        taken = match_detections(found, true, np.array(protocol.tious))
        return cls(found, true, taken, np.bincount(true.label, minlength=len(labels)), tuple(videos))


def error_profile(ground_truth: Instances, detections: Detections, protocol: Protocol) -> ErrorProfile:
    """Outcome of the best 10 G_c detections of each class c with G_c instances.

    With o the largest tIoU of a detection with any instance of its video, of whatever class, and alpha the threshold:

        true positive        takes an instance, by ActivityNet's matching
        double detection     o >= alpha, the instance is of its class (but taken)
        wrong label          o >= alpha, the instance is of another class
        localization error   0.1 <= o < alpha, of its class
        confusion error      0.1 <= o < alpha, of another class
        background error     o < 0.1

    If instances share the largest tIoU, one of the detection's own class decides: in THUMOS14 every instance of
    CliffDiving is one of Diving too.

    Precision of mAP_N is R N / (R N + FP) with recall R and the average N of G_c, so that classes of different size
    compare.

    Args:
        ground_truth: Video name -> its instances.
        detections: Of all videos together; of classes that the ground truth has.
        protocol: For the handling of the ground truth and the thresholds; its matching is ActivityNet's in any case.
    """
    matched = _Matched.of(ground_truth, detections, protocol)
    group = _class_rank(matched.found.label, len(matched.counts)) // matched.counts[matched.found.label]
    kept = np.flatnonzero(group < GROUPS)
    found, taken, group = matched.found.select(kept), matched.taken[:, kept], group[kept]
    outcome = _outcomes(found, matched.true, taken, np.array(protocol.tious))
    counts = np.zeros((len(protocol.tious), GROUPS, len(OUTCOMES)), dtype=np.int64)
    for level in range(len(protocol.tious)):
        np.add.at(counts[level], (group, outcome[level]), 1)

    def average(removed: int | None, *, normalised: bool) -> float:
        normaliser = float(matched.counts.mean()) if normalised else None
        ap = np.zeros((len(matched.counts), len(protocol.tious)))
        for label, count in enumerate(matched.counts.tolist()):
            own = outcome[:, found.label == label]
            for level, row in enumerate(own):
                hit = row[row != removed] == 0
                ap[label, level] = interpolated_ap(hit[None], count, normaliser)[0]
        return float(ap.mean())

    whole = {normalised: average(None, normalised=normalised) for normalised in (False, True)}
    gains = {
        normalised: {
            name: average(code, normalised=normalised) - whole[normalised] for code, name in enumerate(OUTCOMES) if code
        }
        for normalised in (False, True)
    }
    return ErrorProfile(protocol.tious, counts, whole[False], whole[True], gains[False], gains[True])


def _class_rank(label: np.ndarray, classes: int) -> np.ndarray:
    """Number of earlier elements with the same label."""
    rank = np.empty(len(label), dtype=np.int64)
    for code in range(classes):
        own = np.flatnonzero(label == code)
        rank[own] = np.arange(len(own))
    return rank


def _outcomes(found: Coded, true: Coded, taken: np.ndarray, tious: np.ndarray) -> np.ndarray:
    """Index into `OUTCOMES` of each detection, shape (thresholds, detections)."""
    row, instance = pairs_within(found.video, true.video)
    overlap = tiou(found.start[row], found.end[row], true.start[instance], true.end[instance])
    same = found.label[row] == true.label[instance]
    best = np.zeros((2, len(found)))  # with instances of another class, of the same class
    np.maximum.at(best, (same.astype(np.int64), row), overlap)
    top, own = best.max(axis=0), best[1] >= best[0]
    # Localization and confusion start at LOWEST even where a threshold is below it: then there is none of them.
    near, right = top >= tious[:, None], np.broadcast_to(own, taken.shape)
    result = np.where(right, np.where(near, 1, 3), np.where(near, 2, 4))
    result[~near & (top < LOWEST)] = 5
    result[taken >= 0] = 0
    return result


def sensitivity(
    ground_truth: Instances,
    detections: Detections,
    protocol: Protocol,
    *,
    durations: Mapping[str, float] | None = None,
    bins: Bins = THUMOS14_BINS,
) -> Sensitivity:
    """Average mAP_N and missed share of instances of each kind.

    Detections that take an instance of another bin do not count, neither right nor wrong; false positives count in all
    bins. The mean is over the classes that have an instance in the bin. N of mAP_N (see `error_profile`) is that of all
    instances together. Instances longer than their video are in the last bin of coverage.

    Args:
        ground_truth: Video name -> its instances, in seconds.
        detections: Of all videos together.
        protocol: As in `error_profile`.
        durations: Video -> seconds, for coverage.
        bins: Upper bounds of the bins, see `THUMOS14_BINS` and `ACTIVITYNET_BINS`.
    """
    matched = _Matched.of(ground_truth, detections, protocol)
    true = matched.true
    unit = protocol.round_to or 1.0
    length = (true.end - true.start) * unit
    values = {"length": length, "instances": _companions(true)}
    if durations is not None and all(video in durations for video in matched.videos):
        values["coverage"] = length / np.array([durations[video] for video in matched.videos])[true.video]
    everything = _subset_scores(matched, np.ones(len(true), dtype=bool))
    found = {
        name: tuple(
            Bin(size, low, high, int(inside.sum()), *_subset_scores(matched, inside))
            for size, low, high, inside in _bins(values[name], bounds)
        )
        for name, bounds in bins.items()
        if name in values
    }
    return Sensitivity(protocol.tious, *everything, found)


def _companions(true: Coded) -> np.ndarray:
    """Number of instances of the same class in the same video, the instance itself included."""
    key = true.video * (1 + true.label.max()) + true.label
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    return counts[inverse]


def _bins(values: np.ndarray, bounds: tuple[float, ...]) -> list[tuple[str, float, float, np.ndarray]]:
    lows = (0.0, *bounds[:-1])
    # Times are decimal fractions: 20.1 - 17.1 is 3 seconds, whatever floating point makes of it.
    rounded = np.round(values, 9)
    index = np.searchsorted(np.array(bounds), rounded, side="left")
    names = SIZES.get(len(bounds), tuple(map(str, range(1, len(bounds) + 1))))
    return [(name, low, high, index == i) for i, (name, low, high) in enumerate(zip(names, lows, bounds, strict=True))]


def _subset_scores(matched: _Matched, inside: np.ndarray) -> tuple[float, float]:
    """mAP_N and share missed of the instances `inside`; NaN for none."""
    counts = np.bincount(matched.true.label[inside], minlength=len(matched.counts))
    if not counts.any():
        return math.nan, math.nan
    normaliser = float(matched.counts.mean())
    ap, missed = [], []
    for taken in matched.taken:
        hit = (taken >= 0) & inside[taken]
        counted = (taken < 0) | hit
        found = np.zeros(len(inside), dtype=bool)
        found[taken[hit]] = True
        missed.append(1 - found[inside].mean())
        ap += [
            interpolated_ap(hit[None, counted & (matched.found.label == label)], count, normaliser)[0]
            for label, count in enumerate(counts.tolist())
            if count
        ]
    return float(np.mean(ap)), float(np.mean(missed))
