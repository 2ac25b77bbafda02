"""Trainings of experiments: done once, resumed, kept apart by their settings and data."""

import json
import math
from dataclasses import replace

import pytest
import torch

from examples.case_wtal.config_json import to_plain
from examples.case_wtal.experiments import jobs as module
from examples.case_wtal.experiments.jobs import DATA, fingerprint, job_name, run_job, run_jobs
from tests.case_wtal.tiny import tiny_config, tiny_data

FOREGROUNDS = ("attention", "clusters", "fused")


def settings(seed=0, components="scc_ccc", **train):
    return tiny_config(components, epochs=1, seed=seed, **train)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("jobs"), []
    results = run_jobs(data, [settings(0), settings(1), settings(0)], folder, report=lines.append)
    return results, folder, lines


@pytest.fixture
def trained(monkeypatch):
    """Settings of everything that is trained from here on."""
    seen = []
    monkeypatch.setattr(module, "run_job", lambda c, d, _run=module.run_job: seen.append(c) or _run(c, d))
    return seen


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_results_come_in_the_order_of_the_settings(done):
    assert [r.config.train.seed for r in done[0]] == [0, 1, 0]


def test_equal_settings_are_trained_once(done):
    results, folder, lines = done
    assert len(lines) == 2
    assert lines[0].startswith("[1/2] seed 0: attention ")
    assert len([name for name in files(folder) if name.startswith("seed")]) == 2
    assert results[0] == results[2]


def test_each_seed_has_its_own_numbers(done):
    assert done[0][0].history != done[0][1].history


def test_average_is_the_mean_over_thresholds_in_percent(done):
    for result in done[0]:
        for name in FOREGROUNDS:
            assert result.average(name) == pytest.approx(math.fsum(result.mean_ap[name]) / 7)
            assert 0 <= result.average(name) <= 100
            assert 0 <= result.auc[name] <= 1


def test_history_has_losses_and_entropies_of_every_epoch(data):
    history = run_job(settings(), data).history
    for name in ("loss/total", "clusters/label_entropy", "clusters/class_entropy", "clusters/proportion_entropy"):
        assert len(history[name]) == 1


def test_files_hold_the_results_digit_by_digit(done, data):
    direct = run_job(settings(1), data)
    assert (direct.mean_ap, direct.auc, direct.history) == (done[0][1].mean_ap, done[0][1].auc, done[0][1].history)


def test_files_hold_the_settings(done, data):
    name = job_name(settings(1), data)
    assert json.loads((done[1] / name).read_text())["config"] == to_plain(settings(1))


def test_training_leaves_the_number_of_threads_alone(data):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_job(settings(), data)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_finished_trainings_are_not_repeated(done, data, trained):
    again = run_jobs(data, [settings(0), settings(1)], done[1])
    assert not trained
    assert again == done[0][:2]


def test_an_interrupted_call_goes_on(data, tmp_path, monkeypatch, trained):
    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(data, [settings(0), settings(1)], tmp_path, report=stop)
    assert len(trained) == 1
    run_jobs(data, [settings(0), settings(1)], tmp_path)
    assert [c.train.seed for c in trained] == [0, 1]


def test_a_file_that_was_cut_short_does_not_count(done, data, tmp_path, trained):
    name = job_name(settings(0), data)
    text = (done[1] / name).read_text()
    (tmp_path / f"{name}.part").write_text(text[: len(text) // 2])
    assert run_jobs(data, [settings(0)], tmp_path) == done[0][:1]
    assert len(trained) == 1


def test_selection_on_the_test_split_is_switched_off(done, data, trained):
    (result,) = run_jobs(data, [settings(0, checkpoint="best_on_test")], done[1])
    assert not trained
    assert result.config.train.checkpoint == "last"


def test_no_training_starts_when_one_of_the_settings_is_wrong(data, tmp_path, trained):
    with pytest.raises(ValueError, match=r"`train\.epochs` must be at least 1, got 0"):
        run_jobs(data, [settings(0), tiny_config(epochs=0)], tmp_path)
    assert not trained


def test_jobs_below_one_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="`jobs` must be at least 1, got 0"):
        run_jobs(data, [settings()], tmp_path, jobs=0)


# ---- names


def test_a_name_is_that_of_the_seed_and_the_settings(data):
    plain = settings()
    changes = [
        settings(seed=1),
        settings(components="scc"),
        settings(learning_rate=0.5),
        replace(plain, label=replace(plain.label, sigma=0.2)),
        replace(plain, model=replace(plain.model, clusters=5)),
        replace(plain, model=replace(plain.model, baseline="acmnet")),
        replace(plain, model=replace(plain.model, baseline="acmnet", joint=8)),
        replace(plain, proposal=replace(plain.proposal, nms_tiou=0.5)),
        replace(plain, inference=replace(plain.inference, smoothing=3)),
    ]
    assert len({job_name(c, data) for c in (plain, *changes)}) == 1 + len(changes)
    assert job_name(settings(seed=7), data).startswith("seed7-")


def test_a_name_does_not_depend_on_what_changes_no_number(data):
    plain = settings()
    for same in (
        replace(plain, recipe="mine"),
        replace(plain, root="elsewhere"),
        replace(plain, model=replace(plain.model, joint=8)),  # layers that the own baseline lacks
    ):
        assert job_name(same, data) == job_name(plain, data)


def test_a_name_is_that_of_the_data_too(data):
    assert job_name(settings(), replace(data, note="Others.")) != job_name(settings(), data)
    assert job_name(settings(), replace(data, name="others")) != job_name(settings(), data)


# ---- data


@pytest.mark.parametrize("other", [tiny_data(train=7), tiny_data(test=3), tiny_data(seed=1)])
def test_other_recordings_under_the_same_name_are_refused(done, data, other):
    with pytest.raises(ValueError, match=r"`folder` must hold results of the same recordings, got .* 8 to train and 4"):
        run_jobs(other, [settings()], done[1])


def test_data_sets_of_different_notes_share_a_folder(data, tmp_path):
    for one in (data, replace(tiny_data(train=7), note="Others.")):
        module.claim_folder(tmp_path, one)
        module.claim_folder(tmp_path, one)
    assert len(json.loads((tmp_path / DATA).read_text())) == 2


def test_recordings_are_told_apart_by_labels_and_segments_not_by_features(data):
    first = data.train[0]
    louder = replace(first, streams={name: 2 * features for name, features in first.streams.items()})
    unlabelled = replace(first, labels=())
    shorter = replace(first, segments=first.segments[1:])
    assert fingerprint(replace(data, train=(louder, *data.train[1:]))) == fingerprint(data)
    for other in (unlabelled, shorter):
        assert fingerprint(replace(data, train=(other, *data.train[1:]))) != fingerprint(data)
