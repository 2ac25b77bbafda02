"""What the published baselines have in common: layers that keep padding at zero, a background class, top-k means."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from examples.case_wtal import losses


class TemporalConv(nn.Module):
    """Convolution over time and a leaky ReLU; padding is zero before and after.

    Args:
        inputs: Width before.
        outputs: Width after.
        kernel: Snippets seen at once, odd.
        slope: Of the leaky ReLU for negative values; 0 is a ReLU.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, slope: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
        self.activation = nn.LeakyReLU(slope)

    def forward(self, signal: Tensor, mask: Tensor) -> Tensor:
        """Signal (B, D, T), zero where padded, and mask (B, T)."""
        # Without the mask the next layer would see the activated bias beyond a recording's end.
        return self.activation(self.conv(signal)) * mask[:, None]


def join_streams(features: Mapping[str, Tensor]) -> Tensor:
    """All streams beside each other, channels first: (B, sum of D, T)."""
    return torch.cat(tuple(features.values()), dim=-1).transpose(1, 2)


def with_background(labels: Tensor, *, actions: float = 1.0, background: float) -> Tensor:
    """Video labels (B, G) with a last column for background: (B, G + 1), weighted."""
    return torch.cat((labels * actions, labels.new_full((len(labels), 1), background)), dim=1)


def topk_mean(cas: Tensor, mask: Tensor, ratio: int) -> Tensor:
    """Mean of the best `max(1, T // ratio)` logits of each class, T counting valid snippets: (B, T, G) -> (B, G)."""
    return losses.video_logits(cas, losses.select_topk(cas.detach(), mask, ratio))


def action_snippets(cas: Tensor, mask: Tensor, labels: Tensor, ratio: int) -> Tensor:
    """Foreground pseudo-label Q^A: snippets among the best of any class of their video, bool, (1, B, T).

    In the warm start `cas` is the class activation without the attention, which means nothing yet.
    """
    with torch.no_grad():
        return (losses.select_topk(cas, mask, ratio) & (labels[:, None] > 0)).any(dim=-1)[None]


def sum_over_time(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the snippets of each recording, mean over recordings; values (B, T)."""
    return (values * mask).sum(dim=1).mean()


def mean_over_time(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the snippets of each recording, mean over recordings; values (B, T)."""
    return ((values * mask).sum(dim=1) / mask.sum(dim=1)).mean()
