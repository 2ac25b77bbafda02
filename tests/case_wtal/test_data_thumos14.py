"""THUMOS14 loader: layout, ground truths, broken files; simulated features for dry runs."""

import json
import pickle
import re
import shutil

import h5py
import numpy as np
import pytest

from examples.case_wtal.data import IntegrityError, load, load_thumos14, write_simulated_features
from examples.case_wtal.data.thumos14 import DISPUTED
from tests.case_wtal.layouts import assert_same_data, write_wtalc
from tests.case_wtal.shared_data import require

GROUND_TRUTH = {
    "video_validation_1": ("train", [(["1.0", "2.5"], "Diving"), (["0.5", "2.5"], "CliffDiving")]),
    "video_validation_2": ("train", [([3, 4], "Shotput")]),
    "video_test_1": ("test", [(["0.0", "6.4"], "Diving")]),
    **{video: ("test", [(["1.0", "2.0"], "Shotput")]) for video in DISPUTED},
}
LENGTHS = {"video_validation_1": 10, "video_validation_2": 7, "video_test_1": 12} | dict.fromkeys(DISPUTED, 5)


def feature_path(root, video, stream):
    return root / "features" / GROUND_TRUTH[video][0] / stream / f"{video}.npy"


@pytest.fixture
def root(tmp_path):
    """A made-up THUMOS14 folder of five videos and feature width 4."""
    rng = np.random.default_rng(0)
    write_annotations(tmp_path, GROUND_TRUTH)
    for split in ("train", "test"):
        videos = [video for video, (own, _) in GROUND_TRUTH.items() if own == split]
        (tmp_path / f"split_{split}.txt").write_text("\n".join(videos) + "\n\n")
        for stream in ("rgb", "flow"):
            (tmp_path / "features" / split / stream).mkdir(parents=True)
    for video, n in LENGTHS.items():
        for stream in ("rgb", "flow"):
            np.save(feature_path(tmp_path, video, stream), rng.normal(size=(n, 4)).astype(np.float32))
    return tmp_path


def write_annotations(root, ground_truth):
    database = {
        video: {"subset": split, "annotations": [{"segment": s, "label": label} for s, label in entries]}
        for video, (split, entries) in ground_truth.items()
    }
    (root / "gt.json").write_text(json.dumps({"database": database}))


# ---- reading


def test_features_and_annotations_are_read_as_written(root):
    found = load_thumos14(root, width=4)
    first = found.train[0]
    assert [(s.start, s.end, s.label) for s in first.segments] == [(1.0, 2.5, "Diving"), (0.5, 2.5, "CliffDiving")]
    assert first.labels == ("CliffDiving", "Diving")
    assert first.snippet_seconds == 0.64
    for stream in ("rgb", "flow"):
        np.testing.assert_array_equal(first.streams[stream], np.load(feature_path(root, first.name, stream)))
    assert found.classes == ("CliffDiving", "Diving", "Shotput")
    assert [r.name for r in found.train] == ["video_validation_1", "video_validation_2"]
    assert "SIMULATED" not in found.note


def test_ground_truth_decides_on_the_disputed_videos(root):
    assert [r.name for r in load_thumos14(root, width=4).test] == ["video_test_1"]
    with_them = load_thumos14(root, width=4, ground_truth="212")
    assert [r.name for r in with_them.test] == ["video_test_1", *DISPUTED]
    assert "3 test videos" in with_them.note


def test_data_sets_by_name_have_their_ground_truth(tmp_path):
    write_simulated_features(tmp_path, require("thumos14"), seed=0, width=1024, videos=2)
    assert load("thumos14", tmp_path).name == "thumos14"
    with pytest.raises(ValueError, match='`ground_truth` "212" requires'):
        load("thumos14-212", tmp_path)


def test_212_without_the_disputed_videos_is_an_error(root):
    (root / "split_test.txt").write_text("video_test_1\n")
    with pytest.raises(ValueError, match='`ground_truth` "212" requires video_test_0000270 and video_test_0001496'):
        load_thumos14(root, width=4, ground_truth="212")


def test_unknown_ground_truth_is_an_error(root):
    with pytest.raises(ValueError, match='`ground_truth` must be "210" or "212", got \'213\''):
        load_thumos14(root, width=4, ground_truth="213")


def test_small_length_difference_is_trimmed_with_a_warning(root):
    path = feature_path(root, "video_test_1", "flow")
    np.save(path, np.load(path)[:-2])
    with pytest.warns(UserWarning, match="equal length, got up to 2 .* in 1 recordings: video_test_1"):
        found = load_thumos14(root, width=4)
    assert len(found.test[0]) == 10


def test_all_broken_files_are_in_one_error(root):
    feature_path(root, "video_validation_1", "rgb").unlink()
    feature_path(root, "video_validation_1", "flow").write_bytes(b"no array")
    np.save(feature_path(root, "video_validation_2", "rgb"), np.zeros((7, 5), np.float32))
    np.save(feature_path(root, "video_validation_2", "flow"), np.zeros((7, 4), np.int64))
    flow = feature_path(root, "video_test_1", "flow")
    np.save(flow, np.load(flow)[:-3])
    with pytest.raises(IntegrityError, match="got 5 problems") as caught:
        load_thumos14(root, width=4)
    for line in (
        "features/train/rgb/video_validation_1.npy: missing",
        "features/train/flow/video_validation_1.npy: unreadable (the magic string is not correct; .*)",
        "features/train/rgb/video_validation_2.npy: shape ((7, 5) instead of (T, 4) with T > 0)",
        "features/train/flow/video_validation_2.npy: dtype (int64 instead of float)",
        "features of video_test_1: lengths (snippets: rgb 12, flow 9; at most 2 apart)",
    ):
        assert re.search("\n  " + re.escape(line).replace(r"\.\*", ".*") + "\n", str(caught.value))
    assert str(caught.value).endswith("compare them with those that the source publishes.")


def test_pickled_features_are_not_read(root):
    np.save(feature_path(root, "video_test_1", "rgb"), np.array([{}], dtype=object))
    with pytest.raises(IntegrityError, match=r"video_test_1.npy: dtype \(object instead of float\)"):
        load_thumos14(root, width=4)


def test_width_is_checked(root):
    with pytest.raises(IntegrityError, match=r"got 6 problems(.|\n)*\(10, 4\) instead of \(T, 1024\)"):
        load_thumos14(root)


def test_empty_ground_truth_is_dropped_with_a_warning_and_still_names_a_label(root):
    entries = [*GROUND_TRUTH["video_test_1"][1], (["5.0", "5.0"], "Diving"), ([6, 5], "Shotput")]
    write_annotations(root, GROUND_TRUTH | {"video_test_1": ("test", entries)})
    with pytest.warns(UserWarning, match="gt.json should hold no segments that do not end after they start, got 2"):
        found = load_thumos14(root, width=4)
    assert len(found.test[0].segments) == 1
    assert found.test[0].labels == ("Diving", "Shotput")


def test_repeated_ground_truth_is_dropped_with_a_warning(root):
    entries = [*GROUND_TRUTH["video_test_1"][1], ([0, 6.4], "Diving"), ([0, 6.4], "Shotput")]
    write_annotations(root, GROUND_TRUTH | {"video_test_1": ("test", entries)})
    with pytest.warns(UserWarning, match="no segments that repeat another exactly, got 1. They are left out"):
        found = load_thumos14(root, width=4)
    assert [s.label for s in found.test[0].segments] == ["Diving", "Shotput"]


@pytest.mark.parametrize("name", ["gt.json", "split_train.txt", "split_test.txt"])
def test_missing_list_is_an_error(root, name):
    (root / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name}: missing"):
        load_thumos14(root, width=4)


def test_video_without_annotation_is_an_error(root):
    write_annotations(root, {video: entry for video, entry in GROUND_TRUTH.items() if video != "video_validation_2"})
    with pytest.raises(IntegrityError, match=r"split_train.txt: video_validation_2: no annotation"):
        load_thumos14(root, width=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "gt.json: unreadable"),
        ("[]", "gt.json: annotation"),
        ('{"videos": {}}', "gt.json: annotation"),
        (
            '{"database": {"v": {"annotations": [{"segment": [1]}]}}}',
            r"gt.json: v: segment \({'segment': \[1\]} is not",
        ),
        ('{"database": {"v": {"annotations": 3}}}', 'gt.json: v: annotation .no list under "annotations"'),
        ('{"database": {"v": {"annotations": [], "duration": "long"}}}', "duration 'long' is no positive number"),
        ('{"database": {"v": {"annotations": [], "duration": 0}}}', "duration 0 is no positive number"),
    ],
)
def test_other_json_is_an_error(root, text, message):
    (root / "gt.json").write_text(text)
    with pytest.raises(IntegrityError, match=message):
        load_thumos14(root, width=4)


def test_unreadable_split_file_is_an_error(root):
    (root / "split_test.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(IntegrityError, match=r"split_test.txt: unreadable"):
        load_thumos14(root, width=4)


def test_all_layouts_of_feature_files_give_the_same_data(root, tmp_path_factory):
    expected = load_thumos14(root, width=4)
    for layout in ("joint", "joint in split folders", "hdf5", "hdf5 by video"):
        other = tmp_path_factory.mktemp("layout")
        for name in ("gt.json", "split_train.txt", "split_test.txt"):
            shutil.copy(root / name, other)
        for video, (split, _) in GROUND_TRUTH.items():
            streams = {stream: np.load(feature_path(root, video, stream)) for stream in ("rgb", "flow")}
            joint = np.concatenate(list(streams.values()), axis=1)
            if layout.startswith("joint"):
                folder = other / split if layout.endswith("folders") else other / "features"
                folder.mkdir(exist_ok=True)
                np.save(folder / f"{video}.npy", joint)
                continue
            with h5py.File(other / "features.h5", "a") as file:
                for stream, features in streams.items():
                    file[f"{stream}/{video}" if layout == "hdf5" else f"{split}/{video}/{stream}"] = features
        assert_same_data(load_thumos14(other, width=4), expected)


def test_features_stay_on_disk_until_they_are_asked_for(root):
    found = load_thumos14(root, width=4).train[0]
    again = pickle.loads(pickle.dumps(found))
    path = feature_path(root, found.name, "rgb")
    np.save(path, 2 * np.load(path))
    np.testing.assert_array_equal(again.streams["rgb"], np.load(path))
    assert len(pickle.dumps(found)) < 2000


# ---- the arrays of the W-TALC line


def test_arrays_of_the_w_talc_line_give_the_published_videos(tmp_path):
    videos = json.loads((require("thumos14") / "wtalc_thumos14reduced.json").read_text())["videos"]
    rng = np.random.default_rng(0)
    features = {v["video"]: rng.normal(size=(3 + i % 5, 2048)).astype(np.float32) for i, v in enumerate(videos)}
    pins = write_wtalc(tmp_path, "Thumos14reduced", videos, features)
    full = load_thumos14(tmp_path, ground_truth="212", pickle_sha256=pins)
    assert (full.name, len(full.train), len(full.test), len(full.classes)) == ("thumos14-212", 200, 212, 20)
    assert sum(len(r.segments) for r in full.test) == 3358
    first = full.train[0]
    np.testing.assert_array_equal(first.streams["rgb"], features[first.name][:, :1024])
    np.testing.assert_array_equal(first.streams["flow"], features[first.name][:, 1024:])
    reduced = load_thumos14(tmp_path, pickle_sha256=pins)
    assert (reduced.name, len(reduced.test), sum(len(r.segments) for r in reduced.test)) == ("thumos14", 210, 3311)


# ---- real annotations, simulated features


def test_real_annotations_make_the_round_trip(tmp_path):
    write_simulated_features(tmp_path / "root", require("thumos14"), seed=0, width=4)
    found = load_thumos14(tmp_path / "root", width=4)
    assert (len(found.train), len(found.test), len(found.classes)) == (200, 210, 20)
    assert sum(len(r.segments) for r in found.test) == 3311
    assert sum(len(r.segments) for r in found.train) == 3007
    assert "SIMULATED" in found.note
    assert all(r.streams["rgb"].dtype == np.float32 for r in found.train)
    video = found.test[0]
    seconds = float(
        (require("thumos14") / "th14_test_durations.txt").read_text().split(f"{video.name}.mp4")[1].split()[0]
    )
    assert 0 <= seconds - video.seconds < 0.64


def test_simulated_features_tell_classes_apart(tmp_path):
    write_simulated_features(tmp_path, require("thumos14"), seed=0, width=256, videos=20)
    found = load_thumos14(tmp_path, width=256)
    inside, outside = [], []
    for recording in found.train + found.test:
        middles = (np.arange(len(recording)) + 0.5) * 0.64
        rows = np.zeros(len(recording), bool)
        for segment in recording.segments:
            rows |= (middles >= segment.start) & (middles < segment.end)
        inside.append(recording.streams["flow"][rows])
        outside.append(recording.streams["flow"][~rows])
    background = np.concatenate(outside).mean(axis=0)
    assert (np.concatenate(outside) @ background).mean() > 0.8
    assert abs((np.concatenate(inside) @ background).mean()) < 0.2


def test_simulation_follows_seed_width_and_number_of_videos(tmp_path):
    source = require("thumos14")
    for name, options in {"a": {"seed": 0}, "b": {"seed": 0}, "c": {"seed": 1}}.items():
        write_simulated_features(tmp_path / name, source, width=8, videos=3, **options)
    a, b, c = (load_thumos14(tmp_path / name, width=8).train for name in "abc")
    assert (len(a), a[0].streams["rgb"].shape[1]) == (3, 8)
    np.testing.assert_array_equal(a[0].streams["rgb"], b[0].streams["rgb"])
    assert not np.array_equal(a[0].streams["rgb"], c[0].streams["rgb"])
    assert not np.array_equal(a[0].streams["rgb"], a[0].streams["flow"])


def test_simulation_never_mixes_with_other_features(root, tmp_path):
    with pytest.raises(FileExistsError, match="`root` must not hold features yet"):
        write_simulated_features(root, tmp_path, seed=0)
    assert not (root / "SIMULATED.txt").exists()
