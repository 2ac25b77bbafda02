"""The network of CASE, one copy per stream.

Dimensions: B recordings, T snippets, D features, H hidden width, G action classes, K clusters.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.case_wtal.config import ModelConfig


@dataclass(frozen=True)
class StreamOutput:
    """What one stream says about its snippets.

    Attributes:
        cas: Temporal class activation sequence (T-CAS), logits, shape (B, T, G).
        attention: Foreground probability P^A, shape (B, T).
        embedding: Input of the attention layer, which is clustered, shape (B, T, H).
        cluster_cosine: Cosine of embedding and cluster prototype, shape (B, T, K).
    """

    cas: Tensor
    attention: Tensor
    embedding: Tensor
    cluster_cosine: Tensor


class ClusterHead(nn.Module):
    """Cosine classifier: embeddings and prototypes on the unit sphere, no bias."""

    def __init__(self, width: int, clusters: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(clusters, width))
        nn.init.normal_(self.prototypes)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings (..., H) -> cosines with each cluster prototype (..., K)."""
        """Embeddings (B, T, H) -> cosine with each prototype (B, T, K)."""
        return F.linear(F.normalize(embedding, dim=-1), F.normalize(self.prototypes, dim=-1))


class StreamNetwork(nn.Module):
    """Class branch and attention branch of one stream; they share no weights (paper, appendix B)."""

    def __init__(self, width: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        hidden, kernel = config.hidden, config.kernel_size
        self.class_encoder = nn.Conv1d(width, hidden, kernel, padding=kernel // 2)
        self.classifier = nn.Conv1d(hidden, classes, 1)
        self.attention_encoder = nn.Conv1d(width, hidden, kernel, padding=kernel // 2)
        self.attention_layer = nn.Conv1d(hidden, 1, 1)
        self.cluster_head = ClusterHead(hidden, config.clusters)

    def forward(self, features: Tensor) -> StreamOutput:
        """Features (B, T, D), padding set to zero; see StreamOutput."""
        channels_first = features.transpose(1, 2)
        cas = self.classifier(torch.relu(self.class_encoder(channels_first)))
        hidden = torch.relu(self.attention_encoder(channels_first))
        embedding = hidden.transpose(1, 2)
        return StreamOutput(
            cas=cas.transpose(1, 2),
            attention=self.attention_layer(hidden).squeeze(1).sigmoid(),
            embedding=embedding,
            cluster_cosine=self.cluster_head(embedding),
        )


class CaseNetwork(nn.Module):
    """One `StreamNetwork` for each stream, by name."""

    def __init__(self, stream_widths: Mapping[str, int], classes: int, config: ModelConfig) -> None:
        super().__init__()
        if not stream_widths:
            raise ValueError(
                "`stream_widths` must name at least one stream, got none. Pass {'rgb': 1024}, for example."
            )
        if config.kernel_size % 2 == 0:
            raise ValueError(
                f"`kernel_size` must be odd, got {config.kernel_size}. An even kernel would shift snippets in time."
            )
        self.streams = nn.ModuleDict(
            {name: StreamNetwork(width, classes, config) for name, width in stream_widths.items()}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, StreamOutput]:
        """Features of each stream (B, T, D) -> output of each stream."""
        return {name: network(features[name]) for name, network in self.streams.items()}


def count_costs(network: CaseNetwork, stream_widths: Mapping[str, int], snippets: int) -> tuple[int, int]:
    """Trainable parameters, and multiply-adds of one recording of `snippets` snippets (all streams)."""
    from torch.utils.flop_counter import FlopCounterMode

    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network({name: torch.zeros(1, snippets, width) for name, width in stream_widths.items()})
    return parameters, counter.get_total_flops() // 2  # a multiply-add counts as two operations there
