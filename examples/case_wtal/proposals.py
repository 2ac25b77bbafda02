"""From class scores over time to detections: threshold, score by contrast with the surroundings, remove overlaps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.case_wtal.evaluation import Detections

NMS_KINDS = ("hard", "released_decay", "soft", "fusion")


@dataclass(frozen=True)
class ProposalConfig:
    """How class scores become detections; the defaults are the field's on THUMOS14.

    Raises:
        ValueError: A value out of range; the message names the field.
    """

    # Class scores are probabilities, so an even grid; a run at 0 would be the whole recording, at 1 nothing.
    thresholds: tuple[float, ...] = tuple(i / 10 for i in range(1, 10))
    # Boundaries finer than a snippet: 24 steps of 0.64 s are 27 ms.
    upsample: int = 24
    # Surroundings on each side, as a share of the run's length; W-TALC's descendants since BaS-Net.
    oic_margin: float = 0.25
    # How much the video's class score counts beside the contrast; the same programs.
    class_weight: float = 0.2
    # Video-level score above which a class is searched for at all.
    class_gate: float = 0.25
    # Above this overlap, the weaker of two proposals of one class is suppressed.
    nms_tiou: float = 0.4
    # "released_decay" is what CASE's released program does instead: one decay, and suppressed proposals stay. "soft" is
    # Soft-NMS; "fusion" averages the boundaries of each kept proposal with those that it suppresses.
    nms: str = "hard"
    # Width of "released_decay" (the released value) and of "soft".
    decay_alpha: float = 0.35
    # Weights of the average in "fusion" are exp(score / this).
    fusion_temperature: float = 0.1
    # Seconds added to lengths and overlaps inside NMS. 1.0 is a pixel habit that released programs kept; 0 is tIoU.
    length_offset: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", tuple(float(t) for t in self.thresholds))
        rules = {
            "thresholds": ("be one or more numbers in [0, 1)", all(0 <= t < 1 for t in self.thresholds or [math.nan])),
            "upsample": ("be a whole number of at least 1", int(self.upsample) == self.upsample >= 1),
            "oic_margin": ("be finite and at least 0", 0 <= self.oic_margin < math.inf),
            "class_weight": ("be finite and at least 0", 0 <= self.class_weight < math.inf),
            "class_gate": ("be in [0, 1]", 0 <= self.class_gate <= 1),
            "nms_tiou": ("be in [0, 1]", 0 <= self.nms_tiou <= 1),
            "nms": (f"be one of {NMS_KINDS}", self.nms in NMS_KINDS),
            "decay_alpha": ("be finite and above 0", 0 < self.decay_alpha < math.inf),
            "fusion_temperature": ("be finite and above 0", 0 < self.fusion_temperature < math.inf),
            "length_offset": ("be finite and at least 0", 0 <= self.length_offset < math.inf),
        }
        for field, (rule, holds) in rules.items():
            if not holds:
                raise ValueError(
                    f"`{field}` must {rule}, got {getattr(self, field)!r}. "
                    f"Correct it, or leave it out for the default {getattr(type(self), field)!r}."
                )


def propose(
    video: str,
    class_scores: np.ndarray,
    video_scores: np.ndarray,
    seconds: float,
    classes: Sequence[str],
    config: ProposalConfig | None = None,
) -> Detections:
    """Detections of one recording.

    A class is searched if its video score exceeds `class_gate`, or it is the highest and none does. Its scores are
    upsampled linearly; each maximal run above each threshold is a proposal with the score (outer-inner contrast,
    Shou et al., "AutoLoc", ECCV 2018, as adapted by BaS-Net, AAAI 2020)

        mean inside - mean outside + class_weight * video score,

    where outside is `int(oic_margin * length)` upsampled steps on each side, pooled and cut at the recording's ends
    (mean 0 if none is left). Then `nms` per class.

    Args:
        video: Name for the `video` column.
        class_scores: Probabilities per snippet and class, shape (T, G), in [0, 1].
        video_scores: Score of each class for the whole video, shape (G,).
        seconds: Length of the recording.
        classes: Class names, length G.
        config: None means `ProposalConfig()`.

    Returns:
        Times in seconds; by class in the order of `classes`, then by descending score.

    Raises:
        ValueError: A shape, a value or `seconds` is wrong; the message names the argument and the video.
    """
    config = ProposalConfig() if config is None else config
    class_scores, video_scores = np.asarray(class_scores, float), np.asarray(video_scores, float)
    _check(video, class_scores, video_scores, seconds, classes)
    searched = np.flatnonzero(video_scores > config.class_gate)
    if searched.size == 0:  # not `.any()`, to which class 0 alone looks like none
        searched = np.array([np.argmax(video_scores)])
    steps = _upsample(class_scores[:, searched].T, config.upsample)
    column, start, end = _runs(steps, config)
    score = _contrast(steps, column, start, end, config.oic_margin)
    score += config.class_weight * video_scores[searched[column]]
    step_seconds = seconds / steps.shape[1]
    parts = []
    for c, label in enumerate(searched.tolist()):
        rows = np.flatnonzero(column == c)
        begin, stop = start[rows] * step_seconds, end[rows] * step_seconds
        begin, stop, final = suppress(begin, stop, score[rows], config)
        names = np.full((2, len(final)), [[video], [classes[label]]])
        parts.append(Detections(names[0], names[1], begin, stop, final))
    return Detections.concatenate(parts)


def _check(
    video: str, class_scores: np.ndarray, video_scores: np.ndarray, seconds: float, classes: Sequence[str]
) -> None:
    if class_scores.ndim != 2 or class_scores.shape[0] == 0 or class_scores.shape[1] != len(classes):
        raise ValueError(
            f"`class_scores` must have shape (T, {len(classes)}) with T > 0 for {len(classes)} classes, "
            f"got {class_scores.shape} for video {video!r}. Give one row per snippet."
        )
    # A slack for float32 sums; written so that NaN fails.
    broken = np.argwhere(~((class_scores >= -1e-4) & (class_scores <= 1 + 1e-4)))
    if broken.size:
        t, g = broken[0]
        raise ValueError(
            f"`class_scores` must lie in [0, 1], got {class_scores[t, g]} at snippet {t} of class {classes[g]!r} in "
            f"video {video!r} and {len(broken) - 1} more. Pass probabilities, not logits; NaN comes from the model."
        )
    if video_scores.shape != (len(classes),) or not np.isfinite(video_scores).all():
        raise ValueError(
            f"`video_scores` must be finite with shape ({len(classes)},), got shape {video_scores.shape} with "
            f"{int((~np.isfinite(video_scores)).sum())} not finite for video {video!r}. Give one score per class."
        )
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(
            f"`seconds` must be positive and finite, got {seconds} for video {video!r}. "
            "Give the length of the recording that the snippets cover."
        )


def _upsample(scores: np.ndarray, factor: int) -> np.ndarray:
    """Linear interpolation along the last axis, samples at cell centres, ends held: (G, T) -> (G, factor * T)."""
    last = scores.shape[1] - 1
    position = np.clip((np.arange(factor * (last + 1)) + 0.5) / factor - 0.5, 0, last)
    left = np.floor(position).astype(np.int64)
    share = position - left
    return scores[:, left] * (1 - share) + scores[:, np.minimum(left + 1, last)] * share


def _runs(steps: np.ndarray, config: ProposalConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row of `steps`, first step and one past the last step of every run above a threshold, by row and threshold."""
    rows, length = steps.shape
    levels = len(config.thresholds)
    above = np.zeros((rows, levels, length + 2), dtype=bool)  # a False at each end closes runs there
    np.greater(steps[:, None], np.array(config.thresholds)[:, None], out=above[:, :, 1:-1])
    edges = np.flatnonzero(above[:, :, 1:] != above[:, :, :-1])
    line, position = np.divmod(edges, length + 1)  # each line has as many ends as starts, alternating
    row, start, end = line[::2] // levels, position[::2], position[1::2]
    if config.nms == "hard" and config.nms_tiou < 1:
        # Equal runs of several thresholds have equal scores and all but one would be suppressed.
        key = (row * (length + 1) + start) * (length + 1) + end
        first = np.sort(np.unique(key, return_index=True)[1])
        row, start, end = row[first], start[first], end[first]
    return row, start, end


def _contrast(steps: np.ndarray, row: np.ndarray, start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    """Mean inside minus mean outside of each run."""
    total = np.zeros((steps.shape[0], steps.shape[1] + 1))
    np.cumsum(steps, axis=1, out=total[:, 1:])
    margin = (share * (end - start)).astype(np.int64)
    left, right = np.maximum(start - margin, 0), np.minimum(end + margin, steps.shape[1])
    inner = total[row, end] - total[row, start]
    outer = total[row, right] - total[row, left] - inner
    outside = (right - left) - (end - start)
    return inner / (end - start) - np.where(outside > 0, outer / np.maximum(outside, 1), 0.0)


def suppress(
    start: np.ndarray, end: np.ndarray, score: np.ndarray, config: ProposalConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Greedy suppression of overlapping segments of one class.

    The best segment in competition is kept; those whose tIoU with it exceeds `config.nms_tiou` are its suppressed ones;
    and so on. Of equal scores the first goes first. What becomes of the suppressed is `config.nms`:

    "hard": They are dropped.
    "released_decay": They leave the competition and stay in the result, their score multiplied once by
        exp(-tIoU^2 / decay_alpha): neither hard NMS nor Soft-NMS, but what the released programs of CASE and its
        relatives compute under the second name.
    "soft": Soft-NMS (Bodla et al., ICCV 2017): the scores of all others, whatever the overlap, are multiplied by
        exp(-tIoU^2 / decay_alpha), and the competition goes on. `nms_tiou` plays no part.
    "fusion": They are dropped, and the boundaries of the kept one become the average of the group's, with weights
        exp(score / fusion_temperature) (Zhou et al., CVPR 2023, fuse proposals with such weights).

    Args:
        start: Seconds, shape (N,).
        end: Seconds, shape (N,).
        score: Shape (N,).
        config: Uses `nms`, `nms_tiou`, `decay_alpha`, `fusion_temperature`, `length_offset`.

    Returns:
        Start, end and score of the segments that remain, by descending score.

    Raises:
        ValueError: Shapes differ or a value is not finite.
    """
    start, end, score = (np.array(column, float) for column in (start, end, score))
    finite = all(np.isfinite(column).all() for column in (start, end, score))
    if start.ndim != 1 or not start.shape == end.shape == score.shape or not finite:
        raise ValueError(
            "`start`, `end` and `score` must be finite, 1-D and of one length, got shapes "
            f"{start.shape}, {end.shape}, {score.shape}{'' if finite else ' with NaN or infinity'}. "
            "Give one entry per segment."
        )
    fused_start, fused_end = start.copy(), end.copy()
    rest = np.argsort(-score, kind="stable")
    remain: list[int] = []
    while rest.size:
        best, rest = int(rest[0]), rest[1:]
        remain.append(best)
        tiou = _tiou(start, end, best, rest, config.length_offset)
        decay = np.exp(-(tiou**2) / config.decay_alpha)
        overlaps = tiou > config.nms_tiou
        if config.nms == "soft":
            score[rest] *= np.where(score[rest] > 0, decay, 1.0)  # a decay would lift a negative score
            rest = rest[np.argsort(-score[rest], kind="stable")]
            continue
        if config.nms == "released_decay":
            score[rest[overlaps]] *= decay[overlaps]
            remain.extend(rest[overlaps].tolist())
        elif config.nms == "fusion":
            group = np.array([best, *rest[overlaps]])
            weight = np.exp((score[group] - score[best]) / config.fusion_temperature)
            fused_start[best], fused_end[best] = (weight @ times[group] / weight.sum() for times in (start, end))
        rest = rest[~overlaps]
    kept = np.array(remain, dtype=np.int64)
    kept = kept[np.argsort(-score[kept], kind="stable")]
    return fused_start[kept], fused_end[kept], score[kept]


def _tiou(start: np.ndarray, end: np.ndarray, one: int, others: np.ndarray, offset: float) -> np.ndarray:
    inner = np.maximum(np.minimum(end[one], end[others]) - np.maximum(start[one], start[others]) + offset, 0.0)
    union = (end[one] - start[one] + offset) + (end[others] - start[others] + offset) - inner
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
