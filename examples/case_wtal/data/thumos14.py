"""THUMOS14 from I3D features on disk, in the layouts that the field's public archives share.

root/gt.json             {"database": {video: {"subset": .., "annotations": [{"segment": [s, e], "label": ..}]}}}
root/split_train.txt     one video name a line
root/split_test.txt
root/features/train/rgb/<video>.npy      (n, 1024) float32, one row per 16 frames at 25 fps
root/features/train/flow/<video>.npy     and the same under features/test; `FeatureIndex` describes what else is read

or the array files of the W-TALC line (`wtalc`), which bring annotations of their own.
"""

from collections.abc import Mapping
from pathlib import Path

from examples.case_wtal.data.annotations import Annotation, clean, read_database
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
from examples.case_wtal.data.recording import LocalizationData
from examples.case_wtal.data.wtalc import find_wtalc, read_wtalc

DISPUTED = ("video_test_0000270", "video_test_0001496")
"""Test videos with wrong annotations: part of the 212-video ground truth, not of the 210-video one."""

ADVICE = (
    "Download these files again from one source, or remove the videos from the split files. Pickles are read once "
    "their hashes are in hashes.json: compare them with those that the source publishes."
)


def load_thumos14(
    root: Path,
    *,
    ground_truth: str = "210",
    width: int = VIDEO_STREAMS["rgb"],
    pickle_sha256: Mapping[str, str] | None = None,
) -> LocalizationData:
    """Load THUMOS14 with the streams "rgb" and "flow", each (T, `width`), snippets of 0.64 s.

    Streams whose lengths differ by at most 2 snippets are cut to the shorter one. Test annotations that end behind
    the last snippet are kept as they are, since evaluation compares with the published ground truth.

    Args:
        root: Folder in one of the layouts above. A file `SIMULATED.txt` in it marks its features as simulated.
        ground_truth: "210" leaves the two disputed test videos out, "212" requires them (in `gt.json` and in
            `split_test.txt`). Print it beside every result: it is worth half a point of mAP.
        width: Feature width that every file must have.
        pickle_sha256: File name -> SHA-256 of the object arrays that may be read; None takes `hashes.json`.

    Returns:
        The training (validation in THUMOS's own words) and test videos; classes in alphabetical order.

    Raises:
        ValueError: `ground_truth` is unknown or not what `root` holds.
        IntegrityError: Files are missing or broken, or a video is not annotated; all is listed.

    Warns:
        UserWarning: Streams were trimmed, or segments that last no time or repeat another were left out.
    """
    if ground_truth not in ("210", "212"):
        raise ValueError(f'`ground_truth` must be "210" or "212", got {ground_truth!r}. Use "210", the default.')
    root = Path(root)
    report = Report(root)
    file, annotations, splits, places = _read(root, width, pickle_sha256, report)
    splits["test"] = _choose_test(splits["test"], annotations, ground_truth, report)
    annotations = clean(annotations, file, report)
    recordings = read_recordings(annotations, splits, places, VIDEO_SNIPPET_SECONDS, report)
    report.conclude(ADVICE)
    content = "SIMULATED features: its numbers say nothing about THUMOS14" if simulated(root) else "features from disk"
    return LocalizationData(
        name="thumos14" if ground_truth == "210" else "thumos14-212",
        classes=tuple(sorted({label for annotation in annotations.values() for label in annotation.labels})),
        train=recordings["train"],
        test=recordings["test"],
        test_split="test",
        note=f"THUMOS14, real annotations ({len(splits['test'])} test videos), {content}.",
    )


def _read(
    root: Path, width: int, pickle_sha256: Mapping[str, str] | None, report: Report
) -> tuple[str, dict[str, Annotation], dict[str, list[str]], FeaturePlaces]:
    """Name of the annotations, the annotations, split -> annotated videos, and where the features are."""
    arrays = find_wtalc(root)
    if arrays is not None:
        annotations, places = read_wtalc(arrays, pickle_sha256, report)
        subsets = {"train": "validation", "test": "test"}
        splits = {
            split: [name for name, annotation in annotations.items() if annotation.subset == subset]
            for split, subset in subsets.items()
        }
        return arrays[1].name, annotations, splits, places
    annotations = read_database(root / "gt.json", report)
    splits = {}
    for split in ("train", "test"):
        names = read_names(root / f"split_{split}.txt", report)
        if annotations:
            for name in names:
                if name not in annotations:
                    report.add(f"split_{split}.txt: {name}", "no annotation", "not in gt.json")
        splits[split] = [name for name in names if name in annotations]
    return "gt.json", annotations, splits, FeatureIndex(root, {"rgb": width, "flow": width}, report)


def _choose_test(
    videos: list[str], annotations: Mapping[str, Annotation], ground_truth: str, report: Report
) -> list[str]:
    if ground_truth == "210":
        return [video for video in videos if video not in DISPUTED]
    absent = [video for video in DISPUTED if video not in videos]
    if absent and annotations and not report.problems:
        raise ValueError(
            f'`ground_truth` "212" requires {" and ".join(DISPUTED)} in gt.json and split_test.txt, got files '
            f'without {" and ".join(absent)}. Use "210" or the 212-video files.'
        )
    return videos
