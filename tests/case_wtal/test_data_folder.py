"""Own data: the folder format, its round trip, and its integrity check."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.case_wtal.data import IntegrityError, feature_files, load, load_folder, write_folder
from tests.case_wtal.layouts import assert_same_data
from tests.case_wtal.tiny import tiny_data


@pytest.fixture
def root(tmp_path):
    """Made-up data as a folder: recordings train/0..7 and test/0..3 with streams left (T, 6) and right (T, 4)."""
    write_folder(tiny_data(), tmp_path / "own")
    return tmp_path / "own"


def edit(root, file, change):
    content = json.loads((root / file).read_text())
    change(content)
    (root / file).write_text(json.dumps(content))


def path_of(root, name, stream="left"):
    return root / "features" / stream / f"{name}.npy"


def problems(root):
    with pytest.raises(IntegrityError) as caught:
        load_folder(root)
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    return {(problem.file, problem.kind) for problem in caught.value.problems}


# ---- round trip


@pytest.mark.parametrize("hdf5", [False, True])
def test_what_is_written_is_read_again(tmp_path, hdf5):
    data = tiny_data()
    write_folder(data, tmp_path / "own", hdf5=hdf5)
    found = load_folder(tmp_path / "own")
    assert_same_data(found, data)
    assert (found.name, found.note) == (data.name, data.note)


def test_embedded_data_make_the_round_trip(tmp_path):
    data = load("watch")
    few = replace(data, train=data.train[:6], test=data.test[:3])
    write_folder(few, tmp_path)
    assert_same_data(load("folder", tmp_path), few)


def test_recordings_may_have_snippets_of_different_lengths(tmp_path):
    data = tiny_data()
    first, *others = data.train
    data = replace(data, train=(*others, replace(first, snippet_seconds=0.7)))
    write_folder(data, tmp_path)
    assert_same_data(load_folder(tmp_path), data)


def test_a_folder_that_holds_something_is_never_written_to(root):
    with pytest.raises(FileExistsError, match=r"`root` must be a new or empty folder, got .*own which is not"):
        write_folder(tiny_data(), root)


# ---- reading what others wrote


def test_the_smallest_folder(tmp_path):
    (tmp_path / "dataset.json").write_text(
        '{"name": "mine", "fps": 50, "frames_per_snippet": 25, "streams": {"imu": 3}}'
    )
    entries = {
        "a": {"subset": "train", "annotations": [], "labels": ["run"]},
        "b": {"subset": "test", "annotations": [{"segment": [0.5, 2], "label": "walk"}]},
    }
    (tmp_path / "annotations.json").write_text(json.dumps({"database": entries}))
    (tmp_path / "features" / "imu").mkdir(parents=True)
    for name in entries:
        np.save(path_of(tmp_path, name, "imu"), np.ones((4, 3), np.float16))
    found = load_folder(tmp_path)
    assert (found.classes, found.test_split, found.note) == (("run", "walk"), "test", "")
    assert (found.train[0].labels, found.test[0].labels) == (("run",), ("walk",))
    assert (found.train[0].snippet_seconds, found.train[0].seconds) == (0.5, 2.0)
    assert found.stream_widths == {"imu": 3}


def test_split_lists_come_before_subsets(root):
    edit(root, "dataset.json", lambda d: d.update(splits={"train": ["test/1", "train/0"], "test": ["train/1"]}))
    found = load_folder(root)
    assert [r.name for r in found.train] == ["test/1", "train/0"]
    assert [r.name for r in found.test] == ["train/1"]


def test_declared_classes_keep_their_order(root):
    edit(root, "dataset.json", lambda d: d.update(classes=["turn", "unseen", "throw", "jump"]))
    assert load_folder(root).classes == ("turn", "unseen", "throw", "jump")


def test_streams_a_snippet_apart_are_cut_with_a_warning(root):
    path = path_of(root, "train/1")
    np.save(path, np.load(path)[:-1])
    with pytest.warns(UserWarning, match="got up to 2 snippets of difference in 1 recordings: train/1"):
        found = load_folder(root)
    assert len(found.train[1].streams["left"]) == len(found.train[1].streams["right"]) == len(np.load(path))


def test_repeated_segments_are_left_out_with_a_warning(root):
    edit(
        root,
        "annotations.json",
        lambda d: d["database"]["test/0"]["annotations"].append(d["database"]["test/0"]["annotations"][0]),
    )
    with pytest.warns(UserWarning, match="annotations.json should hold no segments that repeat another exactly, got 1"):
        found = load_folder(root)
    assert found.test[0].segments == tiny_data().test[0].segments


# ---- what is wrong


def broken_database(change):
    return lambda root: edit(root, "annotations.json", lambda d: change(d["database"]))


def broken_description(**fields):
    return lambda root: edit(root, "dataset.json", lambda d: d.update(fields))


def first_segment(segment):
    return broken_database(lambda d: d["train/0"]["annotations"][0].update(segment=segment))


def save(name, array, stream="left"):
    return lambda root: np.save(path_of(root, name, stream), array)


FAULTS = {
    "no description": (lambda root: (root / "dataset.json").unlink(), {("dataset.json", "missing")}),
    "description is no JSON": (
        lambda root: (root / "dataset.json").write_text("{"),
        {("dataset.json", "unreadable")},
    ),
    "description is a list": (lambda root: (root / "dataset.json").write_text("[]"), {("dataset.json", "annotation")}),
    "unknown field": (broken_description(snipet_seconds=1), {("dataset.json", "annotation")}),
    "no streams": (broken_description(streams={}), {("dataset.json", "annotation")}),
    "stream without width": (broken_description(streams={"left": "6"}), {("dataset.json", "annotation")}),
    "stream called like a split": (broken_description(streams={"train": 6}), {("dataset.json", "annotation")}),
    "class twice": (broken_description(classes=["jump", "jump"]), {("dataset.json", "annotation")}),
    "name is a number": (broken_description(name=3), {("dataset.json", "annotation")}),
    "snippets last no time": (broken_description(snippet_seconds=0), {("dataset.json", "annotation")}),
    "snippets last a word": (broken_description(snippet_seconds="long"), {("dataset.json", "annotation")}),
    "splits are a list": (
        broken_description(splits=["train/0"]),
        {("dataset.json", "annotation"), ("annotations.json", "annotation")},
    ),
    "recording in both splits": (
        broken_description(splits={"train": ["train/0"], "test": ["train/0", "test/0"]}),
        {("dataset.json: train/0", "annotation")},
    ),
    "unknown recording in a split": (
        broken_description(splits={"train": ["train/0", "train/99"], "test": ["test/0"]}),
        {("dataset.json: train/99", "no annotation")},
    ),
    "no annotations": (
        lambda root: (root / "annotations.json").unlink(),
        {("annotations.json", "missing"), ("annotations.json", "annotation")}
        | {(f"features of {r.name}", "no annotation") for r in tiny_data().train + tiny_data().test},
    ),
    "unknown subset": (
        broken_database(lambda d: d["train/0"].update(subset="extra")),
        {("annotations.json: train/0", "annotation")},
    ),
    "path that leaves the folder": (
        broken_database(lambda d: d.update({"../x": d["train/0"]})),
        {("annotations.json: ../x", "annotation")},
    ),
    "unknown label": (
        broken_database(lambda d: d["train/0"]["labels"].append("fly")),
        {("annotations.json: train/0", "label")},
    ),
    "labels without the segments'": (
        broken_database(lambda d: d["train/0"].update(labels=[])),
        {("annotations.json: train/0", "label")},
    ),
    "labels are a text": (
        broken_database(lambda d: d["train/0"].update(labels="jump")),
        {("annotations.json: train/0", "annotation")},
    ),
    "reversed segment": (first_segment([3, 2]), {("annotations.json: train/0", "segment")}),
    "empty segment": (first_segment([2, 2]), {("annotations.json: train/0", "segment")}),
    "segment past the end": (first_segment([2, 99]), {("annotations.json: train/0", "segment")}),
    "segment before the start": (first_segment([-3, 2]), {("annotations.json: train/0", "segment")}),
    "segment of one time": (first_segment([2]), {("annotations.json: train/0", "segment")}),
    "segment without end": (first_segment([2, float("inf")]), {("annotations.json: train/0", "segment")}),
    "wrong duration": (
        broken_database(lambda d: d["train/0"].update(duration=99)),
        {("features of train/0", "lengths")},
    ),
    "missing file": (
        lambda root: path_of(root, "train/3").unlink(),
        {("features/left/train/3.npy", "missing")},
    ),
    "missing recording": (
        lambda root: [path_of(root, "train/3", stream).unlink() for stream in ("left", "right")],
        {(f"features/{stream}/train/3.npy", "no features") for stream in ("left", "right")},
    ),
    "features of nobody": (save("test/x", np.zeros((9, 6))), {("features of test/x", "no annotation")}),
    "wrong width": (save("train/2", np.zeros((9, 5))), {("features/left/train/2.npy", "shape")}),
    "one axis": (save("train/2", np.zeros(9)), {("features/left/train/2.npy", "shape")}),
    "no snippets": (save("train/2", np.zeros((0, 6))), {("features/left/train/2.npy", "shape")}),
    "integers": (save("train/2", np.zeros((9, 6), int)), {("features/left/train/2.npy", "dtype")}),
    "empty file": (
        lambda root: path_of(root, "train/2").write_bytes(b""),
        {("features/left/train/2.npy", "truncated")},
    ),
    "other length": (save("train/2", np.zeros((99, 6))), {("features of train/2", "lengths")}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_place(root, name):
    break_it, expected = FAULTS[name]
    break_it(root)
    assert problems(root) == expected


def test_all_faults_are_in_one_error(root):
    expected = set()
    for name in ("unknown label", "missing file", "wrong width", "features of nobody", "wrong duration"):
        break_it, found = FAULTS[name]
        break_it(root)
        expected |= found
    assert problems(root) == expected


def test_the_error_says_what_to_do(root):
    FAULTS["missing file"][0](root)
    message = (
        r"`root` must hold a complete data set, got 1 problem in .*own:\n  features/left/train/3.npy: missing\nRepair"
    )
    with pytest.raises(ValueError, match=message):
        load_folder(root)


def corrupt(path, how):
    """Break one file; returns the kind of problem that it must be called."""
    array = np.load(path)
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    elif how == "unreadable":
        path.write_bytes(b"\x00" * 200)
    elif how == "shape":
        np.save(path, array[:, :-1])
    elif how == "dtype":
        np.save(path, array.astype(object), allow_pickle=True)
    elif how == "not finite":
        array[len(array) // 2, 0] = np.nan
        np.save(path, array)
    return how


NAMES = [r.name for r in tiny_data().train + tiny_data().test]
HOW = ("missing", "truncated", "unreadable", "shape", "dtype", "not finite")


@settings(max_examples=15)
@given(
    st.dictionaries(
        st.sampled_from([f"{stream}/{name}" for stream in ("left", "right") for name in NAMES]),
        st.sampled_from(HOW),
        min_size=1,
    )
)
def test_every_corrupt_file_is_listed_and_no_other(faults):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_folder(tiny_data(), root)
        for file, how in faults.items():
            corrupt(root / "features" / f"{file}.npy", how)
        gone = {file.partition("/")[2] for file, how in faults.items() if how == "missing"}
        both = {name for name in gone if all(faults.get(f"{s}/{name}") == "missing" for s in ("left", "right"))}
        expected = {
            (f"features/{file}.npy", "no features" if file.partition("/")[2] in both else how)
            for file, how in faults.items()
        }
        assert problems(root) == expected


@settings(max_examples=25)
@given(cut=st.integers(1, 400))
def test_a_file_cut_anywhere_is_never_read(cut):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_folder(tiny_data(train=1, test=1), root)
        path = path_of(root, "train/0")
        content = path.read_bytes()
        path.write_bytes(content[: max(0, len(content) - cut)])
        (file, kind), *others = problems(root)
        assert (file, others) == ("features/left/train/0.npy", [])
        assert kind in ("truncated", "unreadable")


# ---- HDF5


@pytest.fixture
def packed(tmp_path):
    write_folder(tiny_data(), tmp_path / "packed", hdf5=True)
    return tmp_path / "packed"


def test_faults_in_an_hdf5_file_are_named_by_data_set(packed):
    with h5py.File(packed / "features.h5", "a") as file:
        del file["left/train/0"]
        del file["right/train/1"]
        file["right/train/1"] = np.zeros((9, 3))
        file["left/train/2"][0, 0] = np.nan
        file["left/other"] = np.zeros((9, 6))
        del file["left/train/3"]
        file["left/train/3"] = np.zeros((9, 6), int)
    assert problems(packed) == {
        ("features.h5: left/train/0", "missing"),
        ("features.h5: right/train/1", "shape"),
        ("features.h5: left/train/2", "not finite"),
        ("features of other", "no annotation"),
        ("features.h5: left/train/3", "dtype"),
    }


def test_a_broken_hdf5_file_is_a_problem(packed):
    content = (packed / "features.h5").read_bytes()
    (packed / "features.h5").write_bytes(content[:3000])
    assert ("features.h5", "unreadable") in problems(packed)


def test_an_hdf5_file_needs_h5py(packed, monkeypatch):
    monkeypatch.setattr(feature_files, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"`root` must hold .npy files where h5py is not installed"):
        load_folder(packed)


def test_a_file_that_changed_after_the_check_is_an_error(root):
    found = load_folder(root).train[0]
    path = path_of(root, found.name)
    path.unlink()
    with pytest.raises(OSError, match=r"`root` must stay as it is while its data are in use, got missing in .*npy"):
        found.streams["left"]
    shutil.copy(path_of(root, "train/1"), path)
    assert found.streams["left"].shape[1] == 6
