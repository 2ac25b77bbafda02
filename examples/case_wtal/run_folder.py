"""The folder of a run, and the rule that no run overwrites another.

config.json            every setting; `CaseConfig` comes back from it
environment.json       versions, platform, seed, and what the data are
metrics.csv            mean losses of each epoch; the same as curves in tensorboard/
checkpoints/last.ckpt  weights, optimiser and progress after the last finished epoch
predictions.json       detections on the test split, ActivityNet results form
evaluation.json        AP of each class and threshold; as a table in evaluation.txt
"""

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.config_json import describe_difference, read_config, write_config
from examples.case_wtal.data import LocalizationData

CHECKPOINT = Path("checkpoints") / "last.ckpt"
PREDICTIONS = "predictions.json"
PACKAGES = ("otlabel", "torch", "lightning", "numpy", "scipy", "scikit-learn")


def open_folder(folder: Path | None, config: CaseConfig, data: LocalizationData, *, resume: bool) -> Path | None:
    """Prepare a run folder: settings and environment.

    Args:
        folder: None is no folder.
        config: Settings of the run.
        data: What it is trained on.
        resume: Whether the run is there already.

    Returns:
        The checkpoint to go on from, if there is one.

    Raises:
        FileExistsError: `folder` holds something and `resume` is False.
        FileNotFoundError: `resume` is True and `folder` holds no run.
        ValueError: Settings or data differ from those of the run that is resumed.
    """
    if folder is None:
        if resume:
            raise ValueError("`resume` must be False without a run folder, got True. Name the folder of the run.")
        return None
    saved = folder / "config.json"
    environment = _environment(config, data)
    if resume:
        differences = describe_difference(read_config(existing(folder, "config.json")), config)
        if differences:
            raise ValueError(
                f"`config` must equal the settings of the run that is resumed, got {differences}. "
                "Resume with the saved settings, or start a new run in another folder."
            )
        before = json.loads(existing(folder, "environment.json").read_text(encoding="utf-8"))["data"]
        if before != environment["data"]:
            raise ValueError(
                f"`data` must be the data of the run that is resumed, got {data.note!r} after {before['note']!r}, or "
                "other recordings or classes. Resume with the same data."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"`folder` must be new or empty, got {folder} with "
            f"{'a run' if saved.exists() else 'other files'} in it. Choose another folder"
            f"{', or resume that run' if saved.exists() else ''}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, saved)
    write_json(folder / "environment.json", environment)
    checkpoint = folder / CHECKPOINT
    return checkpoint if resume and checkpoint.exists() else None


def _environment(config: CaseConfig, data: LocalizationData) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "seed": config.train.seed,
        "data": {
            "name": data.name,
            "note": data.note,
            "train": len(data.train),
            data.test_split: len(data.test),
            "classes": list(data.classes),
            "stream_widths": data.stream_widths,
        },
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed, used from its source tree"


def existing(folder: Path, name: str) -> Path:
    """The file of that name in a run folder.

    Raises:
        FileNotFoundError: It is not there.
    """
    if not (folder / name).is_file():
        raise FileNotFoundError(f"`folder` must be a run folder with {name}, got {folder}. Train into it first.")
    return folder / name


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
