"""From a run folder to the report: run the network over the test split, draw, and write the file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.config_json import to_plain
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.evaluation import Detections, Evaluation
from examples.case_wtal.evaluation.figures import draw_precision_recall
from examples.case_wtal.html_report.page import Picture, render
from examples.case_wtal.html_report.payload import TIOU, best_threshold, build_payload, f1_of, match, to_script
from examples.case_wtal.html_report.pictures import to_svg
from examples.case_wtal.inference import RecordingScores, detect, score_recordings
from examples.case_wtal.plots.clusters import Thumbnail, draw_clusters
from examples.case_wtal.plots.embedding import Method, cluster_foreground_of, draw_embedding, prototypes
from examples.case_wtal.plots.recording import draw_recording
from examples.case_wtal.plots.training import draw_training, read_metrics
from examples.case_wtal.run import evaluate_detections, foreground_aucs, load_run, protocol_of, selection_note
from examples.case_wtal.run_folder import existing

LARGEST = 250
"""Recordings in the timeline at most; the file stays below about three megabytes."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run, looked at: everything that the pictures and the page are made from."""

    config: CaseConfig
    data: LocalizationData
    scores: list[RecordingScores]
    detections: Detections
    evaluation: Evaluation
    prototypes: np.ndarray
    foreground: np.ndarray
    metrics: dict[str, list[float]]
    environment: dict[str, Any]

    @property
    def clusters(self) -> bool:
        """Whether clusters were trained."""
        return self.config.loss.components != "baseline"


def read_run(folder: str | Path, data: LocalizationData) -> Run:
    """Load a run folder and run its network over the test split.

    Raises:
        FileNotFoundError: `folder` holds no run.
    """
    folder = Path(folder)
    module, config = load_run(folder)
    scores = score_recordings(module, data.test)
    detections = detect(scores, data.classes, config)
    return Run(
        config=config,
        data=data,
        scores=scores,
        detections=detections,
        evaluation=evaluate_detections(detections, data, config.inference.protocol),
        prototypes=prototypes(module),
        foreground=cluster_foreground_of(module),
        metrics=read_metrics(existing(folder, "metrics.csv")),
        environment=json.loads(existing(folder, "environment.json").read_text(encoding="utf-8")),
    )


def write_report(
    folder: str | Path,
    data: LocalizationData,
    out: str | Path | None = None,
    *,
    method: Method = "tsne",
    thumbnail: Thumbnail | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write the report of a run: one file that needs nothing else, neither network nor server.

    Args:
        folder: Run folder.
        data: What the run was trained on; its test split is shown.
        out: File to write; None is report.html in the run folder. Its folder is made.
        method: How the embeddings are laid out in two dimensions.
        thumbnail: Draws a snippet for the picture of the clusters; None draws features.
        say: Receives a line on what is going on.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: `folder` holds no run.
    """
    say(f"Running the network over {len(data.test)} recordings.")
    run = read_run(folder, data)
    say("Drawing.")
    text = build_page(run, method=method, thumbnail=thumbnail)
    path = Path(folder) / "report.html" if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def build_page(run: Run, *, method: Method = "tsne", thumbnail: Thumbnail | None = None) -> str:
    """The report as text; arguments as in `write_report`."""
    config, data, evaluation = run.config, run.data, run.evaluation
    payload = build_payload(
        run.scores,
        run.detections,
        data,
        config,
        protocol_of(config.inference.protocol),
        run.foreground if run.clusters else np.zeros(0),
        most=LARGEST,
    )
    facts = {
        "recipe": f"{config.recipe}, baseline {config.model.baseline}, {config.loss.components}",
        "data": f"{data.name}: {len(data.train)} recordings to train, {len(data.test)} in split {data.test_split}",
        "protocol": evaluation.protocol.describe(),
        "weights": f"{selection_note(config)}, {config.train.epochs} epochs, seed {config.train.seed}",
    }
    return render(
        title=f"CASE, recipe {config.recipe} on {data.name}",
        note=data.note,
        facts=facts,
        headline=_headline(run),
        evaluation=evaluation,
        pictures=draw_pictures(run, method=method, thumbnail=thumbnail),
        details={"Settings": to_plain(config), "Environment": run.environment},
        data=to_script(payload),
    )


def draw_pictures(run: Run, *, method: Method = "tsne", thumbnail: Thumbnail | None = None) -> list[Picture]:
    """The pictures of the report, in order; those of clusters are left out where none were trained."""
    data, seed = run.data, run.config.train.seed
    pictures = []
    if run.clusters:
        figure = draw_clusters(run.scores, run.foreground, data, thumbnail=thumbnail)
        pictures.append(
            Picture(
                "Clusters",
                "A cluster is useful if its snippets are all of one kind, and its foreground probability says which.",
                to_svg(figure, "clusters", "Foreground probability, true classes and typical snippets of each cluster"),
            )
        )
    centres = run.prototypes if run.clusters else run.prototypes[:0]
    foreground = run.foreground if run.clusters else run.foreground[:0]
    figure = draw_embedding(run.scores, centres, foreground, data, method=method, seed=seed)
    pictures.append(
        Picture(
            "Embedding",
            "Each point is a snippet. Points that are near each other are alike to the network"
            + ("; the distance between groups means nothing in t-SNE." if method == "tsne" else "."),
            to_svg(figure, "embedding", "Snippet embeddings in two dimensions, by true class and by foreground"),
        )
    )
    if run.metrics.get("epoch"):
        figure = draw_training(
            run.metrics, clusters=run.config.model.clusters, warm_epochs=run.config.loss.warm_start_epochs
        )
        pictures.append(
            Picture(
                "Training",
                "Low entropy of a label: it is sure. Entropy of the proportions at its bound: all clusters are in use.",
                to_svg(figure, "training", "Losses and label entropies against the epoch"),
            )
        )
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False}):  # a class may have dollars in its name
        figure = draw_precision_recall(run.evaluation)
    pictures.append(
        Picture(
            "Precision and recall",
            "A curve that ends early misses instances; a curve that starts low ranks false detections first.",
            to_svg(figure, "precision", "Precision against recall of each class at three thresholds"),
        )
    )
    return pictures + _extremes(run)


def _extremes(run: Run) -> list[Picture]:
    """Timelines of the best and the worst recording."""
    recordings = [s.recording for s in run.scores]
    hit = match(run.detections, recordings, TIOU)
    score = best_threshold(run.detections, hit, sum(len(r.segments) for r in recordings))
    f1 = np.array([f1_of(r, run.detections, hit, score) for r in recordings])
    chosen = {"best": int(f1.argmax()), "worst": int(f1.argmin())}
    return [
        Picture(
            f"The {kind} recording",
            f"F1 of {recordings[i].name} is {100 * f1[i]:.0f} %, at tIoU {TIOU:g} and from the score {score:.2f} on, "
            "where the F1 of the whole split is best.",
            to_svg(
                draw_recording(run.scores[i], run.detections, run.data, run.config),
                kind,
                f"Timeline of recording {recordings[i].name}",
            ),
        )
        for kind, i in chosen.items()
    ]


def _headline(run: Run) -> dict[str, str]:
    evaluation = run.evaluation
    tious = list(evaluation.protocol.tious)
    numbers = {"average mAP": f"{100 * evaluation.average:.1f} %"}
    if 0.5 in tious:
        numbers["mAP at tIoU 0.5"] = f"{100 * float(evaluation.mean_ap[tious.index(0.5)]):.1f} %"
    for name, value in foreground_aucs(run.scores, run.config).items():
        numbers[f"foreground AUC, {name}"] = f"{value:.3f}"
    return numbers
