"""A folder in the layout of `thumos14`: real annotations, SIMULATED features, for tests and dry runs only.

The file `SIMULATED.txt` in it tells it apart from a real one; the loader turns it into a note that outputs repeat.
"""

import shutil
from pathlib import Path

import numpy as np

from examples.case_wtal.data.recording import Segment
from examples.case_wtal.data.thumos14 import (
    SIMULATED_MARKER,
    SNIPPET_SECONDS,
    STREAMS,
    read_annotations,
    read_names,
)

# Directions have unit length, and so would noise of deviation 1 / sqrt(width). At this size single snippets of low
# width are ambiguous while averages over an instance are not.
NOISE = 1.5


def write_simulated_features(
    root: Path, annotations: Path, *, seed: int, width: int = 1024, videos: int | None = None
) -> None:
    """Write annotations, splits and simulated features in the layout that `load_thumos14` reads.

    A snippet is the sum of the random directions of the classes that cover its middle (of one more direction in
    the background) and Gaussian noise; directions differ between streams. At full width all 410 videos take
    about 1 GB.

    Args:
        root: Folder to write; it must not hold features yet.
        annotations: Folder with `basnet_gt.json`, `split_train.txt`, `split_test.txt`, and the lengths of the
            videos in `th14_val_durations.txt` and `th14_test_durations.txt` (a line with the name, a line with
            the seconds).
        seed: Of directions and noise.
        width: Feature width.
        videos: Only the first so many of each split; None for all.

    Raises:
        FileExistsError: `root` holds a folder `features`, which could be real.
    """
    root, annotations = Path(root), Path(annotations)
    if (root / "features").exists():
        raise FileExistsError(
            f"`root` must not hold features yet, got {root} with a folder features. Choose another folder: simulated "
            "features are never mixed with others."
        )
    root.mkdir(parents=True, exist_ok=True)
    (root / SIMULATED_MARKER).write_text(f"All features here are simulated (seed {seed}, width {width}).\n")
    shutil.copyfile(annotations / "basnet_gt.json", root / "gt.json")
    segments = read_annotations(root / "gt.json")
    durations = _read_durations(annotations)
    rng = np.random.default_rng(seed)
    classes = sorted({segment.label for found in segments.values() for segment in found})
    directions = {stream: _directions(len(classes) + 1, width, rng) for stream in STREAMS}
    for split in ("train", "test"):
        names = read_names(annotations / f"split_{split}.txt")[:videos]
        (root / f"split_{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for stream in STREAMS:
            (root / "features" / split / stream).mkdir(parents=True)
        for name in names:
            present = _presence(segments[name], durations[name], classes)
            for stream in STREAMS:
                noise = rng.standard_normal((len(present), width), dtype=np.float32) * (NOISE / np.sqrt(width))
                features = present @ directions[stream] + noise
                np.save(root / "features" / split / stream / f"{name}.npy", features.astype(np.float32))


def _directions(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Random unit vectors, (count, width)."""
    vectors = rng.standard_normal((count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _presence(segments: tuple[Segment, ...], seconds: float, classes: list[str]) -> np.ndarray:
    """Whether each class, and background as the last column, holds in the middle of each snippet, (n, G + 1)."""
    middles = (np.arange(max(1, int(seconds / SNIPPET_SECONDS))) + 0.5) * SNIPPET_SECONDS
    present = np.zeros((len(middles), len(classes) + 1))
    for segment in segments:
        present[(middles >= segment.start) & (middles < segment.end), classes.index(segment.label)] = 1
    present[:, -1] = ~present.any(axis=1)
    return present


def _read_durations(annotations: Path) -> dict[str, float]:
    """Video -> seconds, out of the two duration files."""
    durations: dict[str, float] = {}
    for split in ("val", "test"):
        words = (annotations / f"th14_{split}_durations.txt").read_text().split()
        durations |= {Path(name).stem: float(seconds) for name, seconds in zip(words[::2], words[1::2], strict=True)}
    return durations
