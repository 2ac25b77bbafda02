"""Long sensor recordings cut into clips, without a look at their labels."""

from collections.abc import Mapping, Sequence

import numpy as np

from examples.case_wtal.data.recording import Recording, Segment

SHORTEST_CLIP_SECONDS = 1.0


def cut_clips(
    name: str,
    streams: Mapping[str, np.ndarray],
    runs: Sequence[tuple[int, int, str]],
    *,
    samples: int,
    snippets: int,
    rate: float,
    min_visible: float,
    classes: Sequence[str],
) -> list[Recording]:
    """Cut one recording into clips; the end that does not fill one is kept unless it lasts less than a second.

    Args:
        name: Of the recording; clips are called `name/00`, `name/01`, ...
        streams: Stream -> features of the whole recording, shape (T, D).
        runs: First sample, one past the last, and class of each instance.
        samples: Of a snippet.
        snippets: Of a clip.
        rate: Samples per second.
        min_visible: Instances of which a clip shows less than this many seconds are no part of it.
        classes: Their order is that of the clips' labels.
    """
    total = min(len(features) for features in streams.values())
    clips: list[Recording] = []
    for first in range(0, total, snippets):
        last = min(first + snippets, total)
        if (last - first) * samples < SHORTEST_CLIP_SECONDS * rate:
            continue
        segments = _visible_segments(runs, first * samples, last * samples, rate, min_visible)
        shown = {segment.label for segment in segments}
        clips.append(
            Recording(
                name=f"{name}/{len(clips):02d}",
                streams={stream: features[first:last] for stream, features in streams.items()},
                snippet_seconds=samples / rate,
                segments=segments,
                labels=tuple(label for label in classes if label in shown),
            )
        )
    return clips


def whole_multiple(argument: str, value: float, unit: float, *, at_least: int) -> int:
    """`value / unit` as an integer, or an error that names the argument."""
    count = round(value / unit)
    if count < at_least or abs(value - count * unit) > 1e-6:
        raise ValueError(
            f"`{argument}` must be a multiple of {unit:g} s, at least {at_least * unit:g} s, got {value}. "
            f"The nearest is {max(count, at_least) * unit:g}."
        )
    return count


def _visible_segments(
    runs: Sequence[tuple[int, int, str]], first: int, last: int, rate: float, min_visible: float
) -> tuple[Segment, ...]:
    """Parts of the runs in samples [first, last), in seconds from `first`, at least `min_visible` long."""
    parts = [(max(start, first), min(end, last), label) for start, end, label in runs]
    return tuple(
        Segment((start - first) / rate, (end - first) / rate, label)
        for start, end, label in parts
        if end > start and (end - start) / rate >= min_visible
    )
