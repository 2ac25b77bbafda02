"""From files to tables: what is read, what is refused, what is said, and the command around it."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from examples.case_wtal import cli, data
from examples.case_wtal.evaluation import PROTOCOLS, THUMOS14, Detections, Protocol, evaluate
from examples.case_wtal.evaluation.checks import check
from examples.case_wtal.evaluation.diagnosis import OUTCOMES
from examples.case_wtal.evaluation.ground_truth import GroundTruth
from examples.case_wtal.evaluation.outcome import evaluate_results
from examples.case_wtal.evaluation.tables import outcome_notes, outcome_tables, show
from examples.case_wtal.segments import Segment
from tests.case_wtal.shared_data import require
from tests.case_wtal.test_evaluation import detections
from tests.case_wtal.tiny import tiny_data


def annotation(start, end, label):
    return {"segment": [start, end], "label": label}


TRUTH = {
    "dance_01": {
        "subset": "test",
        "duration": 40,
        "annotations": [annotation(0, 10, "jump"), annotation(20, 30, "jump")],
    },
    "dance_02": {"subset": "test", "duration": 50.5, "annotations": [annotation("5", "6.5", "throw")]},
    "dance_03": {"subset": "train", "annotations": [annotation(1, 2, "jump")]},
}


def entry(start, end, label, score):
    return {"segment": [start, end], "label": label, "score": score}


RESULTS = {
    "dance_01": [entry(0, 10, "jump", 0.9), entry(20, 29, "jump", 0.8), entry(32, 40, "jump", 0.7)],
    "dance_02": [entry(5, 6, "throw", 0.6)],
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def truth_file(tmp_path):
    return write(tmp_path / "truth.json", {"database": TRUTH})


@pytest.fixture
def results_file(tmp_path):
    return write(tmp_path / "found.json", {"results": RESULTS})


@pytest.fixture
def truth(truth_file):
    return GroundTruth.read(truth_file)


FOUND = Detections.from_results({"results": RESULTS})


def test_a_ground_truth_holds_one_subset(truth, truth_file):
    assert list(truth.segments) == ["dance_01", "dance_02"]
    assert truth.segments["dance_02"] == (Segment(5.0, 6.5, "throw"),)
    assert (truth.durations, truth.elsewhere) == ({"dance_01": 40.0, "dance_02": 50.5}, {"dance_03": "train"})
    assert truth.describe() == f"{truth_file}, subset test: 2 videos, 3 instances of 2 classes"
    assert list(GroundTruth.read(truth_file, "train").segments) == ["dance_03"]


def test_ambiguous_segments_are_no_class(tmp_path):
    annotations = [annotation(0, 1, "jump"), annotation(5, 6, "Ambiguous")]
    file = write(tmp_path / "t.json", {"database": {"v": {"subset": "test", "annotations": annotations}}})
    more = write(tmp_path / "Ambiguous_test.txt", "v  7.0 8.5\n\nw 1 2\n")
    truth = GroundTruth.read(file, ambiguous=more)
    assert truth.classes == ("jump",)
    assert [s.start for s in truth.ambiguous["v"]] == [5.0, 7.0]
    assert [s.start for s in truth.ambiguous["w"]] == [1.0]
    assert truth.describe().endswith("1 videos, 1 instances of 1 classes, 3 ambiguous segments")


def test_a_folder_of_the_kit_is_a_ground_truth(tmp_path):
    write(tmp_path / "Diving_test.txt", "v 1 2\nw 3 4\n")
    write(tmp_path / "Ambiguous_test.txt", "v 5 6\nonly 1 2\n")
    write(tmp_path / "Diving_val.txt", "u 1 2\n")
    truth = GroundTruth.read(tmp_path)
    assert {v: len(own) for v, own in truth.segments.items()} == {"v": 1, "w": 1, "only": 0}
    assert sorted(truth.ambiguous) == ["only", "v"]
    assert list(GroundTruth.read(tmp_path, "val").segments) == ["u"]


def test_a_data_set_is_a_ground_truth():
    tiny = tiny_data()
    truth = GroundTruth.of_data(tiny)
    assert (truth.subset, truth.source) == ("dev", "tiny")
    assert truth.segments == {r.name: r.segments for r in tiny.test}
    assert truth.durations == {r.name: r.seconds for r in tiny.test}
    assert set(truth.elsewhere) == {r.name for r in tiny.train}


def test_reversed_ground_truth_is_dropped_counted_and_named(tmp_path):
    annotations = [annotation(0, 1, "jump"), annotation(9, 8, "jump"), annotation(4, 4, "throw")]
    file = write(tmp_path / "t.json", {"database": {"v": {"subset": "test", "annotations": annotations}}})
    with pytest.warns(UserWarning, match=r"got 2 that do not in .*t\.json: jump 9-8 in v; throw 4-4 in v\. They are d"):
        truth = GroundTruth.read(file)
    assert truth.segments == {"v": (Segment(0.0, 1.0, "jump"),)}
    assert truth.describe().endswith("2 segments of no length dropped")


GOOD = {"subset": "test", "annotations": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"`ground_truth` must be a JSON file, got .*t\.json \(.*\)\. Write"),
        ([1], r"`ground_truth` must be a JSON file \{\"database\".* got .*t\.json without it\. Give"),
        ({"database": {"v": {"subset": "test"}}}, r"got no annotations \(file .*t\.json, video v\)\. Complete"),
        ({"database": {"v": 3}}, r"got no subset and no annotations \(file .*, video v\)\. Complete"),
        (
            {"database": {"v": {"subset": "test", "annotations": {}}}},
            r"got annotations that are no list \(file .*, video v\)\. Complete",
        ),
        (
            {"database": {"v": {**GOOD, "annotations": [annotation(0, 1, "a"), annotation("x", 1, "a")]}}},
            r"must hold annotations .* got \{'segment': \['x', 1\], .* \(file .*t\.json, video v, index 1\)\. Correct",
        ),
        (
            {"database": {"v": {**GOOD, "annotations": [{"segment": [0, 1]}]}}},
            r"must hold annotations .* \(file .*, video v, index 0\)",
        ),
        (
            {"database": {"v": {**GOOD, "annotations": [annotation(0, 1, None)]}}},
            r"must hold annotations .* \(file .*, video v, index 0\)",
        ),
        (
            '{"database": {"v": {"subset": "test", "annotations": [{"segment": [0, NaN], "label": "a"}]}}}',
            r"must hold finite times, got .*nan.* \(file .*t\.json, video v, index 0\)\. Correct",
        ),
        ({"database": {"v": {**GOOD, "duration": -1}}}, r"must hold positive durations, got -1 \(file .*, video v\)"),
        (
            {"database": {"v": {**GOOD, "duration": "long"}}},
            r"must hold positive durations, got 'long' \(file .*, video",
        ),
        ({"database": {"v": {**GOOD, "subset": "val"}}}, r"`subset` must be one that .* got 'test'\. .* val \(1 video"),
        ({"database": {}}, r"`subset` must be one that .* got 'test'\. Choose among none: it is empty\."),
    ],
)
def test_a_broken_ground_truth_is_an_error_that_names_the_place(content, message, tmp_path):
    file = write(tmp_path / "t.json", content)
    with pytest.raises(ValueError, match=message):
        GroundTruth.read(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v 1", r"must hold lines of video, start and end, got 'v 1' \(file .*Diving_test\.txt, line 2\)\. Correct"),
        ("v 1 x", r"must hold lines of video, start and end, got 'v 1 x' \(file .*, line 2\)"),
        ("v 1 nan", r"must hold finite times, got 'v 1 nan' \(file .*, line 2\)"),
    ],
)
def test_a_broken_line_of_the_kit_is_named(line, message, tmp_path):
    write(tmp_path / "Diving_test.txt", f"v 1 2\n{line}\n")
    with pytest.raises(ValueError, match=message):
        GroundTruth.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", r"`results` must be a JSON file, got .*found\.json \("),
        ("{}", r"`results` must be a mapping .* got dict without it \(file .*found\.json\)\. Pass"),
        ({"results": {"v": {"label": "a"}}}, r"must hold a list .* got dict \(file .*found\.json, video v\)\. Give"),
        ({"results": {"v": "text"}}, r"must hold a list of entries for each video, got str"),
        (
            {"results": {"v": [entry(0, 1, "a", 1), entry(0, "one", "a", 1)]}},
            r"must hold entries .* 'one'.* \(file .*found\.json, video v, index 1\)\. Correct",
        ),
        ({"results": {"v": [entry(0, 1, ["a"], 1)]}}, r"must hold entries .* \(file .*, video v, index 0\)"),
        ({"results": {"v": [entry(0, 1, "a", None)]}}, r"must hold entries .* \(file .*, video v, index 0\)"),
        (
            '{"results": {"v": [{"segment": [0, 1], "label": "a", "score": NaN}]}}',
            r"must hold finite times and scores, got .*nan.* \(file .*found\.json, video v, index 0\)\. Drop",
        ),
        (
            '{"results": {"v": [{"segment": [0, Infinity], "label": "a", "score": 1}]}}',
            r"must hold finite times and scores, got .*inf.* \(file .*found\.json, video v, index 0\)\. Drop",
        ),
    ],
)
def test_broken_results_are_an_error_that_names_the_place(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Detections.read(write(tmp_path / "found.json", content))


def test_whole_numbers_are_labels_too():
    found = Detections.from_results({"results": {"v": [entry(0, 1, 7, 1)]}})
    assert found.label.tolist() == ["7"]


STRANGE = Detections.concatenate(
    [
        FOUND,
        detections(
            ("Dance_01", "jump", 0, 10, 0.95),
            ("dance_03", "jump", 0, 10, 0.95),
            ("dance_07", "jump", 0, 10, 0.95),
            ("dance_01", "jmup", 0, 10, 0.95),
            ("dance_01", "jmup", 0, 10, 0.95),
        ),
    ]
)


def test_unknown_names_are_an_error_that_lists_them_with_counts_and_close_names(truth):
    with pytest.raises(ValueError, match=r"`results` must name videos and labels of subset test") as caught:
        check(truth, STRANGE, THUMOS14, source="found.json")
    text = str(caught.value)
    assert "3 unknown videos (Dance_01: 1 detections, close to dance_01; " in text
    assert "dance_03: 1 detections, of subset train; " in text
    assert "dance_07: 1 detections) and " in text  # numbered names are all alike, so none is offered
    assert "1 unknown labels (jmup: 2 detections, close to jump)" in text
    assert "in found.json, under protocol thumos14" in text


def test_unknown_names_can_be_left_out(truth):
    checked = check(truth, STRANGE, THUMOS14, "ignore")
    assert evaluate(truth.segments, checked.detections).average == evaluate(truth.segments, FOUND).average
    assert len(checked.detections) == len(FOUND)
    assert checked.notes[0].startswith("5 of 9 detections were left out for unknown names: jmup, Dance_01, dance_03, d")
    assert checked.unknown_labels == {"jmup": 2}
    assert list(checked.unknown_videos) == ["Dance_01", "dance_03", "dance_07"]


def test_a_note_lists_twenty_names_and_counts_the_others(truth):
    found = detections(*((f"song_{i:02d}", "jump", 0, 1, 1) for i in range(23)))
    (note,) = check(truth, found, THUMOS14, "ignore").notes
    assert note.endswith("song_18, song_19 and 3 more.")


def test_detections_in_unknown_videos_can_count_as_false_positives(truth):
    checked = check(truth, STRANGE, THUMOS14, "false-positive")
    assert len(checked.detections) == len(FOUND) + 3
    assert evaluate(truth.segments, checked.detections).average < evaluate(truth.segments, FOUND).average
    assert checked.notes[0] == "2 of 9 detections were left out for unknown names: jmup."
    assert checked.notes[1].startswith("Detections in unknown videos count as false positives: Dance_01: 1 detections;")


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from(["dance_01", "dance_02", "x"]), st.sampled_from(["jump", "throw", "x"])), min_size=1
    )
)
def test_every_detection_is_evaluated_or_counted(names):
    truth = GroundTruth({"dance_01": (Segment(0, 1, "jump"),), "dance_02": (Segment(0, 1, "throw"),)}, "test", "t")
    found = detections(*((video, label, 0, 1, 0.5) for video, label in names))
    seen = check(truth, found, THUMOS14, "ignore")
    assert len(seen.detections) == sum(video != "x" and label != "x" for video, label in names)
    assert sum(seen.unknown_videos.values()) == sum(video == "x" for video, _ in names)
    assert sum(seen.unknown_labels.values()) == sum(label == "x" for _, label in names)


def test_a_known_class_without_an_instance_is_named_and_has_no_ap(truth_file):
    truth = GroundTruth.read(
        write(truth_file, {"database": TRUTH | {"dance_02": {**TRUTH["dance_02"], "subset": "b"}}})
    )
    assert (truth.classes, truth.known) == (("jump",), ("jump", "throw"))
    found = Detections.concatenate(
        [FOUND.select(FOUND.video != "dance_02"), detections(("dance_01", "throw", 0, 1, 1))]
    )
    outcome = evaluate_results(truth, found, results="found.json")
    assert outcome.notes == (
        f"Known classes without an instance in subset test of {truth_file}: throw: 1 detections. They have no AP: mAP "
        "is the mean over the other 1, and their detections are left out.",
    )
    (evaluation,), (checked,) = outcome.evaluations, outcome.checked
    assert (evaluation.classes, evaluation.average) == (("jump",), 1.0)
    assert checked.absent_classes == {"throw": 1}
    assert outcome.to_plain()["protocols"][0]["classes_without_instances"] == {"throw": 1}
    assert set(checked.detections.label) == {"jump"}


def test_a_class_whose_segments_have_no_length_is_known(tmp_path):
    annotations = [annotation(0, 1, "jump"), annotation(4, 4, "throw"), annotation(5, 6, "Ambiguous")]
    file = write(tmp_path / "t.json", {"database": {"v": {"subset": "test", "annotations": annotations}}})
    with pytest.warns(UserWarning, match="got 1 that do not"):
        truth = GroundTruth.read(file)
    assert (truth.classes, truth.known) == (("jump",), ("jump", "throw"))
    assert check(truth, detections(("v", "throw", 4, 5, 1)), THUMOS14).absent_classes == {"throw": 1}


def test_all_classes_of_a_data_set_are_known():
    assert GroundTruth.of_data(tiny_data()).known == ("jump", "throw", "turn")


def test_an_unknown_label_may_be_a_class_that_does_not_occur(truth):
    with pytest.raises(
        ValueError, match=r"--on-unknown false-positive: right for a class that just does not occur there"
    ):
        check(truth, detections(("dance_01", "sing", 0, 1, 1)), THUMOS14)
    with pytest.raises(ValueError, match=r"1 unknown videos .*--on-unknown false-positive\.$"):
        check(truth, detections(("song", "jump", 0, 1, 1)), THUMOS14)


def test_videos_that_a_protocol_leaves_out_are_known(truth):
    found = Detections.concatenate([FOUND, detections(("gone", "jump", 0, 1, 1))])
    assert check(truth, found, THUMOS14.without("gone")).notes == ()


def test_detections_without_length_are_counted_and_one_is_named(truth):
    found = Detections.concatenate([FOUND, detections(("dance_01", "jump", 7, 3, 1), ("dance_02", "throw", 5, 5, 1))])
    checked = check(truth, found, THUMOS14)
    assert checked.without_length == 2
    assert checked.notes == (
        "2 detections do not end after they start and count as false positives; the first is jump 7-3 in dance_01.",
    )


def test_a_strange_choice_for_unknown_names_is_an_error(truth):
    with pytest.raises(ValueError, match=r"`on_unknown` must be error, ignore or false-positive, got 'warn'\. Choose"):
        check(truth, FOUND, THUMOS14, "warn")


def test_all_protocols_stand_side_by_side(truth):
    outcome = evaluate_results(truth, FOUND, "all", results="found.json")
    names = [e.protocol.name for e in outcome.evaluations]
    assert names == [name for name, protocol in PROTOCOLS.items() if not protocol.drop_videos]
    assert outcome.notes[0].startswith("thumos14-210 and thumos14-210-gt left out: the videos in question are neither")
    assert "No ambiguous segments are known, so thumos14-kit excuses no detection." in outcome.notes
    for evaluation in outcome.evaluations:
        np.testing.assert_array_equal(evaluation.ap, evaluate(truth.segments, FOUND, evaluation.protocol).ap)


def test_published_detections_under_all_protocols_print_the_known_averages():
    truth = GroundTruth.read(require("thumos14", "official_test"))
    found = Detections.read(require("detections", "pmil_base_thumos14", "pmil_base_test.json"))
    text = printed(evaluate_results(truth, found, "all"))
    last = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.strip().startswith("thumos")}
    assert last | {"thumos14": "42.4", "thumos14-210-gt": "43.0", "thumos14-210": "43.3"} == last
    assert last["thumos14-rounded"] == "43.6"


def test_a_ground_truth_of_210_videos_says_so():
    truth = GroundTruth({"video_test_0000004": (Segment(0, 1, "jump"),)}, "test", "t")
    outcome = evaluate_results(truth, Detections.empty(), "thumos14")
    assert outcome.notes[0].startswith(
        "thumos14 means 212 videos elsewhere; this ground truth lacks video_test_0000270"
    )
    assert evaluate_results(truth, Detections.empty(), "thumos14-210").notes == ()


def test_thresholds_can_be_chosen_and_enter_the_name(truth):
    (evaluation,) = evaluate_results(truth, FOUND, tious=(0.25, 0.5)).evaluations
    assert evaluation.protocol == Protocol("thumos14@.25,.5", (0.25, 0.5))


def test_an_unknown_protocol_is_an_error(truth):
    with pytest.raises(ValueError, match=r"`protocol` must be one of thumos14, .* or all, got 'voc'\. Choose one"):
        evaluate_results(truth, FOUND, "voc")


def printed(outcome):
    text = io.StringIO()
    show(outcome_tables(outcome), outcome_notes(outcome), Console(file=text, width=100))
    return text.getvalue()


def test_tables_hold_the_numbers_with_their_protocol(truth):
    outcome = evaluate_results(truth, FOUND, results="found.json", diagnose=True)
    text = " ".join(printed(outcome).split())
    assert "Protocol thumos14: ActivityNet-style AP, tIoU .1:.1:.7; average .1:.1:.5 100.0; average .3:.1:.7" in text
    assert "jump 2 100.0" in text
    assert "true positive 3 100.0 75.0" in text
    assert "instances of the class in the video XS > 0 1 1" in text
    assert "AR@1 AR@5 AR@10 AR@50 AR@100 area under AR-AN" in text


def test_the_written_evaluation_says_everything(truth, tmp_path):
    outcome = evaluate_results(truth, FOUND, "thumos14", results="found.json", diagnose=True)
    outcome.write(tmp_path / "evaluation.json")
    content = json.loads((tmp_path / "evaluation.json").read_text())
    (protocol,) = content["protocols"]
    assert protocol["protocol"] == THUMOS14.describe()
    assert protocol["average"] == outcome.evaluations[0].average
    assert protocol["averages"].keys() == {".1:.1:.5", ".3:.1:.7", ".1:.1:.7"}
    assert protocol["ap"]["throw"] == outcome.evaluations[0].ap[1].tolist()
    assert protocol["instances"] == {"jump": 2, "throw": 1}
    assert content["error_profile"]["outcomes"] == list(OUTCOMES)
    assert content["error_profile"]["tious"] == [0.5]
    assert np.sum(content["error_profile"]["counts"]) == len(FOUND)
    assert sum(one["instances"] for one in content["sensitivity"]["bins"]["length"]) == 3
    assert content["average_recall"]["area"] == outcome.diagnosis.recall.area


def test_the_diagnosis_of_activitynet_averages_over_its_thresholds(truth):
    outcome = evaluate_results(truth, FOUND, "activitynet", diagnose=True)
    assert outcome.diagnosis.profile.tious == PROTOCOLS["activitynet"].tious
    assert outcome.diagnosis.sensitivity.bins["length"][0].high == 30


def test_the_diagnosis_says_what_it_cannot_do(truth):
    short = GroundTruth(truth.segments, "test", "t")
    notes = evaluate_results(short, FOUND, "thumos14-kit", diagnose=True).notes
    assert "The diagnosis matches by ActivityNet's rule, whatever the protocol." in notes
    assert "No sensitivity to coverage: the ground truth does not say how long every video is." in notes


def run(*arguments):
    return cli.main(["evaluate", *map(str, arguments)])


def test_the_command_evaluates_two_files(truth_file, results_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(results_file, "--ground-truth", truth_file, "--out", out, "--plots") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Protocol thumos14: ActivityNet-style AP, tIoU .1:.1:.7" in text
    assert "subset test: 2 videos, 3 instances of 2 classes." in text
    assert {path.name for path in out.iterdir()} >= {"evaluation.json", "errors.png", "sensitivity.svg"}
    assert "error_profile" in json.loads((out / "evaluation.json").read_text())


def test_the_command_takes_subset_protocol_and_thresholds(truth_file, results_file, capsys):
    arguments = (results_file, "--ground-truth", truth_file)
    assert run(*arguments, "--subset", "train", "--on-unknown", "ignore", "--protocol", "activitynet") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "subset train: 1 videos" in text
    assert "3 of 3 detections were left out for unknown names: dance_01, dance_02." in text
    assert "without an instance in subset train of" in text
    assert "activitynet: ActivityNet-style AP, tIoU .5:.05:.95" in text
    assert run(*arguments, "--tious", "0.25", "0.5", "--profile") == 0
    assert "thumos14@.25,.5: ActivityNet-style AP, tIoU .25 .5" in " ".join(capsys.readouterr().out.split())


def test_the_command_takes_more_ambiguous_segments(truth_file, results_file, tmp_path, capsys):
    ambiguous = write(tmp_path / "Ambiguous_test.txt", "dance_01 31 33\n")
    assert run(results_file, "--ground-truth", truth_file, "--protocol", "all", "--ambiguous", ambiguous) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 ambiguous segments" in text
    assert "excuses no detection" not in text


def test_the_command_evaluates_on_a_data_set(tmp_path, monkeypatch, capsys):
    tiny = tiny_data()
    monkeypatch.setattr(data, "load", lambda *_, **__: tiny)
    rows = [(r.name, s.label, s.start, s.end, 1.0) for r in tiny.test for s in r.segments]
    detections(*rows).write(tmp_path / "found.json")
    assert run(tmp_path / "found.json", "--dataset", "watch", "--profile") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "tiny, subset dev: 4 videos" in text
    assert "Made-up recordings for tests. 4 recordings of split dev. Weights: unknown" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["found.json"], "`dataset` must be given with a file of predictions, or a ground truth, got none"),
        (["found.json", "--ground-truth", "truth.json", "--dataset", "watch"], "`dataset` must be left out with"),
        (["found.json", "--ground-truth", "truth.json", "--plots"], "`out` must be given with plots, got none"),
        ([".", "--ground-truth", "truth.json"], "`ground_truth` must be left out for a run folder, got truth.json"),
        (["found.json", "--ground-truth", "no.json"], "no.json"),
        (["found.json", "--ground-truth", "truth.json", "--subset", "train"], "2 unknown videos (dance_01: 3 detecti"),
    ],
)
def test_errors_are_one_line(arguments, message, truth_file, results_file, monkeypatch, capsys):
    monkeypatch.chdir(truth_file.parent)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_evaluation_imports_no_training_code(truth_file, results_file, tmp_path):
    code = (
        "import sys; from examples.case_wtal import cli; "
        f"assert cli.main(['evaluate', {str(results_file)!r}, '--ground-truth', {str(truth_file)!r}, "
        f"'--plots', '--out', {str(tmp_path / 'out')!r}]) == 0; "
        "found = {'torch', 'lightning', 'otlabel', 'sklearn', 'scipy'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
