"""Inertial recordings in the layout of UCI's HAPT data: one signal file for each sensor, one file of labels.

root[/RawData]/<stream>_exp<number>_user<number>.txt   one row a sample, one column a channel (.csv and .npy too);
                                                       in HAPT `acc` and `gyro`, three axes at 50 Hz
root[/RawData]/labels.txt                              rows of five integers: experiment, user, activity, first and
                                                       last sample, counted from 1
root/activity_labels.txt                               rows of an activity's number and name

Reyes-Ortiz et al., "Transition-Aware Human Activity Recognition Using Smartphones", Neurocomputing 2016 (UCI Machine
Learning Repository, data set 341). Not shipped here. Whatever is recorded may be called so: the names of the streams
and the number of channels are read from the files.
"""

import math
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.case_wtal.data.archives import simulated
from examples.case_wtal.data.clips import SHORTEST_CLIP_SECONDS, cut_clips, whole_multiple
from examples.case_wtal.data.feature_files import BrokenFile, FeatureFile
from examples.case_wtal.data.features import cut_snippets, slope, waveform_length, zscore
from examples.case_wtal.data.integrity import Report
from examples.case_wtal.data.recording import LocalizationData, Recording

SIGNAL = re.compile(r"(?P<stream>\w+?)_exp(?P<experiment>\d+)_user(?P<user>\d+)\.(txt|csv|npy)")

TEST_SHARE = 0.3
"""Of the users, as in the split that UCI publishes with its windows of these recordings."""

ADVICE = "Download or record these files again, or remove the whole recording: its signals and its rows in labels.txt."


@dataclass(frozen=True, order=True)
class Session:
    """One recording: an experiment of a user."""

    user: int
    experiment: int

    @property
    def name(self) -> str:
        """As in the names of the files."""
        return f"exp{self.experiment:02d}_user{self.user:02d}"


def load_inertial(
    root: Path,
    *,
    rate: float = 50.0,
    snippet_seconds: float = 0.32,
    clip_seconds: float = 64.0,
    min_visible: float = 0.5,
    foreground: tuple[str, ...] | None = None,
    test_users: tuple[int, ...] | None = None,
) -> LocalizationData:
    """Load inertial recordings as untrimmed clips, with mean, deviation, slope and waveform length of each channel.

    Every stream is z-scored over its whole recording, which is then cut into clips without a look at its labels. The
    end that does not fill a clip is a shorter one, dropped below one second. No user is in both splits.

    Args:
        root: Folder in the layout above. A file `SIMULATED.txt` in it marks its signals as simulated.
        rate: Samples per second.
        snippet_seconds: A multiple of `1 / rate`, at least two samples.
        clip_seconds: A multiple of `snippet_seconds`, at least 1.
        min_visible: Activities of which a clip shows less than this many seconds are no part of it.
        foreground: Names of the activities to find; the others are background. None takes all, which in HAPT leaves
            little background: its six transitions are what is rare.
        test_users: Who is evaluated on; None takes the last 30 % in the order of their numbers.

    Raises:
        ValueError: A length is not a multiple as required, or a name or user does not occur.
        IntegrityError: Files are missing, broken or contradict each other; all are listed.

    Warns:
        UserWarning: Signals of one recording differ by less than a snippet, and were cut.
    """
    samples = whole_multiple("snippet_seconds", snippet_seconds, 1 / rate, at_least=2)
    fewest = math.ceil(round(SHORTEST_CLIP_SECONDS / snippet_seconds, 6))
    snippets = whole_multiple("clip_seconds", clip_seconds, snippet_seconds, at_least=fewest)
    if min_visible < 0:
        raise ValueError(f"`min_visible` must be at least 0 seconds, got {min_visible}. Use 0 to keep every part.")
    root = Path(root)
    report = Report(root)
    folder = root / "RawData" if (root / "RawData").is_dir() else root
    activities = _read_activities(root / "activity_labels.txt", report)
    signals = _read_signals(folder, samples, report)
    runs = _read_runs(folder / "labels.txt", signals, activities, samples, report)
    users = sorted({session.user for session in signals})
    report.conclude(ADVICE)
    classes = tuple(activities.values()) if foreground is None else tuple(foreground)
    tested = tuple(users[-max(1, round(TEST_SHARE * len(users))) :]) if test_users is None else tuple(test_users)
    _check_choice("foreground", classes, tuple(activities.values()))
    _check_choice("test_users", tested, tuple(users))
    if not set(users) - set(tested):
        raise ValueError(f"`test_users` must leave a user to learn from, got all of {users}. Name fewer.")

    def clips(*, test: bool) -> tuple[Recording, ...]:
        return tuple(
            clip
            for session in sorted(signals)
            if (session.user in tested) == test
            for clip in cut_clips(
                session.name,
                {stream: snippet_features(signal, samples, rate) for stream, signal in signals[session].items()},
                [run for run in runs[session] if run[2] in classes],
                samples=samples,
                snippets=snippets,
                rate=rate,
                min_visible=min_visible,
                classes=classes,
            )
        )

    kind = "SIMULATED signals: its numbers say nothing about people" if simulated(root) else "signals from disk"
    return LocalizationData(
        name="inertial",
        classes=classes,
        train=clips(test=False),
        test=clips(test=True),
        test_split="dev",
        note=f"Inertial recordings of {len(users)} users ({len(tested)} of them evaluated on), {kind}.",
    )


def snippet_features(signal: np.ndarray, samples: int, rate: float) -> np.ndarray:
    """Mean, deviation, slope (per second) and waveform length of each channel, z-scored, (T, 4 C)."""
    cut = cut_snippets(signal, samples)
    statistics = (cut.mean(axis=1), cut.std(axis=1), slope(cut, rate), waveform_length(cut))
    return zscore(np.concatenate(statistics, axis=1))


def _read_signals(folder: Path, samples: int, report: Report) -> dict[Session, dict[str, np.ndarray]]:
    """Recording -> stream -> signal, as long as the shortest; recordings with a problem are left out."""
    files: dict[Session, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := SIGNAL.fullmatch(path.name):
            session = Session(int(match["user"]), int(match["experiment"]))
            files.setdefault(session, {})[match["stream"]] = path
    streams = sorted({stream for found in files.values() for stream in found})
    if not files:
        report.add(folder / "<stream>_exp<number>_user<number>.txt", "missing")
    read = {session: {s: _read_signal(path, report) for s, path in found.items()} for session, found in files.items()}

    def channels(stream: str) -> int:
        """What most recordings have."""
        widths = Counter(s.shape[1] for found in read.values() if (s := found.get(stream)) is not None)
        return widths.most_common(1)[0][0]

    signals: dict[Session, dict[str, np.ndarray]] = {}
    cut: list[str] = []
    for session, found in sorted(read.items()):
        whole: dict[str, np.ndarray] = {}
        for stream in streams:
            signal = found.get(stream)
            if stream not in found:
                report.add(folder / f"{stream}_{session.name}.txt", "missing")
            if signal is None:
                continue
            if signal.shape[1] != channels(stream) or len(signal) < samples:
                wanted = f"({samples} or more, {channels(stream)})"
                report.add(files[session][stream], "shape", f"{signal.shape} instead of {wanted}")
                continue
            whole[stream] = signal
        lengths = [len(signal) for signal in whole.values()]
        if len(whole) < len(streams):
            continue
        if max(lengths) - min(lengths) >= samples:
            listed = ", ".join(f"{stream} {len(signal)}" for stream, signal in whole.items())
            report.add(session.name, "lengths", f"samples: {listed}; less than a snippet of {samples} apart")
            continue
        if max(lengths) > min(lengths):
            cut.append(session.name)
        signals[session] = {stream: signal[: min(lengths)] for stream, signal in whole.items()}
    if cut:
        report.notices.append(
            f"`root` should hold signals of equal length, got less than a snippet of difference in {len(cut)} "
            f"recordings: {', '.join(cut)}. They are cut to the shortest."
        )
    return signals


def _read_signal(path: Path, report: Report) -> np.ndarray | None:
    """A matrix of finite numbers, one row a sample; None after a problem."""
    try:
        if path.suffix == ".npy":
            signal = np.asarray(FeatureFile(path).read(), dtype=float)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # an empty file
                signal = np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None, ndmin=2)
    except BrokenFile as broken:
        report.add(path, broken.kind, broken.detail)
        return None
    except (OSError, ValueError, UserWarning) as error:
        report.add(path, "unreadable", str(error))
        return None
    broken_rows = int((~np.isfinite(signal)).any(axis=1).sum())
    if broken_rows:
        report.add(path, "not finite", f"NaN or infinity in {broken_rows} of {len(signal)} samples")
        return None
    return signal


def _read_activities(path: Path, report: Report) -> dict[int, str]:
    """Number -> name."""
    activities: dict[int, str] = {}
    for number, line in enumerate(_lines(path, report), start=1):
        words = line.split()
        if len(words) != 2 or not words[0].isdigit() or int(words[0]) in activities:
            report.add(f"{path.name}: line {number}", "annotation", f"{line!r} is not a new number and a name")
        else:
            activities[int(words[0])] = words[1]
    return activities


def _read_runs(
    path: Path, signals: dict[Session, dict[str, np.ndarray]], activities: dict[int, str], samples: int, report: Report
) -> dict[Session, list[tuple[int, int, str]]]:
    """Recording -> its activities: first sample, one past the last, name."""
    runs: dict[Session, list[tuple[int, int, str]]] = {session: [] for session in signals}
    broken = {problem.file for problem in report.problems}
    described = set()
    for number, line in enumerate(_lines(path, report), start=1):
        where, words = f"{path.relative_to(report.root)}: line {number}", line.split()
        if len(words) != 5 or not all(word.isdigit() for word in words):
            report.add(where, "annotation", f"{line!r} is not five whole numbers")
            continue
        experiment, user, activity, first, last = map(int, words)
        session = Session(user, experiment)
        described.add(session)
        if activity not in activities:
            report.add(where, "label", f"activity {activity} is not in activity_labels.txt")
        elif first < 1 or last < first:
            report.add(where, "segment", f"samples {first} to {last}")
        elif session not in signals:
            if not any(session.name in file for file in broken):
                report.add(where, "no features", f"no signals of {session.name}")
        elif last > len(next(iter(signals[session].values()))) + samples:
            found = len(next(iter(signals[session].values())))
            report.add(where, "segment", f"samples {first} to {last} leave the recording of {found}")
        else:
            runs[session].append((first - 1, last, activities[activity]))
    for session in sorted(set(signals) - described):
        report.add(session.name, "no annotation", f"no row in {path.name}")
    return runs


def _lines(path: Path, report: Report) -> list[str]:
    """Lines that are not blank; an absent file is a problem."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        report.add(path, "missing")
    except (OSError, ValueError) as error:
        report.add(path, "unreadable", str(error))
    return []


def _check_choice(argument: str, chosen: tuple[object, ...], known: tuple[object, ...]) -> None:
    unknown = [value for value in chosen if value not in known]
    if unknown or not chosen:
        raise ValueError(
            f"`{argument}` must be among {', '.join(map(str, known))}, got {unknown or 'none'}. Choose from these."
        )
