"""Detections, and the results file that they are written to and read from."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ENTRY = '{"label", "score", "segment": [start, end]}'


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

    @property
    def empty_or_reversed(self) -> np.ndarray:
        """Rows that do not end after they start, bool, shape (N,): they overlap nothing and count as false."""
        return self.end <= self.start

    def to_results(self, version: str = "otlabel") -> dict[str, Any]:
        """The ActivityNet results form: `{"version", "results": {video: [entry, ...]}, "external_data"}`.

        Nothing is rounded. The form groups rows by video, in order of first appearance.
        """
        results: dict[str, list[dict[str, Any]]] = {}
        for video, label, start, end, score in zip(*(c.tolist() for c in self._columns().values()), strict=True):
            results.setdefault(video, []).append({"label": label, "score": score, "segment": [start, end]})
        return {"version": version, "results": results, "external_data": {}}

    @classmethod
    def from_results(cls, results: Any, source: str | Path | None = None) -> "Detections":
        """Read the form that `to_results` gives; a video without entries contributes nothing.

        Args:
            results: Content of a results file.
            source: Its name, for messages.

        Raises:
            ValueError: The form lacks "results", an entry lacks a part, or a number in it is none or not finite; the
                message names the file, the video and the entry.
        """
        file = "" if source is None else f"file {source}, "
        if not isinstance(results, Mapping) or not isinstance(results.get("results"), Mapping):
            raise ValueError(
                '`results` must be a mapping {"results": {video: [entry, ...]}}, '
                f"got {type(results).__name__} without it{file and f' ({file[:-2]})'}. "
                "Pass the whole content of an ActivityNet results file."
            )
        rows = list(_entries(results["results"], file))
        return cls(*(np.array(c) for c in zip(*rows, strict=True))) if rows else cls.empty()

    def write(self, path: str | Path, version: str = "otlabel") -> None:
        """Write `to_results` as a JSON file."""
        Path(path).write_text(json.dumps(self.to_results(version)), encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> "Detections":
        """Read an ActivityNet results JSON file; floats come back to the last bit.

        Raises:
            ValueError: The file is no JSON, or not of that form; see `from_results`.
        """
        return cls.from_results(read_json(path, "results"), path)


def read_json(path: str | Path, name: str) -> Any:
    """Content of a JSON file.

    Args:
        path: The file.
        name: What the file is for, the argument that an error names.

    Raises:
        ValueError: The file is no JSON text.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"`{name}` must be a JSON file, got {path} ({error}). Write it again.") from error


def _entries(results: Mapping[str, Any], file: str) -> Iterator[tuple[str, str, float, float, float]]:
    for video, entries in results.items():
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise ValueError(
                f"`results` must hold a list of entries for each video, got {type(entries).__name__} ({file}video "
                f"{video}). Give a list, if need be an empty one."
            )
        for i, entry in enumerate(entries):
            try:
                start, end = entry["segment"]
                row = video, class_name(entry["label"]), float(start), float(end), float(entry["score"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"`results` must hold entries {ENTRY}, got {entry!r} ({file}video {video}, index {i}). "
                    "Correct or drop this entry."
                ) from error
            if not all(map(math.isfinite, row[2:])):
                raise ValueError(
                    f"`results` must hold finite times and scores, got {entry!r} ({file}video {video}, index {i}). "
                    "Drop this entry or repair the model."
                )
            yield row


def class_name(value: Any) -> str:
    """A label as text; a number is one too.

    Raises:
        TypeError: It is neither text nor a whole number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return str(value)
