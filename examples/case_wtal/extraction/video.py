"""Frames of a video file at 25 a second, upright, with a short side of 256 pixels."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

RATE = 25
SHORT_SIDE = 256
SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")

# How much of its announced length a file may lack, in seconds: containers round, and some count the sound.
MOST_MISSING = 0.5

T = TypeVar("T")


def read_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Frames one after the other; only a few are in memory.

    Times are the file's own timestamps, counted from its first frame, so a variable frame rate is no trouble. Rotation
    that the file asks for is carried out. Pixels are taken as square.

    Args:
        path: Anything that FFmpeg reads.

    Yields:
        RGB, uint8, shape (H, W, 3) with min(H, W) = 256.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no video, holds no picture, or breaks off; what came before was yielded.
    """
    import av

    if not Path(path).is_file():
        raise FileNotFoundError(f"`path` must be a video file, got {path}, which is not there. Check the path.")
    try:
        with av.open(str(path)) as container:
            yield from map(_to_picture, at_rate(_timed(container, path)))
    except av.error.FFmpegError as error:
        raise ValueError(
            f"`path` must be a whole video file, got {path} ({error.strerror or error}). Copy or convert it again."
        ) from error


def at_rate(timed: Iterable[tuple[Fraction, Fraction, T]], rate: int = RATE) -> Iterator[T]:
    """Items at the times 0, 1/rate, 2/rate, ... before the end, each the one that begins nearest to that time.

    Args:
        timed: Time at which an item begins, how long it lasts (read of the last one only), and the item; in order. Time
            is counted from the first.
        rate: Items a second.

    Yields:
        Of two that are equally near the earlier one; an item may come never or several times.
    """
    items = iter(timed)
    held = next(items, None)
    if held is None:
        return
    start, k = held[0], 0
    for following in items:
        while 2 * Fraction(k, rate) <= (held[0] - start) + (following[0] - start):
            yield held[2]
            k += 1
        held = following
    while k == 0 or Fraction(k, rate) < held[0] + held[1] - start:
        yield held[2]
        k += 1


def _timed(
    container: "av.container.InputContainer", path: str | Path
) -> Iterator[tuple[Fraction, Fraction, "av.VideoFrame"]]:
    """Frames with time and duration; complains at the end if the end came too early."""
    stream = _video_stream(container, path)
    stream.thread_type = "AUTO"
    usual = 1 / Fraction(stream.average_rate or stream.guessed_rate or RATE)
    time, length, first = -usual, usual, None
    for frame in container.decode(stream):
        at = time + length if frame.pts is None else frame.pts * Fraction(frame.time_base or stream.time_base or 1)
        if first is not None and at <= time:
            continue  # a damaged timestamp; time never runs backwards
        time = at
        length = frame.duration * Fraction(frame.time_base or 1) if frame.duration else usual
        first = time if first is None else first
        yield time, length, frame
    if first is None:
        raise ValueError(
            f"`path` must be a video file with pictures, got {path} without any. Copy or convert it again."
        )
    announced = _announced(container, stream)
    if announced is not None and announced - (time + length - first) > MOST_MISSING:
        raise ValueError(
            f"`path` must be a whole video file, got {path} that ends after {float(time + length - first):.2f} s of "
            f"the {float(announced):.2f} s that it announces. Copy it again."
        )


def _video_stream(container: "av.container.InputContainer", path: str | Path) -> "VideoStream":
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of a piece of music
            return stream
    raise ValueError(
        f"`path` must be a video file, got {path}, which has {len(container.streams)} streams and no pictures among "
        "them. Leave it out."
    )


def _announced(container: "av.container.InputContainer", stream: "VideoStream") -> Fraction | None:
    """Length of the pictures by the file's head; unknown where only the whole file, sound included, has one."""
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * Fraction(stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return Fraction(container.duration, 1_000_000)
    return None


def _to_picture(frame: "av.VideoFrame") -> np.ndarray:
    scale = SHORT_SIDE / min(frame.width, frame.height)
    width, height = (max(SHORT_SIDE, round(side * scale)) for side in (frame.width, frame.height))
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR")
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), round(frame.rotation / 90)))


def find_videos(paths: Iterable[Path]) -> dict[str, Path]:
    """Name -> file, for files and for the video files in folders; a name is that of the file without its ending.

    Raises:
        FileNotFoundError: A path is not there.
        ValueError: A folder holds no video, or two files have one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"`videos` must be files or folders, got {path}, which is not there. Check the path."
            )
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"`videos` must hold {', '.join(SUFFIXES)} files, got {path} without any. Name the files.")
        for file in files:
            if file.stem in found and found[file.stem] != file:
                raise ValueError(
                    f"`videos` must have different names, got {found[file.stem]} and {file}. Features are stored by "
                    "name without the ending: rename one."
                )
            found[file.stem] = file
    return found


def centre_crop(frame: np.ndarray, side: int) -> np.ndarray:
    """The middle (side, side) of (H, W, ...)."""
    top, left = ((length - side) // 2 for length in frame.shape[:2])
    return frame[top : top + side, left : left + side]
