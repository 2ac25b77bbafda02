"""Runs: what a folder holds, and that resuming, loading and repeating give the same bits."""

import csv
import json
import signal
from dataclasses import replace

import pytest
import torch

from examples.case_wtal.callbacks import EpochSampler
from examples.case_wtal.config import InferenceConfig, LabelConfig
from examples.case_wtal.data import load
from examples.case_wtal.data.thumos14 import load_thumos14
from examples.case_wtal.data.thumos14_simulated import write_simulated_features
from examples.case_wtal.evaluation import Detections, foreground_auc
from examples.case_wtal.inference import score_recordings
from examples.case_wtal.module import CaseModule
from examples.case_wtal.recipes import RECIPES
from examples.case_wtal.run import (
    evaluate_detections,
    evaluate_run,
    foreground_aucs,
    load_run,
    test_average,
    train,
)
from examples.case_wtal.run_folder import read_origin
from tests.case_wtal.shared_data import require
from tests.case_wtal.tiny import tiny_config, tiny_data

average_on_test = test_average
del test_average  # pytest would collect it


def assert_same_state(a, b):
    a, b = (dict(module.state_dict()) for module in (a, b))
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def interrupt(monkeypatch, epoch, step, error=None):
    """Let training fail in the given step of the given epoch, or of all if that is None."""
    whole = CaseModule.training_step
    seen = []

    def training_step(self, batch):
        if epoch is None or self.current_epoch == epoch:
            seen.append(1)
            if len(seen) > step:
                raise error or RuntimeError("the power is gone")
        return whole(self, batch)

    monkeypatch.setattr(CaseModule, "training_step", training_step)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(tiny_config(epochs=3), data, folder, progress=False), folder


def test_run_folder_holds_everything(finished, data):
    _, folder = finished
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("tensorboard/events")}
    assert len(events) == 1
    assert names - events == {
        "config.json",
        "environment.json",
        "metrics.csv",
        "predictions.json",
        "evaluation.json",
        "evaluation.txt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "tensorboard/hparams.yaml",
    }
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert {"python", "platform", "seed", "threads", "device"} <= environment.keys()
    assert environment["data"]["note"] == data.note
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert {"loss/video", "loss/attention", "loss/snippet", "loss/cluster", "loss/total"} <= rows[0].keys()


def test_evaluation_files_name_protocol_data_and_selection(finished, data):
    module, folder = finished
    content = json.loads((folder / "evaluation.json").read_text())
    (protocol,), origin = content["protocols"], content["origin"]
    assert protocol["average"] == average_on_test(module, data)
    assert protocol["protocol"].startswith("thumos14: ActivityNet-style AP")
    assert (origin["data"], origin["split"], origin["weights"]) == (data.note, "dev", "last epoch")
    text = (folder / "evaluation.txt").read_text()
    assert data.note in text
    assert "Weights: last epoch" in text
    found = Detections.read(folder / "predictions.json")
    assert evaluate_detections(found, data, "thumos14").average == protocol["average"]


def test_evaluation_files_hold_the_foreground_auc_of_what_was_trained(finished, data, tmp_path):
    module, folder = finished
    auc = read_origin(folder).foreground_auc
    scores = score_recordings(module, data.test)
    assert auc == foreground_aucs(scores, module.config)
    assert auc.keys() == {"attention", "clusters", "both fused"}
    assert auc["attention"] == foreground_auc([s.attention for s in scores], data.test)
    assert f"Foreground AUC of snippets: attention {auc['attention']:.3f}, " in (folder / "evaluation.txt").read_text()
    base = tiny_config("baseline")
    assert foreground_aucs(scores, base).keys() == {"attention"}
    assert foreground_aucs(scores, replace(base, loss=replace(base.loss, attention=False))) == {}


@pytest.mark.parametrize("content", ["{", "{}", '{"origin": null}', '{"origin": {"split": "dev"}}'])
def test_an_evaluation_that_no_run_wrote_is_an_error(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"`folder` must hold an evaluation\.json that a run wrote, got .*Make it again"
    ):
        read_origin(tmp_path)


def test_a_class_that_the_test_split_lacks_is_named_in_the_evaluation(data, tmp_path):
    (gone,) = {"turn"} & {label for r in data.test for label in r.labels}
    kept = tuple(replace(r, segments=tuple(s for s in r.segments if s.label != gone)) for r in data.test)
    train(tiny_config(epochs=1), replace(data, test=kept), tmp_path / "run", progress=False)
    content = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert gone not in content["protocols"][0]["ap"]
    assert list(content["protocols"][0]["classes_without_instances"]) == [gone]
    assert f"Known classes without an instance in subset dev of tiny: {gone}: " in content["notes"][0]
    assert content["notes"][0] in (tmp_path / "run" / "evaluation.txt").read_text()


def test_loaded_run_is_the_trained_one(finished, data):
    module, folder = finished
    loaded, config = load_run(folder)
    assert config == tiny_config(epochs=3)
    assert not loaded.training
    assert_same_state(loaded, module)
    assert not torch.equal(loaded.cluster_foreground, torch.full((4,), 0.5))
    before = (folder / "predictions.json").read_bytes()
    assert evaluate_run(folder, data).average == average_on_test(module, data)
    assert (folder / "predictions.json").read_bytes() == before


def test_checkpoint_holds_tensors_and_plain_values_only(finished):
    checkpoint = torch.load(finished[1] / "checkpoints" / "last.ckpt", weights_only=True)
    assert "cluster_foreground" in checkpoint["state_dict"]


def test_without_a_folder_nothing_is_written_and_the_result_is_the_same(finished, data, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert_same_state(train(tiny_config(epochs=3), data, progress=False), finished[0])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_seed_decides_the_result(finished, data):
    other = train(tiny_config(epochs=3, seed=1), data, progress=False)
    assert not torch.equal(other.state_dict()["cluster_foreground"], finished[0].cluster_foreground)


@pytest.mark.parametrize("snippets", [None, 12])
@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 1), (2, 0)])
def test_resumed_run_is_bit_identical(data, tmp_path, epoch, step, snippets):
    config = replace(tiny_config(epochs=3, snippets=snippets), label=LabelConfig(memory="ema"))
    whole = train(config, data, tmp_path / "whole", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, epoch, step)
        with pytest.raises(RuntimeError, match="the power is gone"):
            train(config, data, tmp_path / "cut", progress=False)
    torch.rand(5)  # another process would have another random state
    resumed = train(config, data, tmp_path / "cut", progress=False, resume=True)
    assert_same_state(resumed, whole)
    for name in ("metrics.csv", "predictions.json", "evaluation.json"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()


def staged(stages, **loss):
    config = tiny_config(stages=stages)
    return replace(config, loss=replace(config.loss, **{"class_weight": 1.0, "warm_start_epochs": 1} | loss))


def class_weights(module):
    return module.network.baseline.streams["left"].classifier.weight


def test_a_second_stage_learns_from_the_first(data, tmp_path):
    alone = train(staged(1), data, progress=False)
    last = train(staged(2), data, tmp_path / "run", progress=False)
    earlier, config = load_run(tmp_path / "run" / "earlier")
    assert config == staged(1)
    assert_same_state(earlier, alone)
    assert not torch.equal(class_weights(last), class_weights(alone))
    assert_same_state(load_run(tmp_path / "run")[0], last)
    third = train(staged(3), data, tmp_path / "three", progress=False)
    assert_same_state(load_run(tmp_path / "three" / "earlier")[0], last)
    assert not torch.equal(class_weights(third), class_weights(last))


@pytest.mark.parametrize("loss", [{"class_weight": 0.0}, {"components": "baseline"}])
def test_without_class_labels_there_is_one_stage(data, tmp_path, loss):
    assert_same_state(train(staged(2, **loss), data, tmp_path, progress=False), train(staged(1, **loss), data))
    assert not (tmp_path / "earlier").exists()


@pytest.mark.parametrize("step", [1, 5])  # of two each epoch, so in either stage
def test_a_staged_run_resumes_in_either_stage(data, tmp_path, step):
    whole = train(staged(2), data, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, None, step)
        with pytest.raises(RuntimeError, match="the power is gone"):
            train(staged(2), data, tmp_path, progress=False)
    assert not (tmp_path / "predictions.json").exists()
    assert_same_state(train(staged(2), data, tmp_path, progress=False, resume=True), whole)


def test_a_run_that_was_moved_resumes(data, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 1, 0)
        with pytest.raises(RuntimeError, match="the power is gone"):
            train(tiny_config(), data, tmp_path / "here", progress=False)
    (tmp_path / "here").rename(tmp_path / "there")
    resumed = train(tiny_config(), data, tmp_path / "there", progress=False, resume=True)
    assert not (tmp_path / "here").exists()
    assert_same_state(resumed, train(tiny_config(), data, progress=False))


def test_interruption_from_the_keyboard_reaches_the_caller(data, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 1, 0, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(), data, tmp_path, progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = train(tiny_config(), data, tmp_path, progress=False, resume=True)
    assert_same_state(resumed, train(tiny_config(), data, progress=False))


def test_resuming_a_finished_run_changes_nothing(data, tmp_path):
    config = tiny_config(checkpoint="best_on_test")
    whole = train(config, data, tmp_path, progress=False)
    metrics = (tmp_path / "metrics.csv").read_text()
    assert_same_state(train(config, data, tmp_path, progress=False, resume=True), whole)
    assert (tmp_path / "metrics.csv").read_text() == metrics


def test_epoch_sampler_depends_on_seed_and_epoch_alone():
    epoch = 0
    sampler = EpochSampler(20, 3, lambda: epoch)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert sorted(first) == list(range(20)) == list(range(len(sampler)))
    epoch = 1
    assert list(sampler) != first
    assert list(EpochSampler(20, 4, lambda: 0)) != first


def test_best_on_test_keeps_the_best_epoch_and_says_so(data, tmp_path):
    config = tiny_config(epochs=9, learning_rate=0.05, checkpoint="best_on_test")
    best = train(config, data, tmp_path / "best", progress=False)
    ends = [train(replace(config, train=replace(config.train, epochs=e, checkpoint="last")), data) for e in (4, 8, 9)]
    averages = [average_on_test(module, data) for module in ends]
    assert average_on_test(best, data) == max(averages)
    assert_same_state(best, ends[averages.index(max(averages))])
    assert_same_state(load_run(tmp_path / "best")[0], best)
    for name in ("evaluation.txt", "evaluation.json"):
        assert "best on test (test labels used for selection)" in (tmp_path / "best" / name).read_text()


def test_best_on_test_resumes_with_its_best(data, tmp_path):
    config = tiny_config(epochs=6, learning_rate=0.05, checkpoint="best_on_test")
    whole = train(config, data, tmp_path / "whole", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 5, 0)
        with pytest.raises(RuntimeError, match="the power is gone"):
            train(config, data, tmp_path / "cut", progress=False)
    assert_same_state(train(config, data, tmp_path / "cut", progress=False, resume=True), whole)


def test_torch_is_left_as_it_was(data):
    before = torch.are_deterministic_algorithms_enabled()
    train(tiny_config(epochs=1), data, progress=False)
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_run_is_never_overwritten(finished, data):
    with pytest.raises(
        FileExistsError, match=r"`folder` must be new or empty, got .* a run in it.* or resume that run"
    ):
        train(tiny_config(), data, finished[1])


def test_other_files_are_never_mixed_with_a_run(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"`folder` must be new or empty, got .* other files in it"):
        train(tiny_config(), data, tmp_path)


def test_resume_needs_the_same_settings_and_data(finished, data):
    with pytest.raises(ValueError, match=r"`config` must equal .* got train.epochs 5 instead of 3"):
        train(tiny_config(epochs=5), data, finished[1], resume=True)
    with pytest.raises(ValueError, match="`data` must be the data of the run that is resumed"):
        train(tiny_config(epochs=3), tiny_data(train=5), finished[1], resume=True)


def test_resume_needs_a_run(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`folder` must be a run folder with config.json, got"):
        train(tiny_config(), data, tmp_path / "none", resume=True)
    with pytest.raises(ValueError, match="`resume` must be False without a run folder, got True"):
        train(tiny_config(), data, resume=True)


def test_loading_needs_a_checkpoint(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`folder` must be a run folder with config.json"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny_config(epochs=0), "`train.epochs` must be at least 1, got 0"),
        (tiny_config(batch_size=0), "`train.batch_size` must be at least 1, got 0"),
        (tiny_config(stages=0), "`train.stages` must be at least 1, got 0"),
        (tiny_config(seed=-1), "`train.seed` must be at least 0, got -1"),
        (replace(tiny_config(), label=LabelConfig(smoothing=4)), "`label.smoothing` must be odd and at least 1, got 4"),
        (
            replace(tiny_config(), inference=InferenceConfig(smoothing=0)),
            "`inference.smoothing` must be odd and at least 1, got 0",
        ),
        (
            replace(tiny_config(), inference=InferenceConfig(protocol="mine")),
            "`protocol` must be one of thumos14, .* got 'mine'",
        ),
    ],
)
def test_settings_that_no_run_can_have_are_refused(data, tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        train(config, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_epochs_on_ninapro(tmp_path):
    root = require("ninapro_db1")
    config = RECIPES["otlabel"]("ninapro", str(root))
    config = replace(config, train=replace(config.train, epochs=2))
    data = load("ninapro", root)
    module = train(config, data, tmp_path / "run", progress=False)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    # After two epochs about a fifth of the final mAP; chance is far below one percent.
    assert evaluate_run(tmp_path / "run").average > 0.05


def test_thumos14_layout_trains_from_simulated_features_and_says_so(tmp_path):
    write_simulated_features(tmp_path / "root", require("thumos14"), seed=0, width=128, videos=60)
    data = load_thumos14(tmp_path / "root", width=128)
    config = RECIPES["paper"]("thumos14", str(tmp_path / "root"))
    config = replace(
        config,
        model=replace(config.model, hidden=32),
        loss=replace(config.loss, warm_start_epochs=10),  # without it attention settles on the background here
        train=replace(config.train, epochs=30, snippets=150, learning_rate=3e-3),
    )
    train(config, data, tmp_path / "run", progress=False)
    text = (tmp_path / "run" / "evaluation.txt").read_text()
    assert "SIMULATED" in text
    # 60 videos of 20 classes: about 0.14 on made-up features, below 0.001 where attention collapses.
    assert evaluate_run(tmp_path / "run", data).average > 0.08
