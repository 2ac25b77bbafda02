"""BaS-Net: Lee, Uh and Byun, "Background Suppression Network", AAAI 2020 (arXiv 1911.09963), written from the paper.

A background class is added, and every recording is labelled with it. The same classifier sees the features twice: as
they are (base branch), and multiplied by a filter that has to remove the background (suppression branch), for there
the label says that background is absent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.case_wtal import losses
from examples.case_wtal.baselines import parts
from examples.case_wtal.baselines.interface import Baseline, BaselineOutput, StreamOutput
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data.batches import Batch

SLOPE = 0.01


@dataclass(frozen=True)
class BasNetSettings:
    """The paper's values."""

    sparsity: float = 1e-4  # weight of the filter's sum over a recording
    dropout: float = 0.7  # before the classifier


class Filter(nn.Module):
    """Probability that a snippet is foreground, and the layer it is read from."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.encoder = parts.TemporalConv(width, hidden, 1, SLOPE)
        self.layer = nn.Conv1d(hidden, 1, 1)

    def forward(self, signal: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Signal (B, D, T) -> (B, T) and (B, H, T)."""
        hidden = self.encoder(signal, mask)
        return self.layer(hidden).squeeze(1).sigmoid(), hidden


class Classifier(nn.Module):
    """T-CAS with a background class in the last column."""

    def __init__(self, width: int, joint: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.first = parts.TemporalConv(width, joint, 3, SLOPE)
        self.second = parts.TemporalConv(joint, joint, 3, SLOPE)
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Conv1d(joint, classes + 1, 1, bias=False)

    def forward(self, signal: Tensor, mask: Tensor) -> Tensor:
        """Signal (B, D, T) -> logits (B, T, G + 1)."""
        return self.layer(self.dropout(self.second(self.first(signal, mask), mask))).transpose(1, 2)


class BasNet(Baseline):
    """BaS-Net. The embedding is the filter's hidden layer; the filter's output is the attention."""

    def __init__(
        self,
        stream_widths: Mapping[str, int],
        classes: int,
        config: CaseConfig,
        settings: BasNetSettings = BasNetSettings(),
    ) -> None:
        super().__init__()
        self.settings, self.ratio = settings, config.loss.topk_ratio
        self.warm_start = config.loss.warm_start_epochs
        self.embedding_widths = (config.model.hidden,)
        width = sum(stream_widths.values())
        self.filter = Filter(width, config.model.hidden)
        self.classifier = Classifier(width, config.model.joint, classes, settings.dropout)

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> BaselineOutput:
        """See Baseline."""
        signal = parts.join_streams(features)
        attention, hidden = self.filter(signal, mask)
        base = self.classifier(signal, mask)
        suppressed = self.classifier(signal * attention[:, None], mask)
        stream = StreamOutput(suppressed[..., :-1], attention, hidden.transpose(1, 2))
        return BaselineOutput([stream], {"base": base, "suppressed": suppressed, "signal": signal, "mask": mask})

    def training_losses(self, output: BaselineOutput, batch: Batch, epoch: int) -> tuple[dict[str, Tensor], Tensor]:
        """Video losses of both branches, and sparsity of the filter."""
        (stream,), mask, labels = output.streams, batch.mask, batch.labels
        base, suppressed = (parts.topk_mean(output.extra[name], mask, self.ratio) for name in ("base", "suppressed"))
        cas = output.extra["base" if epoch < self.warm_start else "suppressed"]
        return {
            "base": losses.video_loss([base], parts.with_background(labels, background=1.0)),
            "suppressed": losses.video_loss([suppressed], parts.with_background(labels, background=0.0)),
            "sparsity": self.settings.sparsity * parts.sum_over_time(stream.attention, mask),
        }, parts.action_snippets(cas[..., :-1], mask, labels, self.ratio)

    def video_scores(self, output: BaselineOutput, mask: Tensor) -> Tensor:
        """Softmaxed top-k means of the suppression branch."""
        return parts.topk_mean(output.extra["suppressed"], mask, self.ratio).softmax(dim=-1)[:, :-1]

    def class_activation(self, output: BaselineOutput, foreground: Sequence[Tensor] | None = None) -> Tensor:
        """T-CAS of the suppression branch, scaled to [0, 1] over the recording; negative logits count as 0.

        Another foreground takes the place of the filter, so the classifier runs again.
        """
        cas, mask = output.extra["suppressed"], output.extra["mask"]
        if foreground is not None:
            cas = self.classifier(output.extra["signal"] * foreground[0][:, None], mask)
        cas, valid = cas[..., :-1].relu(), mask[..., None]
        low = cas.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
        high = (cas * valid).amax(dim=1, keepdim=True)
        return ((cas - low) / (high - low).clamp_min(torch.finfo(cas.dtype).tiny)).clamp(0, 1)
