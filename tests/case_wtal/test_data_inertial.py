"""Inertial recordings in the layout of HAPT, SIMULATED here: clips, labels, and what is wrong with a folder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.case_wtal.data import IntegrityError, load, load_inertial
from examples.case_wtal.data.inertial import snippet_features

ACTIVITIES = {1: "WALKING", 2: "STANDING", 7: "STAND_TO_SIT"}
SAMPLES = 4000


def simulate(root, users=(1, 2, 3, 4), raw=True, samples=SAMPLES, suffix="txt"):
    """Noise for each user, louder during each activity; one experiment a user."""
    rng = np.random.default_rng(0)
    folder = root / "RawData" if raw else root
    folder.mkdir(parents=True, exist_ok=True)
    (root / "SIMULATED.txt").write_text("simulated\n")
    (root / "activity_labels.txt").write_text("".join(f"{n} {name}\n" for n, name in ACTIVITIES.items()) + "\n")
    rows = []
    for user in users:
        runs = [(user, user, 1, 101, 600), (user, user, 7, 601, 700), (user, user, 2, 3101, 3300)]
        rows += runs
        for stream in ("acc", "gyro"):
            signal = rng.normal(size=(samples, 3)).round(4)
            for _, _, activity, first, last in runs:
                signal[first - 1 : last] *= 1 + activity
            save(folder / f"{stream}_exp{user:02d}_user{user:02d}.{suffix}", signal)
    (folder / "labels.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    return root


def save(path, signal):
    if path.suffix == ".npy":
        np.save(path, signal)
    else:
        np.savetxt(path, signal, fmt="%.4f", delimiter="," if path.suffix == ".csv" else " ")


def spans(recording):
    return [(s.start, s.end, s.label) for s in recording.segments]


def signal_path(root, user, stream="acc"):
    return root / "RawData" / f"{stream}_exp{user:02d}_user{user:02d}.txt"


# ---- reading


def test_recordings_are_cut_into_clips_with_their_activities(tmp_path):
    found = load("inertial", simulate(tmp_path))
    first, second = found.train[:2]
    assert [r.name for r in found.train[:2]] == ["exp01_user01/00", "exp01_user01/01"]
    assert (len(first), len(second), first.snippet_seconds) == (200, 50, 0.32)
    assert spans(first) == [(2.0, 12.0, "WALKING"), (12.0, 14.0, "STAND_TO_SIT"), (62.0, 64.0, "STANDING")]
    assert spans(second) == [(0.0, 2.0, "STANDING")]
    assert first.labels == ("WALKING", "STANDING", "STAND_TO_SIT")
    assert found.stream_widths == {"acc": 12, "gyro": 12}
    assert "SIMULATED" in found.note


def test_no_user_is_in_both_splits(tmp_path):
    found = load_inertial(simulate(tmp_path))
    users = [{r.name[-5:-3] for r in split} for split in (found.train, found.test)]
    assert users == [{"01", "02", "03"}, {"04"}]
    chosen = load_inertial(tmp_path, test_users=(1, 3))
    assert {r.name[-5:-3] for r in chosen.test} == {"01", "03"}


def test_foreground_leaves_the_other_activities_to_the_background(tmp_path):
    found = load_inertial(simulate(tmp_path), foreground=("STAND_TO_SIT",))
    assert found.classes == ("STAND_TO_SIT",)
    assert spans(found.train[0]) == [(12.0, 14.0, "STAND_TO_SIT")]
    assert found.train[1].labels == ()


def test_short_views_of_an_activity_are_no_part_of_a_clip(tmp_path):
    assert spans(load_inertial(simulate(tmp_path), min_visible=2.5).train[0]) == [(2.0, 12.0, "WALKING")]


def test_lengths_and_rate_change_the_clock(tmp_path):
    simulate(tmp_path)
    coarse = load_inertial(tmp_path, snippet_seconds=0.64, clip_seconds=32.0).train[0]
    assert (len(coarse), coarse.snippet_seconds) == (50, 0.64)
    slow = load_inertial(tmp_path, rate=25.0).train[0]
    assert spans(slow)[0] == (4.0, 24.0, "WALKING")


@pytest.mark.parametrize("suffix", ["csv", "npy"])
def test_other_files_and_a_flat_folder_give_the_same_data(tmp_path, suffix):
    expected = load_inertial(simulate(tmp_path / "a"))
    found = load_inertial(simulate(tmp_path / "b", raw=False, suffix=suffix))
    for a, b in zip(found.train, expected.train, strict=True):
        assert (a.name, a.segments) == (b.name, b.segments)
        np.testing.assert_allclose(a.streams["gyro"], b.streams["gyro"], atol=1e-4)  # signals are written in 1e-4


def test_features_are_mean_deviation_slope_and_waveform_length():
    ramp = np.arange(32.0)[:, None] ** 2
    features = snippet_features(ramp, 8, rate=8.0)
    assert features.shape == (4, 4)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-6)
    assert (np.diff(features, axis=0) > 0).all()


def test_louder_activities_have_larger_deviations(tmp_path):
    found = load_inertial(simulate(tmp_path)).train[0].streams["acc"]
    assert found[40:42, 3:6].mean() > found[10:30, 3:6].mean() > found[60:180, 3:6].mean()


def test_signals_less_than_a_snippet_apart_are_cut_with_a_warning(tmp_path):
    simulate(tmp_path)
    path = signal_path(tmp_path, 2)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-15]))
    with pytest.warns(UserWarning, match="less than a snippet of difference in 1 recordings: exp02_user02"):
        load_inertial(tmp_path)


# ---- what is wrong


def replace_line(file, old, new):
    return lambda root: (root / file).write_text((root / file).read_text().replace(old, new))


def rewrite(user, signal, stream="acc"):
    return lambda root: save(signal_path(root, user, stream), signal)


LABELS = "RawData/labels.txt"
FAULTS = {
    "missing signal": (
        lambda root: signal_path(root, 2).unlink(),
        {("RawData/acc_exp02_user02.txt", "missing")},
    ),
    "no number": (
        lambda root: signal_path(root, 2).write_text("1 2 x\n"),
        {("RawData/acc_exp02_user02.txt", "unreadable")},
    ),
    "empty": (
        lambda root: signal_path(root, 1).write_text(""),
        {("RawData/acc_exp01_user01.txt", "unreadable")},
    ),
    "rows of different length": (
        lambda root: signal_path(root, 2).write_text("1 2 3\n1 2\n"),
        {("RawData/acc_exp02_user02.txt", "unreadable")},
    ),
    "NaN": (rewrite(2, np.full((SAMPLES, 3), np.nan)), {("RawData/acc_exp02_user02.txt", "not finite")}),
    "a channel less": (rewrite(1, np.zeros((SAMPLES, 2))), {("RawData/acc_exp01_user01.txt", "shape")}),
    "too short": (rewrite(2, np.zeros((9, 3))), {("RawData/acc_exp02_user02.txt", "shape")}),
    "half the length": (rewrite(2, np.zeros((SAMPLES // 2, 3))), {("exp02_user02", "lengths")}),
    "no activities": (
        lambda root: (root / "activity_labels.txt").unlink(),
        {("activity_labels.txt", "missing")} | {(f"{LABELS}: line {i}", "label") for i in range(1, 13)},
    ),
    "activity without name": (
        replace_line("activity_labels.txt", "7 STAND_TO_SIT", "7"),
        {("activity_labels.txt: line 3", "annotation")} | {(f"{LABELS}: line {i}", "label") for i in (2, 5, 8, 11)},
    ),
    "no labels": (
        lambda root: (root / LABELS).unlink(),
        {(LABELS, "missing")} | {(f"exp0{i}_user0{i}", "no annotation") for i in range(1, 5)},
    ),
    "labels are no text": (
        lambda root: (root / LABELS).write_bytes(b"\xff"),
        {(LABELS, "unreadable")} | {(f"exp0{i}_user0{i}", "no annotation") for i in range(1, 5)},
    ),
    "row of four": (replace_line(LABELS, "1 1 1 101 600", "1 1 1 101"), {(f"{LABELS}: line 1", "annotation")}),
    "unknown activity": (replace_line(LABELS, "1 1 1 101 600", "1 1 3 101 600"), {(f"{LABELS}: line 1", "label")}),
    "reversed": (replace_line(LABELS, "1 1 1 101 600", "1 1 1 600 101"), {(f"{LABELS}: line 1", "segment")}),
    "from sample 0": (replace_line(LABELS, "1 1 1 101 600", "1 1 1 0 600"), {(f"{LABELS}: line 1", "segment")}),
    "past the end": (replace_line(LABELS, "1 1 1 101 600", "1 1 1 101 9999"), {(f"{LABELS}: line 1", "segment")}),
    "nobody's row": (replace_line(LABELS, "1 1 1 101 600", "8 9 1 101 600"), {(f"{LABELS}: line 1", "no features")}),
}


def problems(root):
    with pytest.raises(IntegrityError) as caught:
        load_inertial(root)
    return {(problem.file, problem.kind) for problem in caught.value.problems}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_place(tmp_path, name):
    break_it, expected = FAULTS[name]
    break_it(simulate(tmp_path))
    assert problems(tmp_path) == expected


def test_a_recording_without_rows_is_a_problem(tmp_path):
    simulate(tmp_path)
    lines = (tmp_path / LABELS).read_text().splitlines(keepends=True)
    (tmp_path / LABELS).write_text("".join(lines[3:]))
    assert problems(tmp_path) == {("exp01_user01", "no annotation")}


def test_a_folder_without_signals_is_a_problem(tmp_path):
    simulate(tmp_path)
    for path in (tmp_path / "RawData").glob("*_exp*"):
        path.unlink()
    assert ("RawData/<stream>_exp<number>_user<number>.txt", "missing") in problems(tmp_path)


BREAKABLE = ("missing signal", "no number", "NaN", "too short", "row of four", "past the end", "unknown activity")


@settings(max_examples=10)
@given(
    st.sets(st.sampled_from(BREAKABLE[:4]), min_size=1, max_size=1), st.sets(st.sampled_from(BREAKABLE[4:]), max_size=1)
)
def test_faults_of_signals_and_rows_are_listed_together(tmp_path_factory, signals, rows):
    root = simulate(tmp_path_factory.mktemp("broken"), samples=3400)
    expected = set()
    for name in signals | rows:
        break_it, found = FAULTS[name]
        break_it(root)
        expected |= found
    assert problems(root) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snippet_seconds": 0.33}, r"`snippet_seconds` must be a multiple of 0\.02 s, at least 0\.04 s, got 0\.33"),
        ({"clip_seconds": 0.64}, r"`clip_seconds` must be a multiple of 0\.32 s, at least 1\.28 s, got 0\.64"),
        ({"min_visible": -1}, "`min_visible` must be at least 0 seconds, got -1"),
        ({"foreground": ("FLYING",)}, r"`foreground` must be among WALKING, .* got \['FLYING'\]"),
        ({"foreground": ()}, "`foreground` must be among WALKING, .* got none"),
        ({"test_users": (9,)}, r"`test_users` must be among 1, 2, 3, 4, got \[9\]"),
        ({"test_users": (1, 2, 3, 4)}, r"`test_users` must leave a user to learn from, got all of \[1, 2, 3, 4\]"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, options, message):
    simulate(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_inertial(tmp_path, **options)
