"""Checkpoint files: written whole or not at all, read without running code, refused with the file's name."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn
from typing_extensions import override

from examples.case_wtal.files import write_whole

PREVIOUS = "previous.ckpt"


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint by renaming, and keeps the one before it as `previous.ckpt`.

    Lightning's own way goes through the system's temporary folder. Where that is another file system, its last step is
    a copy, and a kill in the middle of the copy leaves no checkpoint to go on from.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save; the file at `path` is replaced at the end."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            write_whole(path.with_name(PREVIOUS), lambda part: shutil.copyfile(path, part))
        write_whole(path, lambda part: torch.save(checkpoint, part))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A run's checkpoint, on the CPU; tensors and plain values only, so that nothing in it can run code.

    Raises:
        ValueError: The file is damaged, holds anything else, or was not written by a run.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"`checkpoint` must be a whole file of tensors and plain values, got {path} ({reason[:200]}). It is "
            f"damaged or holds code, which is never run. {_remedy(path)}"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ValueError(
            f"`checkpoint` must be one that a run wrote, got {path} without weights of a run in it. {_remedy(path)}"
        )
    return checkpoint


def fill(module: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Put weights into a module.

    Raises:
        ValueError: They belong to another network; the message names what differs.
    """
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"`checkpoint` must hold the network that config.json and environment.json describe, got {path} in which "
            f"{', '.join(problems[:3])}{more}. Put back the files of one run."
        )
    module.load_state_dict(weights)


def _remedy(path: Path) -> str:
    previous = path.with_name(PREVIOUS)
    if previous.is_file():
        return f"Replace it by {previous}, one epoch older, and resume the run; or train again."
    return "Copy it again from where it was whole, or train again."
