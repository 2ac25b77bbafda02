"""NinaPro database 1, exercise 1: surface EMG and data glove of people who repeat 12 finger movements.

Atzori et al., "Electromyography data for non-invasive naturally-controlled robotic hand prostheses",
Scientific Data 2014 (sdata201453). The data are free to use with citation and are not shipped here:
`load_ninapro` reads a copy that the user downloaded.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from examples.case_wtal.data.clips import SHORTEST_CLIP_SECONDS, cut_clips, whole_multiple
from examples.case_wtal.data.features import cut_snippets, slope, waveform_length, zscore
from examples.case_wtal.data.recording import LocalizationData, Recording

RATE = 100
"""Samples per second of both streams."""

TRAIN_SUBJECTS = (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 26, 27)
DEV_SUBJECTS = (20, 21, 22, 25)
"""No other subject is ever read: the rest stays unseen for whoever wants a final test."""

MOVEMENTS = (
    "index flexion",
    "index extension",
    "middle flexion",
    "middle extension",
    "ring flexion",
    "ring extension",
    "little flexion",
    "little extension",
    "thumb adduction",
    "thumb abduction",
    "thumb flexion",
    "thumb extension",
)
"""Movement `i` of `restimulus` is `MOVEMENTS[i - 1]`; 0 is rest."""

# The EMG values in the files are rounded multiples of 10 / 4096 (a 12-bit converter). One step inside the logarithms
# keeps a silent channel finite, and keeps differences below the resolution from being stretched.
EMG_STEP = 10 / 4096


@dataclass(frozen=True)
class Signals:
    """One subject's recording in original units.

    Attributes:
        emg: Shape (samples, 10), not negative: the sensors put out the envelope of the signal.
        glove: Shape (samples, 22), sensor units.
        movement: Shape (samples,), integers 0..12.
    """

    emg: np.ndarray
    glove: np.ndarray
    movement: np.ndarray


def load_ninapro(
    root: Path, *, clip_seconds: float = 64.0, snippet_seconds: float = 0.32, min_visible: float = 0.5
) -> LocalizationData:
    """Load NinaPro DB1 exercise 1 as untrimmed clips with two streams, "emg" (T, 40) and "glove" (T, 66).

    Every recording (one subject, about 1,010 s) is cut into clips without looking at its labels. The end that
    does not fill a clip is kept as a shorter clip of whole snippets, and dropped when it lasts less than one
    second. A clip in which nothing is visible has no labels; with the default lengths there is none. Features
    are z-scored over the whole recording. Subjects of the two splits are disjoint.

    Args:
        root: Folder with `S<n>_A1_E1.mat` (as downloaded) or `S<n>_A1_E1.npz` (re-packed: `emg_e4` in 1e-4,
            `glove_e2` in 1e-2) for each subject of both splits. Where a subject has both, the `.mat` is read.
            The two agree but for the glove's rounding to 0.005 units.
        clip_seconds: Length of a clip, a multiple of `snippet_seconds`, at least 1.
        snippet_seconds: Length of a snippet, a multiple of 0.01 s, at least 0.02.
        min_visible: Runs of one movement of which a clip shows less than this many seconds are dropped from
            the clip's segments, and so from its labels.

    Returns:
        Training clips and the development clips as `test`.

    Raises:
        FileNotFoundError: A subject's file is missing; all missing subjects are named.
        ValueError: A length is not a multiple as required, `min_visible` is negative, or a file's arrays do
            not fit the format.
    """
    samples = whole_multiple("snippet_seconds", snippet_seconds, 1 / RATE, at_least=2)
    fewest = int(np.ceil(round(SHORTEST_CLIP_SECONDS / snippet_seconds, 6)))
    snippets = whole_multiple("clip_seconds", clip_seconds, snippet_seconds, at_least=fewest)
    if min_visible < 0:
        raise ValueError(f"`min_visible` must be at least 0 seconds, got {min_visible}. Use 0 to keep every part.")
    files = _find_files(Path(root))

    def clips(subjects: tuple[int, ...]) -> tuple[Recording, ...]:
        return tuple(
            clip
            for subject in subjects
            for clip in _cut_recording(f"S{subject}", read_signals(files[subject]), samples, snippets, min_visible)
        )

    return LocalizationData(
        name="ninapro",
        classes=MOVEMENTS,
        train=clips(TRAIN_SUBJECTS),
        test=clips(DEV_SUBJECTS),
        test_split="dev",
        note="NinaPro DB1 exercise 1: real EMG and data-glove recordings.",
    )


def read_signals(path: Path) -> Signals:
    """Read one subject's file in either format, in original units.

    Raises:
        ValueError: Arrays are missing, differ in length, have the wrong width, or hold an unknown movement.
    """
    packed = path.suffix == ".npz"
    names = ("emg_e4", "glove_e2", "restimulus") if packed else ("emg", "glove", "restimulus")
    if packed:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names if name in archive.files}
    else:
        arrays = {name: array for name, array in loadmat(path, variable_names=names).items() if name in names}
    if len(arrays) != len(names):
        raise ValueError(
            f"`root` must hold files with the arrays {', '.join(names)}, got only {sorted(arrays)} in "
            f"{path.name}. Download the file again: exercise 1 of NinaPro database 1."
        )
    emg, glove, movement = (arrays[name] for name in names)
    signals = (
        Signals(emg.T * 1e-4, glove.T * 1e-2, movement.ravel().astype(int))
        if packed
        else Signals(emg.astype(float), glove.astype(float), movement.ravel().astype(int))
    )
    _check_signals(signals, path)
    return signals


def find_runs(movement: np.ndarray) -> list[tuple[int, int, int]]:
    """Contiguous runs of one movement.

    Args:
        movement: Shape (samples,), integers, 0 = rest.

    Returns:
        (first sample, one past the last sample, movement) of each run that is not rest, in order.
    """
    borders = [0, *(np.flatnonzero(np.diff(movement)) + 1).tolist(), len(movement)]
    return [(start, end, int(movement[start])) for start, end in pairwise(borders) if movement[start] != 0]


def emg_features(emg: np.ndarray, samples_per_snippet: int) -> np.ndarray:
    """Logarithms of mean, standard deviation, maximum and waveform length per channel, (T, 4 * 10)."""
    snippets = cut_snippets(emg, samples_per_snippet)
    statistics = (
        snippets.mean(axis=1),
        snippets.std(axis=1),
        snippets.max(axis=1),
        waveform_length(snippets),
    )
    return np.log(np.concatenate(statistics, axis=1) + EMG_STEP)


def glove_features(glove: np.ndarray, samples_per_snippet: int) -> np.ndarray:
    """Mean, standard deviation and slope (per second) per channel, (T, 3 * 22)."""
    snippets = cut_snippets(glove, samples_per_snippet)
    return np.concatenate((snippets.mean(axis=1), snippets.std(axis=1), slope(snippets, RATE)), axis=1)


def _cut_recording(name: str, signals: Signals, samples: int, snippets: int, min_visible: float) -> list[Recording]:
    """Clips of `snippets` snippets of `samples` samples."""
    return cut_clips(
        name,
        {
            "emg": zscore(emg_features(signals.emg, samples)),
            "glove": zscore(glove_features(signals.glove, samples)),
        },
        [(start, end, MOVEMENTS[movement - 1]) for start, end, movement in find_runs(signals.movement)],
        samples=samples,
        snippets=snippets,
        rate=RATE,
        min_visible=min_visible,
        classes=MOVEMENTS,
    )


def _find_files(root: Path) -> dict[int, Path]:
    files = {}
    for subject in (*TRAIN_SUBJECTS, *DEV_SUBJECTS):
        stem = f"S{subject}_A1_E1"
        found = [path for path in (root / f"{stem}.mat", root / f"{stem}.npz") if path.is_file()]
        if found:
            files[subject] = found[0]
    missing = sorted({*TRAIN_SUBJECTS, *DEV_SUBJECTS} - files.keys())
    if missing:
        raise FileNotFoundError(
            f"`root` must hold S<n>_A1_E1.mat (or .npz) of {len(files) + len(missing)} subjects, got {root} "
            f"without subjects {missing}. Download exercise 1 of NinaPro database 1 (ninaweb.hevs.ch) and "
            "put the files into that folder."
        )
    return files


def _check_signals(signals: Signals, path: Path) -> None:
    shapes = (signals.emg.shape, signals.glove.shape, signals.movement.shape)
    samples = len(signals.movement)
    if shapes != ((samples, 10), (samples, 22), (samples,)):
        raise ValueError(
            "`root` must hold files with 10 EMG channels, 22 glove channels and one label per sample, got "
            f"shapes {shapes} (samples first) in {path.name}. Check that it is exercise 1 of NinaPro database 1."
        )
    strange = sorted({*np.unique(signals.movement).tolist()} - {*range(len(MOVEMENTS) + 1)})
    if strange:
        raise ValueError(
            f"`root` must hold files whose movements are 0..{len(MOVEMENTS)}, got {strange} in {path.name}. "
            "Check that it is exercise 1 (file name ending in E1) of NinaPro database 1."
        )
