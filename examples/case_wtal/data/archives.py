"""From annotations, splits and feature files to recordings; the part that all data sets of features share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from examples.case_wtal.data.annotations import Annotation
from examples.case_wtal.data.feature_files import FeatureSource, check_streams
from examples.case_wtal.data.integrity import Report
from examples.case_wtal.data.recording import Recording

VIDEO_STREAMS = {"rgb": 1024, "flow": 1024}
"""Of I3D: the width before its last layer."""

VIDEO_SNIPPET_SECONDS = 16 / 25
"""Of the field's I3D archives: 16 frames at 25 frames per second, without overlap."""

SIMULATED_MARKER = "SIMULATED.txt"


class FeaturePlaces(Protocol):
    """Where the features of a data set are."""

    widths: dict[str, int]

    def find(self, name: str, split: str) -> dict[str, FeatureSource]:
        """Stream -> its place, without the streams that are not there."""

    def expected(self, name: str, split: str, stream: str) -> Path | str:
        """Where a stream that is not there was looked for first."""


def read_recordings(
    annotations: Mapping[str, Annotation],
    splits: Mapping[str, Sequence[str]],
    places: FeaturePlaces,
    snippet_seconds: float | None,
    report: Report,
    *,
    incomplete: bool = False,
) -> dict[str, tuple[Recording, ...]]:
    """Check the features of every recording and build what can be built.

    Args:
        annotations: Of every name in `splits`.
        splits: Split -> names.
        places: Where the features are.
        snippet_seconds: Unless a recording's annotation says otherwise; None divides its duration by its snippets.
        report: Receives broken and missing files as problems, cut streams as a notice.
        incomplete: Whether recordings without any features are left out with a notice.

    Returns:
        Split -> recordings, with `FileStreams`.
    """
    trimmed: list[str] = []
    absent: list[str] = []

    def build(name: str, split: str) -> Recording | None:
        annotation, files = annotations[name], places.find(name, split)
        if not files and incomplete:
            absent.append(name)
            return None
        for stream in places.widths:
            if stream not in files:
                report.add(places.expected(name, split, stream), "missing" if files else "no features")
        streams, was_trimmed = check_streams(name, files, places.widths, report) if files else (None, False)
        if streams is None or len(streams) < len(places.widths):
            return None
        if was_trimmed:
            trimmed.append(name)
        seconds = annotation.snippet_seconds or snippet_seconds
        if seconds is None:
            if annotation.duration is None:
                report.add(name, "annotation", "needs a duration where snippets have no fixed length")
                return None
            seconds = annotation.duration / streams.length
        return Recording(name, streams, seconds, annotation.segments, annotation.labels)

    built = {
        split: tuple(recording for name in names if (recording := build(name, split)) is not None)
        for split, names in splits.items()
    }
    if trimmed:
        report.notices.append(
            f"`root` should hold streams of equal length, got up to 2 snippets of difference in {len(trimmed)} "
            f"recordings: {', '.join(trimmed)}. They are cut to the shortest stream."
        )
    if absent:
        counts = {split: len({*absent} & {*names}) for split, names in splits.items()}
        report.notices.append(
            f"`root` should hold features of every annotated recording, got none for "
            f"{' and '.join(f'{count} of {split}' for split, count in counts.items())}. They are left out; scores on "
            "fewer test recordings are not comparable."
        )
    return built


def simulated(root: Path) -> bool:
    """Whether the folder's features are marked as simulated."""
    return (root / SIMULATED_MARKER).is_file()


def read_names(path: Path, report: Report) -> list[str]:
    """Names of a split file, one a line; an absent file is a problem."""
    try:
        return path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        report.add(path, "missing")
    except (OSError, ValueError) as error:
        report.add(path, "unreadable", str(error))
    return []
