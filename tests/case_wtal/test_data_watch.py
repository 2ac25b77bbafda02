"""Smartwatch recordings: reading the installed file, and composing untrimmed recordings from it."""

import sys
from importlib import metadata
from itertools import pairwise

import numpy as np
import pytest

from examples.case_wtal.data import load_watch, watch
from examples.case_wtal.data.composition import Piece, PlanSettings, plan_recording, split_groups
from examples.case_wtal.data.watch import compose_recording, find_watch_file, motion_features, read_wearers

SETTINGS = PlanSettings(background=(0, 6), piece=(150, 600), total=(3000, 5000), share=(0.4, 0.6), most_classes=3)
LENGTHS = (1489, 2455, 2416, 2618, 2462, 2256, 1933)
SCARCE = (1064, 1124, 1130, 970, 1065, 975, 947)


def plans(lengths=LENGTHS, settings=SETTINGS, count=100, seed=0):
    rng = np.random.default_rng(seed)
    return [plan_recording(lengths, settings, rng) for _ in range(count)]


def background_share(pieces):
    return sum(len(p) for p in pieces if p.exercise in (0, 6)) / sum(map(len, pieces))


@pytest.fixture(scope="module")
def wearers():
    return read_wearers(find_watch_file())


@pytest.fixture(scope="module")
def default():
    return load_watch()


def same(a, b):
    return all(
        x.name == y.name
        and x.segments == y.segments
        and all(np.array_equal(x.streams[stream], y.streams[stream]) for stream in x.streams)
        for x, y in zip(a.train + a.test, b.train + b.test, strict=True)
    )


# ---- plans


@pytest.mark.parametrize("lengths", [LENGTHS, SCARCE])
def test_no_sample_is_used_twice_in_one_recording(lengths):
    for pieces in plans(lengths):
        for exercise in range(7):
            spans = sorted((p.start, p.stop) for p in pieces if p.exercise == exercise)
            assert all(0 <= start < stop <= lengths[exercise] for start, stop in spans)
            assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


@pytest.mark.parametrize("lengths", [LENGTHS, SCARCE])
def test_neighbours_are_of_different_exercises(lengths):
    assert all(a.exercise != b.exercise for pieces in plans(lengths) for a, b in pairwise(pieces))


@pytest.mark.parametrize("lengths", [LENGTHS, SCARCE])
def test_background_keeps_to_the_wanted_share(lengths):
    shares = [background_share(pieces) for pieces in plans(lengths)]
    # A last piece is not trimmed below 3 s and an order may need a piece dropped: up to 5 % beside the range.
    assert 0.35 < min(shares) < max(shares) < 0.65
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)


def test_one_to_three_classes_all_occur_about_equally():
    found = [{p.exercise for p in pieces} - {0, 6} for pieces in plans(count=300)]
    assert {len(classes) for classes in found} == {1, 2, 3}
    counts = [sum(exercise in classes for classes in found) for exercise in range(1, 6)]
    assert max(counts) < 1.35 * min(counts)


def test_scarce_signal_shortens_the_recording_instead_of_repeating_it():
    rich = [sum(map(len, pieces)) for pieces in plans()]
    scarce = [sum(map(len, pieces)) for pieces in plans(SCARCE)]
    assert np.mean(scarce) < np.mean(rich)
    assert min(scarce) > 2000


def test_pieces_keep_to_their_lengths():
    lengths = [len(p) for pieces in plans() for p in pieces]
    assert min(lengths) >= 150
    assert max(lengths) <= 600


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        ({"background": (0, 5)}, lambda pieces: any(p.exercise == 6 for p in pieces) and len(pieces)),
        ({"piece": (150, 300)}, lambda pieces: max(map(len, pieces))),
        ({"total": (5000, 5000)}, lambda pieces: sum(map(len, pieces))),
        ({"share": (0.7, 0.7)}, background_share),
        ({"most_classes": 1}, lambda pieces: len({p.exercise for p in pieces})),
    ],
)
def test_every_setting_changes_the_plan(change, measure):
    changed = PlanSettings(**{**vars(SETTINGS), **change})
    assert [measure(p) for p in plans(count=10)] != [measure(p) for p in plans(settings=changed, count=10)]


def test_one_class_with_too_many_pieces_is_thinned_until_an_order_exists():
    settings = PlanSettings(background=(0,), piece=(150, 150), total=(3000, 3000), share=(0.2, 0.2), most_classes=1)
    for pieces in plans((2000, 5000), settings, count=20):
        assert all(a.exercise != b.exercise for a, b in pairwise(pieces))
        assert sum(p.exercise == 1 for p in pieces) == sum(p.exercise == 0 for p in pieces) + 1


def test_split_keeps_groups_together():
    groups = ((1, 2), (3, 4), (5, 6), (7, 10), (8, 9))
    for seed in range(10):
        train, test = split_groups(groups, 3, np.random.default_rng(seed))
        assert sorted(train + test) == list(range(1, 11))
        assert len(train) == 6
        assert all(set(group) <= set(train) or set(group) <= set(test) for group in groups)


# ---- the file


def test_package_is_never_imported(default):
    assert len(default.train) == 150
    assert not any(name.split(".")[0] == "seglearn" for name in sys.modules)


def test_changed_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "watch_dataset.npy"
    path.write_bytes(find_watch_file().read_bytes() + b"x")
    with pytest.raises(
        ValueError, match=rf"SHA-256 {watch.SHA256}, got .*watch_dataset.npy with [0-9a-f]{{64}}"
    ) as caught:
        read_wearers(path)
    assert "It was not opened. Reinstall it" in str(caught.value)


def test_missing_package_says_how_to_install_it(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(
        FileNotFoundError, match=r"watch_dataset.npy of the package seglearn.*pip install seglearn==1.2.5"
    ):
        load_watch()


def test_package_without_its_file_is_the_same_error(monkeypatch):
    monkeypatch.setattr(metadata, "files", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install seglearn"):
        find_watch_file()


def test_wearers_are_both_arms_of_ten_subjects(wearers):
    assert [w.name for w in wearers] == [f"S{n}-{side}" for n in range(1, 11) for side in ("left", "right")]
    seconds = [len(signal) / 50 for w in wearers for signal in w.series]
    assert (len(seconds), min(seconds), max(seconds)) == (140, 18.94, 52.36)
    assert all(signal.shape[1] == 6 for w in wearers for signal in w.series)


def test_pairs_agree_in_length_more_than_other_subjects(wearers):
    lengths = {}
    for wearer in wearers:
        lengths.setdefault(wearer.subject, []).extend(len(signal) for signal in wearer.series)
    gap = {
        (a, b): np.median(np.abs(np.log(np.array(lengths[a]) / np.array(lengths[b]))))
        for a in lengths
        for b in lengths
        if a < b
    }
    closest = sorted(gap, key=gap.get)[:4]
    assert set(closest) <= set(watch.PAIRS)


# ---- composed recordings


def test_segments_are_the_foreground_pieces(wearers):
    pieces = (Piece(0, 0, 200), Piece(1, 100, 420), Piece(6, 0, 160), Piece(5, 0, 165))
    recording = compose_recording(wearers[0], pieces, "made up")
    assert [(s.start, s.end, s.label) for s in recording.segments] == [
        (4.0, 10.4, "abduction"),
        (13.6, 16.64, "trapezius extension"),  # 845 samples hold 52 snippets, 16.64 s
    ]
    assert recording.labels == ("abduction", "trapezius extension")
    assert (len(recording), recording.snippet_seconds) == (52, 0.32)


def test_features_are_those_of_the_pieces(wearers):
    pieces = (Piece(0, 0, 160), Piece(1, 160, 480))
    recording = compose_recording(wearers[3], pieces, "made up")
    signal = np.concatenate([wearers[3].series[0][:160], wearers[3].series[1][160:480]])
    for stream, columns in (("accelerometer", slice(0, 3)), ("gyroscope", slice(3, 6))):
        raw = motion_features(signal[:, columns])
        expected = (raw - raw.mean(axis=0)) / raw.std(axis=0)
        np.testing.assert_allclose(recording.streams[stream], expected, rtol=1e-4, atol=1e-5)


def test_motion_features_agree_with_a_loop():
    axes = np.random.default_rng(0).normal(size=(200, 3))
    features = motion_features(axes)
    assert features.shape == (12, 24)  # 8 samples do not fill a snippet
    for t in range(12):
        window = axes[[min(max(i, 0), 191) for i in range(16 * t - 40, 16 * t + 56)]]
        for c in range(4):
            x = window[:, c] if c < 3 else np.sqrt((window**2).sum(axis=1))
            trend = np.polyfit(np.arange(96) / 50, x, 1)[0]
            expected = [x.mean(), x.std(), x.min(), x.max(), np.abs(x[1:] - x[:-1]).sum(), trend]
            np.testing.assert_allclose(features[t, c::4], expected)


def test_default_data_have_the_documented_size(default):
    assert (len(default.train), len(default.test)) == (150, 60)
    assert default.stream_widths == {"accelerometer": 24, "gyroscope": 24}
    assert len(default.classes) == 5
    assert not {"pendulum", "row"} & set(default.classes)
    lengths = [len(r) for r in default.train + default.test]
    assert 230 < np.mean(lengths) < 270
    assert all(1 <= len(r.labels) <= 3 for r in default.train + default.test)
    assert "composed from real" in default.note


def test_train_and_test_share_no_pair_of_subjects():
    halves = set()
    for seed in range(4):
        found = load_watch(seed=seed, train_recordings=12, test_recordings=8)
        train, test = ({int(r.name[1:].split("-")[0]) for r in split} for split in (found.train, found.test))
        assert (len(train), len(test)) == (6, 4)
        assert all(set(pair) <= train or set(pair) <= test for pair in watch.PAIRS)
        halves.add(tuple(sorted(test)))
    assert len(halves) > 1


def test_arms_give_equally_many_recordings(default):
    arms = [r.name.split("/")[0] for r in default.train]
    counts = {arm: arms.count(arm) for arm in arms}
    assert len(counts) == 12
    assert max(counts.values()) - min(counts.values()) <= 1


def test_seed_decides_everything(default):
    assert same(default, load_watch(seed=0))
    assert not same(default, load_watch(seed=1))


def test_sizes_and_ranges_change_the_recordings():
    few = load_watch(train_recordings=3, test_recordings=2, seconds=(30.0, 40.0), background_share=(0.2, 0.25))
    assert (len(few.train), len(few.test)) == (3, 2)
    recordings = few.train + few.test
    foreground = sum(s.end - s.start for r in recordings for s in r.segments)
    assert foreground / sum(r.seconds for r in recordings) > 0.65
    assert all(r.seconds < 45 for r in recordings)


@pytest.mark.parametrize("argument", ["train_recordings", "test_recordings"])
def test_no_recordings_is_an_error(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be at least 1, got 0"):
        load_watch(**{argument: 0})


@pytest.mark.parametrize(
    ("argument", "bounds"),
    [
        ("seconds", (80.0, 60.0)),
        ("seconds", (12.0, 60.0)),
        ("background_share", (0.0, 0.5)),
        ("background_share", (0.5, 1.0)),
    ],
)
def test_ranges_are_checked(argument, bounds):
    with pytest.raises(ValueError, match=rf"`{argument}` must be \(smallest, largest\), both strictly between"):
        load_watch(**{argument: bounds})
