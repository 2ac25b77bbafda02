"""Data sets in the layouts of public archives, written by tests, and a comparison of data sets."""

import hashlib

import numpy as np

from examples.case_wtal.data import LocalizationData


def assert_same_data(found, expected):
    """Everything but the note, exactly."""
    for field in ("classes", "test_split"):
        assert getattr(found, field) == getattr(expected, field)
    for split in ("train", "test"):
        ours, theirs = getattr(found, split), getattr(expected, split)
        assert [r.name for r in ours] == [r.name for r in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert (a.snippet_seconds, a.segments, a.labels) == (b.snippet_seconds, b.segments, b.labels)
            assert list(a.streams) == list(b.streams)
            for stream in a.streams:
                assert a.streams[stream].dtype == np.float32
                np.testing.assert_array_equal(a.streams[stream], b.streams[stream])
    assert isinstance(found, LocalizationData)


def object_array(items):
    """One element for each item, whatever it is."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def write_wtalc(root, dataset, videos, features, *, durations=True):
    """The layout of the W-TALC line; returns the hashes of the pickles in it."""
    folder = root / f"{dataset}-Annotations"
    folder.mkdir(parents=True)
    plain = {
        "videoname": np.array([v["video"].encode() for v in videos]),
        "subset": np.array([v["subset"].encode() for v in videos]),
        "classlist": np.array(sorted({label.encode() for v in videos for label in v["labels_all"]})),
    }
    if durations:
        plain["duration"] = np.array([v["duration"] for v in videos])
    objects = {name: object_array([v[name] for v in videos]) for name in ("segments", "labels", "labels_all")}
    for name, array in (plain | objects).items():
        np.save(folder / f"{name}.npy", array)
    joint = root / f"{dataset}-I3D-JOINTFeatures.npy"
    np.save(joint, object_array([features[v["video"]] for v in videos]))
    pickles = [joint, *(folder / f"{name}.npy" for name in objects)]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in pickles}
