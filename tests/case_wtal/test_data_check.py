"""The command `check`: what it prints, its exit code, and the export."""

import numpy as np
import pytest

from examples.case_wtal import cli
from examples.case_wtal.data import load_folder, write_folder, write_simulated_features
from tests.case_wtal.layouts import assert_same_data
from tests.case_wtal.shared_data import require
from tests.case_wtal.tiny import tiny_data


@pytest.fixture
def root(tmp_path):
    write_folder(tiny_data(), tmp_path / "own")
    return tmp_path / "own"


def words(text):
    return " ".join(text.replace("│", " ").replace("┃", " ").split())


def test_a_whole_data_set_is_summarised(root, capsys):
    assert cli.main(["check", "folder", "--root", str(root)]) == 0
    text = words(capsys.readouterr().out)
    data = tiny_data()
    for split, recordings in (("train", data.train), ("dev", data.test)):
        instances = sum(len(r.segments) for r in recordings)
        assert f"{split} {len(recordings)} 0.0" in text
        assert f"{instances} 3 of 3" in text
    assert data.note in text


def test_every_problem_is_in_the_table_and_the_exit_code_is_2(root, capsys):
    features = root / "features" / "left"
    (features / "train" / "0.npy").unlink()
    np.save(features / "test" / "1.npy", np.full((20, 6), np.inf))
    assert cli.main(["check", "folder", "--root", str(root)]) == 2
    output = capsys.readouterr()
    table = words(output.out)
    assert "features/left/train/0.npy missing" in table
    assert "features/left/test/1.npy not finite NaN or infinity in 20 of 20" in table
    assert "(1 missing, 1 not finite), listed above. Repair or remove what is listed" in words(output.err)
    assert output.err.startswith("error: `root` must hold a complete data set")


def test_notices_are_printed(root, capsys):
    path = root / "features" / "left" / "train" / "0.npy"
    np.save(path, np.load(path)[:-1])
    assert cli.main(["check", "folder", "--root", str(root)]) == 0
    assert "Notice: `root` should hold streams of equal length" in words(capsys.readouterr().out)


def test_other_errors_are_told_as_everywhere(tmp_path, capsys):
    assert cli.main(["check", "folder", "--root", str(tmp_path / "absent")]) == 2
    assert "error: `root` must be a folder" in capsys.readouterr().err


def test_a_checked_data_set_can_be_exported(root, tmp_path, capsys):
    assert cli.main(["check", "folder", "--root", str(root), "--export", str(tmp_path / "copy")]) == 0
    assert f"--dataset folder --root {tmp_path / 'copy'}" in words(capsys.readouterr().out)
    assert_same_data(load_folder(tmp_path / "copy"), tiny_data())


def test_published_annotations_that_leave_their_video_survive_the_export(tmp_path):
    write_simulated_features(tmp_path / "thumos14", require("thumos14"), seed=0, width=1024, videos=8)
    arguments = ["check", "thumos14", "--root", str(tmp_path / "thumos14"), "--export", str(tmp_path / "folder")]
    assert cli.main(arguments) == 0
    assert "SIMULATED" in load_folder(tmp_path / "folder").note
