"""Files that are there whole or not at all, whenever the process is killed."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the file, then rename over it; who looks at `path` sees the old content or the new.

    Args:
        path: The file.
        write: Is called with the path to write to, `path` with ".part" behind its name.
    """
    part = path.with_name(path.name + ".part")
    write(part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # a rename can reach the disk before the content does
    part.replace(path)


def write_text(path: Path, text: str) -> None:
    """`write_whole` for text."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
