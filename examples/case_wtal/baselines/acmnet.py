"""ACM-Net: Qu et al., "Action Context Modeling Network", 2021 (arXiv 2104.02967), written from the paper.

Each snippet's attention is shared between action instance, action context (what comes with an action without being
it) and background. Each third weighs the same class activation and is held against a label of its own: the classes
alone; the classes with background; background alone.
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

INSTANCE, CONTEXT, BACKGROUND = range(3)


@dataclass(frozen=True)
class AcmNetSettings:
    """The paper's values for THUMOS14."""

    guide: float = 2e-3  # weight of the distance of class activation and instance attention, summed over a recording
    magnitude: float = 5e-5  # weight of the feature magnitudes
    sparsity: float = 2e-4  # weight of the instance and context attention, summed over a recording
    margin: float = 50.0  # by which magnitudes of instance, context and background features are to differ
    context_ratio: int = 3  # context and background are the best T / 3 snippets; of an instance `topk_ratio` decides
    dropout: float = 0.7  # of whole snippets, and of features before the classifier


class AcmNet(Baseline):
    """ACM-Net. The embedding is the common one of all branches; the instance attention is the attention."""

    def __init__(
        self,
        stream_widths: Mapping[str, int],
        classes: int,
        config: CaseConfig,
        settings: AcmNetSettings = AcmNetSettings(),
    ) -> None:
        super().__init__()
        self.settings, self.warm_start = settings, config.loss.warm_start_epochs
        self.ratios = (config.loss.topk_ratio, settings.context_ratio, settings.context_ratio)
        self.embedding_widths = (config.model.joint,)
        self.encoder = parts.TemporalConv(sum(stream_widths.values()), config.model.joint, 3)
        self.attention = nn.Conv1d(config.model.joint, 3, 1)
        self.classifier = nn.Conv1d(config.model.joint, classes + 1, 1)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> BaselineOutput:
        """See Baseline."""
        hidden = self.encoder(parts.join_streams(features), mask)
        attention = self.attention(hidden).softmax(dim=1).transpose(1, 2)
        kept = self.dropout(torch.ones_like(mask, dtype=hidden.dtype))[:, None]
        logits = self.classifier(self.dropout(hidden * kept)).transpose(1, 2)
        instance = logits * attention[..., INSTANCE, None]
        stream = StreamOutput(instance[..., :-1], attention[..., INSTANCE], hidden.transpose(1, 2))
        return BaselineOutput([stream], {"attention": attention, "logits": logits})

    def training_losses(self, output: BaselineOutput, batch: Batch, epoch: int) -> tuple[dict[str, Tensor], Tensor]:
        """Video losses of the three branches, guide, feature magnitudes, sparsity."""
        (stream,), mask, settings = output.streams, batch.mask, self.settings
        attention, logits = output.extra["attention"], output.extra["logits"]
        labels = (
            parts.with_background(batch.labels, background=0.0),
            parts.with_background(batch.labels, background=1.0),
            parts.with_background(batch.labels, actions=0.0, background=1.0),
        )
        found = {}
        for i, name in enumerate(("instance", "context", "background")):
            video = parts.topk_mean(logits * attention[..., i, None], mask, self.ratios[i])
            found[name] = losses.video_loss([video], labels[i])
        background = (logits * attention[..., INSTANCE, None]).softmax(dim=-1)[..., -1]
        distance = (1 - background - stream.attention.detach()).abs()
        found["guide"] = settings.guide * parts.sum_over_time(distance, mask)
        found["magnitude"] = settings.magnitude * self._magnitude_loss(stream.embedding, attention, mask)
        found["sparsity"] = settings.sparsity * parts.sum_over_time(attention[..., :BACKGROUND].sum(dim=-1), mask)
        cas = logits[..., :-1] if epoch < self.warm_start else stream.cas
        return found, parts.action_snippets(cas, mask, batch.labels, self.ratios[INSTANCE])

    def video_scores(self, output: BaselineOutput, mask: Tensor) -> Tensor:
        """Softmaxed top-k means of the instance branch."""
        instance = output.extra["logits"] * output.streams[0].attention[..., None]
        return parts.topk_mean(instance, mask, self.ratios[INSTANCE]).softmax(dim=-1)[:, :-1]

    def class_activation(self, output: BaselineOutput, foreground: Sequence[Tensor] | None = None) -> Tensor:
        """Softmax of the instance branch's logits, without background; another foreground is the instance attention."""
        attention = output.streams[0].attention if foreground is None else foreground[0]
        return (output.extra["logits"] * attention[..., None]).softmax(dim=-1)[..., :-1]

    def _magnitude_loss(self, embedding: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
        """Mean features of instance, context and background are to have large, middle and small norms."""
        norms = []
        for i in range(3):
            selected = losses.select_topk(attention[..., i, None].detach(), mask, self.ratios[i])
            norms.append(torch.linalg.vector_norm(losses.video_logits(embedding, selected), dim=-1))
        instance, context, background = norms
        short = (self.settings.margin - instance + context).relu() + (
            self.settings.margin - context + background
        ).relu()
        return (short + background).square().mean()
