"""Features that are SIMULATED, beside real annotations, for tests and dry runs only.

The file `SIMULATED.txt` in a folder tells it apart from a real one; loaders turn it into a note that outputs repeat.
A snippet is the sum of the random directions of the classes that cover its middle (of one more direction in the
background) and Gaussian noise; directions differ between streams.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from examples.case_wtal.data.annotations import Annotation
from examples.case_wtal.data.archives import SIMULATED_MARKER, VIDEO_SNIPPET_SECONDS, VIDEO_STREAMS

# Directions have unit length, and so would noise of deviation 1 / sqrt(width). At this size single snippets of low
# width are ambiguous while averages over an instance are not.
NOISE = 1.5


def begin(root: Path, seed: int, width: int) -> None:
    """Make the folder and mark it.

    Raises:
        FileExistsError: It holds a folder `features`, which could be real.
    """
    if (root / "features").exists():
        raise FileExistsError(
            f"`root` must not hold features yet, got {root} with a folder features. Choose another folder: simulated "
            "features are never mixed with others."
        )
    root.mkdir(parents=True, exist_ok=True)
    (root / SIMULATED_MARKER).write_text(f"All features here are simulated (seed {seed}, width {width}).\n")


def write_features(
    root: Path,
    entries: Mapping[str, Annotation],
    names: Mapping[str, Sequence[str]],
    durations: Mapping[str, float],
    rng: np.random.Generator,
    width: int,
) -> None:
    """Write one file for each split, stream and name."""
    classes = sorted({label for entry in entries.values() for label in entry.labels})
    directions = {stream: _directions(len(classes) + 1, width, rng) for stream in VIDEO_STREAMS}
    for split, listed in names.items():
        for stream in VIDEO_STREAMS:
            (root / "features" / split / stream).mkdir(parents=True)
        for name in listed:
            present = _presence(entries[name], durations[name], classes)
            for stream in VIDEO_STREAMS:
                noise = rng.standard_normal((len(present), width), dtype=np.float32) * (NOISE / np.sqrt(width))
                features = present @ directions[stream] + noise
                np.save(root / "features" / split / stream / f"{name}.npy", features.astype(np.float32))


def _directions(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Random unit vectors, (count, width)."""
    vectors = rng.standard_normal((count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _presence(entry: Annotation, seconds: float, classes: list[str]) -> np.ndarray:
    """Whether each class, and background as the last column, holds in the middle of each snippet, (n, G + 1)."""
    middles = (np.arange(max(1, int(seconds / VIDEO_SNIPPET_SECONDS))) + 0.5) * VIDEO_SNIPPET_SECONDS
    present = np.zeros((len(middles), len(classes) + 1))
    for segment in entry.segments:
        present[(middles >= segment.start) & (middles < segment.end), classes.index(segment.label)] = 1
    present[:, -1] = ~present.any(axis=1)
    return present
