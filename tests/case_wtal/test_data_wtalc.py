"""Array files of the W-TALC line: pinned hashes, a restricted unpickler, and what is wrong with them."""

import hashlib
import json
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.case_wtal.data import IntegrityError, load_activitynet
from examples.case_wtal.data.feature_files import BrokenFile
from examples.case_wtal.data.wtalc import read_object_array
from tests.case_wtal.layouts import object_array, write_wtalc

VIDEOS = [
    {"video": "x", "subset": "training", "duration": 6.4, "segments": [[0, 2]], "labels": ["a"], "labels_all": ["a"]},
    {"video": "y", "subset": "validation", "duration": 6.4, "segments": [[0, 2]], "labels": ["b"], "labels_all": ["b"]},
]
FEATURES = {name: np.ones((10, 2048), np.float32) for name in "xy"}
FOLDER = "ActivityNet1.2-Annotations"
JOINT = "ActivityNet1.2-I3D-JOINTFeatures.npy"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_pickle(path, content, shape=(1,)):
    """A `.npy` file whose header promises objects and whose pickle is `content`."""
    header = repr({"descr": "|O", "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content)
    return digest(path)


def problems(root, pins=None, features=FEATURES, videos=VIDEOS, change=lambda folder: None):
    written = write_wtalc(root, "ActivityNet1.2", videos, features)
    change(root / FOLDER)
    given_pins = {name: digest(root / name) for name in written if (root / name).is_file()} if pins is None else pins
    with pytest.raises(IntegrityError) as caught:
        load_activitynet(root, "1.2", pickle_sha256=given_pins)
    return {(problem.file, problem.kind) for problem in caught.value.problems}


# ---- pickles


def test_without_a_pin_no_pickle_is_read_and_the_hash_is_told(tmp_path):
    assert problems(tmp_path, pins={}) == {
        (JOINT, "unpinned"),
        *((f"{FOLDER}/{name}.npy", "unpinned") for name in ("segments", "labels", "labels_all")),
    }
    with pytest.raises(IntegrityError, match=digest(tmp_path / JOINT)):
        load_activitynet(tmp_path, "1.2")


def test_another_file_than_the_pinned_one_is_not_read(tmp_path):
    pins = write_wtalc(tmp_path / "a", "ActivityNet1.2", VIDEOS, FEATURES)
    assert problems(tmp_path / "b", pins=pins | {JOINT: "0" * 64}) == {(JOINT, "hash")}


def test_pins_may_name_files_without_their_folder_and_in_capitals(tmp_path):
    pins = write_wtalc(tmp_path, "ActivityNet1.2", VIDEOS, FEATURES)
    short = {name.rpartition("/")[2]: pin.upper() for name, pin in pins.items()}
    assert len(load_activitynet(tmp_path, "1.2", pickle_sha256=short).train) == 1


@pytest.mark.parametrize("text", ["[]", '{"a.npy": 3}'])
def test_hashes_of_another_form_are_an_error(tmp_path, text):
    write_wtalc(tmp_path, "ActivityNet1.2", VIDEOS, FEATURES)
    (tmp_path / "hashes.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"hashes\.json: annotation \(no object {file name: sha256}\)"):
        load_activitynet(tmp_path, "1.2")


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [print, eval, open, np.load, np.fromfile, pickle.loads])
@pytest.mark.parametrize("protocol", range(6))
def test_a_pinned_pickle_can_still_call_nothing(tmp_path, function, protocol):
    path = tmp_path / "evil.npy"
    pin = save_pickle(path, pickle.dumps(object_array([Evil(function, "1")]), protocol=protocol))
    with pytest.raises(BrokenFile, match="which is no part of an array"):
        read_object_array(path, pin)


def test_codecs_other_than_latin1_are_refused(tmp_path):
    path = tmp_path / "evil.npy"
    content = b"c_codecs\nencode\n(Vx\nVrot13\ntR."
    with pytest.raises(BrokenFile, match="asks for the codec rot13"):
        read_object_array(path, save_pickle(path, content))


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1]), pickle.dumps(object_array([1, 2]))])
def test_pickles_that_are_no_array_of_the_stated_shape_are_refused(tmp_path, content):
    path = tmp_path / "list.npy"
    with pytest.raises(BrokenFile, match="unreadable"):
        read_object_array(path, save_pickle(path, content))


ITEMS = st.recursive(
    st.text(max_size=5) | st.integers() | st.floats(allow_nan=False) | st.binary(min_size=1, max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(ITEMS, min_size=1, max_size=4), st.integers(0, 5))
def test_lists_of_texts_and_numbers_come_back_at_every_protocol(tmp_path_factory, items, protocol):
    path = tmp_path_factory.mktemp("pickle") / "items.npy"
    pin = save_pickle(path, pickle.dumps(object_array(items), protocol=protocol), (len(items),))
    assert list(read_object_array(path, pin)) == items


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "S3", "U3", "i8"])
@pytest.mark.parametrize("protocol", range(6))
def test_arrays_inside_come_back_at_every_protocol(tmp_path, dtype, protocol):
    path = tmp_path / "arrays.npy"
    inner = np.arange(6).reshape(3, 2).astype(dtype)
    items = object_array([inner, inner.T, np.float32(2.5)])
    pin = save_pickle(path, pickle.dumps(items, protocol=protocol), (3,))
    found = read_object_array(path, pin)
    for i in range(2):
        np.testing.assert_array_equal(found[i], items[i])
        assert found[i].dtype.newbyteorder("=") == items[i].dtype.newbyteorder("=")
    assert found[2] == 2.5


def test_files_of_python_2_are_understood(tmp_path):
    # Protocol 2 as Python 2 wrote it: texts and the bytes of arrays are byte strings, and the module has its old name.
    inner = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x01K\x02t"
    inner += b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    inner += b"U\x08" + struct.pack("<2f", 1.5, -2.0) + b"tb"
    outer = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x02t"
    outer += b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89"
    outer += b"](" + inner + b"](U\x04Swimeetb."
    path = tmp_path / "python2.npy"
    found = read_object_array(path, save_pickle(path, outer, (2,)))
    np.testing.assert_array_equal(found[0], np.array([[1.5, -2.0]], np.float32))
    assert found[1] == ["Swim"]


# ---- content


def test_missing_and_broken_arrays_are_all_listed(tmp_path):
    def change(folder):
        (folder / "classlist.npy").unlink()
        (folder / "labels.npy").unlink()
        (folder / "subset.npy").write_bytes(b"\x93NUMPY")

    assert problems(tmp_path, change=change) == {
        (f"{FOLDER}/classlist.npy", "missing"),
        (f"{FOLDER}/labels.npy", "missing"),
        (f"{FOLDER}/subset.npy", "unreadable"),
    }


def test_arrays_of_different_length_are_an_error(tmp_path):
    assert problems(tmp_path, change=lambda f: np.save(f / "duration.npy", np.ones(3))) == {(FOLDER, "lengths")}


def test_names_that_occur_twice_are_an_error(tmp_path):
    found = problems(tmp_path, change=lambda f: np.save(f / "videoname.npy", np.array([b"x", b"x"])))
    assert (f"{FOLDER}/videoname.npy", "annotation") in found


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("labels", ["a", "a"], "annotation"),
        ("segments", [[0]], "segment"),
        ("segments", 3, "annotation"),
        ("labels_all", 3, "annotation"),
    ],
)
def test_rows_that_cannot_be_understood_are_problems_of_their_video(tmp_path, field, value, kind):
    videos = [VIDEOS[0] | {field: value}, VIDEOS[1]]
    found = problems(
        tmp_path,
        change=lambda f: np.save(f / f"{field}.npy", object_array([v[field] for v in videos])),
    )
    assert (f"{FOLDER}: x", kind) in found


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.ones((10, 1024), np.float32), "shape"),
        (np.ones(2048), "shape"),
        (np.ones((10, 2048), int), "dtype"),
        ([[1.0] * 2048], "dtype"),
        (np.full((10, 2048), np.nan), "not finite"),
    ],
)
def test_broken_features_are_problems_of_their_video(tmp_path, array, kind):
    found = problems(tmp_path, features=FEATURES | {"x": array})
    assert found == {(f"{JOINT}: x", kind)}


def test_durations_may_be_absent_and_hashes_in_a_file(tmp_path):
    pins = write_wtalc(tmp_path, "ActivityNet1.2", VIDEOS, FEATURES, durations=False)
    (tmp_path / "hashes.json").write_text(json.dumps(pins))
    assert [r.seconds for r in load_activitynet(tmp_path, "1.2").train] == pytest.approx([6.4])
