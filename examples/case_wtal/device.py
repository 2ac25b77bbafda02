"""Which device a setting means."""

import torch

from examples.case_wtal.config import Device


def torch_device(device: Device) -> torch.device:
    """The device of that name.

    Args:
        device: "auto" is CUDA if there is one, else the CPU. Nothing else is chosen: other accelerators lack some of
            the operations.

    Raises:
        ValueError: "cuda" where there is none, or another name.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"`device` must be 'auto', 'cpu' or 'cuda', got {device!r}. Choose one of them.")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ValueError("`device` must be one that torch can use, got 'cuda' and none is there. Use 'auto' or 'cpu'.")
    return torch.device("cuda" if there and device != "cpu" else "cpu")
