"""Training step of CASE: a baseline, snippet clustering (SCC) and cluster classification (CCC) together (eq. 14)."""

from collections.abc import Callable, Mapping

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from examples.case_wtal import losses
from examples.case_wtal.baselines.own import class_activation
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data.batches import Batch
from examples.case_wtal.labels import class_labels, cluster_labels, prototype_cosine, snippet_labels
from examples.case_wtal.model import CaseNetwork, CaseOutput


class CaseModule(L.LightningModule):
    """CASE as a Lightning module.

    The clusters' foreground probability Q^C[:, foreground] is the buffer `cluster_foreground`, so that a checkpoint is
    complete: the prior of the next step and the test both read it. Its shape is (K,); where streams do not share their
    labels, (S, K).

    Args:
        stream_widths: Stream -> D.
        classes: G.
        config: All settings.
        teacher: A trained module whose maps the class labels are made of; None makes them of the module's own.
    """

    cluster_foreground: Tensor

    def __init__(
        self,
        stream_widths: Mapping[str, int],
        classes: int,
        config: CaseConfig,
        teacher: "CaseModule | None" = None,
    ) -> None:
        super().__init__()
        self.config = config
        # In a tuple it is no part of this module: not trained, not saved.
        self._teacher = (None if teacher is None else teacher.eval(),)
        self.network = CaseNetwork(stream_widths, classes, config)
        clusters, streams = config.model.clusters, len(self.network.heads)
        initial = 0.5 if config.label.initial_foreground == "half" else 1 / clusters
        shape = (clusters,) if config.loss.co_labels == "all" else (streams, clusters)
        self.register_buffer("cluster_foreground", torch.full(shape, initial))

    @property
    def teacher(self) -> "CaseModule | None":
        """Whose maps the class labels are made of, if not this module's."""
        return self._teacher[0]

    def forward(self, streams: Mapping[str, Tensor], mask: Tensor) -> CaseOutput:
        """Features of each stream (B, T, D) and their mask (B, T)."""
        return self.network(streams, mask)

    def training_step(self, batch: Batch) -> Tensor:
        """Total loss of a batch; logs its parts."""
        loss = self.config.loss
        output = self(batch.streams, batch.mask)
        parts, foreground = self.network.baseline.training_losses(output.baseline, batch, self.current_epoch)
        total = torch.stack(list(parts.values())).sum()
        logged: dict[str, Tensor] = {}
        if loss.components != "baseline":
            clustering, logged = self._clustering_losses(output, batch.mask, foreground.to(batch.labels.dtype))
            parts = parts | clustering
            total = total + loss.snippet_weight * parts["snippet"]
            if loss.components == "scc_ccc":
                total = total + loss.cluster_weight * parts["cluster"]
                # Own maps mean something from the warm start's end on, those of a teacher always.
                has_maps = self.current_epoch >= loss.warm_start_epochs or self.teacher is not None
                if loss.class_weight > 0 and has_maps:
                    parts["class"] = self._class_loss(output, batch)
                    total = total + loss.class_weight * parts["class"]
        self.log_dict(
            {f"loss/{name}": value.detach() for name, value in parts.items()}
            | {"loss/total": total.detach()}
            | {f"clusters/{name}": value for name, value in logged.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(batch.labels),
        )
        return total

    def cluster_assignment(self, output: CaseOutput) -> list[Tensor]:
        """P^S of each stream: probability of each cluster for each snippet, (B, T, K)."""
        return [(self.config.model.temperature * cosine).softmax(dim=-1) for cosine in output.cluster_cosine]

    def cluster_probability(self, output: CaseOutput) -> list[Tensor]:
        """P^T of each stream: foreground probability by way of the clusters (law of total probability), (B, T)."""
        views = self.cluster_foreground.expand(len(self.network.heads), -1)
        return [p @ foreground for p, foreground in zip(self.cluster_assignment(output), views, strict=True)]

    def _clustering_losses(
        self, output: CaseOutput, mask: Tensor, foreground: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of SCC and CCC over the valid snippets, and what is logged about the labels.

        Updates the clusters' foreground probability. Streams that share labels are labelled as one group.
        """
        config, temperature = self.config.label, self.config.model.temperature
        streams = range(len(self.network.heads))
        groups = [list(streams)] if self.config.loss.co_labels == "all" else [[s] for s in streams]
        pick = picker(mask)
        cosines = [pick(cosine) for cosine in output.cluster_cosine]
        before = self.cluster_foreground.reshape(len(groups), -1)
        after, found = [], []
        for i, group in enumerate(groups):
            side = pick(foreground[i % len(foreground)])
            attention = torch.stack([pick(output.baseline.streams[s].attention.detach()) for s in group]).mean(dim=0)
            smooth = [pick(temporal_mean(output.cluster_cosine[s].detach(), mask, config.smoothing)) for s in group]
            snippet_label = snippet_labels(smooth, attention, before[i], config, temperature)
            prototypes = [
                prototype_cosine(pick(output.baseline.streams[s].embedding), snippet_label, side) for s in group
            ]
            cluster_label = cluster_labels(prototypes, side, config, temperature)
            after.append(cluster_label[:, 0])
            found.append(
                {
                    "snippet": losses.label_loss([temperature * cosines[s] for s in group], snippet_label),
                    "cluster": losses.label_loss([temperature * p for p in prototypes], cluster_label),
                    "label_entropy": losses.entropy(snippet_label).mean(),
                    "class_entropy": losses.entropy(cluster_label).mean(),
                    "proportion_entropy": losses.entropy(snippet_label.mean(dim=0)),
                }
            )
        kept = config.ema_decay if config.memory == "ema" else 0.0
        new = torch.stack(after).reshape(self.cluster_foreground.shape)
        self.cluster_foreground = kept * self.cluster_foreground + (1 - kept) * new
        total = {name: torch.stack([f[name] for f in found]).sum() for name in found[0]}
        parts = {name: total.pop(name) for name in ("snippet", "cluster")}
        return parts, {name: value / len(groups) for name, value in total.items()}

    def _class_loss(self, output: CaseOutput, batch: Batch) -> Tensor:
        """Cross-entropy of each stream's class activation with snippet-level class labels (ours)."""
        pick, streams = picker(batch.mask), output.baseline.streams
        with torch.no_grad():
            activation, foreground = self._class_evidence(output, batch)
            video_labels = pick(batch.labels[:, None, :].expand(-1, batch.mask.shape[1], -1))
            label = class_labels(pick(activation), pick(foreground), video_labels, self.config.label)
        return losses.label_loss([pick(o.cas) for o in streams], label)

    def _class_evidence(self, output: CaseOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        """Class activation (B, T, G) and foreground (B, T) for the class labels.

        Of the module itself as they are; of a teacher averaged in time as its test would.
        """
        source, width = self, 1
        if self.teacher is not None:
            source, width = self.teacher, self.teacher.config.inference.smoothing
            output = source(batch.streams, batch.mask)
        streams = output.baseline.streams
        foreground = torch.stack([*(o.attention for o in streams), *source.cluster_probability(output)]).mean(dim=0)
        maps = torch.cat((class_activation(streams), foreground[..., None]), dim=-1)
        maps = temporal_mean(maps, batch.mask, width)
        return maps[..., :-1], maps[..., -1]

    def on_fit_start(self) -> None:
        """Bring the teacher to the device of the training."""
        if self.teacher is not None:
            self.teacher.to(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate, as in the paper."""
        train = self.config.train
        return torch.optim.Adam(self.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)


def picker(mask: Tensor) -> Callable[[Tensor], Tensor]:
    """What takes the valid snippets of (B, T, ...) as (N, ...); where all are valid, without a copy.

    Args:
        mask: True for snippets, False for padding, shape (B, T).
    """
    return (lambda values: values.flatten(0, 1)) if bool(mask.all()) else (lambda values: values[mask])


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
