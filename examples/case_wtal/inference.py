"""Test time: maps over the snippets of a recording, their fusion, and the detections they lead to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from torch.utils.data import DataLoader

from examples.case_wtal import losses
from examples.case_wtal.config import CaseConfig, InferenceConfig
from examples.case_wtal.data.batches import RecordingDataset, collate, resample
from examples.case_wtal.data.recording import Recording
from examples.case_wtal.evaluation import Detections
from examples.case_wtal.module import CaseModule, calibrated_activation, class_activation
from examples.case_wtal.proposals import propose


@dataclass(frozen=True)
class RecordingScores:
    """What the network says about one recording; maps are means over the streams.

    Attributes:
        recording: As the network saw it (resampled where the settings ask for it).
        streams: Number of streams, which weighs the maps against each other.
        class_activation: Softmax T-CAS, shape (T, G).
        attention: Foreground probability P^A, shape (T,).
        cluster_foreground: Foreground probability P^T by way of the clusters, shape (T,).
        video_scores: Class probabilities of the whole recording, shape (G,).
    """

    recording: Recording
    streams: int
    class_activation: np.ndarray
    attention: np.ndarray
    cluster_foreground: np.ndarray
    video_scores: np.ndarray

    @property
    def fused_foreground(self) -> np.ndarray:
        """P^M = (P^A + P^T) / 2, shape (T,)."""
        return (self.attention + self.cluster_foreground) / 2

    def class_map(self, settings: InferenceConfig, *, clustering_assisted: bool | None = None) -> np.ndarray:
        """What is thresholded, shape (T, G): class activation and foreground maps, averaged in time and fused.

        Args:
            settings: `smoothing` is the number of snippets averaged (the ends are repeated). `fusion` is the `"mean"`
                of the class activation, each stream's P^A and, with clustering, each stream's P^T, as in CASE; or the
                `"geometric"` mean of the class activation and P^M (P^A without clustering), in which a class that is
                not active cannot ride on the foreground of another.
            clustering_assisted: Whether the clusters' foreground probability takes part; None follows the settings.
        """
        assisted = settings.clustering_assisted if clustering_assisted is None else clustering_assisted
        foreground = self.fused_foreground if assisted else self.attention
        activation, foreground = (
            uniform_filter1d(values, settings.smoothing, axis=0, mode="nearest")
            for values in (self.class_activation, foreground[:, None])
        )
        if settings.fusion == "geometric":
            return np.sqrt(activation * foreground)
        maps = 2 * self.streams if assisted else self.streams
        return (activation + maps * foreground) / (1 + maps)


@torch.no_grad()
def score_recordings(module: CaseModule, recordings: Sequence[Recording]) -> list[RecordingScores]:
    """Run the network over recordings, in order."""
    config = module.config
    seen = [resample(recording, config.train.snippets) for recording in recordings]
    loader = DataLoader(RecordingDataset(seen, ()), batch_size=config.train.batch_size, collate_fn=collate)
    module.eval()
    scores: list[RecordingScores] = []
    for batch in loader:
        outputs = module({name: features.to(module.device) for name, features in batch.streams.items()})
        mask = batch.mask.to(module.device)
        selected = losses.select_topk(calibrated_activation(outputs), mask, config.loss.topk_ratio)
        video = torch.stack([losses.video_logits(o.cas, selected).softmax(dim=-1) for o in outputs]).mean(dim=0)
        attention = torch.stack([o.attention for o in outputs]).mean(dim=0)
        transformed = torch.stack(module.cluster_probability(outputs)).mean(dim=0)
        activation = class_activation(outputs)
        for i in range(len(mask)):
            length = int(mask[i].sum())
            scores.append(
                RecordingScores(
                    recording=seen[len(scores)],
                    streams=len(outputs),
                    class_activation=activation[i, :length].double().cpu().numpy(),
                    attention=attention[i, :length].double().cpu().numpy(),
                    cluster_foreground=transformed[i, :length].double().cpu().numpy(),
                    video_scores=video[i].double().cpu().numpy(),
                )
            )
    return scores


def detect(
    scores: Sequence[RecordingScores],
    classes: Sequence[str],
    config: CaseConfig,
    *,
    clustering_assisted: bool | None = None,
) -> Detections:
    """Detections in all recordings; `clustering_assisted=None` follows the settings."""
    return Detections.concatenate(
        [
            propose(
                s.recording.name,
                s.class_map(config.inference, clustering_assisted=clustering_assisted),
                s.video_scores,
                s.recording.seconds,
                classes,
                config.proposal,
            )
            for s in scores
        ]
    )
