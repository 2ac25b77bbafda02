"""The page around the data: header, results, pictures, settings; every name in it is escaped."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from examples.case_wtal.evaluation import Evaluation

SCRIPTS = ("timeline.js", "draw.js", "report.js")


@dataclass(frozen=True)
class Picture:
    """A section with a picture.

    Attributes:
        title: Heading, plain text.
        text: What to see in it, plain text.
        svg: The picture, an SVG element.
    """

    title: str
    text: str
    svg: str


def render(
    *,
    title: str,
    note: str,
    facts: Mapping[str, str],
    headline: Mapping[str, str],
    evaluation: Evaluation,
    pictures: Sequence[Picture],
    details: Mapping[str, Mapping[str, Any]],
    data: str,
) -> str:
    """The whole file.

    Args:
        title: Of the page, plain text, as all text below.
        note: The sentence on what the data are.
        facts: Term -> value, under the title.
        headline: Term -> number, the few to see first.
        evaluation: Its AP per class and threshold is the table.
        pictures: Sections after the timeline, in order.
        details: Heading -> (term -> value) of the tables at the end; mappings may be nested.
        data: JSON for the script, as `payload.to_script` gives it.
    """
    script = "(() => {\n" + "\n".join(_file(name) for name in SCRIPTS) + "\n})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return Template(_file("template.html")).substitute(
        # Nothing may be fetched, and no script may run but the one whose digest is given.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        title=escape(title),
        note=escape(note),
        style=_file("report.css"),
        facts=_terms(facts),
        headline="".join(
            f'<div class="figure"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
            for name, value in headline.items()
        ),
        protocol=escape(evaluation.protocol.describe()),
        results=_results(evaluation),
        pictures="\n".join(_picture(p) for p in pictures),
        details="\n".join(
            f"<details><summary>{escape(name)}</summary><dl class='terms'>{_terms(_flat(values))}</dl></details>"
            for name, values in details.items()
        ),
        data=data,
        script=script,
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _terms(values: Mapping[str, str]) -> str:
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return flat


def _picture(picture: Picture) -> str:
    title = escape(picture.title)
    return (
        f'<section class="picture"><h2>{title}</h2><p class="what">{escape(picture.text)}</p>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{title}">{picture.svg}</div></section>'
    )


def _results(evaluation: Evaluation) -> str:
    """AP per class and threshold; the shade of a cell is its number, and so is the bar of the average."""
    head = "".join(f'<th scope="col">@{tiou:g}</th>' for tiou in evaluation.protocol.tious)
    rows = [
        _result_row(escape(name), int(count), ap)
        for name, count, ap in zip(evaluation.classes, evaluation.instances, evaluation.ap, strict=True)
    ]
    mean = _result_row("mean over classes", int(evaluation.instances.sum()), evaluation.mean_ap)
    return (
        f'<table class="results"><thead><tr><th scope="col">class</th><th scope="col">instances</th>{head}'
        f'<th scope="col">average</th></tr></thead><tbody>{"".join(rows)}</tbody><tfoot>{mean}</tfoot></table>'
    )


def _result_row(name: str, count: int, ap: np.ndarray) -> str:
    cells = "".join(f'<td class="heat" style="--v:{v:.3f}">{100 * v:.1f}</td>' for v in ap.tolist())
    average = float(ap.mean())
    return (
        f'<tr><th scope="row">{name}</th><td>{count:,}</td>{cells}'
        f'<td class="total"><span style="--v:{average:.3f}"></span>{100 * average:.1f}</td></tr>'
    )
