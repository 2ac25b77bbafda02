"""The layout of the W-TALC line: one array file of all features, and a folder of annotation arrays.

root/<dataset>-I3D-JOINTFeatures.npy    object array of (n, 2048): rgb, then flow
root/<dataset>-Annotations/             videoname.npy, subset.npy, segments.npy, labels.npy, labels_all.npy,
                                        classlist.npy, and duration.npy where it is known
root/hashes.json                        written by the user: {file name: sha256}

Paul, Roy and Roy-Chowdhury, "W-TALC" (ECCV 2018); 3C-Net, CO2-Net and others use the same files. Object arrays are
pickles, and a pickle can run any program. So one is read only if the user pinned the hash of that very file, and even
then only objects that make up arrays are allowed.
"""

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from examples.case_wtal.data.annotations import Annotation, parse_entries, read_json
from examples.case_wtal.data.archives import VIDEO_STREAMS
from examples.case_wtal.data.feature_files import BrokenFile, FeatureSource
from examples.case_wtal.data.integrity import Report

HASHES = "hashes.json"

ARRAYS = ("videoname", "subset", "segments", "labels", "labels_all", "classlist")
"""What the annotation folder must hold; `duration` is read where it is there."""


@dataclass(frozen=True)
class ArraySource:
    """Columns of one recording's array, in memory."""

    path: Path
    key: str
    array: Any
    columns: tuple[int, int]

    def read(self) -> np.ndarray:
        """The features, shape (T, D).

        Raises:
            BrokenFile: The element is no matrix of floats.
        """
        if not isinstance(self.array, np.ndarray) or self.array.dtype.kind != "f":
            kind = getattr(self.array, "dtype", type(self.array).__name__)
            raise BrokenFile("dtype", f"{kind} instead of float")
        if self.array.ndim != 2 or self.array.shape[1] != sum(VIDEO_STREAMS.values()):
            raise BrokenFile("shape", f"{self.array.shape} instead of (T, {sum(VIDEO_STREAMS.values())})")
        return self.array[:, slice(*self.columns)]


class ArrayPlaces:
    """Where each recording's features are in the array of all."""

    def __init__(self, path: Path, arrays: Mapping[str, Any]) -> None:
        self.path = path
        self.arrays = dict(arrays)
        self.widths = dict(VIDEO_STREAMS)

    def find(self, name: str, split: str) -> dict[str, FeatureSource]:  # noqa: ARG002 - one array for both splits
        """Stream -> columns; nothing for a recording without an array or with an empty one."""
        array = self.arrays.get(name)
        if array is None or (hasattr(array, "__len__") and len(array) == 0):
            return {}
        found: dict[str, FeatureSource] = {}
        start = 0
        for stream, width in self.widths.items():
            found[stream] = ArraySource(self.path, name, array, (start, start + width))
            start += width
        return found

    def expected(self, name: str, split: str, stream: str) -> str:  # noqa: ARG002 - as above
        """The element of the array."""
        return f"{self.path.name}: {name}"


def find_wtalc(root: Path) -> tuple[Path, Path] | None:
    """The array of all features and the annotation folder, if the folder is in this layout."""
    features = sorted(root.glob("*JOINTFeatures.npy"))
    folders = [path for path in sorted(root.glob("*-Annotations")) if path.is_dir()]
    return (features[0], folders[0]) if features and folders else None


def read_wtalc(
    places: tuple[Path, Path], pickle_sha256: Mapping[str, str] | None, report: Report
) -> tuple[dict[str, Annotation], ArrayPlaces]:
    """Annotations and features of the layout above.

    Video-level labels are those of `labels_all`, as in the programs of this line.

    Args:
        places: From `find_wtalc`.
        pickle_sha256: File name -> SHA-256 of the pickles that may be read; None takes `hashes.json`.
        report: Receives the problems.
    """
    features, folder = places
    pins = _pins(report.root, pickle_sha256, report)
    optional = [name for name in ("duration",) if (folder / f"{name}.npy").is_file()]
    read = {name: _read_array(folder / f"{name}.npy", pins, report) for name in (*ARRAYS, *optional)}
    arrays = _read_array(features, pins, report)
    columns = {name: column for name, column in read.items() if column is not None}
    if arrays is None or len(columns) < len(read):
        return {}, ArrayPlaces(features, {})
    counts = {name: len(column) for name, column in columns.items() if name != "classlist"}
    counts[features.name] = len(arrays)
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        report.add(folder, "lengths", f"arrays must have one element for each video: {listed}")
        return {}, ArrayPlaces(features, {})
    names = [_text(name) for name in columns["videoname"]]
    if len(set(names)) != len(names):
        report.add(folder / "videoname.npy", "annotation", f"{len(names) - len(set(names))} names occur twice")
    entries = {}
    for i, name in enumerate(names):
        try:
            entries[name] = _entry({key: column[i] for key, column in columns.items() if key != "classlist"})
        except (TypeError, ValueError) as error:
            report.add(f"{folder.name}: {name}", "annotation", str(error))
    return parse_entries(entries, folder.name, report), ArrayPlaces(features, dict(zip(names, arrays, strict=True)))


def read_object_array(path: Path, sha256: str) -> np.ndarray:
    """An object array, out of a pickle whose hash is known, with nothing in it but arrays, lists, texts and numbers.

    Args:
        path: A `.npy` file.
        sha256: Expected hash, hexadecimal.

    Raises:
        BrokenFile: The hash differs, the pickle asks for anything else, or it is broken.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.strip().lower():
            raise BrokenFile("hash", f"sha256 is {found} instead of the pinned {sha256.strip().lower()}")
        file.seek(0)
        try:
            shape, _, _ = _read_header(file)
            # Python 2 wrote these files: latin1 turns its byte strings, also those of arrays, into what they mean.
            array = _ArrayUnpickler(file, encoding="latin1").load()
        except Exception as error:
            raise BrokenFile("unreadable", f"{type(error).__name__}: {error}") from error
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise BrokenFile("unreadable", "the pickle is no array of the shape that the header states")
    return array


class _ArrayUnpickler(pickle.Unpickler):
    """Refuses every name but those that numpy's own pickles need."""

    def find_class(self, module: str, name: str) -> Any:
        place = (module.replace("numpy.core", "numpy._core"), name)
        if place == ("_codecs", "encode"):
            return _encode_latin1
        if place in _ALLOWED:
            return super().find_class(*place)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")


_ALLOWED = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """What old protocols need of `_codecs.encode` to write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}, which is no part of an array")
    return text.encode("latin1")


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    return npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)


def _read_array(path: Path, pins: Mapping[str, str], report: Report) -> np.ndarray | None:
    """An array with or without objects; None after a problem."""
    where = str(path.relative_to(report.root))
    if not path.is_file():
        report.add(path, "missing")
        return None
    try:
        with path.open("rb") as file:
            _, _, dtype = _read_header(file)
        if not dtype.hasobject:
            return np.load(path, allow_pickle=False)
        pin = pins.get(where, pins.get(path.name))
        if pin is not None:
            return read_object_array(path, pin)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        report.add(path, "unpinned", f"a pickle; sha256 is {digest}")
    except BrokenFile as broken:
        report.add(path, broken.kind, broken.detail)
    except (OSError, ValueError, EOFError) as error:
        report.add(path, "unreadable", str(error))
    return None


def _pins(root: Path, given: Mapping[str, str] | None, report: Report) -> dict[str, str]:
    if given is not None:
        return dict(given)
    if not (root / HASHES).is_file():
        return {}
    content = read_json(root / HASHES, report)
    if isinstance(content, dict) and all(isinstance(pin, str) for pin in content.values()):
        return content
    report.add(root / HASHES, "annotation", "no object {file name: sha256}")
    return {}


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """One video in ActivityNet's form."""
    segments = zip(row["segments"], [_text(label) for label in row["labels"]], strict=True)
    return {
        "subset": _text(row["subset"]),
        "labels": [_text(label) for label in row["labels_all"]],
        "annotations": [{"segment": segment, "label": label} for segment, label in segments],
        "duration": row.get("duration"),
    }


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
