"""Mean average precision of temporal action detections, and the protocol that every number is printed with.

The rule is ActivityNet's (Heilbron et al., CVPR 2015), with a definite answer where programs differ: see `evaluate`.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from examples.case_wtal.data.recording import Recording, Segment


@dataclass(frozen=True, eq=False)
class Detections:
    """Scored segments of any number of videos, one row each.

    Attributes:
        video: Names of the videos, str, shape (N,).
        label: Class names, str, shape (N,).
        start: Seconds, float64, shape (N,).
        end: Seconds, float64, shape (N,).
        score: Any finite number, larger is surer, float64, shape (N,).

    Raises:
        ValueError: The columns differ in length, or a time or score is NaN or infinite.
    """

    video: np.ndarray
    label: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray

    def __post_init__(self) -> None:
        for name, column in self._columns().items():
            object.__setattr__(self, name, np.asarray(column, np.str_ if name in {"video", "label"} else np.float64))
        shapes = {name: column.shape for name, column in self._columns().items()}
        if len(set(shapes.values())) != 1 or self.score.ndim != 1:
            raise ValueError(
                f"`video`, `label`, `start`, `end` and `score` must be 1-D and of one length, got shapes {shapes}. "
                "Give one row per detection."
            )
        for name, column in (("start", self.start), ("end", self.end), ("score", self.score)):
            broken = np.flatnonzero(~np.isfinite(column))
            for i in broken[:1]:
                raise ValueError(
                    f"`{name}` must be finite, got {column[i]} at index {i} (video {self.video[i]}, label "
                    f"{self.label[i]}) and {broken.size - 1} more. Drop these detections or repair the model."
                )

    def _columns(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in ("video", "label", "start", "end", "score")}

    def __len__(self) -> int:
        return len(self.score)

    def __repr__(self) -> str:
        return f"Detections({len(self)} segments, {len(set(self.video.tolist()))} videos)"

    @classmethod
    def empty(cls) -> "Detections":
        """No detection at all."""
        return cls(*(np.empty(0) for _ in range(5)))

    @classmethod
    def concatenate(cls, parts: Sequence["Detections"]) -> "Detections":
        """All rows of `parts`, in order; no part gives `Detections.empty()`."""
        if not parts:
            return cls.empty()
        columns = [part._columns() for part in parts]
        return cls(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})

    def select(self, rows: np.ndarray) -> "Detections":
        """The rows that an index or boolean array picks."""
        return Detections(**{name: column[rows] for name, column in self._columns().items()})

    def of(self, video: str) -> "Detections":
        """The rows of one video, in order; none if the video is unknown."""
        return self.select(self.video == video)

    def to_results(self, version: str = "otlabel") -> dict[str, Any]:
        """The ActivityNet results form: `{"version", "results": {video: [entry, ...]}, "external_data"}`.

        Nothing is rounded. The form groups rows by video, in order of first appearance.
        """
        results: dict[str, list[dict[str, Any]]] = {}
        for video, label, start, end, score in zip(*(c.tolist() for c in self._columns().values()), strict=True):
            results.setdefault(video, []).append({"label": label, "score": score, "segment": [start, end]})
        return {"version": version, "results": results, "external_data": {}}

    @classmethod
    def from_results(cls, results: Any) -> "Detections":
        """Read the form that `to_results` gives; a video without entries contributes nothing.

        Raises:
            ValueError: The form lacks "results", or an entry lacks a part; the message names the entry.
        """
        if not isinstance(results, Mapping) or not isinstance(results.get("results"), Mapping):
            raise ValueError(
                '`results` must be a mapping {"results": {video: [entry, ...]}}, '
                f"got {type(results).__name__} without it. Pass the whole content of an ActivityNet results file."
            )
        rows = list(_entries(results["results"]))
        return cls(*(np.array(c) for c in zip(*rows, strict=True))) if rows else cls.empty()

    def write(self, path: str | Path, version: str = "otlabel") -> None:
        """Write `to_results` as a JSON file."""
        Path(path).write_text(json.dumps(self.to_results(version)), encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> "Detections":
        """Read an ActivityNet results JSON file; floats come back to the last bit."""
        return cls.from_results(json.loads(Path(path).read_text(encoding="utf-8")))


def _entries(results: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float, float]]:
    for video, entries in results.items():
        for i, entry in enumerate(entries):
            try:
                start, end = entry["segment"]
                yield video, entry["label"], float(start), float(end), float(entry["score"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    '`results` must hold entries {"label", "score", "segment": [start, end]}, '
                    f"got {entry!r} (video {video}, index {i}). Correct or drop this entry."
                ) from error


@dataclass(frozen=True)
class Protocol:
    """How detections are scored. Choices that move mAP by more than most methods do, so they carry a name.

    Attributes:
        name: Short name; `rounded` and `without` extend it.
        tious: Thresholds in (0, 1], ascending, rounded to 10 digits on construction.
        round_to: Snippet length in seconds to which the *ground truth* is rounded, as one line of published programs
            does, or None. An instance that rounds to no length can no longer be found but still counts.
        drop_videos: Videos left out altogether, ground truth and detections.

    Raises:
        ValueError: Thresholds or `round_to` out of range.
    """

    name: str
    tious: tuple[float, ...]
    round_to: float | None = None
    drop_videos: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # np.arange yields 0.30000000000000004, which a tIoU of exactly 0.3 would miss.
        tious = tuple(round(float(t), 10) for t in self.tious)
        if not tious or not all(0 < t <= 1 for t in tious) or list(tious) != sorted(set(tious)):
            raise ValueError(
                f"`tious` must be ascending thresholds in (0, 1], got {self.tious}. Use for example (0.3, 0.5, 0.7)."
            )
        if self.round_to is not None and not (math.isfinite(self.round_to) and self.round_to > 0):
            raise ValueError(
                f"`round_to` must be None or positive seconds, got {self.round_to}. Give a snippet's length."
            )
        object.__setattr__(self, "tious", tious)
        object.__setattr__(self, "drop_videos", tuple(self.drop_videos))

    def rounded(self, snippet_seconds: float) -> "Protocol":
        """The same protocol on ground truth rounded to whole snippets."""
        return replace(self, name=f"{self.name}-rounded-{snippet_seconds:g}s", round_to=snippet_seconds)

    def without(self, *videos: str) -> "Protocol":
        """The same protocol without `videos`, whose ground truth and detections are both left out."""
        return replace(self, name=f"{self.name}-without-{len(videos)}", drop_videos=(*self.drop_videos, *videos))

    def describe(self) -> str:
        """One line to print beside every number."""
        text = f"{self.name}: ActivityNet-style AP, tIoU {_range_text(self.tious)}"
        if self.round_to is not None:
            text += f", ground truth rounded to {self.round_to:g} s"
        return text + (f", without {' '.join(self.drop_videos)}" if self.drop_videos else "")


def _digits(value: float) -> str:
    return f"{value:.10g}".removeprefix("0")


def _range_text(values: Sequence[float]) -> str:
    """`.1:.1:.7` for an even grid of three or more values, else the values."""
    steps = {round(b - a, 9) for a, b in pairwise(values)}
    if len(values) > 2 and len(steps) == 1:
        return ":".join(_digits(v) for v in (values[0], steps.pop(), values[-1]))
    return " ".join(_digits(v) for v in values)


THUMOS14 = Protocol("thumos14", tuple(i / 10 for i in range(1, 8)))
THUMOS14_WIDE = Protocol("thumos14-wide", tuple(i / 10 for i in range(1, 10)))
# The 210 of 212 test videos of BaS-Net's ground truth; here detections in the other two are left out as well.
THUMOS14_210 = replace(THUMOS14, name="thumos14-210", drop_videos=("video_test_0000270", "video_test_0001496"))
ACTIVITYNET = Protocol("activitynet", tuple(i / 20 for i in range(10, 20)))
PROTOCOLS = {protocol.name: protocol for protocol in (THUMOS14, THUMOS14_WIDE, THUMOS14_210, ACTIVITYNET)}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Average precision per class and threshold, with the protocol that it was computed under.

    Attributes:
        protocol: What `evaluate` was given.
        classes: Class names in order of appearance in the ground truth, length C.
        instances: Number of ground-truth instances per class, int, shape (C,).
        ap: Average precision in [0, 1], shape (C, number of thresholds).
    """

    protocol: Protocol
    classes: tuple[str, ...]
    instances: np.ndarray
    ap: np.ndarray

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
                f"Choose among {_range_text(self.protocol.tious)}, or evaluate with another protocol."
            )
        return float(self.mean_ap[(tious > low - 1e-9) & (tious < high + 1e-9)].mean())

    def lines(self, *, per_class: bool = True) -> list[str]:
        """A table in percent, one string per line: the protocol, a header, one row per class, the mean."""
        ap = 100 * np.vstack([self.ap, self.mean_ap])
        names = [*self.classes, f"mean of {len(self.classes)} classes"]
        counts = [*self.instances.tolist(), self.instances.sum()]
        width = max(len("AP in %"), *map(len, names))
        columns = [*(_digits(t) for t in self.protocol.tious), "mean"]
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
    ground_truth: Mapping[str, Sequence[Segment]], detections: Detections, protocol: Protocol = THUMOS14
) -> Evaluation:
    """Average precision per class and tIoU threshold.

    Per class, the detections of all videos are walked in order of descending score; at each threshold separately, each
    takes the free ground-truth instance of its video with the largest tIoU if that reaches the threshold (a true
    positive), else it is a false positive. AP is the mean over the instances of the best precision at or after the
    rank where the instance was found, 0 for those never found.

    Rules for what other programs leave open: equals, in score or in tIoU, go in reversed order of the input (a stable
    ascending sort, reversed); ground truth of length <= 0 is dropped; a detection of length <= 0 or in a video without
    ground truth is a false positive, one of a class without it is ignored; a class without detections counts 0.

    Args:
        ground_truth: Video name -> its instances, times in the same unit as `detections`.
        detections: Of all videos together.
        protocol: Thresholds and the handling of the ground truth.

    Raises:
        ValueError: No instance is left to find, or an instance has a time that is not finite.
    """
    instances = _ground_truth_columns(ground_truth, protocol)
    if protocol.drop_videos:
        detections = detections.select(~np.isin(detections.video, protocol.drop_videos))
    if protocol.round_to is not None:
        # Not rounded to snippets, only rid of float noise: on the snippet grid many tIoUs are exactly 1/2.
        detections = _in_units(detections, protocol.round_to, decimals=6)
    classes = tuple(dict.fromkeys(instances.label.tolist()))
    class_of = {name: i for i, name in enumerate(classes)}
    video_of = {name: i for i, name in enumerate(dict.fromkeys(instances.video.tolist()))}
    found, true = (_CodedSegments.of(rows, class_of, video_of) for rows in (detections, instances))
    counts = np.bincount(true.label)
    hits = (_true_positives(found.of_class(c), true.of_class(c), np.array(protocol.tious)) for c in range(len(classes)))
    ap = [_average_precision(hit, count) for hit, count in zip(hits, counts.tolist(), strict=True)]
    return Evaluation(protocol, classes, counts, np.stack(ap))


def _ground_truth_columns(ground_truth: Mapping[str, Sequence[Segment]], protocol: Protocol) -> Detections:
    """The instances that count, as rows whose score means nothing."""
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
    columns = Detections(*(np.array(column) for column in zip(*rows, strict=True)))
    return columns if protocol.round_to is None else _in_units(columns, protocol.round_to, decimals=0)


def _in_units(rows: Detections, unit: float, decimals: int) -> Detections:
    start, end = (np.round(seconds / unit, decimals) for seconds in (rows.start, rows.end))
    return replace(rows, start=start, end=end)


@dataclass(frozen=True)
class _CodedSegments:
    """Segments by descending score, names as integers, -1 for a name that the ground truth lacks."""

    video: np.ndarray
    label: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, rows: Detections, class_of: Mapping[str, int], video_of: Mapping[str, int]) -> "_CodedSegments":
        video = np.array([video_of.get(name, -1) for name in rows.video.tolist()], dtype=np.int64)
        label = np.array([class_of.get(name, -1) for name in rows.label.tolist()], dtype=np.int64)
        order = np.argsort(rows.score, kind="stable")[::-1]
        return cls(video[order], label[order], rows.start[order], rows.end[order])

    def of_class(self, label: int) -> "_CodedSegments":
        return _CodedSegments(*(column[self.label == label] for column in vars(self).values()))


def _true_positives(found: _CodedSegments, true: _CodedSegments, tious: np.ndarray) -> np.ndarray:
    """Whether each detection of one class takes an instance, bool, shape (thresholds, detections)."""
    row, instance, tiou = _candidate_pairs(found, true, tious[0])
    result = np.zeros((len(tious), len(found.start)), dtype=bool)
    taken = np.zeros((len(tious), len(true.start)), dtype=bool)
    for pairs in _rounds(row, found.video):
        # In one round each video has at most one detection, so none of them competes with another.
        free = (tiou[pairs] >= tious[:, None]) & ~taken[:, instance[pairs]]
        first = np.flatnonzero(np.diff(row[pairs], prepend=-1))
        position = np.where(free, np.arange(len(pairs)), len(pairs))
        best = np.minimum.reduceat(position, first, axis=1)
        level, which = np.nonzero(best < len(pairs))
        result[level, row[pairs][first[which]]] = True
        taken[level, instance[pairs][best[level, which]]] = True
    return result


def _candidate_pairs(
    found: _CodedSegments, true: _CodedSegments, lowest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detection row, instance and tIoU of the pairs that reach `lowest`: by row, then in the order they are tried."""
    by_video = np.argsort(true.video, kind="stable")
    begin, stop = (np.searchsorted(true.video[by_video], found.video, side) for side in ("left", "right"))
    row = np.repeat(np.arange(len(found.start)), stop - begin)
    instance = by_video[begin[row] + _counting(stop - begin)]
    tiou = _tiou(found.start[row], found.end[row], true.start[instance], true.end[instance])
    reach = tiou >= lowest
    row, instance, tiou = row[reach], instance[reach], tiou[reach]
    # `true` is already in reversed order of the input, hence a plain stable sort sets equals as the rule says.
    order = np.lexsort((-tiou, row))
    return row[order], instance[order], tiou[order]


def _tiou(start_a: np.ndarray, end_a: np.ndarray, start_b: np.ndarray, end_b: np.ndarray) -> np.ndarray:
    """Intersection over union; 0 where a segment has no length, so that 0/0 cannot count as a hit."""
    length_a, length_b = end_a - start_a, end_b - start_b
    inner = np.maximum(np.minimum(end_a, end_b) - np.maximum(start_a, start_b), 0.0)
    proper = (length_a > 0) & (length_b > 0)
    return np.where(proper, inner / np.where(proper, length_a + length_b - inner, 1.0), 0.0)


def _rounds(row: np.ndarray, video: np.ndarray) -> list[np.ndarray]:
    """Index arrays into the pairs: first the pairs of each video's first candidate detection, then its second, ..."""
    rows, inverse = np.unique(row, return_inverse=True)
    sizes = np.unique(video[rows], return_counts=True)[1]
    rank = np.empty(len(rows), dtype=np.int64)
    rank[np.argsort(video[rows], kind="stable")] = _counting(sizes)
    order = np.argsort(rank[inverse], kind="stable")
    return np.split(order, np.cumsum(np.bincount(rank[inverse]))[:-1]) if rows.size else []


def _counting(sizes: np.ndarray) -> np.ndarray:
    """0 .. size - 1 for each size, end to end."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _average_precision(hit: np.ndarray, instances: int) -> np.ndarray:
    """Interpolated AP per threshold from `hit` (thresholds, detections by descending score)."""
    precision = np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1)
    best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (hit * best_from_here).sum(axis=1) / instances


def foreground_auc(scores: Sequence[np.ndarray], recordings: Sequence[Recording]) -> float:
    """Area under the ROC curve of a per-snippet foreground score, pooled over all snippets of all recordings.

    A snippet is foreground if its centre, `(t + 0.5) * snippet_seconds`, lies in [start, end) of any segment.

    Args:
        scores: One array of shape (T,) per recording, larger means more likely foreground.
        recordings: In the same order; their `segments` are the ground truth.

    Raises:
        ValueError: `scores` do not fit the recordings or are not finite, or there is only one kind of snippet.
    """
    shapes = [np.shape(score) for score in scores]
    wrong = [f"shape {a} for {r.name!r}" for a, r in zip(shapes, recordings, strict=False) if a != (len(r),)]
    if wrong or len(shapes) != len(recordings):
        raise ValueError(
            f"`scores` must hold one array of shape (T,) for each of the {len(recordings)} recordings, "
            f"got {wrong[0] if wrong else f'{len(shapes)} arrays'}. Give one score per snippet, in their order."
        )
    broken = [r.name for score, r in zip(scores, recordings, strict=True) if not np.isfinite(score).all()]
    if broken:
        raise ValueError(f"`scores` must be finite, got NaN or infinity for {broken}. Repair the model first.")
    target = np.concatenate([np.zeros(0, dtype=bool), *map(_foreground, recordings)])
    if len(np.unique(target)) != 2:
        raise ValueError(
            "`recordings` must hold foreground and background snippets, "
            f"got {int(target.sum())} foreground of {target.size}. Check the segments or pool more recordings."
        )
    return float(roc_auc_score(target, np.concatenate(list(scores))))


def _foreground(recording: Recording) -> np.ndarray:
    centre = (np.arange(len(recording)) + 0.5) * recording.snippet_seconds
    inside = [(centre >= segment.start) & (centre < segment.end) for segment in recording.segments]
    return np.any([np.zeros_like(centre, dtype=bool), *inside], axis=0)
