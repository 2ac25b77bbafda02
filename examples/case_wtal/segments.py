"""The one thing that data sets, detections and evaluation share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """One action instance: class `label` from `start` to `end`, in seconds."""

    start: float
    end: float
    label: str
