"""Runs that are killed and resumed, files that are damaged or hostile, and two devices that agree."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from examples.case_wtal import checkpoints, cli, data
from examples.case_wtal.callbacks import MetricsFile
from examples.case_wtal.checkpoints import WholeCheckpointIO
from examples.case_wtal.device import torch_device
from examples.case_wtal.files import write_text, write_whole
from examples.case_wtal.inference import score_recordings
from examples.case_wtal.run import evaluate_run, load_run, train
from tests.case_wtal.tiny import tiny_config, tiny_data

RESULTS = ("metrics.csv", "predictions.json", "evaluation.json", "evaluation.txt")
NAMES = {"last": "checkpoints/last.ckpt", "previous": "checkpoints/previous.ckpt"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_config(), tiny_data(), folder, progress=False)
    return folder


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


# kills


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders of runs that were killed, and the exit codes of their processes."""
    if not hasattr(os, "fork"):
        pytest.skip("needs a system with fork")
    root = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.case_wtal.kill_and_resume", str(root)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert all(one[-1] == 0 for runs in codes.values() for one in runs.values()), done.stderr
    return root, codes


def assert_same_results(folder, whole):
    for name in RESULTS:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_killed_at_random_moments_ends_as_the_uninterrupted_run(killed):
    root, codes = killed
    assert codes["random"]["cut"].count(-9) == 5
    for stage in (".", "earlier"):
        assert_same_results(root / "random/cut" / stage, root / "random/whole" / stage)


@pytest.mark.slow
def test_killed_before_any_rename_ends_as_the_uninterrupted_run(killed):
    root, codes = killed
    moments = [name for name, one in codes["rename"].items() if one[0] == -9]
    # Two files of the start, metrics and checkpoint of two epochs and the second one's copy, three of the end.
    assert len(moments) == 2 + 2 * 2 + 1 + 3
    for name in moments:
        assert_same_results(root / "rename" / name, root / "rename/whole")
        assert not list((root / "rename" / name).rglob("*.part"))


def test_a_file_is_old_or_new_but_never_half(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(part):
        part.write_text("ne")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_checkpoint_before_the_last_is_kept(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    for epoch in range(3):
        WholeCheckpointIO().save_checkpoint({"epoch": epoch}, path)
    found = {p.name: torch.load(p, weights_only=True)["epoch"] for p in path.parent.iterdir()}
    assert found == {"last.ckpt": 2, checkpoints.PREVIOUS: 1}


def test_the_previous_checkpoint_resumes_after_the_last_is_damaged(run_folder, finished):
    (run_folder / NAMES["last"]).write_bytes(b"")
    with pytest.raises(ValueError, match=r"Replace it by .*previous\.ckpt, one epoch older, and resume the run"):
        resume(run_folder)
    (run_folder / NAMES["previous"]).replace(run_folder / NAMES["last"])
    resume(run_folder)
    assert_same_results(run_folder, finished)


def test_a_loss_that_begins_late_has_a_column_of_its_own(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    trainer = SimpleNamespace(current_epoch=0, callback_metrics={"loss/b": 1.0})
    file.on_train_epoch_end(trainer, None)
    trainer.current_epoch, trainer.callback_metrics = 1, {"loss/a": 2.0, "loss/b": 3.0}
    again = MetricsFile(tmp_path / "metrics.csv")
    again.on_train_start(trainer, None)
    again.on_train_epoch_end(trainer, None)
    assert (tmp_path / "metrics.csv").read_text().split() == ["epoch,loss/a,loss/b", "0,,1.0", "1,2.0,3.0"]


# damage


def resume(folder):
    train(tiny_config(), tiny_data(), folder, progress=False, resume=True)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def spoil_truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_bits(path):
    content = bytearray(path.read_bytes())
    content[:64] = bytes(64)
    path.write_bytes(content)


def spoil_with_code(path):
    torch.save({"state_dict": {"a": Evil()}}, path)


def spoil_with_old_code(path):
    torch.save({"state_dict": {"a": Evil()}}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("spoil", [spoil_truncated, spoil_bits, spoil_with_code, spoil_with_old_code])
@pytest.mark.parametrize("use", [load_run, resume])
def test_a_damaged_or_hostile_checkpoint_is_refused_by_name(run_folder, spoil, use, monkeypatch):
    monkeypatch.chdir(run_folder)
    spoil(run_folder / NAMES["last"])
    message = (
        r"`checkpoint` must be a whole file of tensors and plain values, got .*last\.ckpt.*holds code, which is never"
    )
    with pytest.raises(ValueError, match=message):
        use(run_folder)
    assert not (run_folder / "evil-was-here").exists()


@pytest.mark.parametrize("content", [{"weights": 1}, [1], {"state_dict": 3}])
def test_a_checkpoint_of_another_program_is_refused(run_folder, content):
    torch.save(content, run_folder / NAMES["last"])
    (run_folder / NAMES["previous"]).unlink()
    with pytest.raises(ValueError, match=r"must be one that a run wrote, got .*last\.ckpt without .* or train again\."):
        load_run(run_folder)


def test_a_checkpoint_of_another_network_is_refused_with_what_differs(run_folder, tmp_path):
    other = replace(tiny_config(epochs=1), model=replace(tiny_config().model, hidden=9))
    train(other, tiny_data(), tmp_path / "other", progress=False)
    (tmp_path / "other" / NAMES["last"]).replace(run_folder / NAMES["last"])
    message = (
        r"`checkpoint` must hold the network that config.json .*last\.ckpt in which .* has shape .* instead of .*more"
    )
    with pytest.raises(ValueError, match=message):
        load_run(run_folder)
    with pytest.raises(ValueError, match=message):
        resume(run_folder)


def test_weights_under_other_names_are_refused(run_folder):
    path = run_folder / NAMES["last"]
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["mine"] = checkpoint["state_dict"].pop("cluster_foreground")
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"in which cluster_foreground is missing, mine is unknown\. Put back"):
        load_run(run_folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"data": 3}', '{"data": {"classes": 1}}', "\x00\xff"])
def test_a_broken_environment_file_is_refused_by_name(run_folder, content):
    (run_folder / "environment.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"`folder` must hold an environment.json that a run wrote, got .*environment"):
        load_run(run_folder)


def test_environment_file_with_other_types_is_refused(run_folder):
    content = '{"data": {"classes": ["a"], "stream_widths": [3], "note": ""}}'
    (run_folder / "environment.json").write_text(content)
    with pytest.raises(ValueError, match="with other types in `data`"):
        load_run(run_folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"`config` must be a JSON file, got .*config\.json"),
        (b"\x80\x00", r"`config` must be a JSON file, got .*config\.json"),
        (b'{"train": {"epochs": "many"}}', r"`config\.json` must hold only settings"),
    ],
)
def test_a_broken_settings_file_is_refused_by_name(run_folder, content, message):
    (run_folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_run(run_folder)


def test_damage_is_one_error_of_the_command_line(run_folder, capsys):
    spoil_truncated(run_folder / NAMES["last"])
    assert cli.main(["predict", str(run_folder), "."]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: `checkpoint` must be a whole file")
    assert "Traceback" not in error


# devices


def test_devices_are_chosen_by_name(monkeypatch):
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="`device` must be 'auto', 'cpu' or 'cuda', got 'tpu'"):
        torch_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="`device` must be one that torch can use, got 'cuda' and none is there"):
        torch_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("auto").type == torch_device("cuda").type == "cuda"
    assert torch_device("cpu").type == "cpu"


def test_training_on_a_device_that_is_not_there_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="`device` must be one that torch can use"):
        train(tiny_config(device="cuda"), tiny_data(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_every_command_that_runs_the_network_takes_a_device(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(data, "load", lambda *_, **__: tiny_data())
    for arguments in (
        ["train", "--folder", str(tmp_path / "run")],
        ["evaluate", str(finished)],
        ["predict", str(finished), str(tmp_path)],
    ):
        assert cli.main([*arguments, "--device", "cuda"]) == 2
        assert "error: `device` must be one that torch can use, got 'cuda'" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_and_cpu_agree(finished, tmp_path):
    tiny = tiny_data()
    on = {device: score_recordings(load_run(finished, device=device)[0], tiny.test) for device in ("cpu", "cuda")}
    for a, b in zip(on["cpu"], on["cuda"], strict=True):
        for name in ("class_activation", "attention", "cluster_foreground", "video_scores"):
            # float32 on both; a softmax of logits of size 10 keeps about five digits
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-4)
    averages = [evaluate_run(finished, tiny, device=device).average for device in ("cpu", "cuda")]
    assert averages[0] == pytest.approx(averages[1], abs=0.02)
    losses = []
    for device in ("cpu", "cuda"):
        train(tiny_config(device=device), tiny, tmp_path / device, progress=False)
        rows = (tmp_path / device / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("loss/total")
        losses.append([float(row.split(",")[column]) for row in rows[1:]])
    # Two epochs from the same weights: rounding has hardly grown.
    np.testing.assert_allclose(*losses, rtol=1e-3)
