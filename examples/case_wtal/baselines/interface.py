"""What a baseline of weakly-supervised localization offers, so that CASE can be added to it.

Dimensions: B recordings, T snippets, D features, H width of what is clustered, G action classes, S streams.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from examples.case_wtal.data.batches import Batch


@dataclass(frozen=True)
class StreamOutput:
    """What one stream says about its snippets.

    Attributes:
        cas: Temporal class activation sequence (T-CAS) over the action classes, logits, shape (B, T, G).
        attention: Foreground probability P^A, shape (B, T).
        embedding: What the attention is read from, and what CASE clusters, shape (B, T, H).
    """

    cas: Tensor
    attention: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class BaselineOutput:
    """All streams, and whatever else the baseline's own losses need.

    Attributes:
        streams: One entry for each stream; a baseline that joins its inputs has one.
        extra: Tensors by name.
    """

    streams: Sequence[StreamOutput]
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Baseline(nn.Module, ABC):
    """A network with its objective. `CaseModule` trains it, alone or with CASE's clusters beside it.

    Attributes:
        embedding_widths: H of each stream's embedding.
    """

    embedding_widths: tuple[int, ...]

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> BaselineOutput:
        """Run the network.

        Args:
            features: Of each input stream, zero where padded, shape (B, T, D).
            mask: True for snippets, False for padding, shape (B, T).
        """

    @abstractmethod
    def training_losses(self, output: BaselineOutput, batch: Batch, epoch: int) -> tuple[dict[str, Tensor], Tensor]:
        """The objective.

        Args:
            output: Of this batch.
            batch: Its `mask` says which snippets count, its `labels` are of whole recordings.
            epoch: From 0 on.

        Returns:
            The parts of the loss, weighted, which are summed; and the foreground pseudo-label of each snippet, Q^A,
            bool, one for all streams with shape (1, B, T), or one for each, (S, B, T).
        """

    @abstractmethod
    def video_scores(self, output: BaselineOutput, mask: Tensor) -> Tensor:
        """Probability of each class in the whole recording, which decides what is searched for; shape (B, G)."""

    @abstractmethod
    def class_activation(self, output: BaselineOutput, foreground: Sequence[Tensor] | None = None) -> Tensor:
        """Class scores of the snippets in [0, 1] at test time, shape (B, T, G).

        Args:
            output: Of the network.
            foreground: Foreground probability to put in the place of each stream's attention, shape (B, T); None leaves
                the attention. A baseline whose class scores do not depend on the attention returns the same for both.
        """
