"""The command line: help, costs, errors as one line, and each command on made-up data."""

import json
import subprocess
import sys
from typing import get_args

import pytest

from examples.case_wtal import cli, data
from examples.case_wtal.baselines import BASELINES
from examples.case_wtal.commands import COMMANDS
from examples.case_wtal.commands.common import Dataset, Recipe
from examples.case_wtal.demo import demo, first_with_classes
from examples.case_wtal.inference import score_recordings
from examples.case_wtal.run_folder import read_origin
from tests.case_wtal.test_model import make_module
from tests.case_wtal.tiny import tiny_config, tiny_data

SMALL = ["--model.hidden", "8", "--model.clusters", "4", "--train.epochs", "1", "--train.batch-size", "4"]


@pytest.fixture
def on_tiny_data(monkeypatch, tmp_path):
    """Every data set is the made-up one, and `runs/` is in a temporary folder."""
    monkeypatch.setattr(data, "load", lambda *_, **__: tiny_data())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_works(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    assert f"usage: {cli.PROGRAM}" in words(capsys)


def test_help_of_train_shows_the_defaults_of_the_chosen_recipe(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--recipe", "released", "--dataset", "ninapro", "--help"])
    text = words(capsys)
    assert "--label.sigma FLOAT" in text
    assert "(default: 10.0)" in text
    assert "(default: released_decay)" in text


def test_help_of_train_names_every_recipe_data_set_and_baseline_and_the_run_folder(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = words(capsys).replace("│ │ ", "")
    assert f"{', '.join([*get_args(Recipe)][:-1])} or {get_args(Recipe)[-1]}: where the settings start" in text
    assert f"{', '.join([*get_args(Dataset)][:-1])}, or {get_args(Dataset)[-1]} for your own" in text
    # Another test's page may have entered a baseline of its own.
    own = [name for name, kind in BASELINES.items() if kind.__module__.startswith("examples.")]
    assert f"{', '.join(own[:-1])} or {own[-1]}: what CASE is added to" in text
    assert "None is runs/DATASET-RECIPE-COMPONENTS-seedSEED" in text


def test_module_runs_and_help_is_quick_to_import():
    code = "import sys; from examples.case_wtal import cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "examples.case_wtal", "costs", "--repeats", "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2,137,130 parameters" in done.stdout


def test_costs_are_printed(capsys):
    assert cli.main(["costs", "--repeats", "0"]) == 0
    text = words(capsys)
    assert "2,137,130 parameters" in text
    assert "1.60128 G multiply-adds" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "best"], "`recipe` must be one of paper, released, otlabel, got 'best'"),
        (["train", "--dataset", "kinetics"], "`dataset` must be one of"),
        (["train", "--dataset", "ninapro"], '`root` must be a folder for "ninapro", got None'),
        (["train", "--config", "no.json"], "`config` must be a JSON file with settings, got no.json"),
        (["train", "--train.epochs", "0"], "`train.epochs` must be at least 1, got 0"),
        (["tables", "--seeds", "0"], "`seeds` must be at least 1, got 0"),
        (["evaluate", "no.json"], "`dataset` must be given with a file of predictions"),
        (["evaluate", "no.json", "--dataset", "watch"], "no.json"),
        (["evaluate", "."], "`config` must be a JSON file with settings"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert "Traceback" not in output.err


def test_train_resume_and_evaluate(on_tiny_data, capsys):
    assert cli.main(["train", "--folder", "runs/one", *SMALL, "--label.sigma", "0.2"]) == 0
    text = words(capsys)
    assert "otlabel on tiny, AP in %" in text
    auc = read_origin(on_tiny_data / "runs/one").foreground_auc
    assert f"Foreground AUC of snippets: attention {auc['attention']:.3f}, clusters {auc['clusters']:.3f}, " in text
    assert "Made-up recordings for tests." in text
    assert "Weights: last epoch" in text
    saved = json.loads((on_tiny_data / "runs/one/config.json").read_text())
    assert saved["label"]["sigma"] == 0.2
    assert saved["train"]["epochs"] == 1
    assert cli.main(["train", "--folder", "runs/one", *SMALL]) == 2
    assert "must be new or empty" in capsys.readouterr().err
    assert cli.main(["train", "--folder", "runs/one", "--resume"]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--config", "runs/one/config.json", "--train.seed", "4"]) == 0
    assert (
        json.loads((on_tiny_data / "runs/watch-otlabel-scc_ccc-seed4/config.json").read_text())["label"]["sigma"] == 0.2
    )
    capsys.readouterr()
    assert cli.main(["evaluate", "runs/one", "--out", "again"]) == 0
    text = words(capsys)
    assert "thumos14: ActivityNet-style AP, tIoU .1:.1:.7" in text
    assert f"Foreground AUC of snippets: attention {auc['attention']:.3f}, " in text
    files = [on_tiny_data / folder / "evaluation.json" for folder in ("runs/one", "again")]
    own, again = (json.loads(file.read_text()) | {"results": ""} for file in files)
    assert own == again
    assert cli.main(["evaluate", "runs/one/predictions.json", "--dataset", "watch", "--protocol", "activitynet"]) == 0
    text = words(capsys)
    assert "activitynet: ActivityNet-style AP, tIoU .5:.05:.95" in text
    assert "Weights: unknown, predictions from a file" in text


def test_recordings_that_check_exports_are_predicted_and_evaluated_as_the_run_was(on_tiny_data, capsys):
    assert cli.main(["train", "--folder", "runs/mine", *SMALL]) == 0
    (mean,) = (line for line in capsys.readouterr().out.splitlines() if "mean over classes" in line)
    assert cli.main(["check", "watch", "--export", "own"]) == 0
    assert cli.main(["predict", "runs/mine", "own", "--no-plots", "--out", "found"]) == 0
    text = words(capsys)
    assert f"test/0 {len(tiny_data().test[0]) * 0.5:.2f} " in text
    call = ["evaluate", "found/predictions.json", "--ground-truth", "own/annotations.json", "--on-unknown", "ignore"]
    assert cli.main(call) == 0
    assert mean.split() in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_collapse_is_said(on_tiny_data, monkeypatch, capsys, command):
    monkeypatch.setattr("examples.case_wtal.run.foreground_auc", lambda *_: 0.3)
    assert cli.main(["train", "--folder", "runs/one", *SMALL]) == 0
    if command == "evaluate":
        capsys.readouterr()
        assert cli.main(["evaluate", "runs/one"]) == 0
    assert "attention 0.300, clusters 0.300, both fused 0.300. COLLAPSED: " in words(capsys)


def test_recipe_and_file_together_are_refused(on_tiny_data, capsys):
    (on_tiny_data / "config.json").write_text("{}")
    assert cli.main(["train", "--config", "config.json", "--recipe", "paper"]) == 2
    assert "`recipe` must be left out when settings come from a file, got 'paper'" in capsys.readouterr().err


def test_tables_are_printed_written_and_gone_on_from(on_tiny_data, monkeypatch, capsys):
    monkeypatch.setattr("examples.case_wtal.recipes.RECIPES", {"paper": lambda *_: tiny_config(epochs=1)})
    call = ["tables", "--table", "7", "--seeds", "2", "--folder", "runs/parts"]
    assert cli.main(call) == 0
    text = words(capsys)
    for expected in (
        "Table 7",
        "[2/2] seed 1: attention",
        "Paper: fused is better",
        "Too few seeds to judge collapse: 2, at least 3 needed.",
        "no selection on the evaluated",
    ):
        assert expected in text
    folder = on_tiny_data / "runs/parts"
    assert {p.name for p in folder.iterdir() if not p.name.startswith("seed")} == {
        "data.json",
        "tables.json",
        "tables.md",
    }
    page = (folder / "tables.md").read_text()
    assert f"$ {cli.PROGRAM} tables --table 7 --dataset watch --recipe paper --seeds 2" in page
    assert cli.main(call) == 0
    assert "[1/" not in words(capsys)
    assert (folder / "tables.md").read_text() == page


def test_demo_prints_four_rows_and_draws(on_tiny_data, monkeypatch, capsys):
    monkeypatch.setattr("examples.case_wtal.recipes.RECIPES", {"otlabel": lambda *_: tiny_config(epochs=1)})
    assert cli.main(["demo"]) == 0
    text = words(capsys)
    for expected in ("base", "+SCC+CCC", "+test", "A single seed (1)", "runs/demo/recording.png", "Made-up recordings"):
        assert expected in text
    assert (on_tiny_data / "runs/demo/recording.png").stat().st_size > 10_000


def test_demo_gives_the_rows_in_order(tmp_path):
    table, picture = demo(tiny_config(epochs=1), tiny_data(), tmp_path, progress=False)
    assert [r.name for r in table.rows] == ["base", "+SCC", "+SCC+CCC", "+test"]
    assert picture == tmp_path / "recording.png"


def test_demo_draws_the_first_recording_with_two_classes():
    tiny = tiny_data()
    scores = score_recordings(make_module(), tiny.test)
    expected = next(r.name for r in tiny.test if len(r.labels) >= 2)
    assert first_with_classes(scores).recording.name == expected
    assert first_with_classes(scores, classes=9) is scores[0]
