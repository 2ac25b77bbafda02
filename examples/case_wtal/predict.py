"""Detections in recordings of one's own, from a run folder and feature files."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from examples.case_wtal.config import CaseConfig, Device
from examples.case_wtal.data import LocalizationData, Recording
from examples.case_wtal.data.feature_files import FeatureFile, FeatureIndex, FeatureSource, check_streams
from examples.case_wtal.data.integrity import Report
from examples.case_wtal.evaluation import Detections
from examples.case_wtal.files import write_text, write_whole
from examples.case_wtal.inference import RecordingScores, detect, score_recordings
from examples.case_wtal.run import load_run
from examples.case_wtal.run_folder import PREDICTIONS, read_data_description

STATED = ("dataset.json", "extraction.json")
"""Files beside features that may state the length of a snippet."""


@dataclass(frozen=True)
class Prediction:
    """What was found.

    Attributes:
        scores: Maps of each recording.
        detections: In all of them.
        pictures: One timeline for each recording, or none.
    """

    scores: tuple[RecordingScores, ...]
    detections: Detections
    pictures: tuple[Path, ...]


def predict(
    run: str | Path,
    features: Sequence[str],
    out: str | Path,
    *,
    snippet_seconds: float | None = None,
    plots: bool = True,
    device: Device = "auto",
) -> Prediction:
    """Find actions and write `predictions.json` (ActivityNet results form, every recording in it) and timelines.

    Args:
        run: Run folder of the trained model.
        features: What `find_recordings` takes.
        out: Folder that receives the results; results that are there are never overwritten.
        snippet_seconds: Time from one snippet to the next; None takes that of the data the model was trained on.
        plots: Whether to draw a timeline of each recording.
        device: Where to run the network.

    Raises:
        FileExistsError: `out` holds predictions.
        FileNotFoundError: `run` is no run folder.
        ValueError: The run is damaged, the features are not those of the streams it was trained on, or the length of a
            snippet is unknown or contradicted.
    """
    out = Path(out)
    if (out / PREDICTIONS).exists():
        raise FileExistsError(f"`out` must hold no predictions yet, got {out} with some. Choose another folder.")
    described = read_data_description(Path(run))
    module, config = load_run(run, device=device)
    recordings = find_recordings(features, described["stream_widths"], _seconds(snippet_seconds, described, features))
    scores = score_recordings(module, recordings)
    detections = detect(scores, described["classes"], config)
    results = detections.to_results()
    content = {**results, "results": {r.name: results["results"].get(r.name, []) for r in recordings}}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / PREDICTIONS, json.dumps(content))
    data = LocalizationData(
        name="Prediction",
        classes=tuple(described["classes"]),
        train=(),
        test=recordings,
        test_split="own",
        note=f"Model: {run}, trained on: {described['note']}",
    )
    pictures = [_draw(s, detections, data, config, out / "timelines") for s in scores] if plots else []
    return Prediction(tuple(scores), detections, tuple(pictures))


def find_recordings(features: Sequence[str], widths: Mapping[str, int], seconds: float) -> tuple[Recording, ...]:
    """Recordings with the streams that a model was trained on; their features are read when they are needed.

    Streams that differ by at most 2 snippets are cut to the shortest, as for training.

    Args:
        features: `stream=file.npy` for each stream of one recording, which is named after the first file; or one folder
            with `<stream>/<name>.npy`, or in the format for own data (`features/<stream>/<name>.npy`, `features.h5`),
            annotated or not.
        widths: Stream -> feature width of the model.
        seconds: Time from one snippet to the next.

    Raises:
        ValueError: Nothing is found, a stream is missing or unknown, or features are broken, of the wrong width, empty,
            not finite, or of different lengths. Every problem of every recording is listed.
    """
    trained = ", ".join(f"{stream} ({width} wide)" for stream, width in widths.items())
    named = "=" in features[0] and not Path(features[0]).is_dir()
    if len(features) > 1 and not named:
        raise ValueError(
            f"`features` must be one folder, or stream=file for each stream, got {' '.join(features)}. Put those "
            "of all recordings into one folder."
        )
    report = Report(Path("" if named else features[0]))
    found = _named_files(features, widths, trained) if named else _files_in(Path(features[0]), widths, report)
    if not found and not report.problems:
        raise ValueError(
            f"`features` must hold <stream>/<name>.npy of {trained}, got {features[0]} without any. Name the folder "
            "that holds the folders of the streams."
        )
    recordings: list[Recording] = []
    for name, files in found.items():
        missing = [stream for stream in widths if stream not in files]
        for stream in missing:
            report.add(name, "missing", f"no stream {stream}")
        streams, _ = check_streams(name, files, widths, report) if not missing else (None, False)
        if streams is not None:
            recordings.append(Recording(name, streams, seconds, (), ()))
    if report.problems:
        count = "1 problem" if len(report.problems) == 1 else f"{len(report.problems)} problems"
        listed = "".join(f"\n  {problem}" for problem in report.problems)
        raise ValueError(
            f"`features` must be those of the streams that the run was trained on, {trained}, got "
            f"{count}:{listed}\nRepair or remove these files."
        )
    return tuple(recordings)


def _named_files(
    features: Sequence[str], widths: Mapping[str, int], trained: str
) -> dict[str, dict[str, FeatureSource]]:
    files: dict[str, FeatureSource] = {}
    for part in features:
        stream, _, path = part.partition("=")
        if not path or stream not in widths or stream in files:
            raise ValueError(
                f"`features` must be stream=file.npy, once for each of {trained}, got {part!r}. These are the streams "
                "that the run was trained on."
            )
        files[stream] = FeatureFile(Path(path))
    return {next(iter(files.values())).path.stem: files}


def _files_in(folder: Path, widths: Mapping[str, int], report: Report) -> dict[str, dict[str, FeatureSource]]:
    """Name -> stream -> file, in the order of the names."""
    if not folder.is_dir():
        raise ValueError(f"`features` must be a folder, or stream=file for each stream, got {folder}. Check the path.")
    found: dict[str, dict[str, FeatureSource]] = {}
    base = folder / "features" if (folder / "features").is_dir() else folder
    for stream in widths:
        for path in (base / stream).rglob("*.npy"):
            name = path.relative_to(base / stream).with_suffix("").as_posix()
            found.setdefault(name, {})[stream] = FeatureFile(path)
    if not found:  # the other layouts of the format for own data
        index = FeatureIndex(folder, widths, report)
        for name in index.names:
            found[name] = max((index.find(name, split) for split in ("test", "train")), key=len)
    return dict(sorted(found.items()))


def _seconds(given: float | None, described: Mapping[str, Any], features: Sequence[str]) -> float:
    """Length of a snippet: what is given, else what the run knows, unless the features' folder says otherwise."""
    if given is not None:
        if not (math.isfinite(given) and given > 0):
            raise ValueError(f"`snippet_seconds` must be positive and finite, got {given}. I3D features have 0.64.")
        return given
    known = described.get("snippet_seconds")
    if not isinstance(known, float | int):
        raise ValueError(
            "`snippet_seconds` must be given for this run, got none. Its environment.json has none either: the "
            "recordings it was trained on differ in it."
        )
    for name in STATED:
        stated = _stated_seconds(Path(features[0]) / name)
        if stated is not None and not math.isclose(stated, known, rel_tol=1e-3):
            raise ValueError(
                f"`snippet_seconds` must be given where model and features contradict each other, got {known:g} from "
                f"the run and {stated:g} from {Path(features[0]) / name}. A model judges snippets of the length it was "
                "trained on best."
            )
    return float(known)


def _stated_seconds(path: Path) -> float | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "snippet_seconds" in content:
            return float(content["snippet_seconds"])
        return float(content["frames_per_snippet"]) / float(content["fps"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        return None  # it is not needed, and whoever needs it complains


def _draw(
    scores: RecordingScores, detections: Detections, data: LocalizationData, config: CaseConfig, folder: Path
) -> Path:
    """A timeline without truth: classes that were found, or else the likeliest."""
    from examples.case_wtal.plots import DPI, draw_recording

    recording = scores.recording
    found = detections.of(recording.name).label.tolist()
    labels = tuple(dict.fromkeys(found)) or (data.classes[int(scores.video_scores.argmax())],)
    figure = draw_recording(replace(scores, recording=replace(recording, labels=labels)), detections, data, config)
    truth, below = figure.axes[:2]
    if (grid := below.get_gridspec()) is not None:
        truth.set_visible(False)
        grid.set_height_ratios([0.05, *np.atleast_1d(grid.get_height_ratios())[1:]])
    path = folder / f"{recording.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: figure.savefig(part, dpi=DPI, format="png"))
    return path
