"""The demonstration: baseline, +SCC and +SCC+CCC on small real recordings, one seed, a table and a picture."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from examples.case_wtal.ablation import Result, evaluate_rows
from examples.case_wtal.config import CaseConfig, Component
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.inference import RecordingScores, detect, score_recordings
from examples.case_wtal.plots import plot_recording
from examples.case_wtal.run import train

TRAININGS: tuple[Component, ...] = ("baseline", "scc", "scc_ccc")


def demo(
    config: CaseConfig,
    data: LocalizationData,
    folder: str | Path,
    *,
    progress: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[list[Result], Path]:
    """Train three times, evaluate four rows, draw one test recording.

    Args:
        config: Settings; the components are set here.
        data: What to train on and to draw from.
        folder: Receives `recording.png`; an older one is replaced.
        progress: Show a line for each training.
        report: Receives a line on what is going to happen.

    Returns:
        The rows base, +SCC, +SCC+CCC, +test, and the path of the picture.
    """
    folder = Path(folder)
    report(
        f"{data.note}\n{len(data.train)} recordings to train, {len(data.test)} to test, {len(data.classes)} classes."
    )
    results: list[Result] = []
    # The tensors are small: a second thread gains nothing, and costs much on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for components in TRAININGS:
            settings = replace(config, loss=replace(config.loss, components=components))
            module = train(settings, data, progress=progress)
            scores = score_recordings(module, data.test)
            results += evaluate_rows(config.recipe, settings, settings, scores, data)
    finally:
        torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = first_with_classes(scores)
    picture = plot_recording(chosen, detect([chosen], data.classes, settings), data, settings, folder / "recording.png")
    return results, picture


def first_with_classes(scores: list[RecordingScores], classes: int = 2) -> RecordingScores:
    """The first recording that shows at least so many classes; the first of all if none does."""
    return next((s for s in scores if len(s.recording.labels) >= classes), scores[0])
