"""ActivityNet loader: annotation files, layouts, what is cleaned; simulated features beside real annotations."""

import json
import shutil

import h5py
import numpy as np
import pytest

from examples.case_wtal.data import IntegrityError, load, load_activitynet, load_folder, write_folder
from examples.case_wtal.data import write_simulated_activitynet as write_simulated
from examples.case_wtal.data.activitynet import read_activitynet_annotations
from examples.case_wtal.data.annotations import clean
from examples.case_wtal.data.integrity import Report
from examples.case_wtal.recipes import RECIPES
from tests.case_wtal.layouts import assert_same_data, write_wtalc
from tests.case_wtal.shared_data import require

WIDTHS = {"rgb": 3, "flow": 2}

# Name -> subset, duration, segments with labels.
VIDEOS = {
    "v_a": ("training", 12.8, [([1.0, 5.0], "Archery")]),
    "v_b": ("training", 6.4, [([0.0, 6.4], "Ballet"), ([0.0, 6.4], "Ballet")]),
    "v_c": ("validation", 6.4, [([2.0, 3.0], "Ballet"), ([4, 4], "Archery")]),
    "v_d": ("testing", 6.4, []),
}
FEATURES = {
    name: np.random.default_rng(i).normal(size=(round(seconds / 0.64), 5)).astype(np.float32)
    for i, (name, (_, seconds, _)) in enumerate(VIDEOS.items())
}
CLEANED = "ignore:gt.json should hold no segments:UserWarning"


def entries():
    return {
        name: {
            "subset": subset,
            "duration": seconds,
            "annotations": [{"segment": segment, "label": label} for segment, label in segments],
        }
        for name, (subset, seconds, segments) in VIDEOS.items()
    }


@pytest.fixture
def root(tmp_path):
    """The four made-up videos above in the layout with a file for each video and stream."""
    (tmp_path / "gt.json").write_text(json.dumps({"database": entries()}))
    for name, (subset, _, _) in VIDEOS.items():
        split = {"training": "train", "validation": "val", "testing": "test"}[subset]
        for stream, columns in (("rgb", slice(0, 3)), ("flow", slice(3, 5))):
            folder = tmp_path / "features" / split / stream
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{name}.npy", FEATURES[name][:, columns])
    return tmp_path


def load_it(root, **options):
    return load_activitynet(root, widths=WIDTHS, **options)


@pytest.mark.filterwarnings(CLEANED)
def test_training_and_validation_videos_are_read_as_written(root):
    found = load_it(root)
    assert [r.name for r in found.train] == ["v_a", "v_b"]
    assert [r.name for r in found.test] == ["v_c"]
    assert (found.name, found.test_split, found.classes) == ("activitynet13", "validation", ("Archery", "Ballet"))
    np.testing.assert_array_equal(found.train[0].streams["rgb"], FEATURES["v_a"][:, :3])
    np.testing.assert_array_equal(found.test[0].streams["flow"], FEATURES["v_c"][:, 3:])
    assert found.train[0].snippet_seconds == 0.64
    assert "1 of 1 validation videos, repeated segments left out" in found.note


def test_empty_and_repeated_segments_are_left_out_with_counts(root):
    with pytest.warns(UserWarning, match="gt.json should hold no segments") as caught:
        found = load_it(root)
    messages = [str(w.message) for w in caught]
    assert any("that do not end after they start, got 1." in message for message in messages)
    assert any("that repeat another exactly, got 1." in message for message in messages)
    assert len(found.train[1].segments) == 1
    assert [s.label for s in found.test[0].segments] == ["Ballet"]
    assert found.test[0].labels == ("Archery", "Ballet")


@pytest.mark.filterwarnings(CLEANED)
def test_repeated_segments_can_be_kept(root):
    kept = load_it(root, duplicates="keep")
    assert len(kept.train[1].segments) == 2
    assert "repeated segments kept" in kept.note


@pytest.mark.filterwarnings(CLEANED)
def test_resampled_features_divide_the_duration(root):
    found = load_it(root, snippet_seconds=None)
    assert [r.snippet_seconds for r in found.train] == pytest.approx([12.8 / 20, 6.4 / 10])
    content = {name: entry | {"duration": None} if name == "v_a" else entry for name, entry in entries().items()}
    (root / "gt.json").write_text(json.dumps({"database": content}))
    with pytest.raises(IntegrityError, match=r"v_a: annotation .needs a duration where snippets have no fixed length"):
        load_it(root, snippet_seconds=None)


@pytest.mark.filterwarnings(CLEANED)
@pytest.mark.parametrize("form", ["official", "minified", "bmn", "3c-net"])
def test_all_annotation_files_give_the_same_data(root, form):
    version = "1.2" if form == "3c-net" else "1.3"
    expected = load_it(root, version=version)
    (root / "gt.json").unlink()
    if form in ("official", "minified"):
        name = {"official": "activity_net.v1-3.json", "minified": "activity_net.v1-3.min.json"}[form]
        without = {video.removeprefix("v_"): entry for video, entry in entries().items()}
        (root / name).write_text(json.dumps({"database": without}))
    elif form == "bmn":
        content = {
            video: {"duration_second": entry["duration"], "annotations": entry["annotations"]}
            for video, entry in entries().items()
        }
        (root / "anet_anno_action.json").write_text(json.dumps(content))
        rows = "".join(f"{video},{entry['subset']}\n" for video, entry in entries().items())
        (root / "video_info_new.csv").write_text("video,subset\n" + rows)
    else:
        (root / "anet12_3cnet.json").write_text(json.dumps({"videos": listed(VIDEOS)}))
    with pytest.warns(UserWarning, match="should hold no segments"):
        found = load_it(root, version=version)
    if form in ("official", "minified"):
        assert [r.name for r in found.train] == ["a", "b"]
        assert [r.streams["rgb"].tolist() for r in found.train] == [r.streams["rgb"].tolist() for r in expected.train]
    else:
        assert_same_data(found, expected)


def listed(videos):
    return [
        {
            "video": name,
            "subset": subset,
            "duration": seconds,
            "segments": [segment for segment, _ in segments],
            "labels": [label for _, label in segments],
            "labels_all": sorted({label for _, label in segments}),
        }
        for name, (subset, seconds, segments) in videos.items()
    ]


@pytest.mark.filterwarnings(CLEANED)
@pytest.mark.parametrize("layout", ["names without v_", "joint", "hdf5"])
def test_all_layouts_of_feature_files_give_the_same_data(root, tmp_path_factory, layout):
    expected = load_it(root)
    root = tmp_path_factory.mktemp("layout")
    (root / "gt.json").write_text(json.dumps({"database": entries()}))
    for name, features in FEATURES.items():
        if layout == "hdf5":
            with h5py.File(root / "features.h5", "a") as file:
                file[name] = features
        elif layout == "joint":
            folder = root / {"training": "train", "validation": "test", "testing": "test"}[VIDEOS[name][0]]
            folder.mkdir(exist_ok=True)
            np.save(folder / f"{name}.npy", features)
        else:
            for stream, columns in (("rgb", slice(0, 3)), ("flow", slice(3, 5))):
                (root / "features" / stream).mkdir(parents=True, exist_ok=True)
                np.save(root / "features" / stream / f"{name[2:]}.npy", features[:, columns])
    assert_same_data(load_it(root), expected)


@pytest.mark.filterwarnings(CLEANED)
def test_annotated_videos_without_features_are_left_out_with_counts(root):
    for stream in WIDTHS:
        (root / "features" / "train" / stream / "v_b.npy").unlink()
    with pytest.warns(UserWarning, match="every annotated recording, got none for 1 of train and 0 of test"):
        found = load_it(root)
    assert [r.name for r in found.train] == ["v_a"]


def test_listed_videos_without_features_are_an_error(root):
    (root / "split_train.txt").write_text("a\nv_b\n")
    (root / "split_test.txt").write_text("v_c\nv_unknown\n")
    (root / "features" / "val" / "rgb" / "v_c.npy").unlink()
    with pytest.raises(IntegrityError) as caught:
        load_it(root)
    assert {(p.file, p.kind) for p in caught.value.problems} == {
        ("split_test.txt: v_unknown", "no annotation"),
        ("features/test/rgb/v_c.npy", "missing"),
    }


@pytest.mark.filterwarnings(CLEANED)
def test_split_files_choose_the_videos(root):
    (root / "split_train.txt").write_text("b\n")
    (root / "split_test.txt").write_text("v_c\n")
    assert [r.name for r in load_it(root).train] == ["v_b"]


def test_a_lonely_split_file_is_an_error(root):
    (root / "split_train.txt").write_text("v_a\n")
    with pytest.raises(IntegrityError, match=r"split_test\.txt: missing"):
        load_it(root)


@pytest.mark.filterwarnings(CLEANED)
def test_features_of_half_a_video_are_noticed(root):
    for stream, width in WIDTHS.items():
        np.save(root / "features" / "train" / stream / "v_a.npy", np.zeros((9, width)))
    with pytest.warns(UserWarning, match="got 1 that cover less than half of their duration, for example v_a"):
        load_it(root)


def test_a_folder_without_any_features_is_an_error(root):
    shutil.rmtree(root / "features")
    with pytest.raises(IntegrityError, match=r"features: no features \(not one video of subset train"):
        load_it(root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"gt\.json: missing \(and no activity_net\.v1-3\.json, anet_anno_action\.json\)"),
        ({"gt.json": "[]"}, r"gt\.json: annotation"),
        ({"gt.json": "{"}, r"gt\.json: unreadable"),
        ({"anet_anno_action.json": "{}"}, r"video_info_new\.csv: missing"),
        (
            {"anet_anno_action.json": "[]", "video_info_new.csv": "video,subset\n"},
            r"anet_anno_action\.json: annotation",
        ),
        ({"anet_anno_action.json": "{}", "video_info_new.csv": "name\nv_a\n"}, r"video_info_new\.csv: unreadable"),
        ({"anet12_3cnet.json": "{}"}, r"anet12_3cnet\.json: annotation \(KeyError: 'videos'\)"),
    ],
)
def test_broken_annotation_files_are_an_error(root, files, message):
    (root / "gt.json").unlink()
    for name, text in files.items():
        (root / name).write_text(text)
    with pytest.raises(IntegrityError, match=message):
        load_it(root, version="1.2" if "anet12_3cnet.json" in files else "1.3")


def test_more_classes_than_the_version_has_are_an_error(root):
    many = {f"v_{i}": entries()["v_a"] | {"annotations": [{"segment": [0, 1], "label": str(i)}]} for i in range(101)}
    (root / "gt.json").write_text(json.dumps({"database": many}))
    with pytest.raises(IntegrityError, match=r"gt\.json: label \(101 classes; version 1\.2 has 100\)"):
        load_it(root, version="1.2")


@pytest.mark.parametrize(("argument", "value"), [("version", "1.4"), ("duplicates", "some")])
def test_unknown_choices_are_an_error(root, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be one of .*, got '{value}'. Choose one"):
        load_it(root, **{argument: value})


# ---- the arrays of the W-TALC line


def wtalc_root(root, change=lambda features: None):
    videos = listed({name: video for name, video in VIDEOS.items() if name != "v_d"})
    features = {v["video"]: np.random.default_rng(0).normal(size=(10, 2048)).astype(np.float32) for v in videos}
    change(features)
    pins = write_wtalc(root, "ActivityNet1.2", videos, features)
    (root / "hashes.json").write_text(json.dumps(pins))
    return features


@pytest.mark.filterwarnings("ignore:ActivityNet1.2-Annotations should hold no segments:UserWarning")
def test_arrays_are_read_and_can_be_converted_to_the_folder_format(tmp_path):
    features = wtalc_root(tmp_path / "arrays")
    found = load("activitynet12", tmp_path / "arrays")
    assert ([r.name for r in found.train], [r.name for r in found.test]) == (["v_a", "v_b"], ["v_c"])
    np.testing.assert_array_equal(found.test[0].streams["flow"], features["v_c"][:, 1024:])
    assert found.test[0].labels == ("Archery", "Ballet")
    write_folder(found, tmp_path / "folder")
    assert_same_data(load_folder(tmp_path / "folder"), found)


@pytest.mark.filterwarnings("ignore:ActivityNet1.2-Annotations should hold no segments:UserWarning")
def test_videos_with_empty_arrays_are_left_out_with_counts(tmp_path):
    wtalc_root(tmp_path, lambda features: features.update(v_a=np.zeros((0, 2048), np.float32)))
    with pytest.warns(UserWarning, match="got none for 1 of train and 0 of test"):
        found = load("activitynet12", tmp_path)
    assert [r.name for r in found.train] == ["v_b"]


# ---- real annotations, simulated features


@pytest.mark.parametrize(
    ("version", "videos", "segments", "classes", "empty", "repeated"),
    [("1.2", (4819, 2383), 10733, 100, 10, 34), ("1.3", (9649, 4728), 22152, 200, 12, 45)],
)
def test_real_annotations_have_the_published_numbers(version, videos, segments, classes, empty, repeated):
    report = Report(require("activitynet"))
    file, found = read_activitynet_annotations(report.root, version, report)
    assert tuple(sum(a.subset == subset for a in found.values()) for subset in ("training", "validation")) == videos
    assert len({label for a in found.values() for label in a.labels}) == classes
    assert sum(len(a.segments) for a in found.values()) == segments
    clean(found, file, report)
    assert [notice.partition(", got ")[2].partition(".")[0] for notice in report.notices] == [str(empty), str(repeated)]
    assert not report.problems


@pytest.mark.filterwarnings("ignore:.* should hold no segments:UserWarning")
def test_simulated_features_have_the_length_of_their_videos(tmp_path):
    write_simulated(tmp_path, require("activitynet"), "1.3", seed=0, width=4, videos=5)
    found = load_activitynet(tmp_path, widths={"rgb": 4, "flow": 4})
    assert (len(found.train), len(found.test)) == (5, 5)
    durations = json.loads((tmp_path / "anet_anno_action.json").read_text())
    for recording in found.train + found.test:
        assert 0 <= durations[recording.name]["duration_second"] - recording.seconds < 0.64


def test_simulation_never_mixes_with_other_features(root):
    with pytest.raises(FileExistsError, match="`root` must not hold features yet"):
        write_simulated(root, require("activitynet"), seed=0)


@pytest.mark.parametrize("dataset", ["activitynet12", "activitynet13"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_have_the_field_s_settings(dataset, recipe):
    config = RECIPES[recipe](dataset)
    assert (config.train.snippets, config.train.batch_size, config.loss.topk_ratio) == (50, 16, 2)
    assert (config.model.hidden, config.model.clusters) == (512, 64)
    assert (config.proposal.class_gate, config.proposal.nms_tiou) == (0.1, 0.7)
    assert config.inference.protocol == "activitynet"
