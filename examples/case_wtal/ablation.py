"""Does CASE help? Its parts, switched on one after the other, trained from paired seeds.

For each seed and recipe four rows: the baseline ("base"), with snippet clustering ("+SCC"), with cluster
classification too ("+SCC+CCC"), and the same training with clustering-assisted inference ("+test"). The last epoch's
weights count everywhere, so no test label selects anything.
"""

import csv
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from examples.case_wtal.config import CaseConfig, Component, InferenceConfig, LossConfig
from examples.case_wtal.config_json import describe_difference, from_plain, to_plain
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.evaluation import foreground_auc
from examples.case_wtal.inference import RecordingScores, detect, score_recordings
from examples.case_wtal.run import evaluate_detections, protocol_of, train

BASE, SCC, SCC_CCC, ASSISTED = ROWS = ("base", "+SCC", "+SCC+CCC", "+test")
"""Rows of every table, in order."""

MAPS = {"attention": "attention", "clusters": "cluster_foreground", "fused": "fused_foreground"}
"""Foreground maps whose AUC is reported, and their names in `RecordingScores`."""

RESULTS = "results.csv"
SETTINGS = "ablation.json"


@dataclass(frozen=True)
class Result:
    """One row of one recipe and seed.

    Attributes:
        recipe: Name of the recipe.
        seed: Of the training.
        row: One of `ROWS`.
        average: Average mAP in percent, over the protocol's thresholds.
        mean_ap: mAP in percent at each threshold.
        auc: Foreground AUC of each of `MAPS`; NaN for the clusters of the baseline, which are not trained.
    """

    recipe: str
    seed: int
    row: str
    average: float
    mean_ap: tuple[float, ...]
    auc: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """One training and the recipes under whose proposals it is evaluated."""

    config: CaseConfig
    recipes: tuple[tuple[str, CaseConfig], ...]

    @property
    def title(self) -> str:
        """What the progress line calls it."""
        names = "+".join(name for name, _ in self.recipes)
        return f"seed {self.config.train.seed}, {names}, {self.config.loss.components}"


def ablation(
    data: LocalizationData,
    recipes: Mapping[str, CaseConfig],
    seeds: int,
    folder: str | Path,
    *,
    jobs: int = 1,
    report: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Train and evaluate every recipe, row and seed that `folder` does not hold yet.

    The baseline knows nothing of a recipe's labels, so recipes that agree in the rest share its training; only the
    proposals differ. Trainings use one thread each, so that the number of jobs does not change a number.

    Args:
        data: Its test split is evaluated.
        recipes: Name -> settings; components, seed and checkpoint are set here.
        seeds: Trains with seeds 0 .. seeds - 1.
        folder: Every finished training is appended to `results.csv` there; a second call goes on from it.
        jobs: Worker processes; 1 trains in this process.
        report: Receives a line for each finished training.

    Returns:
        All results of these recipes and seeds, by recipe, seed and row.

    Raises:
        ValueError: `seeds`, `jobs` or `recipes` are out of range, or `folder` holds results of other settings.
        ChildProcessError: A worker was ended from outside.
    """
    _check(recipes, seeds, jobs)
    folder = Path(folder)
    _claim(folder, data, recipes)
    done = read_results(folder)
    todo = plan(recipes, range(seeds), {(r.recipe, r.seed, r.row) for r in done})
    for number, (job, results) in enumerate(_work(todo, data, jobs), 1):
        _append(folder, results, protocol_of(job.config.inference.protocol).tious)
        best = ", ".join(f"{r.recipe} {r.row} {r.average:.1f}" for r in results)
        report(f"[{number}/{len(todo)}] {job.title}: {best}")
    order = list(recipes)
    wanted = [r for r in read_results(folder) if r.recipe in recipes and r.seed < seeds]
    return sorted(wanted, key=lambda r: (order.index(r.recipe), r.seed, ROWS.index(r.row)))


def plan(recipes: Mapping[str, CaseConfig], seeds: Sequence[int], done: set[tuple[str, int, str]]) -> list[Job]:
    """Trainings that are still to do, seed by seed, so that an early stop leaves whole pairs."""
    jobs = []
    for seed in seeds:
        missing = [(name, config) for name, config in recipes.items() if (name, seed, BASE) not in done]
        groups: dict[CaseConfig, list[tuple[str, CaseConfig]]] = {}
        for name, config in missing:
            groups.setdefault(_baseline_of(config, seed), []).append((name, config))
        jobs += [Job(config, tuple(members)) for config, members in groups.items()]
        for name, config in recipes.items():
            if (name, seed, SCC) not in done:
                jobs.append(Job(_training(config, seed, "scc"), ((name, config),)))
            if not {(name, seed, SCC_CCC), (name, seed, ASSISTED)} <= done:
                jobs.append(Job(_training(config, seed, "scc_ccc"), ((name, config),)))
    return jobs


def run_job(job: Job, data: LocalizationData) -> list[Result]:
    """Train once, evaluate each row under each recipe's proposals."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module = train(job.config, data, progress=False)
        scores = score_recordings(module, data.test)
    finally:
        torch.set_num_threads(threads)
    return [result for name, config in job.recipes for result in evaluate_rows(name, job.config, config, scores, data)]


def evaluate_rows(
    recipe: str, trained: CaseConfig, config: CaseConfig, scores: Sequence[RecordingScores], data: LocalizationData
) -> list[Result]:
    """The rows that one training gives: one, or two where inference can use the clusters."""
    rows = {"baseline": {BASE: False}, "scc": {SCC: False}, "scc_ccc": {SCC_CCC: False, ASSISTED: True}}
    recordings = [s.recording for s in scores]
    auc = {name: foreground_auc([getattr(s, field) for s in scores], recordings) for name, field in MAPS.items()}
    if trained.loss.components == "baseline":
        auc |= {"clusters": float("nan"), "fused": float("nan")}
    results = []
    for row, assisted in rows[trained.loss.components].items():
        found = detect(scores, data.classes, config, clustering_assisted=assisted)
        evaluation = evaluate_detections(found, data, config.inference.protocol)
        mean_ap = tuple((100 * evaluation.mean_ap).tolist())
        seed = trained.train.seed
        results.append(Result(recipe, seed, row, 100 * evaluation.average, mean_ap, tuple(auc.values())))
    return results


def read_results(folder: Path) -> list[Result]:
    """What `results.csv` holds; an incomplete last line, left by an interruption, does not count."""
    path = folder / RESULTS
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    results = []
    for row in csv.DictReader(lines):
        mean_ap = tuple(float(value) for name, value in row.items() if name.startswith("mAP@"))
        auc = tuple(float(row[f"auc_{name}"]) for name in MAPS)
        results.append(Result(row["recipe"], int(row["seed"]), row["row"], float(row["average"]), mean_ap, auc))
    return results


def _append(folder: Path, results: Sequence[Result], tious: Sequence[float]) -> None:
    """Add rows in one write, behind the last complete line."""
    path = folder / RESULTS
    header = ["recipe", "seed", "row", "average", *(f"mAP@{t:g}" for t in tious), *(f"auc_{name}" for name in MAPS)]
    text = path.read_text(encoding="utf-8") if path.exists() else ",".join(header) + "\n"
    lines = [",".join(map(str, (r.recipe, r.seed, r.row, r.average, *r.mean_ap, *r.auc))) for r in results]
    path.write_text(text[: text.rfind("\n") + 1] + "\n".join(lines) + "\n", encoding="utf-8")


def _training(config: CaseConfig, seed: int, components: Component) -> CaseConfig:
    return replace(
        config,
        loss=replace(config.loss, components=components),
        train=replace(config.train, seed=seed, checkpoint="last"),
    )


def _baseline_of(config: CaseConfig, seed: int) -> CaseConfig:
    """The baseline's settings without what it does not use, equal for recipes that share it."""
    plain = CaseConfig()
    training = _training(config, seed, "baseline")
    loss = training.loss
    return replace(
        training,
        recipe="baseline",
        loss=LossConfig(
            "baseline", gce_q=loss.gce_q, topk_ratio=loss.topk_ratio, warm_start_epochs=loss.warm_start_epochs
        ),
        label=plain.label,
        proposal=plain.proposal,
        inference=InferenceConfig(protocol=config.inference.protocol),
    )


def _work(todo: Sequence[Job], data: LocalizationData, jobs: int) -> Iterator[tuple[Job, list[Result]]]:
    if jobs == 1:
        yield from ((job, run_job(job, data)) for job in todo)
        return
    # A forked worker would inherit the thread pools of this process in an undefined state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(data,)) as pool:
        futures = {pool.submit(_run_in_worker, job): job for job in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
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
    torch.set_num_threads(1)


def _run_in_worker(job: Job) -> list[Result]:
    return run_job(job, _worker_data)


def _check(recipes: Mapping[str, CaseConfig], seeds: int, jobs: int) -> None:
    if not recipes:
        raise ValueError("`recipes` must name at least one recipe, got none. Choose among the recipes.")
    for argument, value in (("seeds", seeds), ("jobs", jobs)):
        if value < 1:
            raise ValueError(f"`{argument}` must be at least 1, got {value}. Two seeds or more give an interval.")
    protocols = {config.inference.protocol for config in recipes.values()}
    if len(protocols) != 1:
        raise ValueError(
            f"`recipes` must be evaluated under one protocol, got {', '.join(sorted(protocols))}. "
            "Numbers of two protocols do not compare."
        )


def _claim(folder: Path, data: LocalizationData, recipes: Mapping[str, CaseConfig]) -> None:
    """Note which settings the results in `folder` belong to; refuse others."""
    path = folder / SETTINGS
    known: dict[str, Any] = {"data": data.note, "recipes": {}}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        for name in known["recipes"].keys() & recipes.keys():
            difference = describe_difference(from_plain(known["recipes"][name]), recipes[name])
            if difference:
                raise ValueError(
                    f"`folder` must hold results of the same settings, got {folder} where {name} has {difference}. "
                    "Choose another folder."
                )
        if known["data"] != data.note:
            raise ValueError(
                f"`folder` must hold results of the same data, got {folder} with {known['data']!r}. "
                "Choose another folder."
            )
    folder.mkdir(parents=True, exist_ok=True)
    known["recipes"] |= {name: to_plain(config) for name, config in recipes.items()}
    path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
