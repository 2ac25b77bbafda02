"""Tables of experiments: their specifications, their statistics, their sentences, what is written."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from examples.case_wtal import recipes as recipes_module
from examples.case_wtal.experiments import jobs
from examples.case_wtal.experiments.families import add_on, all_tables, find_tables, labels_table, recipes_table
from examples.case_wtal.experiments.figures import draw_clusters, draw_entropies
from examples.case_wtal.experiments.jobs import JobResult
from examples.case_wtal.experiments.markdown import table_cells, table_notes, to_markdown
from examples.case_wtal.experiments.paper import BASELINE_PARTS, COMPONENTS, FIGURE_4, LABELLING, TESTING
from examples.case_wtal.experiments.results import read_tables, summarise, verdict_of, write_tables
from examples.case_wtal.experiments.run import describe_tables, run_table, write_all
from examples.case_wtal.experiments.specs import Claim, Row, TableSpec, same
from examples.case_wtal.experiments.statistics import Difference, collapsed
from tests.case_wtal.tiny import tiny_config, tiny_data

CONFIG = tiny_config(epochs=1)
AB = TableSpec(
    "ab",
    "A and B",
    (Row("a", same, "attention", {"THUMOS14": 42.0}), Row("b", same, "fused")),
    "a",
    (Claim("b is better", "b", "a"), Claim("b is as good", "b", "a", relation="close", margin=1.0)),
)
values = st.floats(-50, 50, allow_subnormal=False)


def made_up(averages, config=CONFIG, foreground="attention", **history):
    """Results with the given averages, one for each seed."""
    mean_ap = [dict.fromkeys(("attention", "clusters", "fused"), [value] * 7) for value in averages]
    auc = {"attention": 0.5, "clusters": 0.6, "fused": 0.7}
    return [JobResult(config, ap, auc, {f"clusters/{n}": v for n, v in history.items()}) for ap in mean_ap]


def compare(a, b, spec=AB):
    return summarise(spec, {"a": made_up(a), "b": made_up(b)}, range(len(a)))


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of all tests, as on disk: a training that two tables need is done once."""
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def figure_4(data, folder):
    return run_table(FIGURE_4, CONFIG, data, range(2), folder)


# ---- statistics


def test_interval_is_that_of_the_paired_t_test():
    a, b = [2.0, 4.0, 4.5, 5.0], [3.0, 5.5, 4.0, 7.0]
    interval = stats.ttest_rel(b, a).confidence_interval(0.95)
    difference = Difference.of(b, a)
    assert difference.mean == pytest.approx(1.0)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert difference.text() == f"+1.0 [{interval.low:+.1f}, {interval.high:+.1f}]"


def test_one_seed_has_no_interval():
    difference = Difference.of([3.0], [2.0])
    assert difference == Difference(1.0, None, None)
    assert difference.text(2) == "+1.00"


def test_collapse_is_less_than_half_of_the_median():
    assert collapsed([40.0, 41.0, 19.0, 42.0], [3, 5, 7, 9]) == (7,)
    assert collapsed([10.0, 11.0, 12.0], [0, 1, 2]) == ()


def test_two_seeds_are_too_few_to_judge_collapse():
    assert collapsed([40.0, 41.0, 2.0], [0, 1, 2]) == (2,)
    assert collapsed([40.0, 2.0], [0, 1]) == ()
    table = compare([40.0, 41.0], [44.0, 2.0])
    assert [row.collapsed for row in table.rows] == [(), ()]
    assert table_notes(table)[-1] == "Too few seeds to judge collapse: 2, at least 3 needed."
    assert not any("Too few" in note for note in table_notes(compare([40.0, 41.0, 42.0], [44.0, 2.0, 46.0])))


def test_rows_have_mean_deviation_and_paired_difference():
    a, b = compare([10.0, 20.0, 30.0], [12.0, 21.0, 33.0]).rows
    assert (a.mean["average"], a.sd["average"], a.difference) == (20.0, 10.0, None)
    assert (b.mean["average"], b.difference.mean, b.reference) == (22.0, 2.0, "a")
    assert b.mean["auc"] == pytest.approx(0.7)
    assert b.values["average"] == (12.0, 21.0, 33.0)


@given(st.lists(st.tuples(values, st.floats(-1, 1, allow_subnormal=False)), min_size=3, max_size=8))
def test_what_a_seed_does_to_both_rows_cancels(pairs):
    easy, gain = (np.array(v) for v in zip(*pairs, strict=True))
    found = compare(easy.tolist(), (easy + gain).tolist()).rows[1].difference
    alone = Difference.of(gain.tolist(), [0.0] * len(gain))
    for ours, theirs in ((found.mean, alone.mean), (found.low, alone.low), (found.high, alone.high)):
        assert ours == pytest.approx(theirs, abs=1e-9)  # rounding of sums near 50


def test_collapsed_seeds_are_named():
    table = compare([40.0, 41.0, 42.0], [44.0, 2.0, 46.0])
    assert [row.collapsed for row in table.rows] == [(), (1,)]
    assert table_notes(table)[-1] == "COLLAPSED: b with seed 1, mAP below half of the row's median."


# ---- sentences


@pytest.mark.parametrize(
    ("b", "sentence"),
    [
        ([12.0, 22.5, 32.0], "Paper: b is better. Measured: agrees, +2.2 [+1.4, +2.9] points."),
        ([8.0, 18.5, 28.0], "Paper: b is better. Measured: does not agree, -1.8 [-2.6, -1.1] points."),
        (
            [8.0, 22.0, 31.0],
            "Paper: b is better. Measured: undecided (interval includes zero), +0.3 [-4.8, +5.5] points.",
        ),
    ],
)
def test_a_sentence_says_whether_the_seeds_agree(b, sentence):
    assert compare([10.0, 20.0, 30.0], b).claims[0].sentence == sentence


@pytest.mark.parametrize(
    ("b", "verdict"),
    [
        ([10.2, 19.9, 30.1], "agrees"),
        ([15.0, 25.1, 35.0], "does not agree"),
        ([11.0, 20.5, 30.1], "undecided (interval reaches beyond ±1)"),
    ],
)
def test_as_good_as_means_within_the_margin(b, verdict):
    assert f"Measured: {verdict}, " in compare([10.0, 20.0, 30.0], b).claims[1].sentence


def test_one_seed_decides_nothing():
    table = compare([10.0], [40.0])
    assert {claim.verdict for claim in table.claims} == {"undecided"}
    assert "undecided (one seed has no interval), +30.0 points" in table.claims[0].sentence


def test_rows_that_are_equal_are_undecided():
    assert compare([10.0, 20.0], [10.0, 20.0]).claims[0].verdict == "undecided"


@given(values, values)
def test_the_verdict_follows_the_sides_of_zero(one, two):
    low, high = sorted((one, two))
    verdict = verdict_of(Difference((low + high) / 2, low, high), Claim("", "b", "a"))
    assert (verdict == "agrees") == (low > 0)
    assert (verdict == "does not agree") == (high < 0)


@given(values, values, st.sampled_from(["higher", "close"]))
def test_lower_is_higher_seen_from_the_other_row(one, two, relation):
    low, high = sorted((one, two))
    mirrored = Difference(-(low + high) / 2, -high, -low)
    claim = Claim("", "b", "a", relation=relation, margin=3.0)
    other = replace(claim, relation={"higher": "lower", "close": "close"}[relation])
    assert verdict_of(Difference((low + high) / 2, low, high), claim) == verdict_of(mirrored, other)


@given(values, values, st.floats(0.1, 20))
def test_a_difference_is_never_both_close_and_far(one, two, margin):
    low, high = sorted((one, two))
    assume(low < high)
    verdict = verdict_of(Difference(low, low, high), Claim("", "b", "a", relation="close", margin=margin))
    assert (verdict == "agrees") == (max(abs(low), abs(high)) <= margin)
    assert (verdict == "does not agree") == (low > margin or high < -margin)


# ---- specifications


@pytest.mark.parametrize("name", all_tables())
def test_claims_and_references_name_rows(name):
    spec = all_tables()[name]
    names = [row.name for row in spec.rows]
    assert spec.name == name
    assert len(set(names)) == len(names)
    said = {spec.reference, *spec.curves, *(row.reference or spec.reference for row in spec.rows)}
    assert said | {c.row for c in spec.claims} | {c.versus for c in spec.claims} <= set(names)


@pytest.mark.parametrize("name", all_tables())
def test_rows_of_equal_settings_differ_by_the_foreground(name):
    rows = all_tables()[name].rows
    config = recipes_module.RECIPES["paper"]("ninapro")
    assert len({(row.change(config), row.foreground) for row in rows}) == len(rows)


def test_numbers_of_the_paper_go_where_it_puts_them():
    paper = {
        "4": [42.1, 43.2, 43.9, 46.2],
        "5": [41.2, 40.8, 46.2, 44.7],
        "6": [46.2, 43.9, 44.1],
        "11": [32.0, 41.7, 42.1],
        "12": [38.3, 42.1, 45.6, 46.2],
    }
    for name, numbers in paper.items():
        assert [row.published["THUMOS14"] for row in all_tables()[name].rows] == numbers
    assert [row.published["ActivityNet 1.3"] for row in COMPONENTS.rows] == [24.7, 25.4, 25.7, 26.8]


def test_claims_of_the_paper_hold_for_its_own_numbers():
    for spec in all_tables().values():
        numbers = {row.name: row.published for row in spec.rows}
        for claim in spec.claims:
            if claim.by == "paper" and claim.measure == "average" and claim.relation == "higher":
                for data_set in numbers[claim.row].keys() & numbers[claim.versus].keys():
                    assert numbers[claim.row][data_set] > numbers[claim.versus][data_set]


def test_trainings_go_seed_by_seed_and_select_nothing():
    configs = COMPONENTS.configs(tiny_config(checkpoint="best_on_test"), [3, 4])
    assert [c.train.seed for c in configs] == [3] * 4 + [4] * 4
    assert [c.loss.components for c in configs[:4]] == ["baseline", "scc", "scc_ccc", "scc_ccc"]
    assert {c.train.checkpoint for c in configs} == {"last"}


def test_tables_are_found_by_name_each_once():
    assert [spec.name for spec in find_tables(["10", "4", "c3"])] == ["4", "c3"]
    assert [spec.name for spec in find_tables(["4", "all"])] == list(all_tables())


@pytest.mark.parametrize(("names", "message"), [(["9"], "got 9"), ([], "got none")])
def test_other_tables_are_refused(names, message):
    with pytest.raises(ValueError, match=rf"`table` must be among 4, 5, .* all, {message}"):
        find_tables(names)


def test_case_is_added_to_each_baseline_and_compared_with_it():
    rows = add_on(["own", "acmnet", "mine"]).rows
    assert [row.name for row in rows[2:]] == ["ACM-Net", "ACM-Net + CASE", "mine", "mine + CASE"]
    assert [row.reference for row in rows[2:]] == ["ACM-Net", "ACM-Net", "mine", "mine"]
    config = recipes_module.RECIPES["paper"]("ninapro")
    base, case = (row.change(config) for row in rows[2:4])
    assert (base.model.baseline, base.loss.components) == ("acmnet", "baseline")
    assert case == replace(base, loss=replace(base.loss, components="scc_ccc"))


def test_rows_of_recipes_start_from_them():
    recipes = {"one": lambda *_: CONFIG, "two": lambda *_: tiny_config(epochs=5)}
    for spec in (recipes_table(recipes), labels_table(recipes)):
        epochs = {row.name[:3]: row.change(tiny_config(epochs=9)).train.epochs for row in spec.rows}
        assert epochs == {"one": 1, "two": 5}


# ---- runs


def test_a_table_trains_each_setting_once(data, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(jobs, "run_job", lambda c, d, _run=jobs.run_job: trained.append(c) or _run(c, d))
    table = run_table(TESTING, CONFIG, data, [0], tmp_path)
    assert len(trained) == 1
    assert [row.foreground for row in table.rows] == ["attention", "clusters", "fused"]
    run_table(COMPONENTS, CONFIG, data, [0], tmp_path)
    assert [c.loss.components for c in trained[1:]] == ["baseline", "scc"]


def test_rows_of_a_table_are_their_own_trainings(data, folder):
    table = run_table(LABELLING, CONFIG, data, range(2), folder)
    for row, spec in zip(table.rows, LABELLING.rows, strict=True):
        for seed in range(2):
            config = spec.change(replace(CONFIG, train=replace(CONFIG.train, seed=seed)))
            (direct,) = jobs.run_jobs(data, [config], folder)
            assert row.values["average"][seed] == direct.average("fused")
            assert row.values["proportion_entropy"][seed] == direct.history["clusters/proportion_entropy"][-1]


def test_a_class_branch_alone_ranks_no_foreground(data, folder):
    table = run_table(BASELINE_PARTS, CONFIG, data, [0], folder)
    assert ["auc" in row.mean for row in table.rows] == [False, True, True]
    head, rows = table_cells(table, [0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99])
    assert rows[0][head.index("AUC")] == "-"


@pytest.mark.parametrize("name", ["6", "12", "c3", "addon", "recipes", "labels"])
def test_every_row_of_the_other_tables_is_its_own_training(name, data, folder, monkeypatch):
    other = replace(CONFIG, label=replace(CONFIG.label, memory="ema"), proposal=replace(CONFIG.proposal, upsample=2))
    monkeypatch.setattr(recipes_module, "RECIPES", {"paper": lambda *_: CONFIG, "other": lambda *_: other})
    (spec,) = find_tables([name])
    table = run_table(spec, CONFIG, data, [0], folder)
    found = {row.name: (row.values["average"], row.values["auc"]) for row in table.rows}
    for row in spec.rows:
        (direct,) = jobs.run_jobs(data, [row.change(CONFIG)], folder)
        assert found[row.name] == ((direct.average(row.foreground),), (direct.auc[row.foreground],))
    assert len(table.claims) == len(spec.claims)


# ---- what is written


def test_tables_survive_json(figure_4, data, tmp_path):
    content = describe_tables([figure_4, compare([1.0, 2.0], [3.0, 5.0])], CONFIG, data)
    write_tables(content, tmp_path / "tables.json")
    assert read_tables(tmp_path / "tables.json") == content


def test_json_has_no_nan(figure_4, data, tmp_path):
    write_tables(describe_tables([figure_4], CONFIG, data), tmp_path / "tables.json")
    json.loads((tmp_path / "tables.json").read_text(), parse_constant=pytest.fail)


def test_the_page_has_every_number_with_what_belongs_to_it(figure_4, data):
    content = describe_tables([figure_4], CONFIG, data)
    page = " ".join(to_markdown(content, "the command", ["a.png", "b.png"]).split())
    for text in (content.protocol, data.note, "8 recordings to train on, 4 to evaluate, split dev", "$ the command"):
        assert text in page
    for row in figure_4.rows:
        assert f"| {row.name} |" in page
        assert f"{row.mean['average']:.1f} ({row.sd['average']:.1f})" in page
    for claim in figure_4.claims:
        assert f"- {claim.sentence}" in page
    assert "](a.png)" in page
    assert "](b.png)" in page


def test_differences_say_what_they_are_over(figure_4, data):
    assert "minus base [95 %]" in table_cells(figure_4, [0.5])[0]
    own = TableSpec("", "", (AB.rows[0], replace(AB.rows[1], reference="b")), "a", measure="auc")
    assert "AUC minus its base [95 %]" in table_cells(compare([1.0], [2.0], own), [0.5])[0]


def test_published_numbers_carry_their_data_set():
    head, rows = table_cells(compare([1.0], [2.0]), [0.5])
    assert head[-1] == "paper, THUMOS14"
    assert [row[-1] for row in rows] == ["42.0", ""]


def test_recipes_that_learn_more_than_case_are_named(data):
    table = replace(compare([1.0], [2.0]), name="recipes")
    (remark,) = describe_tables([table], CONFIG, data).remarks
    assert remark.startswith("In otlabel, ")
    assert describe_tables([replace(table, name="4")], CONFIG, data).remarks == ()


def test_pictures_are_written_with_figure_4_alone(figure_4, data, tmp_path):
    names = [p.name for p in write_all(describe_tables([compare([1.0], [2.0])], CONFIG, data), tmp_path / "ab", "")]
    assert names == ["tables.md", "tables.json"]
    written = write_all(describe_tables([figure_4], CONFIG, data), tmp_path / "four", "")
    assert [path.name for path in written[2:]] == ["figure_4a.png", "figure_4b.png"]
    assert all(path.stat().st_size > 10_000 for path in written[2:])


def test_figure_4a_has_a_point_for_each_number_of_clusters(figure_4, data):
    axis = draw_clusters(figure_4, describe_tables([figure_4], CONFIG, data)).axes[0]
    (bars,) = axis.containers
    points, _, _ = bars.lines
    assert points.get_xdata().tolist() == [2, 4, 8, 16, 32, 64]
    assert points.get_ydata().tolist() == [figure_4.row(f"K = {k}").mean["average"] for k in (2, 4, 8, 16, 32, 64)]
    base = figure_4.row("base").mean["average"]
    assert any(list(line.get_ydata()) == [base, base] for line in axis.lines)


def test_figure_4b_has_means_and_bands_with_and_without_prior(figure_4, data):
    figure = draw_entropies(figure_4, describe_tables([figure_4], CONFIG, data))
    for axis, measure in zip(figure.axes, ("label_entropy", "class_entropy"), strict=True):
        drawn = {line.get_label(): line.get_ydata()[-1] for line in axis.lines if line.get_label()[0] != "_"}
        assert drawn == {name: pytest.approx(figure_4.row(name).mean[measure]) for name in FIGURE_4.curves}
        assert len(axis.collections) == 2
