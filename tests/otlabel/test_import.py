"""Importing the library is cheap and quiet, and its public names are those it lists."""

import inspect
import subprocess
import sys
import types

import pytest

import otlabel

FORBIDDEN = ["scipy", "ot", "sklearn", "triton", "matplotlib", "lightning", "pandas", "hypothesis", "pytest"]


@pytest.fixture(scope="module")
def imported():
    """Modules that a fresh interpreter holds after `import otlabel`; warnings are errors there."""
    code = "import sys, otlabel, otlabel.testing; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("module", FORBIDDEN)
def test_import_brings_no_heavy_module(imported, module):
    assert module not in imported.stdout.split()


def test_import_is_quiet(imported):
    assert (imported.stderr, len(imported.stdout.splitlines())) == ("", 1)


def test_all_is_sorted():
    assert otlabel.__all__ == sorted(otlabel.__all__)


def test_all_lists_every_public_name():
    public = {
        name
        for name, value in vars(otlabel).items()
        if not name.startswith("_")
        # Submodules appear in the package by being imported; those meant for users are listed.
        and (not isinstance(value, types.ModuleType) or name in ("marginals", "priors"))
    }
    assert public == set(otlabel.__all__)


@pytest.mark.parametrize("name", otlabel.__all__)
def test_public_name_exists_and_is_documented(name):
    assert inspect.getdoc(getattr(otlabel, name))


@pytest.mark.parametrize("module", [otlabel.marginals, otlabel.priors])
def test_public_builder_is_documented(module):
    builders = [value for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"]
    own = [builder for builder in builders if builder.__module__ == module.__name__]
    assert own
    assert all("Example:" in inspect.getdoc(builder) for builder in own)


def test_infeasible_problem_error_is_a_value_error():
    assert issubclass(otlabel.InfeasibleProblemError, ValueError)


@pytest.mark.parametrize("category", [otlabel.ConvergenceWarning, otlabel.NumericalWarning])
def test_warnings_are_user_warnings(category):
    assert issubclass(category, UserWarning)
