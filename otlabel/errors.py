"""What otlabel raises and warns with, and the checks that more than one module makes."""

import math
import sys

import torch
from torch import Tensor

# From so many entries on the smallest and the largest are found faster by two fast calls than by one slow one, as long
# as the entries stay in cache in between.
FAST_RANGE_FROM = 2**15
FAST_RANGE_BLOCK = 2**19


class InfeasibleProblemError(ValueError):
    """No plan can meet the marginals: the allowed entries cannot carry the mass asked for."""


class ConvergenceError(RuntimeError):
    """The solver missed its tolerance and was told to raise (`on_failure="raise"`)."""


class RankError(RuntimeError):
    """Another process that holds samples of the same problem failed, or is gone."""


class ConvergenceWarning(UserWarning):
    """The solver missed its tolerance; `LabelResult.marginal_error` says by how much."""


class NumericalWarning(UserWarning):
    """The tolerance asked for is below what the number format can show."""


def users_line() -> int:
    """The `stacklevel` with which a warning of the calling function shows the line that called the library."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_inside(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _is_inside(module: str) -> bool:
    return module.partition(".")[0] in ("otlabel", "torch")  # torch: the wrapper of a decorated function


def require(condition: object, message: str, *values: object) -> None:
    """Raise a ValueError with `message` (its braces filled from `values`) unless `condition` holds."""
    if not condition:
        raise ValueError(message.format(*values))


def require_number(value: object, name: str, advice: str) -> None:
    """Raise a TypeError unless `value` is a Python number (a bool is none)."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}. {advice}")
    require(
        isinstance(value, float) or abs(value) < 2**1000,
        "`{}` must be finite, got an integer too large. {}",
        name,
        advice,
    )


def require_count(value: object, name: str, advice: str) -> None:
    """Raise unless `value` is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an integer, got {type(value).__name__}. {advice}")
    require(value >= 1, "`{}` must be at least 1, got {}. {}", name, value, advice)


def require_numbers(value: object, name: str) -> None:
    """Raise a TypeError unless `value` is a tensor of real numbers (bool and integers included)."""
    if not isinstance(value, Tensor) or value.is_complex():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"`{name}` must be a torch.Tensor of real numbers, got {got}. Convert it.")


def require_beside(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """Raise unless both tensors are on one device."""
    require(
        value.device == other.device,
        "`{}` must be on the device {} of `{}`, got {}. Move either with `.to`.",
        name,
        other.device,
        other_name,
        value.device,
    )


def value_range(value: Tensor) -> tuple[float, float]:
    """Smallest and largest entry; NaN in both if there is one, zeros if the tensor is empty."""
    value, count = value.detach() if value.requires_grad else value, value.numel()
    if not count:
        return 0.0, 0.0
    if count < FAST_RANGE_FROM or not _has_fast_range(value):
        low, high = torch.aminmax(value)
    elif count <= FAST_RANGE_BLOCK:
        low, high = value.amin(), value.amax()
    else:
        blocks = torch.split(value.view(-1), FAST_RANGE_BLOCK)
        ends = torch.stack([end for block in blocks for end in (block.amin(), block.amax())])
        low, high = torch.aminmax(ends)
    return low.item(), high.item()


def _has_fast_range(value: Tensor) -> bool:
    return value.is_cpu and value.dtype in (torch.float32, torch.float64) and value.is_contiguous()


def require_mass(value: Tensor, name: str, advice: str) -> None:
    """Raise unless every entry is finite and non-negative."""
    smallest, largest = value_range(value)
    require(
        0 <= smallest <= largest < math.inf,
        "`{}` must be finite and non-negative, got values from {:g} to {:g}. {}",
        name,
        smallest,
        largest,
        advice,
    )
