"""Builders of `marginal`: the share of the samples that each class is to get; proportions sum to one."""

import torch
from jaxtyping import Float, Real
from torch import Tensor

from otlabel.errors import require, require_beside, require_count, require_mass, require_number, require_numbers


def uniform(
    k: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, " k"]:
    """Equal shares, the default of every labeler.

    Args:
        k: Number of classes, at least 1.
        dtype: Floating type of the result.
        device: Device of the result.

    Returns:
        `1 / k` for each class, shape (k,).

    Raises:
        TypeError: If `k` is not an integer or `dtype` not floating.
        ValueError: If `k` is below 1.

    Example:
        >>> uniform(4)
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    require_count(k, "k", "Pass the number of classes.")
    _require_floating(dtype)
    return torch.full((k,), 1.0 / k, dtype=dtype, device=device)


def from_counts(counts: Real[Tensor, "*batch k"], *, smoothing: float = 0.0) -> Float[Tensor, "*batch k"]:
    """Proportions of class counts, for example those of the labelled samples.

    Args:
        counts: Non-negative count (any scale) of each class, shape (*batch, k).
        smoothing: Pseudo-count added to every class (Laplace); 0 leaves unseen classes empty.

    Returns:
        `(counts + smoothing) / sum`, float64 if the counts are, else float32.

    Raises:
        TypeError: If `counts` is no tensor of numbers, or `smoothing` no number.
        ValueError: If a count or `smoothing` is negative or not finite, or nothing was counted.

    Example:
        >>> from_counts(torch.tensor([6, 3, 0]), smoothing=1)
        tensor([0.5833, 0.3333, 0.0833])
    """
    require_numbers(counts, "counts")
    require_number(smoothing, "smoothing", "Pass 0 for none.")
    require(
        0 <= smoothing < torch.inf,
        "`smoothing` must be finite and at least 0, got {}. Pass 0 for none.",
        smoothing,
    )
    require_mass(counts, "counts", "Remove the broken entries.")
    mass = counts.detach().to(torch.float64) + smoothing
    require(
        mass.ndim >= 1 and bool((mass > 0).any(dim=-1).all()),
        "`counts` must not sum to zero, got a sum of 0. Count something first, or set `smoothing` above 0.",
    )
    return _shares(mass, counts.dtype)


def empirical(
    labels: Float[Tensor, "*batch n k"], *, sample_weight: Real[Tensor, "*batch n"] | None = None
) -> Float[Tensor, "*batch k"]:
    """Mean of soft or one-hot labels (or of predicted probabilities) over the samples.

    The data-driven marginal of CASE (Liu et al., ICCV 2023, eq. 13) is this mean over foreground pseudo-labels.

    Args:
        labels: Non-negative, shape (*batch, n, k); rows need not be normalised.
        sample_weight: Non-negative weight of each sample, shape (*batch, n); default all alike.

    Returns:
        Class proportions, shape (*batch, k).

    Raises:
        TypeError: If `labels` is not floating, or `sample_weight` no tensor of numbers.
        ValueError: If shapes disagree, an entry is negative or not finite, or all mass is zero.

    Example:
        >>> empirical(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        tensor([0.7500, 0.2500])
    """
    require_numbers(labels, "labels")
    if not labels.is_floating_point():
        raise TypeError(
            f"`labels` must be floating, got {labels.dtype}. "
            "Turn class indices into rows with torch.nn.functional.one_hot(labels, k).float()."
        )
    require(
        labels.ndim >= 2,
        "`labels` must have shape (*batch, n, k), got {}. Add a dimension: rows are samples, columns classes.",
        tuple(labels.shape),
    )
    require_mass(labels, "labels", "Pass probabilities, not logits.")
    mass = labels.detach().to(torch.float64)
    if sample_weight is not None:
        require_numbers(sample_weight, "sample_weight")
        require_beside(sample_weight, "sample_weight", labels, "labels")
        require(
            sample_weight.shape == labels.shape[:-1],
            "`sample_weight` must have shape {}, one weight for each row of `labels`, got {}. Reshape it.",
            tuple(labels.shape[:-1]),
            tuple(sample_weight.shape),
        )
        require_mass(sample_weight, "sample_weight", "0 ignores a sample.")
        mass = mass * sample_weight.detach()[..., None]
    share = mass.sum(dim=-2)
    require(
        bool((share > 0).any(dim=-1).all()),
        "`labels` (times `sample_weight`) must not sum to zero, got a sum of 0. Give some row a weight.",
    )
    return _shares(share, labels.dtype)


def power_law(
    k: int,
    exponent: float = 1.0,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, " k"]:
    """Long-tailed shares proportional to `rank ** -exponent`, class 0 the largest.

    Classes are ranked by their index, as in VISSL's SwAV option; sort them by their present size first if the index
    means nothing.

    Args:
        k: Number of classes, at least 1.
        exponent: Steepness; 0 is uniform, 1 is Zipf's law.
        dtype: Floating type of the result.
        device: Device of the result.

    Returns:
        Decreasing proportions, shape (k,).

    Raises:
        TypeError: If `k` is not an integer, `exponent` no number or `dtype` not floating.
        ValueError: If `k` is below 1 or `exponent` is not finite.

    Example:
        >>> power_law(3)
        tensor([0.5455, 0.2727, 0.1818])
    """
    require_count(k, "k", "Pass the number of classes.")
    _require_floating(dtype)
    require_number(exponent, "exponent", "Pass 0 for equal shares.")
    require(abs(exponent) < torch.inf, "`exponent` must be finite, got {}. Pass 0 for equal shares.", exponent)
    log_rank = torch.arange(1, k + 1, dtype=torch.float64, device=device).log()
    return torch.softmax(-exponent * log_rank, dim=0).to(dtype)


def _shares(mass: Tensor, dtype: torch.dtype) -> Tensor:
    """Divide float64 masses by their sum, safely for huge ones; the result is float64 only if the input was."""
    mass = mass / mass.amax(dim=-1, keepdim=True)
    return (mass / mass.sum(dim=-1, keepdim=True)).to(torch.float64 if dtype == torch.float64 else torch.float32)


def _require_floating(dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise TypeError(f"`dtype` must be a floating type, got {dtype}. Shares are fractions.")
