"""Smartwatch recordings of shoulder exercises: real signals, composed into untrimmed recordings.

Burns et al., "Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a
smartwatch" (2018, arXiv 1802.01489). The signals are a data file of the PyPI package `seglearn` (BSD 3-clause):
10 subjects, both arms, 7 exercises, one trimmed recording of 19 to 52 s each, 50 Hz. The package is never
imported.
"""

import hashlib
import io
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from examples.case_wtal.data.composition import Piece, PlanSettings, plan_recording, split_groups
from examples.case_wtal.data.features import sliding_windows, slope, waveform_length, zscore
from examples.case_wtal.data.recording import LocalizationData, Recording, Segment

RATE = 50
"""Samples per second."""

SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
"""Of `watch_dataset.npy` in seglearn 1.2.5."""

EXERCISES = (
    "pendulum",
    "abduction",
    "forward elevation",
    "internal rotation",
    "external rotation",
    "trapezius extension",
    "row",
)
"""In the file's own order."""

# The first and the last of the file's order: chosen before any model was trained, and blind to the signal.
BACKGROUND = (0, 6)

# Subjects whose recordings agree, exercise by exercise: within a pair the lengths differ by 2 % and the largest
# correlation over all lags is 0.41 (medians), in all other couples 17 % and 0.15. They exercised together or are
# one person. A split that separates them would leak, so a pair stays on one side.
PAIRS = ((1, 2), (3, 4), (5, 6), (7, 10), (8, 9))
TRAIN_PAIRS = 3

SAMPLES_PER_SNIPPET = 16
WINDOW_SAMPLES = 96
PIECE_SECONDS = (3, 12)


@dataclass(frozen=True)
class Wearer:
    """One subject's one arm.

    Attributes:
        name: Such as "S3-left".
        subject: Number in the data.
        series: One signal per exercise, in the order of `EXERCISES`, each of shape (samples, 6): three axes
            of the accelerometer, three of the gyroscope.
    """

    name: str
    subject: int
    series: tuple[np.ndarray, ...]


def load_watch(
    *,
    seed: int = 0,
    train_recordings: int = 150,
    test_recordings: int = 60,
    seconds: tuple[float, float] = (60.0, 100.0),
    background_share: tuple[float, float] = (0.4, 0.6),
) -> LocalizationData:
    """Compose untrimmed recordings with two streams, "accelerometer" (T, 24) and "gyroscope" (T, 24).

    A recording strings together random pieces (3 to 12 s) of one arm of one subject: 1 to 3 of the five
    foreground exercises, and background from the two others, no two neighbouring pieces of one exercise, no
    sample twice in one recording. (Different recordings of one arm do share signal.) The joins are abrupt, so
    the snippets around one are unusual; joins occur inside background and between foreground pieces too.
    Snippets last 0.32 s, their features look at 1.92 s and are z-scored per recording. Every arm gives equally
    many recordings, up to one, although subjects 3 and 4 have half the signal of the others. Train and test share
    no subject, and no pair of `PAIRS`.

    Args:
        seed: Of the split and of every composition.
        train_recordings: Number of training recordings, at least 1.
        test_recordings: Number of test recordings, at least 1.
        seconds: Shortest and longest wanted recording, above 12. An arm with little background signal gives
            shorter ones, and pieces of at least 3 s can make one a little longer.
        background_share: Smallest and largest wanted background share, both strictly between 0 and 1.

    Returns:
        Composed recordings; segments are the foreground pieces, with exact times.

    Raises:
        FileNotFoundError: Package or file is not installed.
        ValueError: The file is not the one that was pinned, or an argument is out of range.
    """
    _check_counts(train_recordings=train_recordings, test_recordings=test_recordings)
    _check_range("seconds", seconds, PIECE_SECONDS[1], 600)
    _check_range("background_share", background_share, 0, 1)
    wearers = read_wearers(find_watch_file())
    settings = PlanSettings(
        background=BACKGROUND,
        piece=(PIECE_SECONDS[0] * RATE, PIECE_SECONDS[1] * RATE),
        total=(round(seconds[0] * RATE), round(seconds[1] * RATE)),
        share=background_share,
        most_classes=3,
    )
    rng = np.random.default_rng(seed)
    train_subjects, test_subjects = split_groups(PAIRS, TRAIN_PAIRS, rng)

    def compose(subjects: tuple[int, ...], count: int) -> tuple[Recording, ...]:
        chosen = [wearer for wearer in wearers if wearer.subject in subjects]
        turns = [chosen[index % len(chosen)] for index in range(count)]
        return tuple(
            compose_recording(
                wearer,
                plan_recording([len(s) for s in wearer.series], settings, rng),
                f"{wearer.name}/{index:03d}",
            )
            for index, wearer in enumerate(turns)
        )

    return LocalizationData(
        name="watch",
        classes=tuple(name for number, name in enumerate(EXERCISES) if number not in BACKGROUND),
        train=compose(train_subjects, train_recordings),
        test=compose(test_subjects, test_recordings),
        test_split="test",
        note="Smartwatch shoulder exercises: untrimmed recordings composed from real, trimmed signals.",
    )


def find_watch_file() -> Path:
    """Path of the data file inside the installed package, without importing the package.

    Raises:
        FileNotFoundError: The package or its file is not there.
    """
    try:
        files = metadata.files("seglearn") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == "watch_dataset.npy" and path.is_file():
            return path
    raise FileNotFoundError(
        "data set `watch` needs watch_dataset.npy of the package seglearn, got an environment without it. "
        "Install it with `pip install seglearn==1.2.5`."
    )


def read_wearers(path: Path) -> tuple[Wearer, ...]:
    """Read the signals, sorted by subject and arm.

    Raises:
        ValueError: The file's SHA-256 is not the pinned one.
    """
    # A pickle may run code when it is read: the very bytes that were hashed are parsed, nothing else.
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"`path` must be the file with SHA-256 {SHA256}, got {path} with {found}. "
            "It was not opened. Reinstall it with `pip install --force-reinstall --no-deps seglearn==1.2.5`."
        )
    data = np.load(io.BytesIO(content), allow_pickle=True).item()
    keys = zip(data["subject"].astype(int), data["side"].astype(int), data["y"].astype(int), strict=True)
    series = {tuple(map(int, key)): signal for key, signal in zip(keys, data["X"], strict=True)}
    return tuple(
        Wearer(
            name=f"S{subject}-{('left', 'right')[side]}",
            subject=subject,
            series=tuple(series[subject, side, exercise] for exercise in range(len(EXERCISES))),
        )
        for subject, side in sorted({(subject, side) for subject, side, _ in series})
    )


def compose_recording(wearer: Wearer, pieces: tuple[Piece, ...], name: str) -> Recording:
    """String the pieces together, cut into snippets, and note where the foreground is.

    Samples behind the last whole snippet (under 0.32 s) are left out, and the last segment ends there.
    """
    signal = np.concatenate([wearer.series[p.exercise][p.start : p.stop] for p in pieces])
    samples = len(signal) // SAMPLES_PER_SNIPPET * SAMPLES_PER_SNIPPET
    borders = np.minimum(np.cumsum([0, *map(len, pieces)]), samples)
    segments = tuple(
        Segment(float(start) / RATE, float(stop) / RATE, EXERCISES[piece.exercise])
        for piece, start, stop in zip(pieces, borders[:-1], borders[1:], strict=True)
        if piece.exercise not in BACKGROUND
    )
    shown = {segment.label for segment in segments}
    return Recording(
        name=name,
        streams={
            "accelerometer": zscore(motion_features(signal[:, :3])),
            "gyroscope": zscore(motion_features(signal[:, 3:])),
        },
        snippet_seconds=SAMPLES_PER_SNIPPET / RATE,
        segments=segments,
        labels=tuple(name for name in EXERCISES if name in shown),
    )


def motion_features(axes: np.ndarray) -> np.ndarray:
    """Statistics of three axes and their norm: mean, deviation, minimum, maximum, waveform length, slope.

    Each snippet (0.32 s) is described by the 1.92 s around it, about one repetition of an exercise: within less, the
    phases of a repetition differ more than two exercises do.

    Args:
        axes: Shape (samples, 3).

    Returns:
        Shape (T, 24).
    """
    channels = np.column_stack([axes, np.linalg.norm(axes, axis=1)])
    snippets = sliding_windows(channels, SAMPLES_PER_SNIPPET, WINDOW_SAMPLES)
    return np.concatenate(
        (
            snippets.mean(axis=1),
            snippets.std(axis=1),
            snippets.min(axis=1),
            snippets.max(axis=1),
            waveform_length(snippets),
            slope(snippets, RATE),
        ),
        axis=1,
    )


def _check_counts(**counts: int) -> None:
    for argument, count in counts.items():
        if count < 1:
            raise ValueError(
                f"`{argument}` must be at least 1, got {count}. The defaults are 150 to train, 60 to test."
            )


def _check_range(argument: str, bounds: tuple[float, float], low: float, high: float) -> None:
    smallest, largest = bounds
    if not low < smallest <= largest < high:
        raise ValueError(
            f"`{argument}` must be (smallest, largest), both strictly between {low} and {high}, got "
            f"{bounds}. Swap the two or move them inside."
        )
