"""A folder in the layout of `thumos14`: real annotations, SIMULATED features."""

import shutil
from pathlib import Path

import numpy as np

from examples.case_wtal.data.annotations import read_database
from examples.case_wtal.data.archives import read_names
from examples.case_wtal.data.integrity import Report
from examples.case_wtal.data.simulated import begin, write_features


def write_simulated_features(
    root: Path, annotations: Path, *, seed: int, width: int = 1024, videos: int | None = None
) -> None:
    """Write THUMOS14 annotations, splits and simulated features in the layout that `load_thumos14` reads.

    At full width all 410 videos take about 1 GB.

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
        IntegrityError: The annotations are missing or broken.
    """
    root, annotations = Path(root), Path(annotations)
    begin(root, seed, width)
    report = Report(annotations)
    entries = read_database(annotations / "basnet_gt.json", report)
    names = {split: read_names(annotations / f"split_{split}.txt", report)[:videos] for split in ("train", "test")}
    report.conclude("Copy the annotations again.")
    shutil.copyfile(annotations / "basnet_gt.json", root / "gt.json")
    for split, listed in names.items():
        (root / f"split_{split}.txt").write_text("".join(f"{name}\n" for name in listed))
    durations = _read_durations(annotations)
    write_features(root, entries, names, durations, np.random.default_rng(seed), width)


def _read_durations(annotations: Path) -> dict[str, float]:
    """Video -> seconds, out of the two duration files."""
    durations: dict[str, float] = {}
    for split in ("val", "test"):
        words = (annotations / f"th14_{split}_durations.txt").read_text().split()
        durations |= {Path(name).stem: float(seconds) for name, seconds in zip(words[::2], words[1::2], strict=True)}
    return durations
