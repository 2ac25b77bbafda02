"""The ablation on made-up data: its plan, its file, its statistics."""

import math
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from examples.case_wtal import ablation as module
from examples.case_wtal.ablation import ROWS, ablation, plan, read_results, run_job
from examples.case_wtal.config import InferenceConfig, LabelConfig
from examples.case_wtal.proposals import ProposalConfig
from examples.case_wtal.recipes import RECIPES
from examples.case_wtal.report import class_label_notes, show, summary_notes, summary_table, write_summary
from examples.case_wtal.run import protocol_of
from examples.case_wtal.summary import Difference, between_recipes, summarise
from tests.case_wtal.tiny import tiny_config, tiny_data

THUMOS14 = protocol_of("thumos14")


def two_recipes(**train):
    plain = tiny_config(epochs=1, **train)
    other = replace(
        plain, recipe="other", label=LabelConfig(memory="ema"), proposal=ProposalConfig(upsample=4, oic_margin=0.1)
    )
    return {"paper": plain, "other": other}


def made_up(averages, recipe="paper"):
    """Results with the given averages, row -> one for each seed."""
    return [
        module.Result(recipe, seed, row, value, (value,) * 7, (0.5, math.nan, 0.5))
        for row, values in averages.items()
        for seed, value in enumerate(values)
    ]


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    lines = []
    results = ablation(data, two_recipes(), 2, folder, report=lines.append)
    return results, folder, lines


def test_every_recipe_seed_and_row_has_a_result(done):
    results, _, lines = done
    expected = [(recipe, seed, row) for recipe in ("paper", "other") for seed in (0, 1) for row in ROWS]
    assert [(r.recipe, r.seed, r.row) for r in results] == expected
    assert len(lines) == 2 * (1 + 2 + 2)  # per seed one baseline for both recipes
    assert lines[0].startswith("[1/10] seed 0, paper+other, baseline: paper base ")


def test_results_survive_the_file(done):
    results, folder, _ = done
    stored = {(r.recipe, r.seed, r.row): r for r in read_results(folder)}
    for result in results:
        np.testing.assert_array_equal(stored[result.recipe, result.seed, result.row].mean_ap, result.mean_ap)
        assert stored[result.recipe, result.seed, result.row].average == result.average


def test_average_is_the_mean_over_thresholds_in_percent(done):
    for result in done[0]:
        assert result.average == pytest.approx(np.mean(result.mean_ap))
        assert 0 <= result.average <= 100


def test_recipes_share_the_baseline_but_not_its_proposals(done):
    base = {r.recipe: r for r in done[0] if r.row == "base" and r.seed == 0}
    assert base["paper"].auc[0] == base["other"].auc[0]
    assert all(math.isnan(value) for value in base["paper"].auc[1:])


def test_assisted_row_is_the_training_above_it(done):
    rows = {r.row: r for r in done[0] if r.recipe == "paper" and r.seed == 1}
    assert rows["+SCC+CCC"].auc == rows["+test"].auc
    assert rows["+SCC+CCC"].auc != rows["+SCC"].auc


def test_finished_trainings_are_not_repeated(done, data, monkeypatch):
    monkeypatch.setattr(module, "train", None)
    results, folder, _ = done
    again = ablation(data, two_recipes(), 2, folder)
    assert [r.average for r in again] == [r.average for r in results]


def test_an_interrupted_ablation_goes_on(done, data, tmp_path, monkeypatch):
    results, folder, _ = done
    for name in ("results.csv", "ablation.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    lines = (folder / "results.csv").read_text().splitlines(keepends=True)
    (tmp_path / "results.csv").write_text("".join(lines[:-2]) + lines[-2][:15])  # cut within a line
    trained = []
    monkeypatch.setattr(module, "train", lambda *a, _train=module.train, **k: trained.append(1) or _train(*a, **k))
    again = ablation(data, two_recipes(), 2, tmp_path)
    assert len(trained) == 1
    assert [r.average for r in again] == [r.average for r in results]


def test_workers_give_the_numbers_of_one_process(done, data, tmp_path):
    results = [r for r in done[0] if r.recipe == "paper" and r.seed == 0]
    found = ablation(data, {"paper": two_recipes()["paper"]}, 1, tmp_path, jobs=2)
    assert [(r.row, r.average, r.mean_ap) for r in found] == [(r.row, r.average, r.mean_ap) for r in results]


def test_selection_on_the_test_split_is_switched_off():
    jobs = plan(two_recipes(checkpoint="best_on_test"), range(2), set())
    assert {job.config.train.checkpoint for job in jobs} == {"last"}
    assert [job.config.train.seed for job in jobs] == [0] * 5 + [1] * 5


def test_recipes_with_another_network_train_their_own_baseline():
    recipes = two_recipes()
    recipes["other"] = replace(recipes["other"], model=replace(recipes["other"].model, hidden=16))
    assert len(plan(recipes, [0], set())) == 6


def test_job_evaluates_under_each_recipe_s_own_proposals(data):
    job = plan(two_recipes(), [0], set())[0]
    results = run_job(job, data)
    assert [(r.recipe, r.row) for r in results] == [("paper", "base"), ("other", "base")]


def test_results_of_other_settings_or_data_are_refused(done, data):
    with pytest.raises(ValueError, match=r"`folder` must hold results of the same settings.*paper has train.epochs 2"):
        ablation(data, {"paper": tiny_config()}, 2, done[1])
    with pytest.raises(ValueError, match=r"`folder` must hold results of the same data.* got .*Made-up"):
        ablation(replace(data, note="Others."), two_recipes(), 2, done[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipes": {}}, "`recipes` must name at least one recipe, got none"),
        ({"seeds": 0}, "`seeds` must be at least 1, got 0"),
        ({"jobs": 0}, "`jobs` must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(data, tmp_path, change, message):
    arguments = {"recipes": two_recipes(), "seeds": 1, "jobs": 1} | change
    with pytest.raises(ValueError, match=message):
        ablation(data, arguments["recipes"], arguments["seeds"], tmp_path, jobs=arguments["jobs"])


def test_two_protocols_do_not_compare(data, tmp_path):
    recipes = two_recipes()
    recipes["other"] = replace(recipes["other"], inference=InferenceConfig(protocol="activitynet"))
    with pytest.raises(ValueError, match="`recipes` must be evaluated under one protocol, got activitynet, thumos14"):
        ablation(data, recipes, 1, tmp_path)


def test_a_worker_that_dies_is_explained(data, tmp_path, monkeypatch):
    class DyingPool(ThreadPoolExecutor):
        def __init__(self, jobs, **_):
            super().__init__(jobs)

        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenProcessPool())
            return future

    monkeypatch.setattr(module, "ProcessPoolExecutor", DyingPool)
    with pytest.raises(ChildProcessError, match="`jobs` must leave each worker enough memory, got 2 and a worker"):
        ablation(data, two_recipes(), 1, tmp_path, jobs=2)


# ---- statistics


def test_interval_is_that_of_the_paired_t_test():
    values, reference = [3.0, 5.5, 4.0, 7.0], [2.0, 4.0, 4.5, 5.0]
    interval = stats.ttest_rel(values, reference).confidence_interval(0.95)
    difference = Difference.of(values, reference)
    assert difference.mean == pytest.approx(1.0)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert str(difference) == f"+1.0 [{interval.low:+.1f}, {interval.high:+.1f}]"


def test_one_seed_has_no_interval():
    difference = Difference.of([3.0], [2.0])
    assert math.isnan(difference.low)
    assert str(difference) == "+1.0"


def test_summary_has_mean_deviation_and_paired_gain():
    base, scc = summarise(made_up({"base": [10.0, 20.0, 30.0], "+SCC": [12.0, 21.0, 33.0]}))
    assert (base.mean, base.sd, base.gain) == (20.0, 10.0, None)
    assert (scc.mean, scc.gain.mean) == (22.0, 2.0)


def test_collapse_is_a_baseline_below_half_of_the_median(data):
    results = made_up({"base": [40.0, 41.0, 19.0, 42.0], "+SCC": [1.0, 41.0, 41.0, 42.0]})
    base, scc = summarise(results)
    assert (base.collapsed, scc.collapsed) == ((2,), ())
    assert any(
        note.startswith("COLLAPSED: with paper, the baseline of seed 2")
        for note in summary_notes(results, data, THUMOS14)
    )


def test_recipes_are_compared_over_common_seeds():
    results = made_up({"+test": [10.0, 20.0, 30.0]}) + made_up({"+test": [11.0, 23.0]}, "other")
    ((recipe, reference, difference),) = between_recipes(results, "+test")
    assert (recipe, reference, difference.mean) == ("other", "paper", 2.0)


def test_summary_is_shown_and_written_with_what_belongs_to_it(done, data, tmp_path, capsys):
    results = done[0]
    write_summary(results, data, THUMOS14, tmp_path)
    show(summary_table(summarise(results), THUMOS14, "Ablation"), summary_notes(results, data, THUMOS14))
    shown = " ".join(capsys.readouterr().out.split())
    for text in (shown, " ".join((tmp_path / "summary.md").read_text().split())):
        assert THUMOS14.describe() in text
        assert data.note in text
        assert "last epoch, no selection on the evaluated split" in text
        assert "…" not in text
        for row in ROWS:
            assert row in text
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 1 + 2 * len(ROWS)


def test_notes_say_which_recipe_trains_with_more_than_case():
    recipes = {name: RECIPES[name]("watch") for name in RECIPES}
    assert class_label_notes(recipes) == [
        "In otlabel, +SCC+CCC also learns from class labels by transport, which are ours."
    ]
    assert class_label_notes({"paper": RECIPES["paper"]("watch")}) == []
