"""Named ways of scoring: the same detections differ by a point of mAP and more between those in use."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

Rules = Literal["activitynet", "thumos14-kit", "thumos15-kit"]

RULES: dict[Rules, str] = {
    "activitynet": "ActivityNet-style AP",
    "thumos14-kit": "matching of the THUMOS kit, 11-point AP",
    "thumos15-kit": "matching of the THUMOS kit, mean precision at the true positives",
}
"""Rule of matching and AP -> what it is called in every output."""


@dataclass(frozen=True)
class Protocol:
    """How detections are scored. Choices that move mAP by more than most methods do, so they carry a name.

    Attributes:
        name: Short name; `rounded`, `without` and `at` extend it.
        tious: Thresholds in (0, 1], ascending, rounded to 10 digits on construction.
        round_to: Snippet length in seconds to which the *ground truth* is rounded, as one line of published programs
            does, or None. An instance that rounds to no length can no longer be found but still counts.
        drop_videos: Videos left out, ground truth and detections.
        keep_detections: Detections in `drop_videos` stay, as false positives: what a program counts that reads a
            ground truth without these videos and results with them.
        rules: Matching and AP, see `evaluate`.

    Raises:
        ValueError: Thresholds, `round_to` or `rules` out of range.
    """

    name: str
    tious: tuple[float, ...]
    round_to: float | None = None
    drop_videos: tuple[str, ...] = ()
    keep_detections: bool = False
    rules: Rules = "activitynet"

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
        if self.rules not in RULES:
            raise ValueError(f"`rules` must be one of {', '.join(RULES)}, got {self.rules!r}. Choose one of them.")
        object.__setattr__(self, "tious", tious)
        object.__setattr__(self, "drop_videos", tuple(self.drop_videos))

    def rounded(self, snippet_seconds: float) -> "Protocol":
        """The same protocol on ground truth rounded to whole snippets."""
        return replace(self, name=f"{self.name}-rounded-{snippet_seconds:g}s", round_to=snippet_seconds)

    def without(self, *videos: str) -> "Protocol":
        """The same protocol without `videos`, whose ground truth and detections are both left out."""
        return replace(self, name=f"{self.name}-without-{len(videos)}", drop_videos=(*self.drop_videos, *videos))

    def at(self, *tious: float) -> "Protocol":
        """The same protocol at other thresholds."""
        changed = replace(self, tious=tious)
        return replace(changed, name=f"{self.name}@{','.join(_digits(t) for t in changed.tious)}")

    def describe(self) -> str:
        """One line to print beside every number."""
        text = f"{self.name}: {RULES[self.rules]}, tIoU {range_text(self.tious)}"
        if self.round_to is not None:
            text += f", ground truth rounded to {self.round_to:g} s"
        if self.drop_videos:
            text += f", without {' '.join(self.drop_videos)}"
        return text + (" (detections in them are false positives)" if self.keep_detections else "")


def _digits(value: float) -> str:
    return f"{value:.10g}".removeprefix("0")


def range_text(values: Sequence[float]) -> str:
    """`.1:.1:.7` for an even grid of three or more values, else the values."""
    steps = {round(b - a, 9) for a, b in pairwise(values)}
    if len(values) > 2 and len(steps) == 1:
        return ":".join(_digits(v) for v in (values[0], steps.pop(), values[-1]))
    return " ".join(_digits(v) for v in values)


# The 212 annotated test videos include two that BaS-Net's ground truth leaves out for their wrong annotations.
DISPUTED = ("video_test_0000270", "video_test_0001496")
SNIPPET_SECONDS = 16 / 25

THUMOS14 = Protocol("thumos14", tuple(i / 10 for i in range(1, 8)))
THUMOS14_WIDE = Protocol("thumos14-wide", tuple(i / 10 for i in range(1, 10)))
THUMOS14_210 = replace(THUMOS14, name="thumos14-210", drop_videos=DISPUTED)
THUMOS14_210_GT = replace(THUMOS14_210, name="thumos14-210-gt", keep_detections=True)
THUMOS14_ROUNDED = replace(THUMOS14, name="thumos14-rounded", round_to=SNIPPET_SECONDS)
THUMOS14_KIT = replace(THUMOS14, name="thumos14-kit", rules="thumos14-kit")
THUMOS15_KIT = replace(THUMOS14, name="thumos15-kit", rules="thumos15-kit")
ACTIVITYNET = Protocol("activitynet", tuple(i / 20 for i in range(10, 20)))

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        THUMOS14,
        THUMOS14_WIDE,
        THUMOS14_210,
        THUMOS14_210_GT,
        THUMOS14_ROUNDED,
        THUMOS14_KIT,
        THUMOS15_KIT,
        ACTIVITYNET,
    )
}
"""Name -> protocol."""
