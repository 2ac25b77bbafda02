"""Test time: maps over the snippets of a recording, their fusion, and the detections they lead to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from torch.nn import functional as F
from torch.utils.data import DataLoader

from examples.case_wtal.config import CaseConfig, InferenceConfig
from examples.case_wtal.data.batches import RecordingDataset, collate, resample
from examples.case_wtal.data.recording import Recording
from examples.case_wtal.evaluation import Detections
from examples.case_wtal.module import CaseModule
from examples.case_wtal.proposals import propose

Foreground = Literal["attention", "clusters", "fused"]


@dataclass(frozen=True)
class RecordingScores:
    """What the network says about one recording; maps are means over the streams.

    Attributes:
        recording: As the network saw it (resampled where the settings ask for it).
        streams: Number of streams, which weighs the maps against each other.
        class_activation: Class scores, T-CAS after the softmax in most baselines, by attention: shape (T, G).
        assisted_activation: The same with P^M in the place of the attention; equal where it plays no part.
        attention: Foreground probability P^A, shape (T,).
        cluster_foreground: Foreground probability P^T by way of the clusters, shape (T,).
        video_scores: Class probabilities of the whole recording, shape (G,).
        cluster_probability: P^S, shape (T, K).
        embedding: Of the streams beside each other, each of unit length, shape (T, sum of H), float32.
    """

    recording: Recording
    streams: int
    class_activation: np.ndarray
    assisted_activation: np.ndarray
    attention: np.ndarray
    cluster_foreground: np.ndarray
    video_scores: np.ndarray
    cluster_probability: np.ndarray
    embedding: np.ndarray

    @property
    def fused_foreground(self) -> np.ndarray:
        """P^M = (P^A + P^T) / 2, shape (T,)."""
        return (self.attention + self.cluster_foreground) / 2

    def class_map(self, settings: InferenceConfig, *, foreground: Foreground | None = None) -> np.ndarray:
        """What is thresholded, shape (T, G): class scores and foreground maps, averaged in time and fused.

        Args:
            settings: `smoothing` is the number of snippets averaged (the ends are repeated). `fusion` is the `"mean"`
                of the class activation and each stream's foreground maps (P^A, P^T or both), as in CASE; the
                `"geometric"` mean of the class activation and the foreground (P^A, P^T or P^M), in which a class that
                is not active cannot ride on the foreground of another; or the `"class_activation"` alone, for
                baselines whose class activation has the foreground in it.
            foreground: Whose foreground probability counts; None follows the settings.
        """
        foreground = settings.foreground if foreground is None else foreground
        assisted = foreground != "attention"
        probability = {
            "attention": self.attention,
            "clusters": self.cluster_foreground,
            "fused": self.fused_foreground,
        }[foreground]
        activation, probability = (
            uniform_filter1d(values, settings.smoothing, axis=0, mode="nearest")
            for values in (self.assisted_activation if assisted else self.class_activation, probability[:, None])
        )
        if settings.fusion == "class_activation":
            return activation
        if settings.fusion == "geometric":
            return np.sqrt((activation * probability).clip(min=0))  # the running mean can round below zero
        maps = 2 * self.streams if foreground == "fused" else self.streams
        return (activation + maps * probability) / (1 + maps)


@torch.no_grad()
def score_recordings(module: CaseModule, recordings: Sequence[Recording]) -> list[RecordingScores]:
    """Run the network over recordings, in order."""
    config, baseline = module.config, module.network.baseline
    seen = [resample(recording, config.train.snippets) for recording in recordings]
    loader = DataLoader(RecordingDataset(seen, ()), batch_size=config.train.batch_size, collate_fn=collate)
    module.eval()
    scores: list[RecordingScores] = []
    for batch in loader:
        mask = batch.mask.to(module.device)
        output = module({name: features.to(module.device) for name, features in batch.streams.items()}, mask)
        streams, transformed = output.baseline.streams, module.cluster_probability(output)
        fused = [(o.attention + p) / 2 for o, p in zip(streams, transformed, strict=True)]
        maps = {
            "class_activation": baseline.class_activation(output.baseline),
            "assisted_activation": baseline.class_activation(output.baseline, fused),
            "attention": torch.stack([o.attention for o in streams]).mean(dim=0),
            "cluster_foreground": torch.stack(transformed).mean(dim=0),
            "cluster_probability": torch.stack(module.cluster_assignment(output)).mean(dim=0),
        }
        embedding = torch.cat([F.normalize(o.embedding, dim=-1) for o in streams], dim=-1)
        video = baseline.video_scores(output.baseline, mask).double().cpu().numpy()
        for i, length in enumerate(mask.sum(dim=1).tolist()):
            scores.append(
                RecordingScores(
                    recording=seen[len(scores)],
                    streams=len(streams),
                    video_scores=video[i],
                    embedding=embedding[i, :length].float().cpu().numpy(),
                    **{name: values[i, :length].double().cpu().numpy() for name, values in maps.items()},
                )
            )
    return scores


def detect(
    scores: Sequence[RecordingScores],
    classes: Sequence[str],
    config: CaseConfig,
    *,
    foreground: Foreground | None = None,
) -> Detections:
    """Detections in all recordings; `foreground=None` follows the settings."""
    return Detections.concatenate(
        [
            propose(
                s.recording.name,
                s.class_map(config.inference, foreground=foreground),
                s.video_scores,
                s.recording.seconds,
                classes,
                config.proposal,
            )
            for s in scores
        ]
    )
