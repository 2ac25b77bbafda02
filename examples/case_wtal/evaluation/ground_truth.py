"""Annotations that detections are compared with, read from a file of the field's forms."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.case_wtal.evaluation.detections import class_name, read_json
from examples.case_wtal.segments import Segment

if TYPE_CHECKING:
    from examples.case_wtal.data.recording import LocalizationData

AMBIGUOUS = "Ambiguous"
"""Label of segments that are no class: who detects something there is neither right nor wrong (THUMOS challenge)."""


@dataclass(frozen=True)
class GroundTruth:
    """Annotated videos of one subset.

    Attributes:
        segments: Video -> its instances, all of positive length; a video may have none.
        subset: Name of the subset.
        source: Where it comes from, for messages and outputs.
        ambiguous: Video -> its ambiguous segments.
        durations: Video -> seconds, for the videos where the file says so.
        elsewhere: Videos of the file's other subsets -> the subset.
        dropped: Names of the segments that were left out because they do not end after they start.
        known: Classes that the source names, here or in another subset; one of them may have no instance here.
    """

    segments: Mapping[str, tuple[Segment, ...]]
    subset: str
    source: str
    ambiguous: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in order of appearance."""
        return tuple(dict.fromkeys(s.label for own in self.segments.values() for s in own))

    def describe(self) -> str:
        """What was read."""
        count = sum(map(len, self.segments.values()))
        ambiguous = sum(map(len, self.ambiguous.values()))
        text = f"{self.source}, subset {self.subset}: {len(self.segments)} videos, {count:,} instances"
        text += f" of {len(self.classes)} classes"
        if ambiguous:
            text += f", {ambiguous} ambiguous segments"
        return text + (f", {len(self.dropped)} segments of no length dropped" if self.dropped else "")

    @classmethod
    def of_data(cls, data: "LocalizationData") -> "GroundTruth":
        """The test split of a data set."""
        return cls(
            segments={r.name: tuple(s for s in r.segments if s.end > s.start) for r in data.test},
            subset=data.test_split,
            source=data.name,
            durations={r.name: r.seconds for r in data.test},
            elsewhere={r.name: "train" for r in data.train},
            known=data.classes,
        )

    @classmethod
    def read(cls, path: str | Path, subset: str = "test", ambiguous: str | Path | None = None) -> "GroundTruth":
        """Read a JSON file or a folder of the THUMOS kit.

        Args:
            path: JSON file `{"database": {video: {"subset", "annotations": [{"segment": [s, e], "label"}, ...]}}}`, as
                ActivityNet has and BaS-Net with times as strings; or a folder with the kit's `<class>_<subset>.txt`,
                one `video start end` a line. Segments labelled "Ambiguous" are set apart.
            subset: Videos to evaluate on.
            ambiguous: Another text file of the kit's form with ambiguous segments.

        Raises:
            ValueError: The file is of another form, an entry is broken (the message names it), or the subset is empty.

        Warns:
            UserWarning: Segments that do not end after they start were dropped.
        """
        path = Path(path)
        rows = _kit_folder(path, subset) if path.is_dir() else _database(path)
        videos = [row for row in rows if row.subset == subset]
        if not videos:
            found = ", ".join(f"{name} ({n} videos)" for name, n in Counter(row.subset for row in rows).items())
            raise ValueError(
                f"`subset` must be one that {path} has, got {subset!r}. Choose among {found or 'none: it is empty'}."
            )
        excused = {row.video: [s for s in row.segments if s.label == AMBIGUOUS] for row in videos}
        if ambiguous is not None:
            for video, segment in _kit_file(Path(ambiguous), AMBIGUOUS):
                excused.setdefault(video, []).append(segment)
        dropped = _reversed_ones(videos, path)
        return cls(
            segments={
                row.video: tuple(s for s in row.segments if s.label != AMBIGUOUS and s.end > s.start) for row in videos
            },
            subset=subset,
            source=str(path),
            ambiguous={video: tuple(own) for video, own in excused.items() if own},
            durations={row.video: row.duration for row in videos if row.duration is not None},
            elsewhere={row.video: row.subset for row in rows if row.subset != subset},
            dropped=dropped,
            known=tuple(dict.fromkeys(s.label for row in rows for s in row.segments if s.label != AMBIGUOUS)),
        )


@dataclass(frozen=True)
class _Video:
    video: str
    subset: str
    segments: Sequence[Segment]
    duration: float | None = None


def _database(path: Path) -> list[_Video]:
    content = read_json(path, "ground_truth")
    database = content.get("database") if isinstance(content, Mapping) else None
    if not isinstance(database, Mapping):
        raise ValueError(
            f'`ground_truth` must be a JSON file {{"database": {{video: ...}}}}, got {path} without it. '
            "Give annotations in ActivityNet's form, or a folder of the THUMOS kit."
        )
    return [_video(name, entry, path) for name, entry in database.items()]


def _video(name: str, entry: Any, path: Path) -> _Video:
    missing = [key for key in ("subset", "annotations") if not isinstance(entry, Mapping) or key not in entry]
    if missing or not isinstance(entry["annotations"], list):
        raise ValueError(
            '`ground_truth` must hold {"subset", "annotations": [...]} for each video, got '
            f"{'no ' + ' and no '.join(missing) if missing else 'annotations that are no list'} "
            f"(file {path}, video {name}). Complete this entry."
        )
    segments = []
    for i, annotation in enumerate(entry["annotations"]):
        try:
            start, end = annotation["segment"]
            segment = Segment(float(start), float(end), class_name(annotation["label"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                '`ground_truth` must hold annotations {"segment": [start, end], "label"}, '
                f"got {annotation!r} (file {path}, video {name}, index {i}). Correct or drop it."
            ) from error
        if not (math.isfinite(segment.start) and math.isfinite(segment.end)):
            raise ValueError(
                f"`ground_truth` must hold finite times, got {annotation!r} (file {path}, video {name}, index {i}). "
                "Correct or drop it."
            )
        segments.append(segment)
    return _Video(name, str(entry["subset"]), segments, _duration(name, entry, path))


def _duration(name: str, entry: Mapping[str, Any], path: Path) -> float | None:
    if entry.get("duration") is None:
        return None
    try:
        seconds = float(entry["duration"])
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(
            f"`ground_truth` must hold positive durations, got {entry['duration']!r} (file {path}, video {name}). "
            "Correct or drop it."
        )
    return seconds


def _kit_folder(folder: Path, subset: str) -> list[_Video]:
    segments: dict[str, list[Segment]] = {}
    for file in sorted(folder.glob(f"*_{subset}.txt")):
        for video, segment in _kit_file(file, file.name.removesuffix(f"_{subset}.txt")):
            segments.setdefault(video, []).append(segment)
    return [_Video(video, subset, own) for video, own in segments.items()]


def _kit_file(path: Path, label: str) -> list[tuple[str, Segment]]:
    rows = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        words = line.split()
        try:
            video, start, end = words
            segment = Segment(float(start), float(end), label)
        except ValueError as error:
            if not words:
                continue
            raise ValueError(
                f"`ground_truth` must hold lines of video, start and end, got {line!r} (file {path}, line {i + 1}). "
                "Correct or drop it."
            ) from error
        if not (math.isfinite(segment.start) and math.isfinite(segment.end)):
            raise ValueError(
                f"`ground_truth` must hold finite times, got {line!r} (file {path}, line {i + 1}). Correct or drop it."
            )
        rows.append((video, segment))
    return rows


def _reversed_ones(videos: Sequence[_Video], path: Path) -> tuple[str, ...]:
    names = tuple(
        f"{s.label} {s.start:g}-{s.end:g} in {row.video}" for row in videos for s in row.segments if s.end <= s.start
    )
    if names:
        warnings.warn(
            f"`ground_truth` should hold segments that end after they start, got {len(names)} that do not in {path}: "
            f"{'; '.join(names)}. They are dropped.",
            stacklevel=4,
        )
    return names
