"""A made-up data set and settings that train in a second."""

from dataclasses import replace

import numpy as np

from examples.case_wtal.config import CaseConfig, LossConfig, ModelConfig, TrainConfig
from examples.case_wtal.data import LocalizationData, Recording, Segment
from examples.case_wtal.proposals import ProposalConfig

CLASSES = ("jump", "throw", "turn")
WIDTHS = {"left": 6, "right": 4}


def tiny_recording(name, rng, length):
    """One or two classes, each a segment of a few snippets whose features point one way."""
    labels = sorted(rng.choice(3, size=rng.integers(1, 3), replace=False).tolist())
    streams = {s: rng.standard_normal((length, w)).astype(np.float32) for s, w in WIDTHS.items()}
    segments = []
    for i, label in enumerate(labels):
        start = 2 + i * length // 2
        segments.append(Segment(start * 0.5, (start + 4) * 0.5, CLASSES[label]))
        for features in streams.values():
            features[start : start + 4, label] += 4
            features[start : start + 4, 3] += 3
    return Recording(name, streams, 0.5, tuple(segments), tuple(CLASSES[i] for i in labels))


def tiny_data(seed=0, train=8, test=4):
    rng = np.random.default_rng(seed)
    return LocalizationData(
        name="tiny",
        classes=CLASSES,
        train=tuple(tiny_recording(f"train/{i}", rng, int(rng.integers(16, 24))) for i in range(train)),
        test=tuple(tiny_recording(f"test/{i}", rng, int(rng.integers(16, 24))) for i in range(test)),
        test_split="dev",
        note="Made-up recordings for tests.",
    )


def tiny_config(components="scc_ccc", **train):
    config = CaseConfig(
        recipe="paper",
        model=ModelConfig(hidden=8, kernel_size=3, clusters=4),
        loss=LossConfig(components=components, topk_ratio=4),
        train=TrainConfig(epochs=2, batch_size=4, learning_rate=1e-2, snippets=None),
        proposal=ProposalConfig(upsample=4),
    )
    return replace(config, train=replace(config.train, **train))
