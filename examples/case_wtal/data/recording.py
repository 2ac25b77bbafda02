"""What every data set hands to the rest of the example: untrimmed recordings, and a split of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from examples.case_wtal.data.feature_files import FileStreams
from examples.case_wtal.segments import Segment

__all__ = ["LocalizationData", "Recording", "Segment"]


@dataclass(frozen=True)
class Recording:
    """One untrimmed recording, already cut into snippets.

    Attributes:
        name: Unique in its data set.
        streams: Stream name -> features, float32, shape (T, D); T is the same in every stream, D is not.
        snippet_seconds: Time from one snippet's start to the next, so the recording lasts `T * snippet_seconds`.
        segments: Ground truth, for evaluation only.
        labels: Video-level class names, all that training may see.
    """

    name: str
    streams: Mapping[str, np.ndarray]
    snippet_seconds: float
    segments: tuple[Segment, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.streams, FileStreams):
            return  # what reads files has checked them
        lengths = {stream: features.shape for stream, features in self.streams.items()}
        if not lengths or any(len(shape) != 2 or shape[0] == 0 for shape in lengths.values()):
            raise ValueError(
                f"`streams` of recording {self.name!r} must hold arrays of shape (T, D) with T > 0, got {lengths}."
            )
        if len({shape[0] for shape in lengths.values()}) != 1:
            raise ValueError(
                f"`streams` of recording {self.name!r} must all have the same number of snippets, got {lengths}. "
                "Resample them to one clock first."
            )
        broken = [stream for stream, features in self.streams.items() if not np.isfinite(features).all()]
        if broken:
            raise ValueError(
                f"`streams` of recording {self.name!r} must be finite, got NaN or infinity in {broken}. "
                "Repair or drop the recording."
            )

    def __len__(self) -> int:
        if isinstance(self.streams, FileStreams):
            return self.streams.length
        return len(next(iter(self.streams.values())))

    @property
    def seconds(self) -> float:
        """Length of the recording in seconds."""
        return len(self) * self.snippet_seconds


@dataclass(frozen=True)
class LocalizationData:
    """A data set with its split.

    Attributes:
        name: Name of the data set.
        classes: Foreground class names; their order is the order of every class axis.
        train: Recordings to learn from (`labels` only).
        test: Recordings to evaluate on; `test_split` says what they are called ("dev", "test").
        note: One sentence that every output repeats: what is real, what is composed or simulated.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Recording, ...]
    test: tuple[Recording, ...]
    test_split: str
    note: str

    def __post_init__(self) -> None:
        for recording in (*self.train, *self.test):
            unknown = {*recording.labels, *(s.label for s in recording.segments)} - set(self.classes)
            if unknown:
                raise ValueError(
                    f"labels of recording {recording.name!r} must be among `classes`, got {sorted(unknown)}. "
                    "Add them to `classes` or drop them from the recording."
                )
        names = [recording.name for recording in (*self.train, *self.test)]
        if len(set(names)) != len(names):
            raise ValueError(
                f"recordings of {self.name!r} must have unique names, got {len(names) - len(set(names))} twice."
            )

    @property
    def stream_widths(self) -> dict[str, int]:
        """Stream name -> feature width D."""
        return {stream: features.shape[1] for stream, features in self.train[0].streams.items()}
