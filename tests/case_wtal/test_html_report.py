"""The HTML report: its data, its parts, and that no name can break it."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.case_wtal import cli
from examples.case_wtal import data as data_module
from examples.case_wtal.data import Recording, Segment
from examples.case_wtal.evaluation import Detections, Protocol, evaluate
from examples.case_wtal.html_report import build, payload
from examples.case_wtal.html_report.payload import build_payload, to_script
from examples.case_wtal.html_report.pictures import to_svg
from examples.case_wtal.inference import detect, score_recordings
from examples.case_wtal.plots.style import COLOURS, INK, new_figure
from examples.case_wtal.run import foreground_aucs, protocol_of, train
from tests.case_wtal.evil import EVIL, evil_report
from tests.case_wtal.test_model import make_module
from tests.case_wtal.tiny import tiny_config, tiny_data


@pytest.fixture(scope="module")
def scored():
    data = tiny_data()
    scores = score_recordings(make_module(), data.test)
    return data, scores, detect(scores, data.classes, tiny_config())


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return evil_report(tmp_path_factory.mktemp("report"))


def packed(scored, **changes):
    data, scores, found = scored
    return build_payload(scores, found, data, tiny_config(), protocol_of("thumos14"), np.linspace(0, 1, 4), **changes)


def unpack(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


spans = st.tuples(st.integers(0, 12), st.integers(-1, 6)).map(lambda pair: (float(pair[0]), float(sum(pair))))
true_spans = spans.filter(lambda pair: pair[1] > pair[0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), true_spans, st.sampled_from("xy")), min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from("abc"), spans, st.sampled_from("xyz"), st.integers(0, 5)), max_size=12),
    st.sampled_from([0.1, 0.3, 0.5, 0.9]),
)
def test_detections_that_are_right_are_those_of_the_evaluator(true, found, tiou):
    streams = {"s": np.zeros((40, 1), np.float32)}
    recordings = [
        Recording(name, streams, 0.5, tuple(Segment(*span, kind) for n, span, kind in true if n == name), ())
        for name in "ab"
    ]
    detections = Detections.concatenate(
        [Detections(*(np.array([v]) for v in (n, kind, *span, score / 5))) for n, span, kind, score in found]
    )
    expected = evaluate({r.name: r.segments for r in recordings}, detections, Protocol("one", (tiou,)))
    hit = payload.match(detections, recordings, tiou)
    for name, (levels,) in zip(expected.classes, expected.hits, strict=True):
        order = np.argsort(detections.score[detections.label == name], kind="stable")[::-1]
        np.testing.assert_array_equal(hit[detections.label == name][order], levels)


def test_an_instance_is_found_once_and_by_the_best_score():
    recording = Recording("a", {"s": np.zeros((9, 1), np.float32)}, 1.0, (Segment(2, 6, "x"),), ("x",))
    columns = (["a"] * 3, ["x", "x", "y"], [2, 2, 2], [6, 6, 6], [0.1, 0.9, 1.0])
    found = Detections(*map(np.array, columns))
    assert payload.match(found, [recording], 0.5).tolist() == [False, True, False]


def test_nothing_is_right_without_instances():
    recording = Recording("a", {"s": np.zeros((9, 1), np.float32)}, 1.0, (), ())
    found = Detections(*map(np.array, (["a"], ["x"], [2.0], [6.0], [0.1])))
    assert payload.match(found, [recording], 0.5).tolist() == [False]


def test_maps_come_back_to_half_a_step(scored):
    for score, kept in zip(scored[1], packed(scored)["recordings"], strict=True):
        maps = unpack(kept["maps"], "u1").reshape(-1, len(score.recording)) / 255
        shown = kept["shown"]
        fused = score.class_map(tiny_config().inference)
        expected = [score.attention, score.cluster_foreground, *score.class_activation.T[shown], *fused.T[shown]]
        np.testing.assert_allclose(maps, expected, atol=0.5 / 255 + 1e-9)
        np.testing.assert_array_equal(unpack(kept["cluster"], "<u2"), score.cluster_probability.argmax(axis=1))


def test_detections_come_back_with_their_class_and_whether_they_are_right(scored):
    data, scores, found = scored
    hit = payload.match(found, [s.recording for s in scores], payload.TIOU)
    for kept in packed(scored)["recordings"]:
        rows = found.video == kept["name"]
        columns = unpack(kept["found"], "<f4").reshape(3, -1)
        np.testing.assert_allclose(columns, [found.start[rows], found.end[rows], found.score[rows]], rtol=1e-6)
        assert [data.classes[i] for i in unpack(kept["found_class"], "<u2")] == found.label[rows].tolist()
        np.testing.assert_array_equal(unpack(kept["found_hit"], "u1"), hit[rows])


def test_only_classes_that_are_there_or_found_are_kept(scored):
    data, _, found = scored
    for recording, kept in zip(data.test, packed(scored)["recordings"], strict=True):
        there = {*recording.labels, *found.of(recording.name).label.tolist()}
        assert [data.classes[i] for i in kept["shown"]] == [name for name in data.classes if name in there]


def test_fewer_recordings_are_spread_from_the_worst_to_the_best():
    values = [0.4, 0.1, 0.9, 0.2, 0.7]
    assert payload.spread(values, None) == [0, 1, 2, 3, 4]
    assert payload.spread(values, 3) == [0, 1, 2]
    assert payload.spread(values, 9) == [0, 1, 2, 3, 4]


def test_recordings_that_are_left_out_are_counted(scored):
    kept = packed(scored, most=2)
    assert len(kept["recordings"]) == 2
    assert kept["left_out"] == 2


def test_threshold_to_start_with_has_the_best_f1():
    found = Detections(*map(np.array, (["a"] * 4, ["x"] * 4, [0.0] * 4, [1.0] * 4, [0.9, 0.8, 0.7, 0.6])))
    assert payload.best_threshold(found, np.array([True, False, True, False]), 2) == 0.7
    assert payload.best_threshold(found, np.array([True, False, False, False]), 2) == 0.9
    assert payload.best_threshold(Detections.empty(), np.zeros(0, bool), 2) == 0


def test_f1_of_a_recording_counts_what_is_missed_and_what_is_false(scored):
    recording = replace(scored[0].test[0], segments=scored[0].test[0].segments[:1])
    names = [recording.name, recording.name, "other"]
    found = Detections(*map(np.array, (names, ["x"] * 3, [0.0] * 3, [1.0] * 3, [0.9, 0.5, 0.9])))
    hit = np.array([True, False, True])
    assert payload.f1_of(recording, found, hit, 0.6) == 1
    assert payload.f1_of(recording, found, hit, 0.1) == pytest.approx(2 / 3)
    assert payload.f1_of(recording, found, hit, 0.95) == 0
    assert payload.f1_of(replace(recording, segments=()), Detections.empty(), np.zeros(0, bool), 0.5) == 1


def test_precision_of_a_recording_is_none_without_instances_or_when_it_is_dropped(scored):
    data, _, found = scored
    protocol = protocol_of("thumos14")
    assert payload.recording_precision(replace(data.test[0], segments=()), found, protocol) is None
    name = data.test[0].name
    assert payload.recording_precision(data.test[0], found, protocol.without(name)) is None
    assert 0 <= payload.recording_precision(data.test[0], found, protocol) <= 1


def test_script_data_has_no_sign_of_markup_and_comes_back():
    text = to_script({"name": EVIL})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": EVIL}


def test_picture_is_one_svg_element_in_the_colours_of_the_page():
    def draw():
        figure = new_figure(300, 200)
        axis = figure.subplots()
        axis.set_title(EVIL.replace("$", ""), color=INK)
        axis.plot([0, 1], color=COLOURS[1])
        return to_svg(figure, "one", 'a "quoted" <picture>')

    text = draw()
    assert text.startswith("<svg ")
    assert text.endswith("</svg>")
    assert "var(--ink)" in text
    assert "var(--c1)" in text
    assert INK not in text
    assert "<script" not in text
    assert "<img" not in text
    assert "&quot;quoted&quot; &lt;picture&gt;" in text
    assert draw() == text


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.ids = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in {"src", "href", "xlink:href", "action", "data"} and v]
        self.ids += [v for k, v in attributes if k == "id"]


def test_names_cannot_add_elements_and_nothing_is_fetched(report):
    found = Elements()
    found.feed(report[0].read_text(encoding="utf-8"))
    assert found.tags.count("script") == 2
    assert "img" not in found.tags
    assert "b" not in found.tags
    assert all(address.startswith(("data:", "#")) for address in found.addresses)


def test_report_holds_results_facts_and_all_pictures(report):
    text = report[0].read_text(encoding="utf-8")
    for expected in (
        "recipe paper on tiny",
        "thumos14: ActivityNet-style AP, tIoU .1:.1:.7",
        "last epoch, 3 epochs, seed 0",
        "mean over classes",
        "loss.snippet_weight",
        "packages.torch",
        *("Clusters", "Embedding", "Training", "Precision and recall", "The best recording", "The worst recording"),
    ):
        assert expected in text, expected
    assert text.count("<svg ") == 6
    assert len(text) < 3_000_000


def test_report_of_a_baseline_has_no_clusters(tmp_path):
    train(tiny_config("baseline", epochs=1), tiny_data(), tmp_path / "run", progress=False)
    run = build.read_run(tmp_path / "run", tiny_data())
    text = build.build_page(run, method="pca")
    assert "<h2>Clusters</h2>" not in text
    assert "foreground AUC, clusters" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["foreground"] == []
    assert {r["cluster"] for r in data["recordings"]} == {""}


def test_without_annotated_snippets_there_is_no_foreground_auc(scored):
    _, scores, _ = scored
    whole = [replace(s, recording=replace(s.recording, segments=())) for s in scores]
    assert foreground_aucs(scores, tiny_config()).keys() == {"attention", "clusters", "both fused"}
    assert foreground_aucs(whole, tiny_config()) == {}


def test_command_writes_the_report_and_names_it(report, monkeypatch, capsys):
    path, data = report
    monkeypatch.setattr(data_module, "load", lambda *_, **__: data)
    out = path.parent / "elsewhere" / "page.html"
    assert cli.main(["report", str(path.parent), "--out", str(out), "--embedding", "pca"]) == 0
    assert out.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
    assert f"Report: {out}" in capsys.readouterr().out


def test_command_refuses_a_folder_without_a_run(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "`folder` must be a run folder with config.json" in capsys.readouterr().err
