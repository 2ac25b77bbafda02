"""Which detection takes which instance, at all thresholds and for all classes at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from examples.case_wtal.evaluation.detections import Detections


@dataclass(frozen=True)
class Coded:
    """Segments with names as integers, -1 for a name that the ground truth lacks.

    Attributes:
        row: Index of the segment in what it was made from.
        video, label: Codes, int64.
        start, end: Seconds, or snippets where a protocol rounds to them.
    """

    row: np.ndarray
    video: np.ndarray
    label: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, rows: Detections, order: np.ndarray, videos: Mapping[str, int], labels: Mapping[str, int]) -> "Coded":
        """Segments of `rows` in another order."""
        return cls(order, codes(rows.video, videos)[order], codes(rows.label, labels)[order], *_times(rows, order))

    def __len__(self) -> int:
        return len(self.row)

    def select(self, rows: np.ndarray) -> "Coded":
        """The segments that an index or boolean array picks."""
        return Coded(*(column[rows] for column in vars(self).values()))


def _times(rows: Detections, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.start[order], rows.end[order]


def codes(names: np.ndarray, code_of: Mapping[str, int]) -> np.ndarray:
    """Code of each name, -1 where it has none."""
    return np.fromiter(map(code_of.get, names.tolist(), repeat(-1)), dtype=np.int64, count=len(names))


def numbering(names: np.ndarray) -> dict[str, int]:
    """Name -> its number in order of first appearance."""
    return {name: i for i, name in enumerate(dict.fromkeys(names.tolist()))}


def tiou(start_a: np.ndarray, end_a: np.ndarray, start_b: np.ndarray, end_b: np.ndarray) -> np.ndarray:
    """Intersection over union; 0 where a segment has no length, so that 0/0 cannot count as a hit."""
    length_a, length_b = end_a - start_a, end_b - start_b
    inner = np.maximum(np.minimum(end_a, end_b) - np.maximum(start_a, start_b), 0.0)
    proper = (length_a > 0) & (length_b > 0)
    return np.where(proper, inner / np.where(proper, length_a + length_b - inner, 1.0), 0.0)


def pairs_within(groups_a: np.ndarray, groups_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of one element of each with the same group, except the group -1: by a, then by b."""
    by_group = np.argsort(groups_b, kind="stable")
    begin, stop = (np.searchsorted(groups_b[by_group], groups_a, side) for side in ("left", "right"))
    sizes = np.where(groups_a < 0, 0, stop - begin)
    first = np.repeat(np.arange(len(groups_a)), sizes)
    return first, by_group[begin[first] + counting(sizes)]


def counting(sizes: np.ndarray) -> np.ndarray:
    """0 .. size - 1 for each size, end to end."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def match_detections(found: Coded, true: Coded, tious: np.ndarray) -> np.ndarray:
    """ActivityNet's matching: each detection in turn takes the free instance of largest tIoU that reaches a threshold.

    Args:
        found: Detections in the order of their turns.
        true: Instances; of equal tIoUs the first in this order is taken.
        tious: Thresholds, ascending.

    Returns:
        Index into `true` of the instance that each detection takes, -1 for none, shape (thresholds, detections).
    """
    row, instance, overlap = _candidates(found, true, tious[0])
    reach = overlap[None, :] >= tious[:, None]
    group = _groups(found, true)[0]
    return _take_turns(row, instance, reach, group, (len(found), len(true)))


def match_instances(found: Coded, true: Coded, tious: np.ndarray) -> np.ndarray:
    """The THUMOS kit's matching: each instance in turn takes the free detection of largest tIoU above a threshold.

    Arguments and result as in `match_detections`, with the parts of detections and instances exchanged: `true` is in
    the order of turns, and of equal tIoUs the first detection is taken. A tIoU of exactly the threshold is not enough.
    """
    turn, detection, overlap = _candidates(true, found, 0.0)
    reach = overlap[None, :] > tious[:, None]
    taken = _take_turns(turn, detection, reach, _groups(true, found)[0], (len(true), len(found)))
    result = np.full((len(tious), len(found)), -1, dtype=np.int64)
    level, instance = np.nonzero(taken >= 0)
    result[level, taken[level, instance]] = instance
    return result


def _groups(first: Coded, second: Coded) -> tuple[np.ndarray, np.ndarray]:
    """A number for each pair of video and class, -1 where one of them is unknown."""
    width = 1 + max(first.label.max(initial=0), second.label.max(initial=0))
    return tuple(  # type: ignore[return-value]
        np.where((part.video < 0) | (part.label < 0), -1, part.video * width + part.label) for part in (first, second)
    )


def _candidates(first: Coded, second: Coded, lowest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of the same video and class that overlap by `lowest` or more: by `first`, then by descending tIoU."""
    row, column = _near_pairs(first, second)
    overlap = tiou(first.start[row], first.end[row], second.start[column], second.end[column])
    reach = np.flatnonzero((overlap >= lowest) & (overlap > 0))
    row, column, overlap = row[reach], column[reach], overlap[reach]
    order = np.lexsort((column, -overlap, row))
    return row[order], column[order], overlap[order]


def _near_pairs(first: Coded, second: Coded) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of the same video and class, among them all that overlap; most of the others are left out."""
    if not (len(first) and len(second)):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    group, other = _groups(first, second)
    low, high = float(second.start.min()), float(second.end.max())
    # One axis for all groups, each on its own stretch of it. Rounding on a long axis only adds pairs, by the margin.
    stretch = 2 * (high - low) + 1.0
    margin = stretch * (8 * np.finfo(float).eps * (2 + float(other.max())) + 1e-9)
    if not np.isfinite(margin):  # times that add up to infinity
        return pairs_within(group, other)
    begins = other * stretch + (second.start - low)
    order = np.argsort(begins, kind="stable")
    # The largest end so far ascends, where the ends themselves need not.
    ends = np.maximum.accumulate((other * stretch + (second.end - low))[order])
    start, end = (group * stretch + (np.clip(times, low, high) - low) for times in (first.start, first.end))
    begin = np.searchsorted(ends, start - margin)
    stop = np.searchsorted(begins[order], end + margin)
    sizes = np.where(group < 0, 0, np.maximum(stop - begin, 0))
    row = np.repeat(np.arange(len(first)), sizes)
    column = order[begin[row] + counting(sizes)]
    same = group[row] == other[column]
    return row[same], column[same]


def _take_turns(
    row: np.ndarray, column: np.ndarray, reach: np.ndarray, group: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Each row in turn takes the first of its candidates that is in reach and free; -1 for none."""
    rows, columns = shape
    result = np.full((len(reach), rows), -1, dtype=np.int64)
    free = np.ones((len(reach), columns), dtype=bool)
    order, bounds = _rounds(row, group)
    row, column, reach = row[order], column[order], reach[:, order]
    head = np.flatnonzero(np.diff(row, prepend=-1))
    heads = np.searchsorted(head, bounds)
    for begin, stop, low, high in zip(bounds, bounds[1:], heads, heads[1:], strict=False):
        # In one round each group has at most one row, so none of them competes with another.
        able = reach[:, begin:stop] & free[:, column[begin:stop]]
        position = np.where(able, np.arange(begin, stop), len(row))
        best = np.minimum.reduceat(position, head[low:high] - begin, axis=1)
        level, which = np.nonzero(best < len(row))
        won = column[best[level, which]]
        result[level, row[head[low + which]]] = won
        free[level, won] = False
    return result


def _rounds(row: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Order of the candidates: those of each group's first row, then those of its second row, ...; and the bounds."""
    rows, inverse = np.unique(row, return_inverse=True)
    sizes = np.unique(group[rows], return_counts=True)[1]
    rank = np.empty(len(rows), dtype=np.int64)
    rank[np.argsort(group[rows], kind="stable")] = counting(sizes)
    of_pair = rank[inverse]
    return np.argsort(of_pair, kind="stable"), [0, *np.cumsum(np.bincount(of_pair)).tolist()]
