"""Every recipe repeats the published arithmetic: against transcriptions by somebody who did not see it."""

import csv
import inspect

import pytest
import torch

from otlabel import recipes
from tests.otlabel.helpers import Largest, assert_labels_close
from tests.otlabel.recipe_checks import CHECKS, TABLE

DTYPES = {"float64": torch.float64, "float32": torch.float32}
RECIPES = [name for name in recipes.__all__ if inspect.isfunction(getattr(recipes, name))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.filterwarnings("ignore::otlabel.ConvergenceWarning")  # some loops end at their published cap
def test_recipe_is_the_published_arithmetic(name, dtype, record_property):
    check = CHECKS[name]
    is_close = check.atol[torch.float64] <= 1e-9
    largest = Largest("Recipes" if is_close else f"Recipe {name}, whose original adds 1e-6 to a divisor", dtype)
    for case, have, want in check.cases(DTYPES[dtype]):
        assert have.shape == want.shape, case
        largest.add(have, want)
        assert_labels_close(have, want, atol=check.atol[DTYPES[dtype]])
    assert largest.count >= 10
    largest.record(record_property)


def test_every_recipe_has_a_check():
    assert set(RECIPES) == set(CHECKS)


def test_table_of_the_docs_has_every_recipe():
    if not TABLE.exists():
        pytest.skip("only the clone has the documentation, not the source distribution")
    with TABLE.open(encoding="utf-8", newline="") as file:
        assert [row["recipe"] for row in csv.DictReader(file)] == sorted(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_its_source_and_what_is_truncated(name):
    text = inspect.getdoc(getattr(recipes, name))
    assert "Source:" in text
    assert "Example:" in text
