"""Training step of CASE: baseline, snippet clustering (SCC) and cluster classification (CCC) together (eq. 14)."""

from collections.abc import Mapping, Sequence

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from examples.case_wtal import losses
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data.batches import Batch
from examples.case_wtal.labels import class_labels, cluster_labels, prototype_cosine, snippet_labels
from examples.case_wtal.model import CaseNetwork, StreamOutput


class CaseModule(L.LightningModule):
    """CASE as a Lightning module.

    The clusters' foreground probability Q^C[:, foreground] is the buffer `cluster_foreground`, shape (K,), so that a
    checkpoint is complete: the prior of the next step and the test both read it.
    """

    cluster_foreground: Tensor

    def __init__(self, stream_widths: Mapping[str, int], classes: int, config: CaseConfig) -> None:
        super().__init__()
        self.config = config
        self.network = CaseNetwork(stream_widths, classes, config.model)
        clusters = config.model.clusters
        initial = 0.5 if config.label.initial_foreground == "half" else 1 / clusters
        self.register_buffer("cluster_foreground", torch.full((clusters,), initial))

    def forward(self, streams: Mapping[str, Tensor]) -> list[StreamOutput]:
        """Features of each stream (B, T, D) -> output of each stream."""
        return list(self.network(streams).values())

    def training_step(self, batch: Batch) -> Tensor:
        """Total loss of a batch; logs its parts."""
        loss = self.config.loss
        outputs = self(batch.streams)
        with torch.no_grad():
            warm = self.current_epoch < loss.warm_start_epochs
            scores = class_activation(outputs) if warm else calibrated_activation(outputs)
            selected = losses.select_topk(scores, batch.mask, loss.topk_ratio)
            foreground = (selected & (batch.labels[:, None, :] > 0)).any(dim=-1)
        parts = {
            "video": losses.video_loss([losses.video_logits(o.cas, selected) for o in outputs], batch.labels),
            "attention": losses.attention_loss([o.attention for o in outputs], foreground, batch.mask, loss.gce_q),
        }
        total = parts["video"] + parts["attention"]
        if loss.components != "baseline":
            parts |= self._clustering_losses(outputs, batch.mask, foreground.to(batch.labels.dtype))
            total = total + loss.snippet_weight * parts["snippet"]
            if loss.components == "scc_ccc":
                total = total + loss.cluster_weight * parts["cluster"]
                if loss.class_weight > 0 and not warm:
                    parts["class"] = self._class_loss(outputs, batch)
                    total = total + loss.class_weight * parts["class"]
        self.log_dict(
            {f"loss/{name}": value.detach() for name, value in parts.items()} | {"loss/total": total.detach()},
            on_step=False,
            on_epoch=True,
            batch_size=len(batch.labels),
        )
        return total

    def cluster_probability(self, outputs: Sequence[StreamOutput]) -> list[Tensor]:
        """P^T of each stream: foreground probability by way of the clusters (law of total probability), (B, T)."""
        return [
            (self.config.model.temperature * o.cluster_cosine).softmax(dim=-1) @ self.cluster_foreground
            for o in outputs
        ]

    def _clustering_losses(
        self, outputs: Sequence[StreamOutput], mask: Tensor, foreground: Tensor
    ) -> dict[str, Tensor]:
        """Losses of SCC and CCC over the valid snippets; updates the clusters' foreground probability."""
        config, temperature = self.config.label, self.config.model.temperature
        foreground = foreground[mask]
        cosines = [o.cluster_cosine[mask] for o in outputs]
        attention = torch.stack([o.attention[mask].detach() for o in outputs]).mean(dim=0)
        smooth = [temporal_mean(o.cluster_cosine, mask, config.smoothing)[mask] for o in outputs]
        snippet_label = snippet_labels(smooth, attention, self.cluster_foreground, config)
        prototypes = [prototype_cosine(o.embedding[mask], snippet_label, foreground) for o in outputs]
        cluster_label = cluster_labels(prototypes, foreground, config)
        kept = config.ema_decay if config.memory == "ema" else 0.0
        self.cluster_foreground = kept * self.cluster_foreground + (1 - kept) * cluster_label[:, 0]
        return {
            "snippet": losses.label_loss([temperature * c for c in cosines], snippet_label),
            "cluster": losses.label_loss([temperature * p for p in prototypes], cluster_label),
        }

    def _class_loss(self, outputs: Sequence[StreamOutput], batch: Batch) -> Tensor:
        """Cross-entropy of each stream's class activation with snippet-level class labels (ours)."""
        mask = batch.mask
        with torch.no_grad():
            maps = [*(o.attention for o in outputs), *self.cluster_probability(outputs)]
            foreground = torch.stack(maps).mean(dim=0)[mask]
            video_labels = batch.labels[:, None, :].expand(-1, mask.shape[1], -1)[mask]
            label = class_labels(class_activation(outputs)[mask], foreground, video_labels, self.config.label)
        return losses.label_loss([o.cas[mask] for o in outputs], label)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate, as in the paper."""
        train = self.config.train
        return torch.optim.Adam(self.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)


def class_activation(outputs: Sequence[StreamOutput]) -> Tensor:
    """T-CAS as probabilities, mean over streams, shape (B, T, G)."""
    return torch.stack([o.cas.softmax(dim=-1) for o in outputs]).mean(dim=0)


def calibrated_activation(outputs: Sequence[StreamOutput]) -> Tensor:
    """T-CAS calibrated by attention: mean of the class activation and each stream's attention (eq. 21).

    With two streams the attention has weight w = 2/3, as in the released program.
    """
    attention = torch.stack([o.attention for o in outputs]).sum(dim=0)
    return (class_activation(outputs) + attention[..., None]) / (1 + len(outputs))


def temporal_mean(values: Tensor, mask: Tensor, width: int) -> Tensor:
    """Mean of each snippet and its neighbours, `width` snippets in all, padding and ends left out.

    Args:
        values: Shape (B, T, C).
        mask: True for valid snippets, shape (B, T).
        width: Odd; 1 changes nothing.
    """
    if width == 1:
        return values

    def total(signal: Tensor) -> Tensor:
        return F.avg_pool1d(signal.transpose(1, 2), width, stride=1, padding=width // 2).transpose(1, 2)

    valid = mask[..., None].to(values.dtype)
    return total(values * valid) / total(valid).clamp_min(torch.finfo(values.dtype).tiny)
