"""Recipes name every departure of the released program; settings survive JSON."""

import json
from dataclasses import replace

import pytest

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.config_json import describe_difference, from_plain, read_config, to_plain, write_config
from examples.case_wtal.recipes import RECIPES, otlabel, paper, released

DATASETS = ("watch", "ninapro", "thumos14")

# Where the released program departs from the paper: setting -> (paper, released).
DEPARTURES = {
    "label.rank": ("true", "released_argsort"),
    "label.sigma": (0.1, 10.0),
    "label.max_iter": (1000, 3),
    "label.tol": (1e-3, None),
    "label.initial_foreground": ("half", "one_over_k"),
    "proposal.oic_margin": (0.25, 0.15),
    "proposal.nms": ("hard", "released_decay"),
    "proposal.length_offset": (0.0, 1.0),
    "train.checkpoint": ("last", "best_on_test"),
}


def leaves(content, where=""):
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


@pytest.mark.parametrize("dataset", DATASETS)
def test_paper_and_released_differ_in_the_departures_and_nothing_else(dataset):
    before, after = (dict(leaves(to_plain(recipe(dataset)))) for recipe in (paper, released))
    different = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert different == DEPARTURES | {"recipe": ("paper", "released")}


def test_cluster_labels_at_test_are_those_of_the_last_batch_except_in_ours():
    assert [recipe().label.memory for recipe in (paper, released, otlabel)] == ["last_batch", "last_batch", "ema"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_ours_uses_true_ranks_converged_labels_and_no_test_label(dataset):
    config = otlabel(dataset)
    assert config.label.rank == "true"
    assert config.label.sigma <= 1
    assert config.label.tol is not None
    assert config.train.checkpoint == "last"


@pytest.mark.parametrize("dataset", DATASETS)
def test_recipes_share_network_and_optimisation(dataset):
    configs = [recipe(dataset) for recipe in RECIPES.values()]
    assert len({config.model for config in configs}) == 1
    assert len({replace(config.train, checkpoint="last", stages=1) for config in configs}) == 1


def test_thumos14_has_the_paper_s_settings():
    config = paper("thumos14")
    assert (config.model.hidden, config.model.kernel_size, config.model.clusters) == (512, 1, 16)
    train = config.train
    assert (train.epochs, train.batch_size, train.learning_rate, train.snippets) == (300, 16, 1e-4, 750)
    assert (config.loss.topk_ratio, config.loss.warm_start_epochs, config.label.epsilon) == (8, 0, 0.05)
    assert (config.loss.snippet_weight, config.loss.cluster_weight, config.loss.gce_q) == (1.0, 0.3, 0.7)


def test_recipe_carries_its_name_and_root():
    for name, recipe in RECIPES.items():
        config = recipe("ninapro", "some/folder")
        assert (config.recipe, config.dataset, config.root) == (name, "ninapro", "some/folder")


def test_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match=r"`dataset` must be one of .* got 'kinetics'"):
        paper("kinetics")


# ---- JSON


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_settings_survive_json(tmp_path, dataset, recipe):
    config = RECIPES[recipe](dataset, "root")
    write_config(config, tmp_path / "config.json")
    assert read_config(tmp_path / "config.json") == config


def test_missing_fields_have_their_defaults():
    config = from_plain({"train": {"epochs": 7}})
    assert config == replace(CaseConfig(), train=replace(CaseConfig().train, epochs=7))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimizer": 1}, "`content` must hold only settings of CaseConfig, got unknown field `optimizer`"),
        ({"train": {"epoch": 1}}, "got unknown field `train.epoch`"),
        ({"train": {"epochs": 2.5}}, "got train.epochs: 2.5 instead of an int"),
        ({"train": {"epochs": True}}, "got train.epochs: True instead of an int"),
        ({"label": {"order_preserving": "yes"}}, "got label.order_preserving: 'yes' instead of a bool"),
        ({"recipe": 3}, "got recipe: 3 instead of a str"),
        ({"label": {"rank": "best"}}, "label.rank: .*best"),
        ({"label": {"tol": "small"}}, "label.tol: 'small' instead of a float"),
        ({"proposal": {"nms": "gentle"}}, "proposal: `nms` must be one of"),
        ({"label": {"a": 1}, "train": {"b": 1}}, "`label.a`; unknown field `train.b`"),
        ([1, 2], "`content` must hold settings as a JSON object, got list"),
    ],
)
def test_wrong_settings_are_named(content, message):
    with pytest.raises(ValueError, match=message):
        from_plain(content)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{epochs: 3")
    with pytest.raises(ValueError, match="`config` must be a JSON file, got"):
        read_config(tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match="`config` must be a JSON file with settings, got"):
        read_config(tmp_path / "other.json")


def test_differences_are_described_by_field():
    changed = from_plain(json.loads(json.dumps(to_plain(CaseConfig()) | {"train": {"epochs": 3}})))
    assert describe_difference(CaseConfig(), changed) == "train.epochs 3 instead of 300"
    assert describe_difference(changed, changed) == ""
