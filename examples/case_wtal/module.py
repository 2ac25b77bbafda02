"""Training step of CASE: baseline, snippet clustering (SCC) and cluster classification (CCC) together (eq. 14)."""

from collections.abc import Mapping, Sequence

import lightning as L
import torch
from torch import Tensor

from examples.case_wtal import losses
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data.batches import Batch
from examples.case_wtal.labels import cluster_labels, prototype_cosine, snippet_labels
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

    def training_step(self, batch: Batch, batch_index: int = 0) -> Tensor:
        """Total loss of a batch; logs its parts."""
        loss, label = self.config.loss, self.config.label
        outputs = self(batch.streams)
        with torch.no_grad():
            selected = losses.select_topk(self._selection_scores(outputs), batch.mask, loss.topk_ratio)
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
        self.log_dict(
            {f"loss/{name}": value.detach() for name, value in parts.items()} | {"loss/total": total.detach()},
            on_step=False,
            on_epoch=True,
            batch_size=len(batch.labels),
        )
        return total

    def _selection_scores(self, outputs: Sequence[StreamOutput]) -> Tensor:
        if self.current_epoch < self.config.loss.warm_start_epochs:
            return class_activation(outputs)
        if self.config.loss.calibration == "attention" or self.config.loss.components == "baseline":
            return calibrated_activation(outputs)
        return calibrated_activation(outputs, self.cluster_probability(outputs))

    def cluster_probability(self, outputs: Sequence[StreamOutput]) -> list[Tensor]:
        """P^T of each stream: foreground probability by way of the clusters (law of total probability), (B, T)."""
        return [
            (self.config.model.temperature * o.cluster_cosine).softmax(dim=-1) @ self.cluster_foreground for o in outputs
        ]

    def _clustering_losses(
        self, outputs: Sequence[StreamOutput], mask: Tensor, foreground: Tensor
    ) -> dict[str, Tensor]:
        """Losses of SCC and CCC over the valid snippets; updates the clusters' foreground probability."""
        config, temperature = self.config.label, self.config.model.temperature
        foreground = foreground[mask]
        cosines = [o.cluster_cosine[mask] for o in outputs]
        attention = torch.stack([o.attention[mask].detach() for o in outputs]).mean(dim=0)
        snippet_label = snippet_labels(cosines, attention, self.cluster_foreground, config)
        prototypes = [prototype_cosine(o.embedding[mask], snippet_label, foreground) for o in outputs]
        cluster_label = cluster_labels(prototypes, foreground, config)
        kept = config.ema_decay if config.memory == "ema" else 0.0
        self.cluster_foreground = kept * self.cluster_foreground + (1 - kept) * cluster_label[:, 0]
        return {
            "snippet": losses.label_loss([temperature * c for c in cosines], snippet_label),
            "cluster": losses.label_loss([temperature * p for p in prototypes], cluster_label),
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate, as in the paper."""
        train = self.config.train
        return torch.optim.Adam(self.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)


def class_activation(outputs: Sequence[StreamOutput]) -> Tensor:
    """T-CAS as probabilities, mean over streams, shape (B, T, G)."""
    return torch.stack([o.cas.softmax(dim=-1) for o in outputs]).mean(dim=0)


def calibrated_activation(outputs: Sequence[StreamOutput], more_foreground: Sequence[Tensor] = ()) -> Tensor:
    """T-CAS calibrated by foreground: mean of the class activation and every foreground map (eq. 21), (B, T, G).

    The maps are each stream's attention, so that with two streams it has weight w = 2/3 as in the released program,
    and `more_foreground`, each (B, T).
    """
    maps = torch.stack([*(o.attention for o in outputs), *more_foreground])
    return (class_activation(outputs) + maps.sum(dim=0)[..., None]) / (1 + len(maps))
