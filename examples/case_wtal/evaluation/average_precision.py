"""Mean average precision of detections: ActivityNet's rule, and that of the THUMOS kit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from examples.case_wtal.evaluation.detections import Detections
from examples.case_wtal.evaluation.matching import (
    Coded,
    codes,
    match_detections,
    match_instances,
    numbering,
    pairs_within,
)
from examples.case_wtal.evaluation.protocol import THUMOS14, Protocol, range_text
from examples.case_wtal.segments import Segment

Instances = Mapping[str, Sequence[Segment]]
"""Video -> its segments."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Average precision per class and threshold, with the protocol that it was computed under.

    Attributes:
        protocol: What `evaluate` was given.
        classes: Class names in order of appearance in the ground truth, length C.
        instances: Number of ground-truth instances per class, int, shape (C,).
        ap: Average precision in [0, 1], shape (C, number of thresholds).
        hits: For each class, for each threshold: whether each detection that counts is a true positive, by descending
            score, bool.
    """

    protocol: Protocol
    classes: tuple[str, ...]
    instances: np.ndarray
    ap: np.ndarray
    hits: tuple[tuple[np.ndarray, ...], ...] = field(default=(), repr=False)

    @property
    def mean_ap(self) -> np.ndarray:
        """Mean over the classes, in [0, 1], shape (number of thresholds,)."""
        return self.ap.mean(axis=0)

    @property
    def average(self) -> float:
        """Mean of `mean_ap` over all thresholds of the protocol."""
        return float(self.mean_ap.mean())

    def average_over(self, low: float, high: float) -> float:
        """Mean of `mean_ap` over the thresholds from `low` to `high`, both included.

        Raises:
            ValueError: `low` or `high` is no threshold of the protocol, or `low` is above `high`.
        """
        tious = np.array(self.protocol.tious)
        if low > high or not all(np.isclose(tious, bound, rtol=0, atol=1e-9).any() for bound in (low, high)):
            raise ValueError(
                f"`low` and `high` must be thresholds of the protocol, in order, got {low} and {high}. "
                f"Choose among {range_text(self.protocol.tious)}, or evaluate with another protocol."
            )
        return float(self.mean_ap[(tious > low - 1e-9) & (tious < high + 1e-9)].mean())

    def precision_recall(self, label: str, tiou: float) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall of one class after each detection, by descending score.

        Raises:
            ValueError: There is no such class or threshold.
        """
        if label not in self.classes or tiou not in self.protocol.tious:
            raise ValueError(
                f"`label` and `tiou` must be a class and a threshold of this evaluation, got {label!r} and {tiou}. "
                f"Choose among {', '.join(self.classes)} and {range_text(self.protocol.tious)}."
            )
        index = self.classes.index(label)
        found = np.cumsum(self.hits[index][self.protocol.tious.index(tiou)])
        return found / np.arange(1, len(found) + 1), found / self.instances[index]

    def lines(self, *, per_class: bool = True) -> list[str]:
        """A table in percent, one string per line: the protocol, a header, one row per class, the mean."""
        ap = 100 * np.vstack([self.ap, self.mean_ap])
        names = [*self.classes, f"mean of {len(self.classes)} classes"]
        counts = [*self.instances.tolist(), self.instances.sum()]
        width = max(len("AP in %"), *map(len, names))
        columns = [*(range_text([t]) for t in self.protocol.tious), "mean"]
        rows = [
            f"{name:<{width}} {count:>10,} " + "".join(f"{v:>6.1f}" for v in (*values, values.mean()))
            for name, count, values in zip(names, counts, ap, strict=True)
        ]
        head = f"{'AP in %':<{width}} {'instances':>10} " + "".join(f"{column:>6}" for column in columns)
        rule = "-" * len(head)
        body = [*rows[:-1], rule] if per_class else []
        return [self.protocol.describe(), rule, head, rule, *body, rows[-1]]

    def table(self, *, per_class: bool = True) -> str:
        """`lines` as one string."""
        return "\n".join(self.lines(per_class=per_class))

    def __repr__(self) -> str:
        return self.table(per_class=False)


def evaluate(
    ground_truth: Instances,
    detections: Detections,
    protocol: Protocol = THUMOS14,
    *,
    ambiguous: Instances | None = None,
) -> Evaluation:
    """Average precision per class and tIoU threshold.

    Rules "activitynet" (Heilbron et al., CVPR 2015): Per class, the detections of all videos are walked in order of
    descending score; at each threshold separately, each takes the free ground-truth instance of its video with the
    largest tIoU if that reaches the threshold (a true positive), else it is a false positive. AP is the mean over the
    instances of the best precision at or after the rank where the instance was found, 0 for those never found.

    Rules "thumos14-kit" (Jiang et al., THUMOS challenge 2014): Per class and video, each instance in turn takes the
    free detection with the largest tIoU if that exceeds the threshold. Other detections are false positives, unless
    they overlap an ambiguous segment, by however little: then they do not count. AP is the mean over the recalls 0, .1,
    .. 1 of the best precision at that recall or more. Rules "thumos15-kit", its edition of September 2015: the same
    matching; AP is the sum of the precisions at the true positives, divided by the number of instances.

    What programs leave open: equals, in score or in tIoU, go in reversed order of the input (a stable ascending sort,
    reversed; with the kit's rules in its own order, see `_kit_hits`); ground truth of length <= 0 is dropped; a
    detection of length <= 0 or in a video without ground truth is a false positive, one of a class without it is
    ignored; a class without detections counts 0.

    Args:
        ground_truth: Video name -> its instances, times in the same unit as `detections`.
        detections: Of all videos together.
        protocol: Thresholds, rules and the handling of the ground truth.
        ambiguous: Video name -> its ambiguous segments; only the kit's rules look at them.

    Raises:
        ValueError: No instance is left to find, or an instance has a time that is not finite.
    """
    instances, detections = prepare(ground_truth, detections, protocol)
    tious = np.array(protocol.tious)
    labels, videos = numbering(instances.label), numbering(instances.video)
    counts = np.bincount(codes(instances.label, labels))
    if protocol.rules == "activitynet":
        found, true = ranked(instances, detections, labels, videos)
        hit = match_detections(found, true, tious) >= 0
        hits = [list(hit[:, found.label == label]) for label in range(len(labels))]
        ap = [interpolated_ap(np.stack(h), count) for h, count in zip(hits, counts.tolist(), strict=True)]
    else:
        touching = touches(detections, ambiguous or {})
        hits = _kit_hits(instances, detections, touching, tious, (labels, videos), protocol)
        rule = _eleven_point_ap if protocol.rules == "thumos14-kit" else _mean_precision
        ap = [
            np.array([rule(level, count) for level in levels])
            for levels, count in zip(hits, counts.tolist(), strict=True)
        ]
    return Evaluation(protocol, tuple(labels), counts, np.stack(ap), tuple(map(tuple, hits)))


def prepare(ground_truth: Instances, detections: Detections, protocol: Protocol) -> tuple[Detections, Detections]:
    """Instances, as rows whose score means nothing, and detections, both as the protocol counts them.

    Raises:
        ValueError: There is no instance, or one has a time that is not finite.
    """
    instances = _instance_rows(ground_truth, protocol)
    if protocol.drop_videos and not protocol.keep_detections:
        detections = detections.select(~np.isin(detections.video, protocol.drop_videos))
    if protocol.round_to is not None:
        instances = _in_units(instances, protocol.round_to, decimals=0)
        # Not rounded to snippets, only rid of float noise: on the snippet grid many tIoUs are exactly 1/2.
        detections = _in_units(detections, protocol.round_to, decimals=6)
    return instances, detections


def _instance_rows(ground_truth: Instances, protocol: Protocol) -> Detections:
    rows = []
    for video, segments in ground_truth.items():
        for i, segment in enumerate(segments):
            if not (math.isfinite(segment.start) and math.isfinite(segment.end)):
                raise ValueError(
                    f"`ground_truth` must be finite, got {segment} (video {video}, index {i}). Correct or drop it."
                )
            if segment.end > segment.start and video not in protocol.drop_videos:
                rows.append((video, segment.label, segment.start, segment.end, 0.0))
    if not rows:
        raise ValueError(
            f"`ground_truth` must hold at least one instance of positive length, got none in {len(ground_truth)} "
            f"videos under protocol {protocol.name!r}. Check the subset, the times and `drop_videos`."
        )
    return Detections(*(np.array(column) for column in zip(*rows, strict=True)))


def ranked(
    instances: Detections, detections: Detections, labels: Mapping[str, int], videos: Mapping[str, int]
) -> tuple[Coded, Coded]:
    """Detections by descending score, and instances, equals of both in reversed order of the input."""
    return tuple(  # type: ignore[return-value]
        Coded.of(rows, np.argsort(rows.score, kind="stable")[::-1], videos, labels) for rows in (detections, instances)
    )


def touches(detections: Detections, segments: Instances) -> np.ndarray:
    """Detections that overlap any of the segments of their video, whatever their class, bool, shape (N,)."""
    rows = [(video, s.start, s.end) for video, own in segments.items() for s in own]
    names = {video: i for i, video in enumerate(segments)}
    result = np.zeros(len(detections), dtype=bool)
    if rows:
        video, start, end = (np.array(column) for column in zip(*rows, strict=True))
        row, other = pairs_within(codes(detections.video, names), codes(video, names))
        inner = np.minimum(detections.end[row], end[other]) - np.maximum(detections.start[row], start[other])
        result[row[inner > 0]] = True
    return result


def _in_units(rows: Detections, unit: float, decimals: int) -> Detections:
    start, end = (np.round(seconds / unit, decimals) for seconds in (rows.start, rows.end))
    return replace(rows, start=start, end=end)


def interpolated_ap(hit: np.ndarray, instances: int, normaliser: float | None = None) -> np.ndarray:
    """Interpolated AP per threshold from `hit` (thresholds, detections by descending score).

    Args:
        hit: True positives, bool.
        instances: Number of instances to find.
        normaliser: Number N of instances that precision is computed with instead, R N / (R N + FP) with recall R; None
            is the plain precision.
    """
    found = np.cumsum(hit, axis=1)
    seen = np.arange(1, hit.shape[1] + 1)
    if normaliser is None:
        precision = found / seen
    else:
        weighted = found * (normaliser / instances)
        precision = weighted / np.maximum(weighted + (seen - found), np.finfo(float).tiny)
    best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (hit * best_from_here).sum(axis=1) / instances


def _kit_hits(
    instances: Detections,
    detections: Detections,
    touching: np.ndarray,
    tious: np.ndarray,
    names: tuple[Mapping[str, int], Mapping[str, int]],
    protocol: Protocol,
) -> list[list[np.ndarray]]:
    """True positives of each class and threshold by descending score, without what ambiguous segments excuse.

    Equal scores: within a video in order of the input; in the lists of precision, true positives first in the edition
    of 2014, by the name of the video in that of 2015.
    """
    labels, videos = names
    order = np.argsort(-detections.score, kind="stable")
    found = Coded.of(detections, order, videos, labels)
    true = Coded.of(instances, np.arange(len(instances)), videos, labels)
    hit = match_instances(found, true, tious) >= 0
    score, excused = detections.score[order], touching[order]
    place = np.unique(detections.video, return_inverse=True)[1][order]
    hits = []
    for label in range(len(labels)):
        own = found.label == label
        levels = []
        for level in hit:
            counted = np.flatnonzero(own & (level | ~excused))
            equals = ~level if protocol.rules == "thumos14-kit" else place
            levels.append(level[counted[np.lexsort((equals[counted], -score[counted]))]])
        hits.append(levels)
    return hits


def _eleven_point_ap(hit: np.ndarray, instances: int) -> float:
    found = np.cumsum(hit)
    precision = found / np.arange(1, len(hit) + 1)
    # Recall compared as whole numbers: 3/10 of the instances reach the recall .3, in whatever way .3 is rounded.
    return float(np.mean([precision[10 * found >= point * instances].max(initial=0.0) for point in range(11)]))


def _mean_precision(hit: np.ndarray, instances: int) -> float:
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    return float(precision[hit].sum() / instances)
