"""The baseline of CASE: class branch and attention branch for each stream (paper, section 3.1 and appendix B)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from examples.case_wtal import losses
from examples.case_wtal.baselines.interface import Baseline, BaselineOutput, StreamOutput
from examples.case_wtal.config import CaseConfig, ModelConfig
from examples.case_wtal.data.batches import Batch


class SnippetConv(nn.Conv1d):
    """Convolution over time of signals (B, T, D) -> (B, T, D'), ends padded with zeros.

    A kernel that sees one snippet is a matrix product, and runs as one: a step on the shape of THUMOS14 spends most of
    its time here, and the convolution routine takes a quarter longer over it.
    """

    def __init__(self, width: int, outputs: int, kernel: int) -> None:
        super().__init__(width, outputs, kernel, padding=kernel // 2)

    @property
    def pointwise(self) -> bool:
        """Whether each snippet is seen alone."""
        return self.kernel_size == (1,)

    def forward(self, signal: Tensor) -> Tensor:
        """Signal (B, T, D), padding set to zero."""
        if self.pointwise:
            return F.linear(signal, self.weight[..., 0], self.bias)
        return super().forward(signal.transpose(1, 2)).transpose(1, 2)


class RowSparseClassifier(torch.autograd.Function):
    """Two layers, `relu(x W1' + b1) W2' + b2`, whose backward pass visits only the rows that the loss looked at.

    The video loss sees the best snippets of each class. They are much the same ones for all classes (the attention is
    in the choice): 16 % of the snippets on the shape of THUMOS14. The others have gradients of exactly zero, and the
    product that makes the first layer's gradient is a quarter of a stream's work. There is no gradient for x.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        """Rows (N, D) -> logits (N, G)."""
        hidden = F.linear(rows, w1, b1).relu_()
        ctx.save_for_backward(rows, hidden, w2)
        return F.linear(hidden, w2, b2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of weights and biases."""
        rows, hidden, w2 = ctx.saved_tensors
        seen = gradient.any(dim=1)
        if not seen.all():
            rows, hidden, gradient = rows[seen], hidden[seen], gradient[seen]
        inner = (gradient @ w2) * (hidden > 0)
        return None, inner.T @ rows, inner.sum(dim=0), gradient.T @ hidden, gradient.sum(dim=0)


class StreamNetwork(nn.Module):
    """Class branch and attention branch of one stream; they share no weights (paper, appendix B)."""

    def __init__(self, width: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        hidden, kernel = config.hidden, config.kernel_size
        if kernel % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd, got {kernel}. An even kernel would shift snippets in time.")
        self.class_encoder = SnippetConv(width, hidden, kernel)
        self.classifier = SnippetConv(hidden, classes, 1)
        self.attention_encoder = SnippetConv(width, hidden, kernel)
        self.attention_layer = SnippetConv(hidden, 1, 1)

    def forward(self, features: Tensor) -> StreamOutput:
        """Features (B, T, D), padding set to zero; see StreamOutput."""
        embedding = torch.relu(self.attention_encoder(features))
        if self.class_encoder.pointwise and not features.requires_grad:
            layers = (self.class_encoder, self.classifier)
            rows = features.flatten(0, 1), *(p for layer in layers for p in (layer.weight[..., 0], layer.bias))
            cas = RowSparseClassifier.apply(*rows).unflatten(0, features.shape[:2])
        else:
            cas = self.classifier(torch.relu(self.class_encoder(features)))
        return StreamOutput(
            cas=cas,
            attention=self.attention_layer(embedding).squeeze(-1).sigmoid(),
            embedding=embedding,
        )


class OwnBaseline(Baseline):
    """One `StreamNetwork` for each stream, by name; streams share their pseudo-labels unless told otherwise."""

    def __init__(self, stream_widths: Mapping[str, int], classes: int, config: CaseConfig) -> None:
        super().__init__()
        self.loss = config.loss
        self.embedding_widths = (config.model.hidden,) * len(stream_widths)
        self.streams = nn.ModuleDict(
            {name: StreamNetwork(width, classes, config.model) for name, width in stream_widths.items()}
        )

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> BaselineOutput:  # noqa: ARG002 - zero features
        """See Baseline."""
        return BaselineOutput([network(features[name]) for name, network in self.streams.items()])

    def training_losses(self, output: BaselineOutput, batch: Batch, epoch: int) -> tuple[dict[str, Tensor], Tensor]:
        """Video loss and attention loss (eqs. 1, 2, 15, 16)."""
        streams, mask = output.streams, batch.mask
        with torch.no_grad():
            groups = [streams] if self.loss.co_labels != "none" else [[stream] for stream in streams]
            selected = [self._selected(group, mask, warm=epoch < self.loss.warm_start_epochs) for group in groups]
            foreground = torch.stack([(s & (batch.labels[:, None, :] > 0)).any(dim=-1) for s in selected])
        logits = [losses.video_logits(o.cas, selected[i % len(groups)]) for i, o in enumerate(streams)]
        parts = {"video": losses.video_loss(logits, batch.labels)}
        if self.loss.attention:
            attention = [[o.attention for o in group] for group in groups]
            parts["attention"] = torch.stack(
                [
                    losses.attention_loss(maps, label, mask, self.loss.gce_q)
                    for maps, label in zip(attention, foreground, strict=True)
                ]
            ).sum()
        return parts, foreground

    def video_scores(self, output: BaselineOutput, mask: Tensor) -> Tensor:
        """Mean over the streams of the softmaxed top-k means."""
        selected = self._selected(output.streams, mask, warm=False)
        scores = [losses.video_logits(o.cas, selected).softmax(dim=-1) for o in output.streams]
        return torch.stack(scores).mean(dim=0)

    def class_activation(self, output: BaselineOutput, foreground: Sequence[Tensor] | None = None) -> Tensor:  # noqa: ARG002 - independent
        """T-CAS as probabilities, mean over streams; the attention plays no part in it."""
        return class_activation(output.streams)

    def _selected(self, streams: Sequence[StreamOutput], mask: Tensor, *, warm: bool) -> Tensor:
        """Top-k snippets of each class (eq. 15), by class activation alone where the attention means nothing."""
        plain = warm or not self.loss.attention
        scores = class_activation(streams) if plain else calibrated_activation(streams)
        return losses.select_topk(scores, mask, self.loss.topk_ratio)


def class_activation(outputs: Sequence[StreamOutput]) -> Tensor:
    """T-CAS as probabilities, mean over streams, shape (B, T, G)."""
    return torch.stack([o.cas.softmax(dim=-1) for o in outputs]).mean(dim=0)


def calibrated_activation(outputs: Sequence[StreamOutput]) -> Tensor:
    """T-CAS calibrated by attention: mean of the class activation and each stream's attention (eq. 21).

    With two streams the attention has weight w = 2/3, as in the released program.
    """
    attention = torch.stack([o.attention for o in outputs]).sum(dim=0)
    return (class_activation(outputs) + attention[..., None]) / (1 + len(outputs))
