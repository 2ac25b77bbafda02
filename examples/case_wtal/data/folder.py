"""Own data: a documented folder format with per-snippet features, its reader and its writer.

root/dataset.json                     {"name", "note", "snippet_seconds" | "fps" + "frames_per_snippet",
                                       "streams": {stream: width}, "classes"?, "splits"?, "test_split"?}
root/annotations.json                 {"database": {recording: {"subset": "train" | "test", "annotations":
                                       [{"segment": [start, end], "label": class}], "labels"?, "duration"?}}}
root/features/<stream>/<recording>.npy   (T, width), float
root/features.h5                      in their place: data sets /<stream>/<recording>
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from examples.case_wtal.data.annotations import Annotation, check_segments, clean, read_database, read_json
from examples.case_wtal.data.archives import read_recordings
from examples.case_wtal.data.feature_files import SPLIT_FOLDERS, FeatureIndex, import_h5py
from examples.case_wtal.data.integrity import Report
from examples.case_wtal.data.recording import LocalizationData, Recording

DESCRIPTION = "dataset.json"
ANNOTATIONS = "annotations.json"

ADVICE = "Repair or remove what is listed; the page on own data describes the format."

# A stated duration and the features of a recording agree up to what the extractor leaves out at the ends; a wrong
# `snippet_seconds` is off by a factor.
DURATION_FACTOR = 1.5


def load_folder(root: Path) -> LocalizationData:
    """Load a folder in the format above; the features stay on disk until they are asked for.

    Streams that differ by at most 2 snippets are cut to the shortest.

    Args:
        root: The folder.

    Returns:
        Recordings in the order of `annotations.json` (of the lists in "splits", if there are any).

    Raises:
        IntegrityError: Anything is missing, broken or contradicts itself; all of it is listed.

    Warns:
        UserWarning: Streams were cut, or repeated segments were left out.
    """
    report = Report(Path(root))
    data = scan_folder(Path(root), report)
    report.conclude(ADVICE)
    assert data is not None  # noqa: S101 - without data there is a problem
    return data


def scan_folder(root: Path, report: Report) -> LocalizationData | None:
    """`load_folder` without its end: problems go to the report, None where nothing can be built."""
    description = _read_description(root / DESCRIPTION, report)
    annotations = read_database(root / ANNOTATIONS, report)
    annotations = clean(annotations, ANNOTATIONS, report, empty=False)
    if description is None:
        return None
    widths = description["streams"]
    splits = _splits(description, annotations, report)
    classes = description["classes"] or tuple(sorted({label for a in annotations.values() for label in a.labels}))
    index = FeatureIndex(root, widths, report, split_folders=False)
    recordings = read_recordings(annotations, splits, index, description["snippet_seconds"], report)
    for recording in (*recordings["train"], *recordings["test"]):
        _check_times(recording, annotations[recording.name], classes, report)
    described = {name.removeprefix("v_") for name in annotations}
    for name in sorted(index.names):
        if name.removeprefix("v_") not in described:
            report.add(f"features of {name}", "no annotation", f"not in {ANNOTATIONS}")
    if report.problems:
        return None
    return LocalizationData(
        name=description["name"],
        classes=classes,
        train=recordings["train"],
        test=recordings["test"],
        test_split=description["test_split"],
        note=description["note"],
    )


def write_folder(data: LocalizationData, root: Path, *, hdf5: bool = False) -> None:
    """Write any data set in the format above, so that `load_folder` returns the same.

    Args:
        data: What to write.
        root: A folder that does not exist yet, or is empty.
        hdf5: Write one `features.h5` in place of `.npy` files; needs h5py.

    Raises:
        FileExistsError: `root` holds something.
    """
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"`root` must be a new or empty folder, got {root} which is not. Choose another one.")
    root.mkdir(parents=True, exist_ok=True)
    description = {
        "name": data.name,
        "note": data.note,
        "classes": list(data.classes),
        "snippet_seconds": data.train[0].snippet_seconds,
        "streams": data.stream_widths,
        "test_split": data.test_split,
    }
    database = {}
    for split, recordings in (("train", data.train), ("test", data.test)):
        for recording in recordings:
            entry: dict[str, Any] = {
                "subset": split,
                "duration": max(recording.seconds, *(s.end for s in recording.segments), 0.0),
                "labels": list(recording.labels),
                "annotations": [{"label": s.label, "segment": [s.start, s.end]} for s in recording.segments],
            }
            if recording.snippet_seconds != description["snippet_seconds"]:
                entry["snippet_seconds"] = recording.snippet_seconds
            database[recording.name] = entry
    (root / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
    (root / ANNOTATIONS).write_text(json.dumps({"database": database}, indent=1), encoding="utf-8")
    everything = (*data.train, *data.test)
    if hdf5:
        with import_h5py().File(root / "features.h5", "w") as file:
            for recording in everything:
                for stream, features in recording.streams.items():
                    file[f"{stream}/{recording.name}"] = features
        return
    for recording in everything:
        for stream, features in recording.streams.items():
            path = root / "features" / stream / f"{recording.name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, features)


def _read_description(path: Path, report: Report) -> dict[str, Any] | None:
    """The fields of `dataset.json`, completed; None if one that is needed cannot be used."""
    content = read_json(path, report)
    if content is None:
        return None
    if not isinstance(content, dict):
        report.add(path, "annotation", "no JSON object")
        return None
    known = {
        "name",
        "note",
        "classes",
        "snippet_seconds",
        "fps",
        "frames_per_snippet",
        "streams",
        "splits",
        "test_split",
    }
    before = len(report.problems)
    for name in sorted(set(content) - known):
        report.add(path, "annotation", f"unknown field {name!r}; known are {', '.join(sorted(known))}")
    streams = content.get("streams")
    if not (
        isinstance(streams, dict) and streams and all(isinstance(w, int) and w > 0 for w in streams.values())
    ) or any("/" in stream or stream in SPLIT_FOLDERS for stream in streams):
        report.add(path, "annotation", f'"streams" {streams!r} is not {{name: width}}, with names that are no split\'s')
    classes = content.get("classes", [])
    if not _is_names(classes):
        report.add(path, "annotation", f'"classes" {classes!r} is no list of different names')
    for name, default in (("name", None), ("note", ""), ("test_split", "test")):
        if not isinstance(content.get(name, default), str):
            report.add(path, "annotation", f"{name!r} must be a text, {content.get(name)!r} is not")
    seconds = _snippet_seconds(content)
    if seconds is None:
        report.add(path, "annotation", 'needs "snippet_seconds", or "fps" and "frames_per_snippet", above 0')
    if len(report.problems) > before:
        return None
    defaults = {"note": "", "test_split": "test", "splits": None}
    return defaults | content | {"classes": tuple(classes), "snippet_seconds": seconds}


def _snippet_seconds(content: Mapping[str, Any]) -> float | None:
    try:
        if "snippet_seconds" in content:
            seconds = float(content["snippet_seconds"])
        else:
            seconds = float(content["frames_per_snippet"]) / float(content["fps"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return seconds if 0 < seconds < float("inf") else None


def _splits(
    description: Mapping[str, Any], annotations: Mapping[str, Annotation], report: Report
) -> dict[str, list[str]]:
    """Split -> names of its recordings, without those that cannot be used."""
    splits: dict[str, list[str]] = {"train": [], "test": []}
    lists = description["splits"]
    if lists is None:
        for name, annotation in annotations.items():
            split = SPLIT_FOLDERS.get(annotation.subset)
            if split is None:
                report.add(
                    f"{ANNOTATIONS}: {name}", "annotation", f'subset {annotation.subset!r} is not "train" or "test"'
                )
            else:
                splits[split].append(name)
    elif isinstance(lists, dict) and set(lists) == set(splits) and all(_is_names(names) for names in lists.values()):
        splits = {split: list(lists[split]) for split in splits}
    else:
        report.add(DESCRIPTION, "annotation", '"splits" is not {"train": [names], "test": [names]} of different names')
    for name in sorted({*splits["train"]} & {*splits["test"]}):
        report.add(f"{DESCRIPTION}: {name}", "annotation", "in both splits")
    for split, names in splits.items():
        for name in names:
            if name not in annotations:
                report.add(f"{DESCRIPTION}: {name}", "no annotation", f"listed in splits, not in {ANNOTATIONS}")
            elif not is_plain(name):
                report.add(f"{ANNOTATIONS}: {name}", "annotation", "the name is no relative path inside features/")
        splits[split] = [name for name in names if name in annotations and is_plain(name)]
        if not names:
            report.add(ANNOTATIONS, "annotation", f"no recording of subset {split}")
    return splits


def is_plain(name: str) -> bool:
    """Whether a recording's name stays inside the folder when it becomes a path."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and "\\" not in name and ".." not in parts and "\0" not in name


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, str) for n in value) and len(set(value)) == len(value)


def _check_times(recording: Recording, annotation: Annotation, classes: tuple[str, ...], report: Report) -> None:
    """Report a duration that the features contradict, and what `check_segments` reports."""
    covered, stated, slack = recording.seconds, annotation.duration, 2 * recording.snippet_seconds
    if stated and not stated / DURATION_FACTOR - slack <= covered <= stated * DURATION_FACTOR + slack:
        detail = f"features cover {covered:g} s of a duration of {stated:g} s"
        report.add(f"features of {recording.name}", "lengths", detail)
    where = f"{ANNOTATIONS}: {recording.name}"
    check_segments(annotation, where, classes, stated or covered, recording.snippet_seconds, report)
