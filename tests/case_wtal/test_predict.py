"""Prediction on own recordings: every form of features, what is written, and what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from examples.case_wtal import cli
from examples.case_wtal.evaluation import Detections
from examples.case_wtal.predict import find_recordings, predict
from examples.case_wtal.run import load_run, train
from tests.case_wtal.tiny import WIDTHS, tiny_config, tiny_data

DATA = tiny_data()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_config(epochs=4), DATA, folder, progress=False)
    return folder


@pytest.fixture
def features(tmp_path):
    return write_features(tmp_path / "features")


def write_features(root, recordings=DATA.test):
    for recording in recordings:
        for stream, array in recording.streams.items():
            path = root / stream / f"{recording.name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
    return root


def entries(path):
    return json.loads((path / "predictions.json").read_text())["results"]


def test_prediction_finds_what_the_evaluation_of_the_run_found(run_folder, features, tmp_path):
    prediction = predict(run_folder, [str(features)], tmp_path / "out", device="cpu")
    expected = {k: v for k, v in entries(run_folder).items() if v}
    assert {k: v for k, v in entries(tmp_path / "out").items() if v} == expected
    assert len(Detections.read(tmp_path / "out" / "predictions.json")) == len(prediction.detections) > 0
    assert {p.relative_to(tmp_path / "out" / "timelines").as_posix() for p in prediction.pictures} == {
        f"{r.name}.png" for r in DATA.test
    }
    assert all(p.stat().st_size > 10_000 for p in prediction.pictures)
    assert [s.recording.name for s in prediction.scores] == sorted(r.name for r in DATA.test)


def test_a_recording_without_detections_is_there_with_none_and_drawn(run_folder, features, tmp_path, monkeypatch):
    monkeypatch.setattr("examples.case_wtal.predict.detect", lambda *_: Detections.empty())
    prediction = predict(run_folder, [str(features)], tmp_path / "out")
    assert entries(tmp_path / "out") == {r.name: [] for r in DATA.test}
    assert len(prediction.pictures) == len(DATA.test)


def test_a_folder_for_own_data_is_read_with_or_without_annotations(run_folder, features, tmp_path):
    (tmp_path / "own").mkdir()
    features.rename(tmp_path / "own" / "features")
    predict(run_folder, [str(tmp_path / "own")], tmp_path / "out", plots=False, device="cpu")
    assert not (tmp_path / "out" / "timelines").exists()
    assert {k for k, v in entries(tmp_path / "out").items() if v} == {k for k, v in entries(run_folder).items() if v}


def test_hdf5_features_are_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "features.h5", "w") as file:
        for recording in DATA.test:
            for stream, array in recording.streams.items():
                file[f"{stream}/{recording.name}"] = array
    found = find_recordings([str(tmp_path)], WIDTHS, 0.5)
    assert [r.name for r in found] == [r.name for r in DATA.test]
    for one, other in zip(found, DATA.test, strict=True):
        for stream in WIDTHS:
            np.testing.assert_array_equal(one.streams[stream], other.streams[stream])


def test_one_file_a_stream_makes_one_recording_named_after_the_first(run_folder, features, tmp_path):
    files = [f"{stream}={features / stream / 'test' / '1.npy'}" for stream in ("right", "left")]
    prediction = predict(run_folder, files, tmp_path / "out", plots=False)
    assert [s.recording.name for s in prediction.scores] == ["1"]
    assert len(prediction.scores[0].recording) == len(DATA.test[1])


def test_streams_one_snippet_apart_are_cut(features):
    path = features / "left" / "test" / "0.npy"
    np.save(path, np.load(path)[:-1])
    assert len(find_recordings([str(features)], WIDTHS, 0.5)[0]) == len(DATA.test[0]) - 1


def test_snippet_seconds_scale_all_times(run_folder, features, tmp_path):
    once, twice = (
        predict(run_folder, [str(features)], tmp_path / str(s), snippet_seconds=s, plots=False) for s in (0.5, 1.0)
    )
    np.testing.assert_allclose(2 * once.detections.end, twice.detections.end)
    assert once.scores[0].recording.snippet_seconds == 0.5  # what the run knows, too
    assert json.loads((run_folder / "environment.json").read_text())["data"]["snippet_seconds"] == 0.5


def test_a_run_that_does_not_know_the_length_of_a_snippet_asks_for_it(features, tmp_path):
    mixed = replace(DATA, train=(replace(DATA.train[0], snippet_seconds=0.25), *DATA.train[1:]))
    train(tiny_config(epochs=1), mixed, tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="`snippet_seconds` must be given for this run, got none"):
        predict(tmp_path / "run", [str(features)], tmp_path / "out")
    predict(tmp_path / "run", [str(features)], tmp_path / "out", snippet_seconds=0.5, plots=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [("extraction.json", '{"snippet_seconds": 0.64}'), ("dataset.json", '{"fps": 25, "frames_per_snippet": 16}')],
)
def test_features_that_state_another_length_need_a_decision(run_folder, features, tmp_path, name, content):
    (features / name).write_text(content)
    with pytest.raises(ValueError, match=rf"contradict each other, got 0\.5 from the run and 0\.64 from .*{name}"):
        predict(run_folder, [str(features)], tmp_path / "out")
    predict(run_folder, [str(features)], tmp_path / "out", snippet_seconds=0.64, plots=False)
    for other in ("{", '{"snippet_seconds": 0.5}'):
        (features / name).write_text(other)
        predict(run_folder, [str(features)], tmp_path / f"out{len(other)}", plots=False)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_snippet_seconds_must_be_a_length(run_folder, features, tmp_path, value):
    with pytest.raises(ValueError, match="`snippet_seconds` must be positive and finite, got"):
        predict(run_folder, [str(features)], tmp_path / "out", snippet_seconds=value)


def spoil(root, kind):
    path = root / "left" / "test" / "1.npy"
    array = np.load(path)
    if kind == "stream":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    elif kind == "no array":
        path.write_text("features")
    else:
        broken = array.copy()
        broken[3, 2] = np.nan
        np.save(path, {"width": array[:, :5], "nan": broken, "length": array[:-5], "empty": array[:0]}[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("stream", r"test/1: missing \(no stream left\)"),
        ("width", r"left/test/1\.npy: shape \(\(\d+, 5\) instead of \(T, 6\)"),
        ("nan", r"left/test/1\.npy: not finite \("),
        ("length", r"1: lengths \(.*left \d+, right \d+"),
        ("empty", r"left/test/1\.npy: shape \(\(0, 6\)"),
        ("truncated", r"left/test/1\.npy: truncated \(\d+ bytes instead of \d+"),
        ("no array", r"left/test/1\.npy: unreadable"),
    ],
)
def test_broken_features_are_named_beside_what_the_run_was_trained_on(features, kind, message):
    spoil(features, kind)
    trained = r"that the run was trained on, left \(6 wide\), right \(4 wide\), got 1 problem:\n  .*"
    with pytest.raises(ValueError, match=trained + message):
        find_recordings([str(features)], WIDTHS, 0.5)


def test_all_problems_are_listed_at_once(features):
    spoil(features, "nan")
    (features / "right" / "test" / "3.npy").unlink()
    with pytest.raises(ValueError, match=r"got 2 problems:\n.*\n.*test/3: missing|got 2 problems:\n.*test/3: missing"):
        find_recordings([str(features)], WIDTHS, 0.5)


def test_features_must_be_there(features, tmp_path):
    shutil.rmtree(features / "left")
    shutil.rmtree(features / "right")
    with pytest.raises(ValueError, match=r"`features` must hold <stream>/<name>\.npy of left \(6 wide\)"):
        find_recordings([str(features)], WIDTHS, 0.5)
    with pytest.raises(ValueError, match="`features` must be a folder, or stream=file for each stream, got"):
        find_recordings([str(tmp_path / "none")], WIDTHS, 0.5)
    with pytest.raises(ValueError, match="`features` must be one folder, or stream=file for each stream, got a b"):
        find_recordings(["a", "b"], WIDTHS, 0.5)
    for wrong in ("depth=a.npy", "left="):
        with pytest.raises(ValueError, match=rf"once for each of left \(6 wide\), right \(4 wide\), got '{wrong}'"):
            find_recordings([wrong], WIDTHS, 0.5)
    with pytest.raises(ValueError, match=r"got 1 problem:\n  a: missing \(no stream right\)"):
        find_recordings(["left=a.npy"], WIDTHS, 0.5)


def test_results_are_never_overwritten(run_folder, features, tmp_path):
    predict(run_folder, [str(features)], tmp_path / "out", plots=False)
    before = (tmp_path / "out" / "predictions.json").read_bytes()
    with pytest.raises(FileExistsError, match="`out` must hold no predictions yet, got"):
        predict(run_folder, [str(features)], tmp_path / "out")
    assert (tmp_path / "out" / "predictions.json").read_bytes() == before


def test_command_prints_a_table_and_says_where_things_are(run_folder, features, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("examples.case_wtal.commands.predict.MOST_ROWS", 3)
    out = str(tmp_path / "out")
    assert cli.main(["predict", str(run_folder), str(features), "--out", out, "--no-plots", "--device", "cpu"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "test/0" in text
    assert "test/3" not in text
    assert "and 1 more recordings" in text
    assert "A snippet is 0.5 s long" in text
    assert "predictions.json" in text
    assert cli.main(["predict", str(run_folder)]) == 2
    assert "`features` must be a folder, or stream=file for each stream, got nothing" in capsys.readouterr().err
    assert cli.main(["predict", str(tmp_path / "none"), str(features)]) == 2
    assert "`folder` must be a run folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "extract"])
def test_help_works(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"{cli.PROGRAM} {command}" in " ".join(capsys.readouterr().out.split())


def test_command_writes_into_the_run_folder_unless_told_otherwise(run_folder, features, capsys):
    assert cli.main(["predict", str(run_folder), str(features)]) == 0
    assert (run_folder / "predict" / "predictions.json").is_file()
    assert len(list((run_folder / "predict" / "timelines").rglob("*.png"))) == len(DATA.test)
    assert load_run(run_folder)[1].train.epochs == 4


def test_extracted_video_features_go_straight_into_prediction(tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    import torch

    from examples.case_wtal.data import LocalizationData, Recording, Segment
    from examples.case_wtal.extraction.extract import extract_videos
    from examples.case_wtal.extraction.i3d import CHANNELS, I3D
    from examples.case_wtal.extraction.video import find_videos
    from tests.case_wtal.test_extraction import picture, write_video

    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "clip.mp4", [picture(k) for k in range(33)])
    torch.manual_seed(0)
    networks = {stream: I3D(channels).eval() for stream, channels in CHANNELS.items()}
    extract_videos(find_videos([tmp_path / "videos"]), networks, tmp_path / "features")

    def recording(name, length):
        streams = {s: np.random.default_rng(length).random((length, 1024), np.float32) for s in CHANNELS}
        return Recording(name, streams, 16 / 25, (Segment(0, 2, "wave"),), ("wave",))

    data = LocalizationData(
        "videos", ("jump", "wave"), (recording("a", 12), recording("b", 9)), (recording("c", 8),), "test", "Made up."
    )
    train(tiny_config(epochs=1), data, tmp_path / "run", progress=False)
    prediction = predict(tmp_path / "run", [str(tmp_path / "features")], tmp_path / "out")
    (scores,) = prediction.scores
    assert (scores.recording.name, len(scores.recording), scores.recording.seconds) == ("clip", 2, 1.28)
    assert entries(tmp_path / "out").keys() == {"clip"}
    assert prediction.pictures[0].is_file()
