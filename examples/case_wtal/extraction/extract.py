"""Video files to feature files `<out>/<stream>/<name>.npy`, one row for every 16 frames at 25 a second."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.case_wtal.extraction.flow import ALGORITHM, dense_flow, scale_flow, scale_rgb, to_grey
from examples.case_wtal.extraction.i3d import FRAMES, I3D
from examples.case_wtal.extraction.video import RATE, SHORT_SIDE, centre_crop, read_frames
from examples.case_wtal.files import write_text, write_whole

SIDE = 224
SNIPPET_SECONDS = FRAMES / RATE
DESCRIPTION = "extraction.json"


@dataclass(frozen=True)
class Extraction:
    """What became of the videos, by name.

    Attributes:
        written: Name -> snippets.
        skipped: Names whose features were there.
        failures: Name -> why there are none.
    """

    written: dict[str, int]
    skipped: tuple[str, ...]
    failures: dict[str, str]


def extract_videos(
    videos: Mapping[str, Path],
    networks: Mapping[str, I3D],
    out: Path,
    *,
    weights: Mapping[str, str] | None = None,
    batch_size: int = 4,
    report: Callable[[str, int], object] = lambda _name, _snippets: None,
) -> Extraction:
    """Write features of every video that has none yet; a broken video stops no other.

    Args:
        videos: Name -> file.
        networks: Stream ("rgb", "flow") -> network, on the device that is to work.
        out: Folder; `extraction.json` in it says how its features were made.
        weights: Stream -> fingerprint of its weights.
        batch_size: Snippets that a network sees at once; decides memory and speed only.
        report: Is called with the video's name and the number of its snippets so far.

    Raises:
        ValueError: `batch_size` is not positive, or `out` holds features of other weights or another flow.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}. 4 is moderate.")
    _describe(out, dict(weights or dict.fromkeys(networks, "unknown")))
    written: dict[str, int] = {}
    skipped: list[str] = []
    failures: dict[str, str] = {}
    for name, path in videos.items():
        files = {stream: out / stream / f"{name}.npy" for stream in networks}
        if all(file.is_file() for file in files.values()):
            skipped.append(name)
            continue
        try:
            features = extract(read_frames(path), networks, batch_size, partial(report, name))
        except (ValueError, OSError) as error:
            failures[name] = str(error)
            continue
        for stream, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, partial(_save, features[stream]))
        written[name] = len(next(iter(features.values())))
    return Extraction(written, tuple(skipped), failures)


@torch.no_grad()
def extract(
    frames: Iterable[np.ndarray],
    networks: Mapping[str, I3D],
    batch_size: int = 4,
    report: Callable[[int], object] = lambda _: None,
) -> dict[str, np.ndarray]:
    """Features of one video.

    Args:
        frames: RGB, uint8, shape (H, W, 3), at least 224 a side.
        networks: Stream -> network in evaluation mode.
        batch_size: Snippets at once.
        report: Is called with the number of snippets so far.

    Returns:
        Stream -> float32, shape (T, 1024), with the same T.
    """
    rows: dict[str, list[np.ndarray]] = {stream: [] for stream in networks}
    for batch in _batches(snippets(frames, tuple(networks)), batch_size):
        for stream, network in networks.items():
            clips = torch.from_numpy(np.stack([snippet[stream] for snippet in batch])).movedim(-1, 1)
            rows[stream].append(network(clips.to(next(network.parameters()).device)).float().cpu().numpy())
        report(sum(map(len, next(iter(rows.values())))))
    return {stream: np.concatenate(parts) for stream, parts in rows.items()}


def snippets(frames: Iterable[np.ndarray], streams: tuple[str, ...]) -> Iterator[dict[str, np.ndarray]]:
    """Every 16 frames, as the networks see them; frames behind the last whole snippet are left out.

    The flow of a frame leads to the next one. Behind the end the last frame stands still: so there is a flow for the
    last frame too (zero), and a video of fewer than 16 frames gives one snippet.

    Yields:
        Stream -> values in [-1, 1], float32, shape (16, 224, 224, channels).
    """
    colours: list[np.ndarray] = []
    flows: list[np.ndarray] = []
    grey: np.ndarray | None = None
    for frame in _stand_still_at_the_end(frames):
        colours.append(centre_crop(frame, SIDE))
        if "flow" in streams:
            before, grey = grey, to_grey(frame)
            if before is not None:
                # Over the whole frame, so that what comes in from outside the crop is known.
                flows.append(centre_crop(dense_flow(before, grey), SIDE))
        if len(colours) > FRAMES:
            made = {"rgb": lambda: scale_rgb(np.stack(colours[:FRAMES])), "flow": lambda: scale_flow(np.stack(flows))}
            yield {stream: made[stream]() for stream in streams}
            del colours[:FRAMES], flows[:FRAMES]


def _stand_still_at_the_end(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames, and then the last one again until a snippet that has no successor yet is complete and has one."""
    count = 0
    for frame in frames:
        count += 1
        yield frame
    if count:
        missing = FRAMES + 1 - count if count <= FRAMES else int(count % FRAMES == 0)
        for _ in range(missing):
            yield frame


def _batches(items: Iterable[dict[str, np.ndarray]], size: int) -> Iterator[list[dict[str, np.ndarray]]]:
    batch: list[dict[str, np.ndarray]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _describe(out: Path, weights: dict[str, str]) -> None:
    """Write how the features are made, or see that those in the folder were made the same way."""
    path = out / DESCRIPTION
    how: dict[str, Any] = {
        "snippet_seconds": SNIPPET_SECONDS,
        "frames": f"{FRAMES} at {RATE} a second, short side {SHORT_SIDE}, centre {SIDE} x {SIDE}",
        "flow": ALGORITHM,
        "weights": weights,
        "packages": {name: metadata.version(name) for name in ("av", "opencv-python-headless", "torch")},
    }
    if path.is_file():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            known = {**there["weights"], **{s: there["weights"].get(s, w) for s, w in weights.items()}}
            same = all(there[key] == how[key] for key in ("snippet_seconds", "frames", "flow"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"`out` must be a folder of this command, got a broken {path}. Choose another.") from error
        if not same or any(known[stream] != weight for stream, weight in weights.items()):
            raise ValueError(
                f"`out` must hold features made the same way, got {out} with others: see {path}. Choose another "
                "folder, since features of different weights do not mix."
            )
        how["weights"] = known
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(how, indent=2) + "\n")


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:  # np.save would put .npy behind a name
        np.save(file, array)
