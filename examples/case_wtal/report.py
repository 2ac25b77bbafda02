"""Tables for terminal and Markdown. Beside every number: the protocol, the data, and how the weights were chosen."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from examples.case_wtal.ablation import ASSISTED, BASE, MAPS, Result
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.evaluation import Evaluation, Protocol
from examples.case_wtal.summary import Line, between_recipes, summarise, to_csv

SHOWN = (0.1, 0.3, 0.5, 0.7)
"""tIoU thresholds with a column of their own, where the protocol has them."""


def context(data: LocalizationData, protocol: Protocol, weights: str) -> str:
    """The sentence under every table."""
    return (
        f"mAP in % under protocol {protocol.describe()}. "
        f"Data: {data.note} {len(data.test)} recordings of split {data.test_split}. Weights: {weights}."
    )


def results_table(results: Sequence[Result], protocol: Protocol, title: str) -> Table:
    """A few rows of single trainings: mAP at some thresholds and on average."""
    columns = _shown(protocol)
    table = _table(title, ["", *(f"@{protocol.tious[i]:g}" for i in columns), "average", "foreground AUC"])
    for result in results:
        auc = result.auc[list(MAPS).index("fused" if result.row == "+test" else "attention")]
        table.add_row(result.row, *(f"{result.mean_ap[i]:.1f}" for i in columns), f"{result.average:.1f}", f"{auc:.3f}")
    return table


def evaluation_table(evaluation: Evaluation, title: str) -> Table:
    """Every class and threshold of one evaluation."""
    tious = [f"@{t:g}" for t in evaluation.protocol.tious]
    table = _table(title, ["class", "instances", *tious, "average"])
    rows = zip(evaluation.classes, evaluation.instances.tolist(), 100 * evaluation.ap, strict=True)
    for name, count, ap in rows:
        table.add_row(name, f"{count:,}", *(f"{v:.1f}" for v in (*ap, ap.mean())))
    table.add_section()
    mean = 100 * evaluation.mean_ap
    total = f"{int(evaluation.instances.sum()):,}"
    table.add_row("mean over classes", total, *(f"{v:.1f}" for v in (*mean, mean.mean())), style="bold")
    return table


def summary_rows(lines: Sequence[Line], protocol: Protocol) -> tuple[list[str], list[list[str]]]:
    """Header and cells of an ablation's summary."""
    columns = _shown(protocol)
    head = ["recipe", "row", *(f"@{protocol.tious[i]:g}" for i in columns), "average (sd)", "gain [95 %]"]
    head += [f"AUC {name}" for name in MAPS]
    rows = []
    for line in lines:
        sd = "" if math.isnan(line.sd) else f" ({line.sd:.1f})"
        rows.append(
            [line.recipe, line.row, *(f"{line.mean_ap[i]:.1f}" for i in columns), f"{line.mean:.1f}{sd}"]
            + ["" if line.gain is None else str(line.gain)]
            + ["-" if math.isnan(value) else f"{value:.3f}" for value in line.auc]
        )
    return head, rows


def summary_table(lines: Sequence[Line], protocol: Protocol, title: str) -> Table:
    """An ablation's summary, a section per recipe."""
    head, rows = summary_rows(lines, protocol)
    table = _table(title, head)
    for i, row in enumerate(rows):
        same = i > 0 and row[0] == rows[i - 1][0]
        if i and not same:
            table.add_section()
        table.add_row("" if same else row[0], *row[1:])
    return table


def class_label_notes(recipes: Mapping[str, CaseConfig]) -> list[str]:
    """Says which recipes train with more than CASE in the rows that are named after it."""
    names = " and ".join(name for name, config in recipes.items() if config.loss.class_weight > 0)
    return [f"In {names}, +SCC+CCC also learns from class labels by transport, which are ours."] if names else []


def summary_notes(
    results: Sequence[Result],
    data: LocalizationData,
    protocol: Protocol,
    recipes: Mapping[str, CaseConfig] | None = None,
) -> list[str]:
    """What must be read with the summary; `recipes` are the settings behind the names, where known."""
    lines = summarise(results)
    seeds = sorted({r.seed for r in results})
    notes = [
        context(data, protocol, "last epoch, no selection on the evaluated split"),
        f"{len(seeds)} seeds of training. sd: over the seeds. Gain: over base, paired by seed, 95 % t-interval. "
        "AUC: of foreground snippets, by attention, by the clusters, and by both fused, which +test uses.",
    ]
    notes += class_label_notes(recipes or {})
    collapsed = {line.recipe: line.collapsed for line in lines if line.collapsed}
    for recipe, low in collapsed.items():
        names = ", ".join(map(str, low))
        notes.append(f"COLLAPSED: with {recipe}, the baseline of seed {names} is below half of the median.")
    if not collapsed:
        notes.append("No baseline collapsed (average mAP below half of the median).")
    for row in (BASE, ASSISTED):
        for recipe, reference, difference in between_recipes(results, row):
            notes.append(f"{row} of {recipe} minus {row} of {reference}: {difference} points.")
    return notes


def write_summary(
    results: Sequence[Result],
    data: LocalizationData,
    protocol: Protocol,
    folder: Path,
    recipes: Mapping[str, CaseConfig] | None = None,
) -> None:
    """`summary.md` and `summary.csv`."""
    lines = summarise(results)
    head, rows = summary_rows(lines, protocol)
    table = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    text = [f"# Ablation on {data.name}", "", *table, ""]
    text += [f"- {note}" for note in summary_notes(results, data, protocol, recipes)]
    (folder / "summary.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    (folder / "summary.csv").write_text(to_csv(lines, protocol.tious), encoding="utf-8")


def show(table: Table, notes: Iterable[str], console: Console | None = None) -> None:
    """Print a table and the sentences that belong to it."""
    console = console or Console()
    # Rich would cut numbers to make the table fit; a wide line is the smaller evil, and a file has no width at all.
    wide = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
    for note in notes:
        console.print(note, style="dim", highlight=False)


def _table(title: str, head: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=box.SIMPLE_HEAD)
    for column in head:
        text = column in {"", "class", "recipe", "row"}
        table.add_column(column, justify="left" if text else "right", no_wrap=True)
    return table


def _shown(protocol: Protocol) -> list[int]:
    """Columns of the `SHOWN` thresholds; all of a protocol that has none of them or few at all."""
    tious = np.array(protocol.tious)
    found = [int(np.abs(tious - t).argmin()) for t in SHOWN if np.abs(tious - t).min() < 1e-9]
    return found if len(found) > 1 else list(range(len(tious)))
