"""ActivityNet 1.2 and 1.3 from I3D features on disk, in the layouts that the field shares.

root/<annotations>       gt.json or activity_net.v1-<2 or 3>[.min].json in ActivityNet's own form; or BMN's pair
                         anet_anno_action.json, video_info_new.csv; or anet12_3cnet.json (values of 3C-Net's arrays)
root/split_train.txt     optional, with split_test.txt: one name a line; otherwise the annotations' subsets decide
root/features/..         as `FeatureIndex` describes; names with or without "v_"

or the array files of the W-TALC line (`wtalc`), which bring annotations of their own.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from examples.case_wtal.data.annotations import Annotation, clean, parse_entries, read_json
from examples.case_wtal.data.archives import (
    VIDEO_SNIPPET_SECONDS,
    VIDEO_STREAMS,
    FeaturePlaces,
    read_names,
    read_recordings,
    simulated,
)
from examples.case_wtal.data.feature_files import FeatureIndex
from examples.case_wtal.data.integrity import Report
from examples.case_wtal.data.recording import LocalizationData, Recording
from examples.case_wtal.data.wtalc import find_wtalc, read_wtalc

Version = Literal["1.2", "1.3"]

CLASSES = {"1.2": 100, "1.3": 200}

SPLITS = {"training": "train", "train": "train", "validation": "test", "val": "test", "test": "test"}
"""Subset -> split. The labels of "testing" were never published; the field tests on the validation videos."""

BMN_FILES = ("anet_anno_action.json", "video_info_new.csv")
THREE_C_FILE = "anet12_3cnet.json"

ADVICE = (
    "Download these files again, or list the videos to use in split_train.txt and split_test.txt. Pickles are read "
    "once their hashes are in hashes.json: compare them with those that the source publishes."
)

# Features of less than this share of a video are another video's, or of another frame rate.
LEAST_COVERED = 0.5


def load_activitynet(
    root: Path,
    version: Version = "1.3",
    *,
    widths: Mapping[str, int] | None = None,
    snippet_seconds: float | None = VIDEO_SNIPPET_SECONDS,
    duplicates: Literal["drop", "keep"] = "drop",
    pickle_sha256: Mapping[str, str] | None = None,
) -> LocalizationData:
    """Load ActivityNet: training videos to learn from, validation videos to evaluate on.

    Segments that last no time are left out. Annotations that leave the video are kept as they are. Without split
    files, annotated videos that have no features are left out.

    Args:
        root: Folder in one of the layouts above. A file `SIMULATED.txt` in it marks its features as simulated.
        version: "1.2" (100 classes) or "1.3" (200 classes).
        widths: Stream -> width; None for rgb and flow of 1,024 each.
        snippet_seconds: Length of a snippet; None for features that were resampled to a fixed number of snippets,
            which then divide the duration of the video.
        duplicates: "drop" removes segments that repeat another one exactly (45 in version 1.3), which can be found
            only once; "keep" leaves them in, as the official evaluation does.
        pickle_sha256: File name -> SHA-256 of the object arrays that may be read; None takes `hashes.json`.

    Raises:
        ValueError: `version` or `duplicates` is unknown.
        IntegrityError: Files are missing or broken; all are listed.

    Warns:
        UserWarning: How many segments or videos were left out, streams cut, or videos covered by half only.
    """
    root = Path(root)
    for argument, value, known in (("version", version, CLASSES), ("duplicates", duplicates, ("drop", "keep"))):
        if value not in known:
            raise ValueError(f"`{argument}` must be one of {', '.join(known)}, got {value!r}. Choose one of them.")
    report = Report(root)
    file, annotations, places = _read(root, version, dict(widths or VIDEO_STREAMS), pickle_sha256, report)
    annotations = clean(annotations, file, report, repetitions=duplicates == "drop")
    splits, listed = _splits(root, annotations, report)
    recordings = read_recordings(annotations, splits, places, snippet_seconds, report, incomplete=not listed)
    classes = tuple(sorted({label for annotation in annotations.values() for label in annotation.labels}))
    if len(classes) > CLASSES[version]:
        report.add(file, "label", f"{len(classes)} classes; version {version} has {CLASSES[version]}")
    for split, found in recordings.items():
        if not found and not report.problems:
            report.add("features", "no features", f"not one video of subset {split}; see the layouts")
    _notice_short((*recordings["train"], *recordings["test"]), annotations, report)
    report.conclude(ADVICE)
    kept = "left out" if duplicates == "drop" else "kept"
    content = (
        "SIMULATED features: its numbers say nothing about ActivityNet" if simulated(root) else "features from disk"
    )
    return LocalizationData(
        name=f"activitynet{version.replace('.', '')}",
        classes=classes,
        train=recordings["train"],
        test=recordings["test"],
        test_split="validation",
        note=(
            f"ActivityNet {version}, annotations of {file} ({len(recordings['test'])} of {len(splits['test'])} "
            f"validation videos, repeated segments {kept}), {content}."
        ),
    )


def read_activitynet_annotations(root: Path, version: Version, report: Report) -> tuple[str, dict[str, Annotation]]:
    """Name of the annotation file that was found, and its entries as they stand there."""
    minor = version.replace(".", "-")
    own = [root / name for name in ("gt.json", f"activity_net.v{minor}.json", f"activity_net.v{minor}.min.json")]
    for path in own:
        if path.is_file():
            content = read_json(path, report)
            entries = content.get("database") if isinstance(content, dict) else None
            break
    else:
        path, entries = _other_forms(root, version, report)
    if not isinstance(entries, dict):
        if not report.problems:
            report.add(path, "annotation", "not in a form that is known for this file")
        return path.name, {}
    return path.name, parse_entries(entries, path.name, report)


def _other_forms(root: Path, version: Version, report: Report) -> tuple[Path, Any]:
    """BMN's pair of files and 3C-Net's list, rewritten in ActivityNet's form."""
    bmn, table = (root / name for name in BMN_FILES)
    if version == "1.3" and bmn.is_file():
        content = read_json(bmn, report)
        subsets = _subsets(table, report)
        if not isinstance(content, dict):
            return bmn, None
        return bmn, {
            video: {
                "subset": subsets.get(video, ""),
                "duration": entry.get("duration_second"),
                "annotations": entry.get("annotations"),
            }
            for video, entry in content.items()
            if isinstance(entry, dict)
        }
    three_c = root / THREE_C_FILE
    if version == "1.2" and three_c.is_file():
        content = read_json(three_c, report)
        try:
            return three_c, {video["video"]: _listed_entry(video) for video in content["videos"]}
        except (KeyError, TypeError, ValueError) as error:
            report.add(three_c, "annotation", f"{type(error).__name__}: {error}")
            return three_c, None
    other = BMN_FILES[0] if version == "1.3" else THREE_C_FILE
    report.add(root / "gt.json", "missing", f"and no activity_net.v{version.replace('.', '-')}.json, {other}")
    return root / "gt.json", None


def _listed_entry(video: Mapping[str, Any]) -> dict[str, Any]:
    pairs = zip(video["segments"], video["labels"], strict=True)
    annotations = [{"segment": segment, "label": label} for segment, label in pairs]
    return {
        "subset": video["subset"],
        "duration": video.get("duration"),
        "labels": video["labels_all"],
        "annotations": annotations,
    }


def _subsets(path: Path, report: Report) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["video"]: row["subset"] for row in csv.DictReader(file)}
    except FileNotFoundError:
        report.add(path, "missing")
    except (OSError, ValueError, KeyError) as error:
        report.add(path, "unreadable", f"{type(error).__name__}: {error}")
    return {}


def _read(
    root: Path, version: Version, widths: dict[str, int], pickle_sha256: Mapping[str, str] | None, report: Report
) -> tuple[str, dict[str, Annotation], FeaturePlaces]:
    arrays = find_wtalc(root)
    if arrays is not None:
        annotations, places = read_wtalc(arrays, pickle_sha256, report)
        return arrays[1].name, annotations, places
    file, annotations = read_activitynet_annotations(root, version, report)
    return file, annotations, FeatureIndex(root, widths, report)


def _splits(root: Path, annotations: Mapping[str, Annotation], report: Report) -> tuple[dict[str, list[str]], bool]:
    """Split -> annotated names, and whether split files list them."""
    files = {split: root / f"split_{split}.txt" for split in ("train", "test")}
    if not any(path.is_file() for path in files.values()):
        splits: dict[str, list[str]] = {"train": [], "test": []}
        for name, annotation in annotations.items():
            if annotation.subset in SPLITS:
                splits[SPLITS[annotation.subset]].append(name)
        return splits, False
    same = {name.removeprefix("v_"): name for name in annotations}
    splits = {}
    for split, path in files.items():
        names = read_names(path, report)
        for name in names:
            if name.removeprefix("v_") not in same:
                report.add(f"{path.name}: {name}", "no annotation")
        splits[split] = [same[name.removeprefix("v_")] for name in names if name.removeprefix("v_") in same]
    return splits, True


def _notice_short(recordings: tuple[Recording, ...], annotations: Mapping[str, Annotation], report: Report) -> None:
    durations = {recording.name: annotations[recording.name].duration for recording in recordings}
    short = [r.name for r in recordings if r.seconds < LEAST_COVERED * (durations[r.name] or 0)]
    if short:
        report.notices.append(
            f"`root` should hold features of whole videos, got {len(short)} that cover less than half of their "
            f"duration, for example {', '.join(short[:3])}. Check `snippet_seconds`."
        )
