"""From recordings to padded batches."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from examples.case_wtal.data.recording import Recording
from examples.case_wtal.data.sampling import random_bin_indices, uniform_indices


class Batch(NamedTuple):
    """Recordings of a batch, padded to the longest.

    Attributes:
        streams: Stream name -> features, zero where padded, shape (B, T, D).
        mask: True for snippets, False for padding, shape (B, T).
        labels: Video-level labels, 0 or 1, float, shape (B, G).
    """

    streams: dict[str, Tensor]
    mask: Tensor
    labels: Tensor


class RecordingDataset(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Features and video-level labels of each recording; with `snippets` set, a random snippet from each bin."""

    def __init__(self, recordings: Sequence[Recording], classes: Sequence[str], snippets: int | None = None) -> None:
        self.recordings = tuple(recordings)
        self.snippets = snippets
        self.labels = torch.tensor([[float(c in recording.labels) for c in classes] for recording in recordings])

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        recording = self.recordings[index]
        chosen: slice | np.ndarray = slice(None)
        if self.snippets is not None:
            # Seeded by torch, so that a run's seed and a resumed run's random state govern these draws too.
            rng = np.random.default_rng(int(torch.randint(2**31, ())))
            chosen = random_bin_indices(len(recording), self.snippets, rng)
        return {name: torch.from_numpy(f[chosen]) for name, f in recording.streams.items()}, self.labels[index]


def collate(items: Sequence[tuple[dict[str, Tensor], Tensor]]) -> Batch:
    """Pad to the longest recording with zeros."""
    streams = {name: pad_sequence([features[name] for features, _ in items], batch_first=True) for name in items[0][0]}
    lengths = torch.tensor([len(next(iter(features.values()))) for features, _ in items])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return Batch(streams, mask, torch.stack([labels for _, labels in items]))


def resample(recording: Recording, snippets: int | None) -> Recording:
    """The recording as the test sees it: snippet `floor(i n / T)` for i = 0..T-1, or unchanged without `snippets`."""
    if snippets is None:
        return recording
    chosen = uniform_indices(len(recording), snippets)
    return replace(
        recording,
        streams={name: features[chosen] for name, features in recording.streams.items()},
        snippet_seconds=recording.seconds / snippets,
    )
