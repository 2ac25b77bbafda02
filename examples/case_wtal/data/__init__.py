"""Data sets of the example: real recordings, cut into snippets, with their splits."""

from collections.abc import Callable
from pathlib import Path

from examples.case_wtal.data.ninapro import load_ninapro
from examples.case_wtal.data.recording import LocalizationData, Recording, Segment
from examples.case_wtal.data.sampling import random_bin_indices, uniform_indices
from examples.case_wtal.data.thumos14 import load_thumos14
from examples.case_wtal.data.thumos14_simulated import write_simulated_features
from examples.case_wtal.data.watch import load_watch

__all__ = [
    "LocalizationData",
    "Recording",
    "Segment",
    "load",
    "load_ninapro",
    "load_thumos14",
    "load_watch",
    "random_bin_indices",
    "uniform_indices",
    "write_simulated_features",
]

ON_DISK: dict[str, tuple[Callable[[Path], LocalizationData], str]] = {
    "ninapro": (load_ninapro, "S<n>_A1_E1.mat of NinaPro database 1, exercise 1"),
    "thumos14": (
        load_thumos14,
        "gt.json, split_train.txt, split_test.txt and features/{train,test}/{rgb,flow}/",
    ),
}
"""Data sets that the user downloads: loader, and what its folder must hold."""


def load(name: str, root: Path | None = None, seed: int = 0) -> LocalizationData:
    """Load a data set by name, with its default settings.

    Args:
        name: "watch" (embedded), "ninapro" or "thumos14" (from `root`).
        root: Folder of a downloaded data set; None for "watch".
        seed: Of the split and composition of "watch". The other data sets have a published split and nothing
            random in them.

    Raises:
        ValueError: `name` is unknown, or `root` is given without need or missing.
        FileNotFoundError: `root` is not a folder or lacks files.
    """
    if name == "watch":
        if root is not None:
            raise ValueError(f'`root` must be None for "watch", which is installed, got {root}. Leave it out.')
        return load_watch(seed=seed)
    if name not in ON_DISK:
        names = ", ".join(["watch", *ON_DISK])
        raise ValueError(f"`name` must be one of {names}, got {name!r}. Choose one of them.")
    loader, content = ON_DISK[name]
    if root is None:
        raise ValueError(f'`root` must be a folder for "{name}", got None. It must hold {content}.')
    if not Path(root).is_dir():
        raise FileNotFoundError(f'`root` must be a folder for "{name}", got {root}. It must hold {content}.')
    return loader(Path(root))
