"""Annotations in ActivityNet's form: {"database": {video: {"subset": .., "annotations": [..]}}}."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from examples.case_wtal.data.integrity import Report
from examples.case_wtal.data.recording import Segment


@dataclass(frozen=True)
class Annotation:
    """What is known about one recording.

    Attributes:
        subset: The file's own word for its part of the data set.
        segments: Instances in the order of the file, as they stand there.
        labels: Recording-level classes, sorted unless the file lists them itself.
        duration: In seconds, None if the file does not say.
        snippet_seconds: Of this recording, None for the data set's.
    """

    subset: str
    segments: tuple[Segment, ...]
    labels: tuple[str, ...]
    duration: float | None = None
    snippet_seconds: float | None = None


def read_json(path: Path, report: Report) -> Any:
    """Content of a JSON file, None (and a problem) if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        report.add(path, "missing")
    except (OSError, ValueError) as error:
        report.add(path, "unreadable", f"{type(error).__name__}: {error}")
    return None


def read_database(path: Path, report: Report) -> dict[str, Annotation]:
    """Every entry that can be understood; the others are problems of the report.

    Times may be numbers or strings. Segments are not judged here but for being two finite numbers.
    """
    content = read_json(path, report)
    if content is None:
        return {}
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        report.add(path, "annotation", 'no object {"database": {video: {..}}}')
        return {}
    return parse_entries(database, path.name, report)


def parse_entries(entries: Mapping[str, Any], file: str, report: Report) -> dict[str, Annotation]:
    """Entries of a database, in ActivityNet's own words."""
    found = {}
    for video, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), list):
            report.add(f"{file}: {video}", "annotation", 'no list under "annotations"')
            continue
        segments = [_parse_segment(item, f"{file}: {video}", report) for item in entry["annotations"]]
        kept = tuple(segment for segment in segments if segment is not None)
        own = entry.get("labels")
        if own is not None and not (isinstance(own, list) and all(isinstance(label, str) for label in own)):
            report.add(f"{file}: {video}", "annotation", f'"labels" {own!r} is no list of names')
            own = None
        found[video] = Annotation(
            subset=str(entry.get("subset", "")),
            segments=kept,
            labels=tuple(sorted({s.label for s in kept})) if own is None else tuple(own),
            duration=_number(entry, "duration", f"{file}: {video}", report),
            snippet_seconds=_number(entry, "snippet_seconds", f"{file}: {video}", report),
        )
    return found


def clean(
    annotations: Mapping[str, Annotation], file: str, report: Report, *, empty: bool = True, repetitions: bool = True
) -> dict[str, Annotation]:
    """Without segments that last no time, and without exact repetitions; the report is told how many.

    Published annotations have both. Evaluation never counts the first, and only one of two that are the same can be
    found. A segment that is left out still names a label of its recording.

    Args:
        annotations: Recording -> annotation.
        file: Where they stand.
        report: Receives the notices.
        empty: Whether segments that last no time are left out.
        repetitions: Whether repetitions are left out.
    """
    counts = {"that do not end after they start": 0, "that repeat another exactly": 0}
    cleaned = {}
    for video, annotation in annotations.items():
        lasting = [s for s in annotation.segments if not empty or s.end > s.start]
        once = list(dict.fromkeys(lasting)) if repetitions else lasting
        counts["that do not end after they start"] += len(annotation.segments) - len(lasting)
        counts["that repeat another exactly"] += len(lasting) - len(once)
        cleaned[video] = replace(annotation, segments=tuple(once))
    for fault, count in counts.items():
        if count:
            report.notices.append(f"{file} should hold no segments {fault}, got {count}. They are left out.")
    return cleaned


def check_segments(
    annotation: Annotation, where: str, classes: tuple[str, ...], end: float, slack: float, report: Report
) -> None:
    """Report segments that are reversed, empty, or outside of [0, `end`], and labels outside of `classes`.

    Args:
        annotation: Of one recording.
        where: Name of its entry in the report.
        classes: All that may occur.
        end: Of the recording, in seconds.
        slack: By how much a segment may leave the recording, in seconds.
        report: Receives the problems.
    """
    for segment in annotation.segments:
        span = f"{segment.label!r} from {segment.start:g} to {segment.end:g} s"
        if segment.end <= segment.start:
            report.add(where, "segment", f"{span} does not end after it starts")
        elif segment.start < -slack or segment.end > end + slack:
            report.add(where, "segment", f"{span} leaves the recording of {end:g} s")
        if segment.label not in annotation.labels:
            report.add(where, "label", f"{span} is not among the recording's labels {list(annotation.labels)}")
    unknown = [label for label in annotation.labels if label not in classes]
    if unknown:
        report.add(where, "label", f"{', '.join(map(repr, unknown))} not in the data set's classes")


def _parse_segment(item: Any, where: str, report: Report) -> Segment | None:
    try:
        start, end = (float(time) for time in item["segment"])
        label = item["label"]
        if isinstance(label, str) and math.isfinite(start) and math.isfinite(end):
            return Segment(start, end, label)
    except (KeyError, TypeError, ValueError):
        pass
    report.add(where, "segment", f"{item!r} is not {{'segment': [start, end], 'label': name}}")
    return None


def _number(entry: Mapping[str, Any], name: str, where: str, report: Report) -> float | None:
    """A positive number or nothing."""
    value = entry.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if 0 < number < math.inf:
        return number
    report.add(where, "annotation", f"{name} {value!r} is no positive number")
    return None
