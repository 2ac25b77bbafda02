"""Data sets of the example: real recordings, cut into snippets, with their splits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from examples.case_wtal.data.activitynet import load_activitynet
from examples.case_wtal.data.activitynet_simulated import write_simulated_activitynet
from examples.case_wtal.data.folder import load_folder, write_folder
from examples.case_wtal.data.inertial import load_inertial
from examples.case_wtal.data.integrity import IntegrityError, Problem
from examples.case_wtal.data.ninapro import load_ninapro
from examples.case_wtal.data.recording import LocalizationData, Recording, Segment
from examples.case_wtal.data.sampling import random_bin_indices, uniform_indices
from examples.case_wtal.data.thumos14 import load_thumos14
from examples.case_wtal.data.thumos14_simulated import write_simulated_features
from examples.case_wtal.data.watch import load_watch

__all__ = [
    "IntegrityError",
    "LocalizationData",
    "Problem",
    "Recording",
    "Segment",
    "load",
    "load_activitynet",
    "load_folder",
    "load_inertial",
    "load_ninapro",
    "load_thumos14",
    "load_watch",
    "random_bin_indices",
    "uniform_indices",
    "write_folder",
    "write_simulated_activitynet",
    "write_simulated_features",
]

_THUMOS14 = (
    "gt.json, split_train.txt, split_test.txt and features/{train,test}/{rgb,flow}/, or the array files of the "
    "W-TALC line"
)
_ACTIVITYNET = (
    "annotations (gt.json or activity_net.v1-*.json) and features/{train,val}/{rgb,flow}/, or the array files of the "
    "W-TALC line"
)

ON_DISK: dict[str, tuple[Callable[[Path], LocalizationData], str]] = {
    "ninapro": (load_ninapro, "S<n>_A1_E1.mat of NinaPro database 1, exercise 1"),
    "inertial": (
        load_inertial,
        "activity_labels.txt, and labels.txt and <stream>_exp<n>_user<n>.txt in it or in RawData/",
    ),
    "thumos14": (load_thumos14, _THUMOS14),
    "thumos14-212": (partial(load_thumos14, ground_truth="212"), _THUMOS14),
    "activitynet12": (partial(load_activitynet, version="1.2"), _ACTIVITYNET),
    "activitynet13": (partial(load_activitynet, version="1.3"), _ACTIVITYNET),
    "folder": (load_folder, "dataset.json, annotations.json and features/<stream>/<recording>.npy"),
}
"""Data sets that the user downloads or makes: loader, and what its folder must hold."""


def load(name: str, root: Path | None = None, seed: int = 0) -> LocalizationData:
    """Load a data set by name, with its default settings.

    Args:
        name: "watch" (embedded), or from `root` "ninapro", "inertial", "thumos14" (210 test videos), "thumos14-212",
            "activitynet12", "activitynet13" or "folder" (own data).
        root: Folder of a data set; None for "watch".
        seed: Of the split and composition of "watch". The other data sets have a published split and nothing
            random in them.

    Raises:
        ValueError: `name` is unknown, `root` is given without need or missing, or what it holds is broken.
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
