"""The sources of the site: names, recipes, gallery, included results. `make docs` builds it and follows every link."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.docs.site import public_names

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    page for page in DOCS.rglob("*.md") if not {"_build", "gallery", "systems"} & set(page.relative_to(DOCS).parts)
]
SCRIPTS = sorted((DOCS / "gallery_src").glob("plot_*.py"))

sys.path.insert(0, str(DOCS / "_ext"))


def names_on(page: Path) -> set[str]:
    """Full names in the autosummary tables of a page; a build fails if one of them is documented nowhere."""
    names, room, is_table = set(), "", False
    for line in page.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\.\. py:currentmodule:: (\S+)", line):
            room = found[1]
        elif line.startswith(".. autosummary::"):
            is_table = True
        elif is_table and line.startswith("   "):
            names.add(f"{room}.{line.strip()}")
        elif line.strip():
            is_table = False
    return names


def test_reference_lists_every_public_name_and_no_other():
    listed = set().union(*map(names_on, (DOCS / "api").glob("*.md")))
    # A type alias of strings is described below the table, where no summary can be taken from it.
    assert listed | {"otlabel.marginals.Order"} == set(public_names())


def test_every_page_of_the_reference_begins_with_a_sentence():
    for page in (DOCS / "api").glob("*.md"):
        title, empty, first, *_ = page.read_text(encoding="utf-8").splitlines()
        assert title.startswith("# "), page.name
        assert not empty, page.name
        assert first[0].isupper(), page.name
        assert len(first) > 40, page.name


def test_page_of_numerics_gives_the_default_tolerances():
    import inspect

    import otlabel
    from otlabel import nn, recipes, streaming, structured

    def default(call, name="solver"):
        value = inspect.signature(call).parameters[name].default
        return getattr(value, "tol", value)

    labelers = [getattr(otlabel, name) for name in otlabel.__all__ if re.fullmatch(r"sinkhorn_.*label", name)]
    solvers = [otlabel.Auto(), otlabel.Anderson(), otlabel.Newton(), otlabel.Sinkhorn()]
    assert len(labelers) == 5
    assert {*map(default, [*labelers, nn.SinkhornLabeler]), *(solver.tol for solver in solvers)} == {1e-4}
    assert default(streaming.stream_label) == 1e-3
    public = {name: getattr(recipes, name) for name in recipes.__all__}
    exact = {name: call for name, call in public.items() if "converged" in inspect.signature(call).parameters}
    given = {name: default(call, "tol") for name, call in exact.items()}
    # None is 1e-6 with `converged`, and what the system published without.
    assert {name for name, tol in given.items() if tol is None} == {"opw", "sela", "sla"}
    assert {name: tol for name, tol in given.items() if tol not in (None, 1e-6)} == {"asot": 1e-4}
    assert {default(structured.structured_label), default(structured.pairwise_label)} == {1e-6}
    assert default(structured.fused_gromov_wasserstein_label) == 1e-4
    page = (DOCS / "learn" / "numerics.md").read_text(encoding="utf-8")
    table = page[page.index("## Tolerances") : page.index("The smallest that means something")]
    assert re.findall(r"\de-\d+", table) == ["1e-4", "1e-3", "1e-6", "1e-4", "1e-6", "1e-9", "1e-4", "1e-12"]


def test_every_recipe_has_its_facts_and_its_papers():
    from recipe_pages import systems, verified

    known = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(encoding="utf-8"), re.MULTILINE))
    assert systems().keys() == verified().keys()
    assert {key for fact in systems().values() for key in fact["cite"]} <= known


def test_recipe_page_holds_all_of_the_docstring():
    import inspect

    from recipe_pages import SECTION, page, systems, take_apart, verified

    from otlabel import recipes

    for name, fact in systems().items():
        docstring = inspect.getdoc(getattr(recipes, name))
        prose = docstring[: SECTION.search(docstring).start()]
        assert sorted(" ".join(take_apart(docstring)).split()) == sorted(prose.split()), name
        assert all(word in page(name, fact, verified()[name]) for word in prose.split()), name


def test_labelers_of_recipes_are_found_through_helpers():
    from recipe_pages import labelers_of

    assert labelers_of("swav") == ["otlabel.sinkhorn_label"]
    assert labelers_of("sela") == ["otlabel.sinkhorn_label", "otlabel.sinkhorn_marginal_label"]
    assert "otlabel.sinkhorn_partial_label" in labelers_of("sp2ot")
    assert labelers_of("selavi_marginal") == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("<") and "gallery/" not in target:
            assert (page.parent / target).exists() or (page.parent / f"{target}.md").exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if "{include}" in page.read_text(encoding="utf-8")])
def test_included_results_have_the_marks_that_cut_them(page):
    for path, options in re.findall(
        r"\{include\} (\S+)\n((?:^:\w.*\n)*)", page.read_text(encoding="utf-8"), re.MULTILINE
    ):
        included = (page.parent / path).read_text(encoding="utf-8")
        for mark in re.findall(r'^:(?:start-after|end-before): "(.*)"$', options, re.MULTILINE):
            assert mark in included, (path, mark)


def test_page_of_benchmarks_names_every_peer_that_is_ever_faster():
    results = (ROOT / "benchmarks" / "results" / "cpu.md").read_text(encoding="utf-8")
    faster = set(re.findall(r"^\* \w, .*: ([\w-]+).*of otlabel's time$", results, re.MULTILINE))
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    lost = page[page.index("## What we lose") : page.index("## Balanced labels")]
    assert faster
    assert [peer for peer in faster if peer not in lost] == []


def test_gallery_has_scripts_that_say_what_they_show():
    assert len(SCRIPTS) >= 8
    for script in SCRIPTS:
        text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
        title, rule, empty, *_ = text.splitlines()
        assert set(rule) == {"="}, script.name
        assert len(rule) == len(title), script.name
        assert not empty, script.name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_gallery_uses_public_names_only(script):
    public = set(public_names()) | {"otlabel." + name.split(".")[1] for name in public_names()}
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "otlabel":
            assert {f"{node.module}.{alias.name}" for alias in node.names} <= public
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")


def test_committed_inventories_are_those_of_their_script():
    import zlib

    from inventories import PYTHON, TORCH, inventory

    for project, objects in (("python", PYTHON), ("torch", TORCH)):
        have = (DOCS / "inventories" / f"{project}.inv").read_bytes().split(b"\n", 4)
        want = inventory(project, objects).split(b"\n", 4)
        assert have[:4] == want[:4]
        assert zlib.decompress(have[4]) == zlib.decompress(want[4])


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120


def test_every_command_of_make_that_pages_name_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in [*PAGES, ROOT / "README.md"]:
        named = set(
            re.findall(r"^(?:\$ )?make ([a-z-]+)|`make ([a-z-]+)`", page.read_text(encoding="utf-8"), re.MULTILINE)
        )
        assert {one or other for one, other in named} <= targets, page.name
