"""The folder of a run, and the rule that no run overwrites another.

config.json            every setting; `CaseConfig` comes back from it
environment.json       versions, platform, seed, and what the data are
metrics.csv            mean losses of each epoch; the same as curves in tensorboard/
checkpoints/last.ckpt  weights, optimiser and progress after the last finished epoch; previous.ckpt is one epoch older
predictions.json       detections on the test split, ActivityNet results form
evaluation.json        AP of each class and threshold and foreground AUC, in the form of `evaluate --out`
evaluation.txt         the same as a table
earlier/               the run before, with all of this, where training has several stages

All but the curves are written beside their place and then renamed, so a kill leaves no half of a file.
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
from examples.case_wtal.device import torch_device
from examples.case_wtal.evaluation.outcome import Origin
from examples.case_wtal.files import write_text

CHECKPOINT = Path("checkpoints") / "last.ckpt"
EARLIER = "earlier"
ENVIRONMENT = "environment.json"
PREDICTIONS = "predictions.json"
EVALUATION = "evaluation.json"
DESCRIPTION = {"classes": list, "stream_widths": dict, "note": str}
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
        ValueError: Settings or data differ from those of the run that is resumed, or its files are broken.
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
        before = read_data_description(folder)
        if before != environment["data"]:
            raise ValueError(
                f"`data` must be the data of the run that is resumed, got {data.note!r} after {before['note']!r}, or "
                "other recordings or classes. Resume with the same data."
            )
    elif folder.exists() and any(not _is_leftover(path) for path in folder.iterdir()):
        raise FileExistsError(
            f"`folder` must be new or empty, got {folder} with "
            f"{'a run' if saved.exists() else 'other files'} in it. Choose another folder"
            f"{', or resume that run' if saved.exists() else ''}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ENVIRONMENT, environment)
    write_config(config, saved)  # last: it makes the folder a run
    checkpoint = folder / CHECKPOINT
    return checkpoint if resume and checkpoint.exists() else None


def read_data_description(folder: Path) -> dict[str, Any]:
    """What the data of a run were: `data` in its environment.json.

    Returns:
        At least `classes` (names), `stream_widths` (stream -> D) and `note`. `snippet_seconds` is None where the
        recordings differed in it.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It is not what a run writes.
    """
    path = existing(folder, ENVIRONMENT)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
        complete = all(isinstance(data[key], kind) for key, kind in DESCRIPTION.items())
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`folder` must hold an environment.json that a run wrote, got {path} ({type(error).__name__}: {error}). "
            "Put the run's own file back, or train again."
        ) from error
    if not complete:
        raise ValueError(
            f"`folder` must hold an environment.json that a run wrote, got {path} with other types in `data`. "
            "Put the run's own file back, or train again."
        )
    return data


def read_origin(folder: Path) -> Origin:
    """Where the detections of a run come from: `origin` in its evaluation.json.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It is not what a run writes.
    """
    path = existing(folder, EVALUATION)
    try:
        return Origin(**json.loads(path.read_text(encoding="utf-8"))["origin"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`folder` must hold an {EVALUATION} that a run wrote, got {path} ({type(error).__name__}: {error}). "
            "Make it again with `evaluate` on the folder."
        ) from error


def _is_leftover(path: Path) -> bool:
    """Whether a run that was killed before its first epoch may have left it, and nothing of value is in it."""
    return path.name == ENVIRONMENT or path.name in {f"{name}.part" for name in (ENVIRONMENT, "config.json")}


def _environment(config: CaseConfig, data: LocalizationData) -> dict[str, Any]:
    seconds = {recording.snippet_seconds for recording in data.train}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "device": "cpu" if torch_device(config.train.device).type == "cpu" else torch.cuda.get_device_name(),
        "seed": config.train.seed,
        "data": {
            "name": data.name,
            "note": data.note,
            "train": len(data.train),
            data.test_split: len(data.test),
            "classes": list(data.classes),
            "stream_widths": data.stream_widths,
            "snippet_seconds": seconds.pop() if len(seconds) == 1 else None,
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
    write_text(path, json.dumps(content, indent=2) + "\n")
