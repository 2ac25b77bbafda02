"""Average recall against the average number of proposals per video, as in ActivityNet's proposal task."""

from dataclasses import dataclass

import numpy as np

from examples.case_wtal.evaluation.average_precision import Instances, prepare
from examples.case_wtal.evaluation.detections import Detections
from examples.case_wtal.evaluation.matching import codes, counting, numbering, pairs_within, tiou
from examples.case_wtal.evaluation.protocol import ACTIVITYNET, Protocol

POINTS = 100
"""Points of the curve."""


@dataclass(frozen=True, eq=False)
class AverageRecall:
    """Recall of the best detections of each video, whatever their class.

    Attributes:
        tious: Thresholds, shape (thresholds,).
        proposals: Average number of proposals per video (AN), shape (100,).
        recall: In [0, 1], shape (thresholds, 100).
    """

    tious: np.ndarray
    proposals: np.ndarray
    recall: np.ndarray

    @property
    def average(self) -> np.ndarray:
        """Mean over the thresholds (AR), shape (100,)."""
        return self.recall.mean(axis=0)

    @property
    def area(self) -> float:
        """Area under AR against AN by trapezia, divided by the largest AN; in [0, 1]."""
        return float(np.trapezoid(self.average, self.proposals) / self.proposals[-1])

    def at(self, proposals: float) -> float:
        """AR at an average number of proposals, between points by a line."""
        return float(np.interp(proposals, self.proposals, self.average))


def average_recall(
    ground_truth: Instances,
    detections: Detections,
    protocol: Protocol = ACTIVITYNET,
    *,
    most: int = 100,
    tious: tuple[float, ...] = ACTIVITYNET.tious,
) -> AverageRecall:
    """Share of the instances that some retrieved detection overlaps by a threshold or more.

    Every video contributes the same share of its own detections, the best by score: with n of them in a video, N in
    all V videos of the ground truth, n' = min(n, floor(n A V / N)) are kept, N' in all, and point j of 100 looks at
    floor(n' j A V / (100 N')) of them, at most at all. A is `most`; an average number of proposals of A j / 100 is
    thereby met. Labels do not matter, and one detection may find several instances.

    Source: the evaluation of ActivityNet's proposal task (Ghanem et al., ActivityNet challenge 2017 summary). The
    numbers are computed with integers, where floating-point products may fall below a whole number.

    Args:
        ground_truth: Video name -> its instances.
        detections: Of all videos together; those in other videos do not count.
        protocol: For the handling of the ground truth; its thresholds and rules do not matter.
        most: Largest average number of proposals per video, A.
        tious: Thresholds that recall is averaged over.
    """
    instances, detections = prepare(ground_truth, detections, protocol)
    names = numbering(instances.video)
    video = codes(detections.video, names)
    order = np.argsort(detections.score, kind="stable")[::-1]
    order = order[video[order] >= 0]
    order = order[np.argsort(video[order], kind="stable")]
    sizes = np.bincount(video[order], minlength=len(names))
    rank = counting(sizes)
    kept = np.minimum(sizes, sizes * most * len(names) // max(sizes.sum(), 1))
    points = np.arange(1, POINTS + 1)
    looked = np.minimum(kept[:, None], kept[:, None] * points * most * len(names) // max(POINTS * kept.sum(), 1))
    first = _first_rank(instances, detections.select(order), codes(instances.video, names), rank, np.array(tious))
    limit = looked[codes(instances.video, names)]
    recall = (first[:, :, None] < limit[None]).mean(axis=1)
    return AverageRecall(np.array(tious), points * most / POINTS, recall)


def _first_rank(
    instances: Detections, found: Detections, video: np.ndarray, rank: np.ndarray, tious: np.ndarray
) -> np.ndarray:
    """Rank in its video of the best detection that reaches each instance, (thresholds, instances)."""
    code_of = numbering(instances.video)
    instance, row = pairs_within(video, codes(found.video, code_of))
    overlap = tiou(instances.start[instance], instances.end[instance], found.start[row], found.end[row])
    result = np.full((len(tious), len(instances)), np.iinfo(np.int64).max)
    near = overlap >= tious[0]
    instance, row, overlap = instance[near], row[near], overlap[near]
    for level, threshold in enumerate(tious):
        reach = overlap >= threshold
        np.minimum.at(result[level], instance[reach], rank[row[reach]])
    return result
