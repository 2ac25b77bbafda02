"""THUMOS14 from I3D features on disk, in the layout that the field's public feature archives share.

root/gt.json             {"database": {video: {"subset": .., "annotations": [{"segment": [s, e], "label": ..}]}}}
root/split_train.txt     one video name a line
root/split_test.txt
root/features/train/rgb/<video>.npy      (n, 1024) float32, one row per 16 frames at 25 fps
root/features/train/flow/<video>.npy     and the same under features/test
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from examples.case_wtal.data.recording import LocalizationData, Recording, Segment

SNIPPET_SECONDS = 16 / 25
STREAMS = ("rgb", "flow")

DISPUTED = ("video_test_0000270", "video_test_0001496")
"""Test videos with wrong annotations: part of the 212-video ground truth, not of the 210-video one."""

# Optical flow needs a second frame, so its extractor may end one snippet earlier; another one is lost where the two
# streams were decoded by different tools. More than that is a different video or frame rate.
MOST_TRIMMED = 2

SIMULATED_MARKER = "SIMULATED.txt"


def load_thumos14(root: Path, *, ground_truth: str = "210", width: int = 1024) -> LocalizationData:
    """Load THUMOS14 with the streams "rgb" and "flow", each (T, `width`), snippets of 0.64 s.

    Streams whose lengths differ by at most 2 snippets are cut to the shorter one. Test annotations that end behind
    the last snippet are kept as they are, since evaluation compares with the published ground truth.

    Args:
        root: Folder in the layout above. A file `SIMULATED.txt` in it marks its features as simulated.
        ground_truth: "210" leaves the two disputed test videos out, "212" requires them (in `gt.json` and in
            `split_test.txt`). Print it beside every result: it is worth half a point of mAP.
        width: Feature width that every file must have.

    Returns:
        The training (validation in THUMOS's own words) and test videos; classes in alphabetical order.

    Raises:
        FileNotFoundError: `gt.json` or a split file is missing.
        ValueError: `ground_truth` is unknown or not what `root` holds, a video is not annotated, or feature files
            are missing, unreadable or of the wrong shape (all are listed in one error).

    Warns:
        UserWarning: Streams were trimmed, or ground truth of length <= 0 was dropped.
    """
    root = Path(root)
    annotations = read_annotations(_required(root, "gt.json"))
    splits = {split: read_names(_required(root, f"split_{split}.txt")) for split in ("train", "test")}
    splits["test"] = _choose_test(splits["test"], annotations, ground_truth)
    missing = [video for videos in splits.values() for video in videos if video not in annotations]
    if missing:
        raise ValueError(
            f"`root` must hold a gt.json that annotates every video of the split files, got {len(missing)} without "
            f"annotation: {', '.join(missing)}. Use gt.json and split files of one source."
        )
    streams = _read_all_features(root / "features", splits, width)

    def recordings(split: str) -> tuple[Recording, ...]:
        return tuple(
            Recording(
                name=video,
                streams=streams[video],
                snippet_seconds=SNIPPET_SECONDS,
                segments=annotations[video],
                labels=tuple(sorted({segment.label for segment in annotations[video]})),
            )
            for video in splits[split]
        )

    simulated = (root / SIMULATED_MARKER).is_file()
    content = "SIMULATED features: its numbers say nothing about THUMOS14" if simulated else "features from disk"
    return LocalizationData(
        name="thumos14",
        classes=tuple(sorted({segment.label for segments in annotations.values() for segment in segments})),
        train=recordings("train"),
        test=recordings("test"),
        test_split="test",
        note=f"THUMOS14, real annotations ({len(splits['test'])} test videos), {content}.",
    )


def read_annotations(path: Path) -> dict[str, tuple[Segment, ...]]:
    """Video -> its segments; times may be numbers or strings, entries of length <= 0 are dropped with a warning.

    Raises:
        ValueError: The file is not in the form that the module's head shows.
    """
    segments = {}
    try:
        for video, entry in json.loads(path.read_text())["database"].items():
            segments[video] = tuple(
                Segment(float(item["segment"][0]), float(item["segment"][1]), str(item["label"]))
                for item in entry["annotations"]
            )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"`path` must hold annotations as {{'database': {{video: {{'annotations': [..]}}}}}}, got {path} which "
            f"does not ({type(error).__name__}: {error}). Take gt.json from the archive the features came from."
        ) from error
    empty = [video for video, found in segments.items() for segment in found if segment.end <= segment.start]
    if empty:
        warnings.warn(
            f"`path` should hold segments that end after they start, got {len(empty)} that do not, in "
            f"{', '.join(sorted(set(empty)))}. They are dropped.",
            stacklevel=3,
        )
    return {video: tuple(s for s in found if s.end > s.start) for video, found in segments.items()}


def _required(root: Path, name: str) -> Path:
    if not (root / name).is_file():
        raise FileNotFoundError(
            f"`root` must hold gt.json, split_train.txt, split_test.txt and features/, got {root} without {name}. "
            "Unpack the public THUMOS14 I3D features there."
        )
    return root / name


def read_names(path: Path) -> list[str]:
    """Video names of a split file, one a line."""
    return path.read_text().split()


def _choose_test(videos: list[str], annotations: Mapping[str, object], ground_truth: str) -> list[str]:
    if ground_truth not in ("210", "212"):
        raise ValueError(f'`ground_truth` must be "210" or "212", got {ground_truth!r}. Use "210", the default.')
    if ground_truth == "210":
        return [video for video in videos if video not in DISPUTED]
    absent = [video for video in DISPUTED if video not in videos or video not in annotations]
    if absent:
        raise ValueError(
            f'`ground_truth` "212" requires {" and ".join(DISPUTED)} in gt.json and split_test.txt, got files '
            f'without {" and ".join(absent)}. Use "210" or the 212-video files.'
        )
    return videos


def _read_all_features(folder: Path, splits: Mapping[str, list[str]], width: int) -> dict[str, dict[str, np.ndarray]]:
    """Video -> stream -> features of equal length; every broken file is collected before the error is raised."""
    features: dict[str, dict[str, np.ndarray]] = {}
    problems: list[str] = []
    trimmed: list[str] = []
    for split, videos in splits.items():
        for video in videos:
            read = {}
            for stream in STREAMS:
                path = folder / split / stream / f"{video}.npy"
                try:
                    read[stream] = _read_features(path, width)
                except (OSError, ValueError) as error:
                    problems.append(f"{path.relative_to(folder.parent)} ({error})")
            lengths = [len(array) for array in read.values()]
            if len(lengths) == len(STREAMS) and max(lengths) - min(lengths) > MOST_TRIMMED:
                problems.append(f"{split}/{video} ({' and '.join(STREAMS)} have {lengths} snippets)")
            elif len(set(lengths)) > 1:
                trimmed.append(video)
            features[video] = {stream: array[: min(lengths)] for stream, array in read.items()}
    if problems:
        raise ValueError(
            f"`root` must hold readable float features of width {width} in rgb and flow for every video of the "
            f"splits, their lengths at most {MOST_TRIMMED} snippets apart, got {len(problems)} problems:\n  "
            + "\n  ".join(problems)
            + "\nDownload these files again, or remove the videos from the split files."
        )
    if trimmed:
        warnings.warn(
            f"`root` should hold rgb and flow features of equal length, got up to {MOST_TRIMMED} snippets of "
            f"difference in {len(trimmed)} videos: {', '.join(trimmed)}. They are cut to the shorter stream.",
            stacklevel=3,
        )
    return features


def _read_features(path: Path, width: int) -> np.ndarray:
    """One file as float32; raises with the bare reason, which the caller lists beside the name."""
    if not path.is_file():
        raise FileNotFoundError("missing")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError("unreadable") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != width or len(array) == 0:
        raise ValueError(f"shape {getattr(array, 'shape', 'of an archive')}")
    if array.dtype.kind != "f":
        raise ValueError(f"dtype {array.dtype}")
    return array.astype(np.float32, copy=False)
