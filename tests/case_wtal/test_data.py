"""NinaPro loader and the dispatcher."""

from typing import get_args

import numpy as np
import pytest
from scipy.io import savemat

from examples.case_wtal import data
from examples.case_wtal.commands.common import Dataset
from examples.case_wtal.data import load, load_ninapro, ninapro
from examples.case_wtal.recipes import paper
from tests.case_wtal.shared_data import require

SUBJECTS = (*ninapro.TRAIN_SUBJECTS, *ninapro.DEV_SUBJECTS)


def packed(samples, runs=(), seed=0):
    """Arrays of a re-packed file: random signals, and (first, last, movement) runs."""
    rng = np.random.default_rng(seed)
    movement = np.zeros(samples, np.uint8)
    for first, last, number in runs:
        movement[first:last] = number
    return {
        "emg_e4": rng.integers(0, 20000, (10, samples), dtype=np.uint16),
        "glove_e2": rng.integers(100, 22900, (22, samples), dtype=np.int16),
        "restimulus": movement,
    }


def original(arrays):
    """What the original `.mat` holds for the same recording."""
    return {
        "emg": arrays["emg_e4"].T * 1e-4,
        "glove": arrays["glove_e2"].T * 1e-2,
        "restimulus": arrays["restimulus"][:, None],
    }


def write(root, arrays, subjects=SUBJECTS, kind="npz"):
    for subject in subjects:
        if kind == "npz":
            np.savez(root / f"S{subject}_A1_E1.npz", **arrays)
        else:
            savemat(root / f"S{subject}_A1_E1.mat", original(arrays))
    return root


def spans(recording):
    return [(s.start, s.end, s.label) for s in recording.segments]


# ---- NinaPro on made-up files


def test_clips_and_segments_agree_with_a_loop_over_samples(tmp_path):
    rng = np.random.default_rng(3)
    starts = np.arange(0, 15000, 500)
    arrays = packed(16000, [(s, s + int(rng.integers(20, 480)), int(rng.integers(1, 13))) for s in starts])
    clips = load_ninapro(write(tmp_path, arrays), clip_seconds=32.0).train[:5]
    assert [len(clip) for clip in clips] == [100, 100, 100, 100, 100]
    for number, clip in enumerate(clips):
        found, run = [], 0
        movement = [*arrays["restimulus"][number * 3200 : (number + 1) * 3200].tolist(), 0]
        for sample in range(1, 3201):
            if movement[sample] != movement[sample - 1]:
                label = movement[sample - 1]
                if label and sample - run >= 50:
                    found.append((run / 100, sample / 100, ninapro.MOVEMENTS[label - 1]))
                run = sample
        assert spans(clip) == found
        assert set(clip.labels) == {label for *_, label in found}


def test_a_movement_across_a_border_is_cut_in_two(tmp_path):
    arrays = packed(12800, [(6200, 6800, 4)])
    first, second = load_ninapro(write(tmp_path, arrays)).train[:2]
    assert spans(first) == [(62.0, 64.0, "middle extension")]
    assert spans(second) == [(0.0, 4.0, "middle extension")]


@pytest.mark.parametrize(("visible", "labels"), [(49, ()), (50, ("index flexion",))])
def test_label_needs_half_a_second_in_view(tmp_path, visible, labels):
    first = load_ninapro(write(tmp_path, packed(9600, [(6400 - visible, 7000, 1)]))).train[0]
    assert first.labels == labels


def test_min_visible_changes_the_labels(tmp_path):
    write(tmp_path, packed(9600, [(6360, 7000, 1)]))
    assert load_ninapro(tmp_path).train[0].labels == ()
    assert load_ninapro(tmp_path, min_visible=0.3).train[0].labels == ("index flexion",)


def test_remainder_is_kept_in_whole_snippets_and_dropped_below_a_second(tmp_path):
    (tmp_path / "long").mkdir()
    (tmp_path / "short").mkdir()
    kept = load_ninapro(write(tmp_path / "long", packed(6400 + 150)))
    assert [len(clip) for clip in kept.train[:2]] == [200, 4]
    dropped = load_ninapro(write(tmp_path / "short", packed(6400 + 127)))
    assert [len(clip) for clip in dropped.train[:2]] == [200, 200]


def test_snippet_length_changes_clock_and_features(tmp_path):
    write(tmp_path, packed(6400))
    coarse = load_ninapro(tmp_path, snippet_seconds=0.64).train[0]
    fine = load_ninapro(tmp_path).train[0]
    assert (len(coarse), coarse.snippet_seconds) == (100, 0.64)
    assert coarse.seconds == pytest.approx(fine.seconds)
    assert not np.allclose(coarse.streams["emg"], fine.streams["emg"][::2])


def test_features_are_standardised_over_the_whole_recording(tmp_path):
    arrays = packed(16000)
    arrays["emg_e4"][:, 8000:] //= 4
    clips = load_ninapro(write(tmp_path, arrays)).train[:3]
    for stream in ("emg", "glove"):
        whole = np.concatenate([clip.streams[stream] for clip in clips])
        assert whole.dtype == np.float32
        np.testing.assert_allclose(whole.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(whole.std(axis=0), 1, atol=1e-5)
    assert clips[0].streams["emg"][:, :10].mean() > clips[2].streams["emg"][:, :10].mean() + 1


def test_silent_channel_gives_zeros(tmp_path):
    arrays = packed(6400)
    arrays["emg_e4"][3] = 24
    arrays["glove_e2"][5] = 1234
    streams = load_ninapro(write(tmp_path, arrays)).train[0].streams
    assert not streams["emg"][:, [3, 13, 23, 33]].any()
    assert not streams["glove"][:, [5, 27, 49]].any()
    assert streams["emg"][:, 4].any()


def test_logarithms_of_silence_are_those_of_one_converter_step():
    np.testing.assert_allclose(ninapro.emg_features(np.zeros((64, 10)), 32), np.full((2, 40), np.log(10 / 4096)))


def test_mat_is_read_where_a_subject_has_both(tmp_path):
    write(tmp_path, packed(6400, [(100, 400, 1)]))
    write(tmp_path, packed(6400, [(100, 400, 2)]), subjects=(10,), kind="mat")
    train = load_ninapro(tmp_path).train
    assert train[0].labels == ("index extension",)
    assert train[1].labels == ("index flexion",)


def test_missing_subjects_are_all_named(tmp_path):
    write(tmp_path, packed(200), subjects=SUBJECTS[2:])
    with pytest.raises(FileNotFoundError, match=r"`root` must hold .* of 16 subjects, .* without subjects \[10, 11\]"):
        load_ninapro(tmp_path)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("snippet_seconds", 0.325), ("snippet_seconds", 0.01), ("clip_seconds", 64.1), ("clip_seconds", 0.96)],
)
def test_lengths_must_be_whole_multiples(tmp_path, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be a multiple of .* got {value}. The nearest is"):
        load_ninapro(tmp_path, **{argument: value})


def test_negative_visibility_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"`min_visible` must be at least 0 seconds, got -0\.1"):
        load_ninapro(tmp_path, min_visible=-0.1)


def test_file_of_another_exercise_is_an_error(tmp_path):
    arrays = packed(300, [(0, 100, 13)])
    with pytest.raises(ValueError, match=r"movements are 0..12, got \[13\] in S10_A1_E1.npz"):
        load_ninapro(write(tmp_path, arrays))


@pytest.mark.parametrize("kind", ["npz", "mat"])
def test_file_without_labels_is_an_error(tmp_path, kind):
    write(tmp_path, packed(300), kind=kind)
    path = tmp_path / f"S10_A1_E1.{kind}"
    if kind == "npz":
        np.savez(path, emg_e4=np.zeros((10, 300)))
    else:
        savemat(path, {"emg": np.zeros((300, 10))})
    with pytest.raises(ValueError, match=rf"must hold files with the arrays .*restimulus, got only .* in {path.name}"):
        load_ninapro(tmp_path)


def test_wrong_channels_are_an_error(tmp_path):
    arrays = packed(300)
    arrays["emg_e4"] = arrays["emg_e4"][:8]
    with pytest.raises(ValueError, match=r"10 EMG channels, .* got shapes \(\(300, 8\), .* in S10_A1_E1.npz"):
        load_ninapro(write(tmp_path, arrays))


# ---- NinaPro, real files


def test_mat_and_npz_of_one_recording_give_the_same_data(tmp_path):
    with np.load(require("ninapro_db1") / "S20_A1_E1.npz") as archive:
        arrays = {name: archive[name][..., :9000] for name in ("emg_e4", "glove_e2", "restimulus")}
    arrays["restimulus"] = arrays["restimulus"].ravel()
    for kind in ("npz", "mat"):
        (tmp_path / kind).mkdir()
    ours = load_ninapro(write(tmp_path / "npz", arrays))
    theirs = load_ninapro(write(tmp_path / "mat", arrays, kind="mat"))
    assert [r.name for r in ours.train + ours.test] == [r.name for r in theirs.train + theirs.test]
    for a, b in zip(ours.train + ours.test, theirs.train + theirs.test, strict=True):
        assert spans(a) == spans(b)
        assert a.labels == b.labels
        for stream in ("emg", "glove"):
            np.testing.assert_array_equal(a.streams[stream], b.streams[stream])


def test_real_recordings_have_the_measured_facts():
    found = load_ninapro(require("ninapro_db1"))
    assert {int(r.name[1:3]) for r in found.train} == {*range(10, 20), 26, 27}
    assert {int(r.name[1:3]) for r in found.test} == {20, 21, 22, 25}
    assert (len(found.train), len(found.test), found.test_split) == (192, 64, "dev")
    assert sum(len(r) == 200 for r in found.train) == 180
    assert found.stream_widths == {"emg": 40, "glove": 66}
    foreground = sum(s.end - s.start for r in found.train for s in r.segments)
    assert 1 - foreground / sum(r.seconds for r in found.train) == pytest.approx(0.567, abs=0.001)
    assert all(r.labels for r in found.train)
    assert {label for r in found.test for label in r.labels} == set(found.classes)


def test_unlisted_subjects_are_not_read(tmp_path):
    write(tmp_path, packed(200))
    (tmp_path / "S1_A1_E1.npz").write_bytes(b"not an archive")
    assert {r.name[:3] for r in load_ninapro(tmp_path).train} == {f"S{n}" for n in ninapro.TRAIN_SUBJECTS}


# ---- dispatcher


def test_load_passes_the_seed_to_watch():
    assert load("watch", seed=1).train[0].segments != load("watch").train[0].segments


def test_load_passes_the_root(tmp_path):
    assert load("ninapro", write(tmp_path, packed(200))).name == "ninapro"


def test_unknown_name_lists_the_known():
    with pytest.raises(
        ValueError, match=r"`name` must be one of watch, ninapro, inertial, thumos14, .*folder, got 'thumos'"
    ):
        load("thumos")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ninapro", "S<n>_A1_E1.mat"),
        ("inertial", "activity_labels.txt"),
        ("thumos14", "gt.json"),
        ("thumos14-212", "gt.json"),
        ("activitynet12", "annotations"),
        ("activitynet13", "annotations"),
        ("folder", "dataset.json"),
    ],
)
def test_missing_root_says_what_it_must_hold(tmp_path, name, content):
    with pytest.raises(ValueError, match=f'`root` must be a folder for "{name}", got None. It must hold {content}'):
        load(name)
    with pytest.raises(FileNotFoundError, match=f"got .*absent. It must hold {content}"):
        load(name, tmp_path / "absent")


def test_root_for_watch_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='`root` must be None for "watch"'):
        load("watch", tmp_path)


def test_every_data_set_of_the_command_line_can_be_loaded_and_has_a_recipe():
    assert {*get_args(Dataset)} == {"watch", *data.ON_DISK}
    assert all(paper(name).dataset == name for name in get_args(Dataset))


def test_all_names_exist():
    assert all(hasattr(data, name) for name in data.__all__)
