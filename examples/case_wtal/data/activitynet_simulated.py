"""A folder in the layout of `activitynet12` or `activitynet13`: real annotations, SIMULATED features."""

import shutil
from itertools import islice
from pathlib import Path

import numpy as np

from examples.case_wtal.data.activitynet import (
    ADVICE,
    BMN_FILES,
    SPLITS,
    THREE_C_FILE,
    Version,
    read_activitynet_annotations,
)
from examples.case_wtal.data.integrity import Report
from examples.case_wtal.data.simulated import begin, write_features


def write_simulated_activitynet(
    root: Path, annotations: Path, version: Version = "1.3", *, seed: int, width: int = 1024, videos: int | None = None
) -> None:
    """Write ActivityNet annotations and simulated features in the layout that `load_activitynet` reads.

    At full width all videos of version 1.3 take about 20 GB.

    Args:
        root: Folder to write; it must not hold features yet.
        annotations: Folder with `anet_anno_action.json` and `video_info_new.csv` (version 1.3), or with
            `anet12_3cnet.json` (1.2).
        version: "1.2" or "1.3".
        seed: Of directions and noise.
        width: Feature width.
        videos: Only the first so many of each split, listed in split files; None for all, without split files.

    Raises:
        FileExistsError: `root` holds a folder `features`, which could be real.
        IntegrityError: The annotations are missing or broken.
    """
    root, annotations = Path(root), Path(annotations)
    begin(root, seed, width)
    for name in BMN_FILES if version == "1.3" else (THREE_C_FILE,):
        shutil.copyfile(annotations / name, root / name)
    report = Report(root)
    _, entries = read_activitynet_annotations(root, version, report)
    report.conclude(ADVICE)
    names = {
        split: list(islice((name for name, entry in entries.items() if SPLITS.get(entry.subset) == split), videos))
        for split in ("train", "test")
    }
    if videos is not None:
        for split, listed in names.items():
            (root / f"split_{split}.txt").write_text("".join(f"{name}\n" for name in listed))
    durations = {name: entry.duration or 0.0 for name, entry in entries.items()}
    write_features(root, entries, names, durations, np.random.default_rng(seed), width)
