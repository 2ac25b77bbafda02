"""The demonstration: baseline, +SCC and +SCC+CCC on small real recordings, one seed, a table and a picture."""

from collections.abc import Callable
from pathlib import Path

import torch

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.experiments.jobs import JobResult, evaluate_scores
from examples.case_wtal.experiments.paper import COMPONENTS
from examples.case_wtal.experiments.results import TableResult, summarise
from examples.case_wtal.inference import RecordingScores, detect, score_recordings
from examples.case_wtal.plots import plot_recording
from examples.case_wtal.run import train


def demo(
    config: CaseConfig,
    data: LocalizationData,
    folder: str | Path,
    *,
    progress: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[TableResult, Path]:
    """Train three times, evaluate four rows, draw one test recording.

    Args:
        config: Settings of the last rows; the others leave parts out.
        data: What to train on and to draw from.
        folder: Receives `recording.png`; an older one is replaced.
        progress: Show a line for each training.
        report: Receives a line on what is going to happen.

    Returns:
        A table with the rows base, +SCC, +SCC+CCC, +test, and the path of the picture.
    """
    folder = Path(folder)
    report(
        f"{data.note}\n{len(data.train)} recordings to train, {len(data.test)} to test, {len(data.classes)} classes."
    )
    results: dict[CaseConfig, JobResult] = {}
    # The tensors are small: a second thread gains nothing, and costs much on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for row in COMPONENTS.rows:
            settings = row.change(config)
            if settings not in results:
                module = train(settings, data, progress=progress)
                scores = score_recordings(module, data.test)
                results[settings] = JobResult(settings, *evaluate_scores(scores, settings, data), history={})
    finally:
        torch.set_num_threads(threads)
    rows = {row.name: [results[row.change(config)]] for row in COMPONENTS.rows}
    folder.mkdir(parents=True, exist_ok=True)
    chosen = first_with_classes(scores)
    picture = plot_recording(chosen, detect([chosen], data.classes, settings), data, settings, folder / "recording.png")
    return summarise(COMPONENTS, rows, [config.train.seed]), picture


def first_with_classes(scores: list[RecordingScores], classes: int = 2) -> RecordingScores:
    """The first recording that shows at least so many classes; the first of all if none does."""
    return next((s for s in scores if len(s.recording.labels) >= classes), scores[0])
