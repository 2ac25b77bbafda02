"""Feature files: where they are, whether they are whole, and their content when it is asked for.

A data set of features has thousands of files and more bytes than memory. So a loader reads each file once, to check
it, and hands out `FileStreams`, which opens a file anew for every access and lets go of it afterwards: neither the
bytes nor the file handles add up.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.lib import format as npy

from examples.case_wtal.data.integrity import Kind, Report

# Optical flow needs a second frame, so its extractor may end one snippet earlier; another one is lost where the two
# streams were decoded by different tools. More than that is a different video or frame rate.
MOST_TRIMMED = 2

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "validation"), "test"),
}
"""What archives call the folder of a split -> the split."""


class BrokenFile(Exception):  # noqa: N818 - never leaves this package: loaders turn it into an entry of their report
    """A file that cannot be used, with the words of a report."""

    def __init__(self, kind: Kind, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind: Kind = kind
        self.detail = detail


@dataclass(frozen=True)
class FeatureFile:
    """Where one stream of one recording lies.

    Attributes:
        path: A `.npy` file, or an HDF5 file.
        key: Name of the data set in the HDF5 file.
        columns: First column, and one past the last, where streams share an array; None for all of it.
    """

    path: Path
    key: str | None = None
    columns: tuple[int, int] | None = None

    def read(self) -> np.ndarray:
        """The features, float16 to float64, shape (T, D); a `.npy` file is mapped into memory, not read.

        Raises:
            BrokenFile: The file is not there, not whole, or holds no matrix of floats.
        """
        array = _map_npy(self.path) if self.key is None else _read_hdf5(self.path, self.key)
        return array if self.columns is None else array[:, slice(*self.columns)]


class FeatureSource(Protocol):
    """One stream of one recording, wherever it is."""

    @property
    def path(self) -> Path:
        """The file it is in."""

    @property
    def key(self) -> str | None:
        """What the file calls it, None for a file of its own."""

    def read(self) -> np.ndarray:
        """The features, float, shape (T, D); `BrokenFile` if they cannot be used."""


class FileStreams(Mapping[str, np.ndarray]):
    """Streams of a recording in files that a loader has checked: float32, shape (T, D), opened at each access."""

    def __init__(self, files: Mapping[str, FeatureSource], length: int) -> None:
        self.files = dict(files)
        self.length = length

    def __getitem__(self, stream: str) -> np.ndarray:
        file = self.files[stream]
        try:
            return file.read()[: self.length].astype(np.float32, copy=False)
        except BrokenFile as broken:
            raise OSError(
                f"`root` must stay as it is while its data are in use, got {broken.kind} in {file.path}, which was "
                "whole when it was loaded. Restore the file."
            ) from broken

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def check_streams(
    name: str, files: Mapping[str, FeatureSource], widths: Mapping[str, int], report: Report
) -> tuple[FileStreams | None, bool]:
    """Read every stream of a recording once and report what is wrong with it.

    Args:
        name: Of the recording.
        files: Stream -> where it is.
        widths: Stream -> the width it must have.
        report: Receives the problems.

    Returns:
        The streams, as long as the shortest (None if any is broken), and whether one was cut.
    """
    lengths: dict[str, int] = {}
    for stream, file in files.items():
        try:
            array = file.read()
            if array.shape[1] != widths[stream] or len(array) == 0:
                raise BrokenFile("shape", f"{array.shape} instead of (T, {widths[stream]}) with T > 0")
            broken_rows = int((~np.isfinite(array)).any(axis=1).sum())
            if broken_rows:
                raise BrokenFile("not finite", f"NaN or infinity in {broken_rows} of {len(array)} snippets")
            lengths[stream] = len(array)
        except BrokenFile as broken:
            where = file.path if file.key is None else f"{file.path.name}: {file.key}"
            report.add(where, broken.kind, broken.detail)
    if len(lengths) < len(files):
        return None, False
    shortest, longest = min(lengths.values()), max(lengths.values())
    if longest - shortest > MOST_TRIMMED:
        found = ", ".join(f"{stream} {length}" for stream, length in lengths.items())
        report.add(f"features of {name}", "lengths", f"snippets: {found}; at most {MOST_TRIMMED} apart")
        return None, False
    return FileStreams(files, shortest), longest > shortest


class FeatureIndex:
    """All feature files of a folder, by split, stream and name of the recording.

    Layouts, in the order of preference; `<split>` may be left out everywhere, and is "train" or "test" or what archives
    call them (`SPLIT_FOLDERS`):

    * `features/<split>/<stream>/<name>.npy`,
    * `features/<split>/<name>.npy` or `<split>/<name>.npy` with the streams side by side, in the declared order,
    * `features.h5` with data sets named in the same ways, or `<name>/<stream>`.

    Args:
        root: The folder.
        widths: Stream -> width.
        report: Is told of an HDF5 file that cannot be read.
        split_folders: Whether a folder may be called like a split; if not, such a name is part of a recording's.
    """

    def __init__(self, root: Path, widths: Mapping[str, int], report: Report, *, split_folders: bool = True) -> None:
        self.root = root
        self.widths = dict(widths)
        self.split_folders = split_folders
        self.files: dict[tuple[str | None, str | None, str], FeatureFile] = {}
        for folder in [root / "features", *(root / name for name in SPLIT_FOLDERS if split_folders)]:
            for path in sorted(folder.rglob("*.npy")):
                parts = path.relative_to(root).with_suffix("").parts
                self._add(parts[1:] if folder.name == "features" else parts, FeatureFile(path))
        self.hdf5 = root / "features.h5"
        if self.hdf5.is_file():
            for key in _hdf5_keys(self.hdf5, report):
                self._add(tuple(key.split("/")), FeatureFile(self.hdf5, key))

    @property
    def names(self) -> set[str]:
        """Names of all recordings that have features."""
        return {name for _, _, name in self.files}

    def find(self, name: str, split: str) -> dict[str, FeatureSource]:
        """Stream -> file, without the streams that are not there; "v_" before a name makes no difference."""
        names = (name, name.removeprefix("v_"), f"v_{name}")
        places = [(place, variant) for place in (split, None) for variant in names]
        found: dict[str, FeatureSource] = {}
        start = 0
        for stream, width in self.widths.items():
            for place, variant in places:
                if own := self.files.get((place, stream, variant)):
                    found[stream] = own
                elif joint := self.files.get((place, None, variant)):
                    found[stream] = FeatureFile(joint.path, joint.key, (start, start + width))
                else:
                    continue
                break
            start += width
        return found

    def expected(self, name: str, split: str, stream: str) -> Path | str:
        """Where a stream that is not there was looked for first."""
        if self.hdf5.is_file():
            return f"{self.hdf5.name}: {stream}/{name}"
        folder = self.root / "features" / split if self.split_folders else self.root / "features"
        return folder / stream / f"{name}.npy"

    def _add(self, parts: Sequence[str], file: FeatureFile) -> None:
        split, stream = None, None
        if self.split_folders and len(parts) > 1 and parts[0] in SPLIT_FOLDERS:
            split, parts = SPLIT_FOLDERS[parts[0]], parts[1:]
        if len(parts) > 1 and parts[0] in self.widths:
            stream, parts = parts[0], parts[1:]
        elif len(parts) > 1 and file.key is not None and parts[-1] in self.widths:
            stream, parts = parts[-1], parts[:-1]
        self.files.setdefault((split, stream, "/".join(parts)), file)


def _map_npy(path: Path) -> np.ndarray:
    """A `.npy` file as a private mapping, after a look at its header."""
    if not path.is_file():
        raise BrokenFile("missing")
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran_order, dtype = read_header(file)
            offset = file.tell()
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise BrokenFile("truncated" if path.stat().st_size == 0 else "unreadable", _first_line(error)) from error
    _check_matrix(shape, dtype)
    size = path.stat().st_size
    if size < offset + math.prod(shape) * dtype.itemsize:
        raise BrokenFile("truncated", f"{size} bytes instead of {offset + math.prod(shape) * dtype.itemsize}")
    if 0 in shape:
        return np.zeros(shape, dtype)
    order: Literal["F", "C"] = "F" if fortran_order else "C"
    # Copy on write: torch refuses to wrap memory that must not be written to.
    return np.asarray(np.memmap(path, dtype, mode="c", offset=offset, shape=shape, order=order))


def _read_hdf5(path: Path, key: str) -> np.ndarray:
    """One data set of an HDF5 file."""
    h5py = import_h5py()
    try:
        with h5py.File(path, "r") as file:
            data = file[key]
            _check_matrix(data.shape, data.dtype)
            return np.asarray(data[()])
    except (OSError, KeyError, RuntimeError) as error:
        raise BrokenFile("unreadable", _first_line(error)) from error


def _hdf5_keys(path: Path, report: Report) -> list[str]:
    """Names of all data sets."""
    h5py = import_h5py()
    keys: list[str] = []
    try:
        with h5py.File(path, "r") as file:
            file.visititems(lambda key, item: keys.append(key) if isinstance(item, h5py.Dataset) else None)
    except (OSError, RuntimeError) as error:
        report.add(path, "unreadable", _first_line(error))
    return keys


def import_h5py() -> Any:
    """The module h5py.

    Raises:
        ValueError: It is not installed.
    """
    if find_spec("h5py") is None:
        raise ValueError(
            "`root` must hold .npy files where h5py is not installed, got a features.h5. Install h5py to read it."
        )
    return import_module("h5py")


def _check_matrix(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.kind != "f":
        raise BrokenFile("dtype", f"{dtype} instead of float")
    if len(shape) != 2:
        raise BrokenFile("shape", f"{shape} instead of (T, D)")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
