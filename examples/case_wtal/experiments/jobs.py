"""Trainings that are done once: a job is a configuration, its result a JSON file whose name tells which.

A folder of results serves every table that needs one of them. An interrupted call goes on from the files that are
there; files are renamed into place, so each is whole.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import lightning as L
import torch
from typing_extensions import override

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.config_json import to_plain
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.evaluation import foreground_auc
from examples.case_wtal.files import write_text
from examples.case_wtal.inference import Foreground, RecordingScores, detect, score_recordings
from examples.case_wtal.run import check_settings, evaluate_detections, train

MAPS: dict[Foreground, str] = {
    "attention": "attention",
    "clusters": "cluster_foreground",
    "fused": "fused_foreground",
}
"""Whose foreground probability counts at test time, and its name in `RecordingScores`."""

DATA = "data.json"


@dataclass(frozen=True)
class JobResult:
    """What one training gave.

    Attributes:
        config: Its settings.
        mean_ap: mAP in percent at each threshold of the protocol, by the foreground that counted.
        auc: Area under the ROC curve of snippets in segments, by foreground map.
        history: Means of each epoch (losses, entropies of the labels) by name.
    """

    config: CaseConfig
    mean_ap: dict[str, list[float]]
    auc: dict[str, float]
    history: dict[str, list[float]]

    def average(self, foreground: Foreground) -> float:
        """Average mAP in percent over the protocol's thresholds."""
        return sum(self.mean_ap[foreground]) / len(self.mean_ap[foreground])


def job_name(config: CaseConfig, data: LocalizationData) -> str:
    """File name of a job: seed, and a hash of the data's note and of every setting that is not a default.

    Names of recipes, folders of data and the width of layers that the baseline lacks do not count: they change no
    number.
    """
    settings = _without_defaults(to_plain(config), to_plain(CaseConfig()))
    for name in ("recipe", "root"):
        settings.pop(name, None)
    if config.model.baseline == "own":
        settings.get("model", {}).pop("joint", None)
    text = json.dumps([data.name, data.note, settings], sort_keys=True)
    return f"seed{config.train.seed}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def run_jobs(
    data: LocalizationData,
    configs: Sequence[CaseConfig],
    folder: str | Path,
    *,
    jobs: int = 1,
    report: Callable[[str], None] = lambda _: None,
) -> list[JobResult]:
    """Train and evaluate every configuration whose result is not in the folder yet.

    Trainings use one thread each, so that the number of jobs changes no number. The last epoch counts.

    Args:
        data: Its test split is evaluated.
        configs: Settings, seed included; equal ones are trained once.
        folder: Of the results.
        jobs: Worker processes; 1 trains in this process.
        report: Receives a line for each finished training.

    Returns:
        Results in the order of `configs`.

    Raises:
        ValueError: `jobs` is below one, settings are out of range, or the folder holds results of other recordings
            under the same name and note.
        ChildProcessError: A worker was ended from outside.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` must be at least 1, got {jobs}. One job per core is a good choice.")
    folder = Path(folder)
    claim_folder(folder, data)
    wanted = [replace(config, train=replace(config.train, checkpoint="last")) for config in configs]
    paths = {job_name(config, data): config for config in wanted}
    for config in paths.values():
        check_settings(config)
    todo = [config for name, config in paths.items() if not (folder / name).exists()]
    for number, result in enumerate(_work(todo, data, jobs), 1):
        _write(folder / job_name(result.config, data), result)
        best = ", ".join(f"{name} {result.average(name):.1f}" for name in MAPS)
        report(f"[{number}/{len(todo)}] seed {result.config.train.seed}: {best}")
    return [read_result(folder / job_name(config, data), config) for config in wanted]


def claim_folder(folder: Path, data: LocalizationData) -> None:
    """Make the folder, and note in `data.json` which recordings its results belong to; refuse others.

    Names and notes of data are part of a job's name, what they stand for is not.

    Raises:
        ValueError: The folder holds results of other recordings with the same name and note.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, key, found = folder / DATA, f"{data.name}: {data.note}", fingerprint(data)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    before = known.get(key, found)
    if before != found:
        raise ValueError(
            f"`folder` must hold results of the same recordings, got {folder} with {_describe(before)}, and data with "
            f"{_describe(found)}. Choose another folder."
        )
    if key not in known:
        write_text(path, json.dumps({**known, key: found}, indent=1) + "\n")


def fingerprint(data: LocalizationData) -> dict[str, Any]:
    """Numbers of recordings, and a hash of their names, lengths, widths and labels; of no feature's value.

    The same features computed on another machine differ in the last digits.
    """
    content = [
        [r.name, r.snippet_seconds, r.labels, [(s.label, round(s.start, 3), round(s.end, 3)) for s in r.segments]]
        + [[stream, list(features.shape)] for stream, features in sorted(r.streams.items())]
        for r in (*data.train, *data.test)
    ]
    text = json.dumps([data.classes, data.test_split, content])
    return {
        "train": len(data.train),
        "test": len(data.test),
        "hash": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def _describe(found: dict[str, Any]) -> str:
    return f"{found['train']} to train and {found['test']} to test (hash {found['hash']})"


def read_result(path: Path, config: CaseConfig) -> JobResult:
    """A result from its file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return JobResult(config, content["mean_ap"], content["auc"], content["history"])


def run_job(config: CaseConfig, data: LocalizationData) -> JobResult:
    """Train once with one thread, evaluate with each foreground."""
    threads, history = torch.get_num_threads(), History()
    torch.set_num_threads(1)
    try:
        module = train(config, data, progress=False, callbacks=[history])
        scores = score_recordings(module, data.test)
    finally:
        torch.set_num_threads(threads)
    return JobResult(config, *evaluate_scores(scores, config, data), history.columns)


class History(L.Callback):
    """Means of each epoch, by name."""

    def __init__(self) -> None:
        self.columns: dict[str, list[float]] = {}

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the finished epoch's."""
        for name, value in trainer.callback_metrics.items():
            self.columns.setdefault(name, []).append(float(value))


def evaluate_scores(
    scores: Sequence[RecordingScores], config: CaseConfig, data: LocalizationData
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Give mAP in percent at each threshold, and AUC, by whose foreground probability counts."""
    recordings, mean_ap, auc = [s.recording for s in scores], {}, {}
    for foreground in get_args(Foreground):
        found = detect(scores, data.classes, config, foreground=foreground)
        evaluation = evaluate_detections(found, data, config.inference.protocol)
        mean_ap[foreground] = (100 * evaluation.mean_ap).tolist()
        auc[foreground] = foreground_auc([getattr(s, MAPS[foreground]) for s in scores], recordings)
    return mean_ap, auc


def _write(path: Path, result: JobResult) -> None:
    content = {
        "config": to_plain(result.config),
        "mean_ap": result.mean_ap,
        "auc": result.auc,
        "history": result.history,
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def _without_defaults(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            value = _without_defaults(value, defaults[name])  # noqa: PLW2901 - the part that counts
            if value:
                found[name] = value
        elif value != defaults[name]:
            found[name] = value
    return found


def _work(todo: Sequence[CaseConfig], data: LocalizationData, jobs: int) -> Iterator[JobResult]:
    if jobs == 1 or len(todo) < 2:
        yield from (run_job(config, data) for config in todo)
        return
    # A forked worker would inherit the thread pools of this process in an undefined state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(data,)) as pool:
        futures = [pool.submit(_run_in_worker, config) for config in todo]
        try:
            yield from (future.result() for future in as_completed(futures))
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"`jobs` must leave each worker enough memory, got {jobs} and a worker that was ended from outside. "
                "Use fewer; the same call goes on from what is finished."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker_data: LocalizationData


def _start_worker(data: LocalizationData) -> None:
    """Receive the data once per process instead of once per job."""
    global _worker_data  # noqa: PLW0603 - the only way into a pool's worker
    _worker_data = data
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker at once and without a traceback
    # Where it finds no handler, Lightning sets one that outlives the pool's request to end.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A worker whose parent is killed would wait for its next job for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(config: CaseConfig) -> JobResult:
    return run_job(config, _worker_data)
