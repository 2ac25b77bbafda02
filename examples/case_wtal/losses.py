"""Top-k selection and the four losses of CASE. Padding (mask False) takes part in none of them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def select_topk(scores: Tensor, mask: Tensor, ratio: int) -> Tensor:
    """The best `max(1, T // ratio)` snippets of each class, T counting valid snippets (eq. 15).

    Args:
        scores: Shape (B, T, G).
        mask: True for valid snippets, shape (B, T).
        ratio: r.

    Returns:
        Selected snippets, bool, shape (B, T, G).
    """
    count = (mask.sum(dim=1) // ratio).clamp_min(1)
    order = scores.masked_fill(~mask[..., None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(scores.shape[1], device=scores.device)[:, None].expand_as(order)
    )
    return rank < count[:, None, None]


def video_logits(cas: Tensor, selected: Tensor) -> Tensor:
    """Mean raw class activation over the selected snippets (eq. 16 before the softmax), shape (B, G)."""
    return (cas * selected).sum(dim=1) / selected.sum(dim=1)


def video_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy with the video labels normalised to sum one, mean over streams (eq. 1).

    A recording without any label says nothing about classes and is left out.
    """
    labelled = labels.sum(dim=1) > 0
    target = labels / labels.sum(dim=1, keepdim=True).clamp_min(1)
    losses = [-(target * stream.log_softmax(dim=1)).sum(dim=1) for stream in logits]
    return (torch.stack(losses).mean(dim=0) * labelled).sum() / labelled.sum().clamp_min(1)


def attention_loss(attention: Sequence[Tensor], foreground: Tensor, mask: Tensor, q: float) -> Tensor:
    """Generalised cross-entropy of attention and foreground pseudo-labels Q^A, summed over streams (eq. 2).

    Positives and negatives are averaged apart in each video, so the rare side counts as much as the other
    (Zhang and Sabuncu, "Generalized Cross Entropy Loss", NeurIPS 2018; Ma et al., CVPR 2021).
    """
    positive, negative = foreground & mask, ~foreground & mask
    return sum(
        (_mean_where(_gce(stream, q), positive) + _mean_where(_gce(1 - stream, q), negative) for stream in attention),
        start=attention[0].new_zeros(()),
    )


def label_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of each stream's prediction with the shared soft labels, summed (eqs. 3, 6, 18, 20)."""
    return sum((F.cross_entropy(stream, labels.to(stream.dtype)) for stream in logits), start=logits[0].new_zeros(()))


def entropy(probability: Tensor) -> Tensor:
    """Entropy in nats over the last dimension."""
    return torch.special.entr(probability).sum(dim=-1)


def _gce(probability: Tensor, q: float) -> Tensor:
    if q == 0:  # the limit of (1 - p^q) / q
        return -probability.clamp_min(1e-7).log()
    # The derivative of p^q is infinite at 0.
    return (1 - probability.clamp_min(1e-7) ** q) / q


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean over the chosen snippets of each video, then over the videos."""
    return ((values * where).sum(dim=1) / where.sum(dim=1).clamp_min(1)).mean()
