"""CO2-Net: Hong et al., "Cross-modal Consensus Network", ACM MM 2021 (arXiv 2107.12589), written from the paper.

Each stream is re-calibrated before anything is decided: a sigmoid of its own global context times the local context of
the other streams scales its channels. Each stream has an attention, and the attentions teach each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.case_wtal import losses
from examples.case_wtal.baselines import parts
from examples.case_wtal.baselines.interface import Baseline, BaselineOutput, StreamOutput
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data.batches import Batch

SLOPE = 0.2


@dataclass(frozen=True)
class Co2NetSettings:
    """The paper's values for THUMOS14."""

    mutual: float = 1.0  # weight of the distance between the streams' attentions
    coactivity: float = 1.0  # weight of what tells two recordings with a common class apart
    coactivity_margin: float = 0.5
    sparsity: float = 0.8  # weight of the attention's mean
    opposition: float = 0.8  # weight of the distance of attention and background from summing to one
    attention_dropout: float = 0.5
    dropout: float = 0.7


class Consensus(nn.Module):
    """Cross-modal consensus module of one stream, and the attention that is read from what it returns."""

    def __init__(self, width: int, others: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.global_context = parts.TemporalConv(width, width, 3, SLOPE)
        self.local_context = parts.TemporalConv(others, width, 3, SLOPE)
        self.first = parts.TemporalConv(width, hidden, 3, SLOPE)
        self.second = parts.TemporalConv(hidden, hidden, 3, SLOPE)
        self.layer = nn.Conv1d(hidden, 1, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, main: Tensor, others: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Main stream (B, D, T) and the others (B, D', T) -> re-calibrated (B, D, T) and attention (B, T)."""
        mean = main.sum(dim=-1, keepdim=True) / mask.sum(dim=1)[:, None, None]
        context = self.dropout(self.global_context(mean, torch.ones_like(mask[:, :1])))
        scale = (context * self.dropout(self.local_context(others, mask))).sigmoid()
        recalibrated = scale * main
        hidden = self.second(self.dropout(self.first(recalibrated, mask)), mask)
        return recalibrated, self.layer(hidden).squeeze(1).sigmoid()


class Co2Net(Baseline):
    """CO2-Net. Embeddings are the re-calibrated streams. A stream that is alone is its own auxiliary."""

    def __init__(
        self,
        stream_widths: Mapping[str, int],
        classes: int,
        config: CaseConfig,
        settings: Co2NetSettings = Co2NetSettings(),
    ) -> None:
        super().__init__()
        self.settings, self.ratio = settings, config.loss.topk_ratio
        self.warm_start = config.loss.warm_start_epochs
        self.embedding_widths = tuple(stream_widths.values())
        total, joint = sum(self.embedding_widths), config.model.joint
        self.streams = nn.ModuleDict(
            {
                name: Consensus(width, total - width or width, config.model.hidden, settings.attention_dropout)
                for name, width in stream_widths.items()
            }
        )
        self.fusion = parts.TemporalConv(total, joint, 1, SLOPE)
        self.encoder = parts.TemporalConv(joint, joint, 3, SLOPE)
        self.layer = nn.Conv1d(joint, classes + 1, 1)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> BaselineOutput:
        """See Baseline."""
        signals = {name: features[name].transpose(1, 2) for name in self.streams}
        found = []
        for name, consensus in self.streams.items():
            others = [signals[other] for other in signals if other != name] or [signals[name]]
            found.append(consensus(signals[name], torch.cat(others, dim=1), mask))
        fused = self.dropout(self.fusion(torch.cat([recalibrated for recalibrated, _ in found], dim=1), mask))
        logits = self.layer(self.dropout(self.encoder(self.dropout(fused), mask))).transpose(1, 2)
        streams = [StreamOutput(logits[..., :-1], a, recalibrated.transpose(1, 2)) for recalibrated, a in found]
        return BaselineOutput(streams, {"logits": logits, "fused": fused.transpose(1, 2)})

    def training_losses(self, output: BaselineOutput, batch: Batch, epoch: int) -> tuple[dict[str, Tensor], Tensor]:
        """Video losses with and without suppression, co-activity, mutual learning, sparsity, opposition."""
        mask, settings, logits = batch.mask, self.settings, output.extra["logits"]
        attention = [o.attention for o in output.streams]
        suppressed = suppress(logits, _mean(attention), mask)
        labels = [parts.with_background(batch.labels, background=b) for b in (1.0, 0.0)]
        background = logits.softmax(dim=-1)[..., -1]
        cas = logits if epoch < self.warm_start else suppressed
        kinds = [_mean(attention), *attention]
        opposition = [parts.mean_over_time((1 - a - background).abs(), mask) for a in kinds]
        return {
            "base": losses.video_loss([parts.topk_mean(logits, mask, self.ratio)], labels[0]),
            "suppressed": losses.video_loss([parts.topk_mean(suppressed, mask, self.ratio)], labels[1]),
            "coactivity": settings.coactivity
            * coactivity_loss(
                output.extra["fused"], suppressed[..., :-1], mask, batch.labels, settings.coactivity_margin
            ),
            "mutual": settings.mutual * mutual_loss(attention, mask),
            "sparsity": settings.sparsity * _mean([parts.mean_over_time(a, mask) for a in kinds]),
            "opposition": settings.opposition * _mean(opposition),
        }, parts.action_snippets(cas[..., :-1], mask, batch.labels, self.ratio)

    def video_scores(self, output: BaselineOutput, mask: Tensor) -> Tensor:
        """Softmaxed top-k means of the logits times the mean attention."""
        weighted = output.extra["logits"] * _mean([o.attention for o in output.streams])[..., None]
        return parts.topk_mean(weighted, mask, self.ratio).softmax(dim=-1)[:, :-1]

    def class_activation(self, output: BaselineOutput, foreground: Sequence[Tensor] | None = None) -> Tensor:
        """Softmax of the logits times the streams' mean foreground, without background."""
        maps = [o.attention for o in output.streams] if foreground is None else foreground
        return (output.extra["logits"] * _mean(maps)[..., None]).softmax(dim=-1)[..., :-1]


def suppress(logits: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
    """Logits drawn towards the lowest of their recording where the attention is small, (B, T, G)."""
    low = logits.masked_fill(~mask[..., None], torch.inf).amin(dim=1, keepdim=True)
    return low + attention[..., None] * (logits - low)


def mutual_loss(attention: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared distance of each stream's attention from each other's, which is held fixed."""
    pairs = [(a - b.detach()).square() for a, b in permutations(attention, 2)]
    return _mean([parts.mean_over_time(p, mask) for p in pairs]) if pairs else attention[0].new_zeros(())


def coactivity_loss(features: Tensor, cas: Tensor, mask: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Recordings with a common class: their active parts are to be alike, active and inactive parts are not.

    Of all ordered pairs in the batch that share a class, the mean of max(0, margin + d(H, H') - d(H, L')), where H and
    L are means of the features (B, T, D), weighted by the softmax of the class activation over time and by the rest of
    the weight, and d is 1 - cosine (Paul, Roy and Roy-Chowdhury, "W-TALC", ECCV 2018).
    """
    weight = cas.masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
    rest = (1 - weight) * mask[..., None] / (mask.sum(dim=1) - 1).clamp_min(1)[:, None, None]
    high, low = (F.normalize(torch.einsum("btg,btd->gbd", w, features), dim=-1) for w in (weight, rest))
    excess = (margin + high @ low.mT - high @ high.mT).relu()
    shared = labels.T[:, :, None] * labels.T[:, None, :] * (1 - torch.eye(len(labels), device=labels.device))
    return (excess * shared).sum() / shared.sum().clamp_min(1)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).mean(dim=0)
