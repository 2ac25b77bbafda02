"""One page for each recipe and the index table, written at the start of a build.

What a page says comes from three places, each the only one: the docstring of the function (problem, loop, faults of the
original, arguments), `recipes/systems.toml` (name, venue, bibliography) and `recipes/verified.csv`, which
`python -m tests.otlabel.recipe_checks` measures. The docstring is taken apart: prose goes into sections of the page,
and what `autofunction` prints is left with the call.
"""

import ast
import csv
import inspect
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from otlabel import recipes

HERE = Path(__file__).parents[1] / "recipes"
PAGES = HERE / "systems"
# Paragraphs that tell what the published program does otherwise, by the words that the docstrings use for it. One that
# begins in lower case goes on with the formula above it.
ABOUT_THE_ORIGINAL = re.compile(
    r"(?!The published loop|Truncated: )[A-Z].*\b(originals?|released program|faults?)\b", re.DOTALL
)
# The page of the guide on what each labeler does.
THEORY = {
    "otlabel.sinkhorn_label": "learn/transport",
    "otlabel.sinkhorn_marginal_label": "learn/priors",
    "otlabel.sinkhorn_prior_label": "learn/priors",
    "otlabel.sinkhorn_relaxed_label": "learn/partial",
    "otlabel.sinkhorn_partial_label": "learn/partial",
}
SECTION = re.compile(r"^(Args|Returns|Raises|Warns|Warnings|Example|Note|Source):", re.MULTILINE)
FIELDS = {
    "title": str,
    "venue": str,
    "year": int,
    "shares": str,
    "cite": list,
    "family": str,
}


def systems() -> dict[str, dict[str, Any]]:
    """The hand-written facts of each system, checked against the public recipes."""
    facts = tomllib.loads((HERE / "systems.toml").read_text(encoding="utf-8"))
    public = {name for name in recipes.__all__ if inspect.isfunction(getattr(recipes, name))}
    if facts.keys() != public:
        raise ValueError(f"systems.toml and otlabel.recipes differ: {sorted(facts.keys() ^ public)}")
    for name, fact in facts.items():
        wrong = [key for key, kind in FIELDS.items() if not isinstance(fact.get(key), kind)]
        if wrong:
            raise ValueError(f"systems.toml: {name} lacks {wrong}")
    return facts


def verified() -> dict[str, dict[str, str]]:
    """Measured agreement of each recipe with its transcription."""
    with (HERE / "verified.csv").open(encoding="utf-8", newline="") as file:
        return {row["recipe"]: row for row in csv.DictReader(file)}


def take_apart(docstring: str) -> tuple[str, str, str]:
    """Summary line, paragraphs on the problem and the loop, paragraphs on the original."""
    head = docstring[: found.start()] if (found := SECTION.search(docstring)) else docstring
    summary, _, rest = head.strip().partition("\n\n")
    problem: list[str] = []
    original: list[str] = []
    for paragraph in re.split(r"\n\s*\n|(?<=`\.) (?=(?:The|In the) originals?\b)", rest.strip()):
        is_text = not paragraph.startswith((".. ", " "))
        (original if is_text and ABOUT_THE_ORIGINAL.match(paragraph) else problem).append(paragraph)
    return " ".join(summary.split()), "\n\n".join(problem), "\n\n".join(original)


def loop_of(name: str) -> str:
    """How the published loop ends, by the defaults of the call."""
    parameters = inspect.signature(getattr(recipes, name)).parameters
    if "max_iter" not in parameters:
        return "none"
    count = parameters["max_iter"].default
    stop = parameters["stop"].default if "stop" in parameters else None
    return f"≤ {count}, stop {stop:g}" if stop is not None else f"{count}"


@cache
def labelers_of(name: str) -> list[str]:
    """Public labelers that a recipe calls, through helpers of its package too."""
    seen: set[str] = set()
    found: set[str] = set()

    def visit(function: Any) -> None:
        module = inspect.getmodule(function)
        if function.__qualname__ in seen or module is None:
            return
        seen.add(function.__qualname__)
        for node in ast.walk(ast.parse(inspect.getsource(function))):
            if not isinstance(node, ast.Name):
                continue
            target = inspect.unwrap(called) if callable(called := getattr(module, node.id, None)) else None
            where = getattr(target, "__module__", "")
            if node.id.endswith("_label") and where.startswith(("otlabel.labelers", "otlabel.structured")):
                found.add(("otlabel." if where == "otlabel.labelers" else "otlabel.structured.") + node.id)
            elif where.startswith("otlabel.recipes") and inspect.isfunction(target):
                visit(target)

    visit(inspect.unwrap(getattr(recipes, name)))
    return sorted(found)


def page(name: str, fact: dict[str, Any], measured: dict[str, str]) -> str:
    """The page of one recipe, in reStructuredText."""
    summary, problem, original = take_apart(inspect.getdoc(getattr(recipes, name)) or "")
    theory = sorted({THEORY.get(labeler, "learn/choosing") for labeler in labelers_of(name)}) or ["learn/priors"]
    citation = ", ".join(f":cite:t:`{key}`" for key in fact["cite"])
    labelers = ", ".join(f":func:`{labeler.split('.')[-1]} <{labeler}>`" for labeler in labelers_of(name))
    parts = [
        f".. _recipe-{name}:\n",
        f"{fact['title']}\n{'=' * len(fact['title'])}\n",
        f"{summary}\n",
        f":Published: {fact['venue']} {fact['year']}; {citation}\n"
        f":Recipe: :func:`otlabel.recipes.{name}`\n"
        f":Built on: {labelers or 'tensor arithmetic, no labeler'}\n"
        f":Shares of the classes: {fact['shares']}\n"
        f":Theory: {', '.join(f':doc:`/{target}`' for target in theory)}\n",
        "The problem and the loop\n------------------------\n",
        f"{problem or 'See the call.'}\n",
        "The original, and its faults\n----------------------------\n",
        f"{original or 'Nothing beyond what is said above: the recipe repeats the published arithmetic.'}\n",
        "What is verified\n----------------\n",
        f"Compared with an independent float64 transcription of the formula ({measured['source']}) on "
        f"{measured['problems']} problems, the largest difference is **{measured['float64']}** with float64 scores and "
        f"**{measured['float32']}** with float32 scores. :ref:`recipes-verified` says how.\n",
        "The call\n--------\n",
        f".. autofunction:: otlabel.recipes.{name}\n",
    ]
    return "\n".join(parts)


def table(facts: dict[str, dict[str, Any]], measured: dict[str, dict[str, str]]) -> str:
    """The index table, by family and year."""
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :class: recipe-table",
        "",
    ]
    head = ("system", "published", "for", "labeler", "class shares", "iterations", "float64", "float32")
    rows = [head]
    for name, fact in sorted(facts.items(), key=lambda item: (item[1]["family"], item[1]["year"], item[0])):
        labelers = [f":func:`{labeler.split('.')[-1]} <{labeler}>`" for labeler in labelers_of(name)]
        rows.append(
            (
                f":ref:`{fact['title']} <recipe-{name}>`",
                f"{fact['venue']} {fact['year']}",
                fact["family"],
                ", ".join(labelers) or "none",
                fact["shares"],
                loop_of(name),
                measured[name]["float64"],
                measured[name]["float32"],
            )
        )
    for row in rows:
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def write(app: Sphinx) -> None:
    """Write what changed, so that the other pages are not built again."""
    facts, measured = systems(), verified()
    PAGES.mkdir(exist_ok=True)
    wanted = {f"{name}.rst": page(name, fact, measured[name]) for name, fact in facts.items()}
    wanted["table.txt"] = table(facts, measured)
    for old in PAGES.iterdir():
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        path = PAGES / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def keep_the_call(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Of a recipe's docstring print the summary and the call: the prose stands above it on the page."""
    if what != "function" or not name.startswith("otlabel.recipes."):
        return
    text = "\n".join(lines)
    if found := SECTION.search(text):
        lines[:] = [take_apart(text)[0], "", *text[found.start() :].split("\n")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both hooks; the second ahead of napoleon."""
    app.connect("builder-inited", write, priority=100)
    app.connect("autodoc-process-docstring", keep_the_call, priority=300)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
