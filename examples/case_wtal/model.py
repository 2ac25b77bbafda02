"""A baseline with CASE's cluster heads beside it, one for each stream of the baseline."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.case_wtal.baselines import BASELINES, BaselineOutput
from examples.case_wtal.config import CaseConfig


@dataclass(frozen=True)
class CaseOutput:
    """What the network says.

    Attributes:
        baseline: Of the baseline.
        cluster_cosine: Of each stream, cosine of embedding and cluster prototypes, shape (B, T, K).
    """

    baseline: BaselineOutput
    cluster_cosine: list[Tensor]


class ClusterHead(nn.Module):
    """Cosine classifier: embeddings and prototypes on the unit sphere, no bias."""

    def __init__(self, width: int, clusters: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(clusters, width))
        nn.init.normal_(self.prototypes)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings (..., H) -> cosines with each cluster prototype (..., K)."""
        # Products first: K cosines are divided by the embedding's length in place of its H components.
        length = torch.linalg.vector_norm(embedding, dim=-1, keepdim=True).clamp_min(1e-12)
        return F.linear(embedding, F.normalize(self.prototypes, dim=-1)) / length


class CaseNetwork(nn.Module):
    """The baseline that the settings name, and its cluster heads."""

    def __init__(self, stream_widths: Mapping[str, int], classes: int, config: CaseConfig) -> None:
        super().__init__()
        if not stream_widths:
            raise ValueError(
                "`stream_widths` must name at least one stream, got none. Pass {'rgb': 1024}, for example."
            )
        name = config.model.baseline
        if name not in BASELINES:
            raise ValueError(
                f"`model.baseline` must be one of {', '.join(BASELINES)}, got {name!r}. "
                "Choose one of them, or enter your own in BASELINES."
            )
        self.baseline = BASELINES[name](stream_widths, classes, config)
        self.heads = nn.ModuleList(
            ClusterHead(width, config.model.clusters) for width in self.baseline.embedding_widths
        )

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> CaseOutput:
        """Features of each input stream (B, T, D), padding set to zero, and their mask (B, T)."""
        output = self.baseline(features, mask)
        cosines = [head(o.embedding) for head, o in zip(self.heads, output.streams, strict=True)]
        return CaseOutput(output, cosines)


def count_costs(network: nn.Module, stream_widths: Mapping[str, int], snippets: int) -> tuple[int, int]:
    """Trainable parameters, and multiply-adds of one recording of `snippets` snippets (all streams).

    Args:
        network: A `CaseNetwork`, or its baseline alone.
        stream_widths: Of the features.
        snippets: T.
    """
    from torch.utils.flop_counter import FlopCounterMode

    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    counter = FlopCounterMode(display=False)
    shadow = deepcopy(network).to("meta")  # shapes without numbers: nothing is computed
    features = {name: torch.zeros(1, snippets, width, device="meta") for name, width in stream_widths.items()}
    with torch.no_grad(), counter:
        shadow(features, torch.ones(1, snippets, dtype=torch.bool, device="meta"))
    return parameters, counter.get_total_flops() // 2  # a multiply-add counts as two operations there
