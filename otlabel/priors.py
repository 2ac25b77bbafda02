r"""Builders of `log_prior`: the logarithm of a prior assignment :math:`R`, to pass as `log_prior=`.

Logarithms, because a narrow Gaussian underflows: its zeros would forbid labels that are merely unlikely.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otlabel.errors import require, require_beside, require_count, require_number

Rank = Literal["true", "released_argsort"]


def gaussian_rank_prior(
    sample_score: Float[Tensor, "*batch n"],
    class_score: Float[Tensor, "*batch k"],
    *,
    sigma: float,
    order_preserving: bool = False,
    rank: Rank = "true",
    mask: Bool[Tensor, "*batch n"] | None = None,
) -> Float[Tensor, "*batch n k"]:
    r"""Log of CASE's prior: samples of high rank belong to classes of high score.

    .. math::
        \log R_{nk} = -\frac{d_{nk}^2}{2\sigma^2}, \qquad
        d_{nk} = \Bigl|\frac{\mathrm{rank}_n}{N} - c_k\Bigr| \Big/ \delta

    with :math:`\mathrm{rank}_n = 1` for the smallest sample score, :math:`c_k` the class score, and :math:`\delta = 1`,
    or :math:`\sqrt{1/N^2 + 1/K^2}` with `order_preserving`. Additive constants do not change a label, so the Gaussian
    is not normalised. In CASE the sample score is a snippet's attention and the class score a cluster's foreground
    probability.

    Args:
        sample_score: What to rank the samples by, any scale, shape (*batch, n). Equal scores share their mean rank.
        class_score: Position of each class on the scale of `rank / N`, in [0, 1], shape (*batch, k).
        sigma: Width of the Gaussian in units of d; smaller trusts the prior more. With `order_preserving` useful values
            are near 1, without it near 0.1.
        order_preserving: Divide the distance by the scale of the order-preserving Wasserstein distance (Su and Hua,
            CVPR 2017).
        rank: `"true"`, or `"released_argsort"`: the released CASE program uses one descending argsort, a permutation
            that is not the rank, in place of `rank / N` (index from 0). For reproducing that program only; it knows
            no mask.
        mask: False for samples to leave out (padding), shape (*batch, n): they take no rank, N counts the others, and
            their log-prior is 0.

    Returns:
        Log-prior of shape (*batch, n, k), in the dtype of `sample_score` (float32 for half precision).

    Raises:
        TypeError: If a score is not a floating tensor, or `mask` not a boolean one.
        ValueError: If shapes disagree, scores are not finite, `sigma` is not positive, `rank` is unknown, or `mask`
            meets `"released_argsort"`.

    Example:
        >>> attention = torch.tensor([0.9, 0.1, 0.4])
        >>> gaussian_rank_prior(attention, torch.tensor([0.0, 1.0]), sigma=0.5)
        tensor([[-2.0000, -0.0000],
                [-0.2222, -0.8889],
                [-0.8889, -0.2222]])

    Source: Liu et al., "Revisiting Foreground and Background Separation in Weakly-supervised Temporal Action
    Localization: A Clustering-based Approach", ICCV 2023, eq. 11.
    """
    _check_rank_prior(sample_score, class_score, sigma, rank, mask)
    dtype = torch.float64 if sample_score.dtype == torch.float64 else torch.float32
    scores = sample_score.detach().to(dtype)
    n, k = scores.shape[-1], class_score.shape[-1]
    valid = torch.full_like(scores, n)[..., :1]
    if rank == "released_argsort":
        position = scores.argsort(dim=-1, descending=True).to(dtype) / n
    else:
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.inf)
            valid = mask.sum(dim=-1, keepdim=True).to(dtype)
        ordered = scores.sort(dim=-1).values.contiguous()
        scores = scores.contiguous()
        smaller = torch.searchsorted(ordered, scores, right=False)
        not_larger = torch.searchsorted(ordered, scores, right=True)
        position = (smaller + not_larger + 1).to(dtype) / 2 / valid
    distance = position[..., :, None] - class_score.detach().to(dtype)[..., None, :]
    if order_preserving:
        distance = distance / (valid**-2 + k**-2).sqrt()[..., None]
    log_prior = (distance / sigma).square() / -2
    if mask is not None:
        log_prior = log_prior.masked_fill(~mask[..., None], 0.0)
    return log_prior


def temporal_gaussian_prior(
    n: int,
    k: int,
    *,
    sigma: float = 1.0,
    first_index: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, "n k"]:
    r"""Log of the order-preserving prior: sample i of n belongs near class :math:`j = i k / n`.

    .. math::
        \log R_{ij} = -\frac{d_{ij}^2}{2\sigma^2}, \qquad d_{ij} = \frac{|i/n - j/k|}{\sqrt{1/n^2 + 1/k^2}}

    Args:
        n: Number of samples, in temporal order.
        k: Number of classes, in temporal order.
        sigma: Width in units of d: 1 in the paper, 1.5 in temporal optimal transport (Kumar et al., CVPR 2022).
        first_index: Index of the first sample and class: 1 in Su and Hua, 0 in Kumar et al.
        dtype: Floating type of the result.
        device: Device of the result.

    Returns:
        Log-prior of shape (n, k).

    Raises:
        ValueError: If `n` or `k` is below 1, `sigma` is not positive, or `first_index` is neither 0 nor 1.

    Example:
        >>> temporal_gaussian_prior(2, 2)
        tensor([[-0.0000, -0.2500],
                [-0.2500, -0.0000]])

    Source: Su and Hua, "Order-Preserving Wasserstein Distance for Sequence Matching", CVPR 2017, eq. 8.
    """
    require_count(n, "n", "Pass the number of samples.")
    require_count(k, "k", "Pass the number of classes.")
    _require_sigma(sigma)
    require(first_index in (0, 1), "`first_index` must be 0 or 1, got {}. Su and Hua count from 1.", first_index)
    row_index = torch.arange(n, dtype=torch.float64, device=device) + first_index
    column_index = torch.arange(k, dtype=torch.float64, device=device) + first_index
    distance = (row_index[:, None] / n - column_index / k) / math.hypot(1 / n, 1 / k)
    return ((distance / sigma).square() / -2).to(dtype)


def _check_rank_prior(sample_score: Tensor, class_score: Tensor, sigma: float, rank: str, mask: Tensor | None) -> None:
    for name, value in (("sample_score", sample_score), ("class_score", class_score)):
        _require_tensor(value, name, floating=True)
        require(
            value.ndim >= 1 and value.numel() > 0,
            "`{}` must have a dimension and an entry, got shape {}. Pass at least one value.",
            name,
            tuple(value.shape),
        )
    require(
        sample_score.shape[:-1] == class_score.shape[:-1],
        "`class_score` must share the leading shape {} of `sample_score`, got {}. Expand it.",
        tuple(sample_score.shape[:-1]),
        tuple(class_score.shape[:-1]),
    )
    require_beside(class_score, "class_score", sample_score, "sample_score")
    _require_finite(class_score, "class_score")
    _require_sigma(sigma)
    require(
        rank in get_args(Rank),
        "`rank` must be one of {}, got {!r}. Use 'true' unless reproducing.",
        get_args(Rank),
        rank,
    )
    if mask is None:
        _require_finite(sample_score, "sample_score")
        return
    _require_tensor(mask, "mask", floating=False)
    require_beside(mask, "mask", sample_score, "sample_score")
    require(
        mask.shape == sample_score.shape,
        "`mask` must have the shape {} of `sample_score`, got {}. Pass one flag for each sample.",
        tuple(sample_score.shape),
        tuple(mask.shape),
    )
    require(rank == "true", "`mask` must be None with rank='released_argsort', got one. Remove the padding first.")
    _require_finite(sample_score.masked_fill(~mask, 0.0), "sample_score")
    require(bool(mask.any(dim=-1).all()), "`mask` must keep a sample, got one without. Drop that problem.")


def _require_tensor(value: object, name: str, *, floating: bool) -> None:
    if not isinstance(value, Tensor) or not (value.is_floating_point() if floating else value.dtype == torch.bool):
        kind, advice = ("floating", "Convert it with `.float()`.") if floating else ("boolean", "Try `mask.bool()`.")
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"`{name}` must be a {kind} torch.Tensor, got {got}. {advice}")


def _require_finite(value: Tensor, name: str) -> None:
    require(bool(torch.isfinite(value).all()), "`{}` must be finite, got NaN or infinity. Mask or repair it.", name)


def _require_sigma(sigma: float) -> None:
    require_number(sigma, "sigma", "Larger trusts the prior less.")
    require(
        0 < sigma < torch.inf,
        "`sigma` must be positive and finite, got {}. Larger trusts the prior less.",
        sigma,
    )
