"""Tables for the terminal. Beside every number: the protocol, the data, and how the weights were chosen."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.evaluation import Evaluation, Protocol

if TYPE_CHECKING:
    from examples.case_wtal.experiments.results import TableResult

SHOWN = (0.1, 0.3, 0.5, 0.7)
"""tIoU thresholds with a column of their own, where the protocol has them."""


def context(data: LocalizationData, protocol: Protocol, weights: str) -> str:
    """The sentence under every table."""
    return (
        f"mAP in % under protocol {protocol.describe()}. "
        f"Data: {data.note} {len(data.test)} recordings of split {data.test_split}. Weights: {weights}."
    )


def results_table(result: "TableResult", protocol: Protocol, title: str) -> Table:
    """Rows of single trainings: mAP at some thresholds and on average."""
    columns = _shown(protocol)
    table = _table(title, ["", *(f"@{protocol.tious[i]:g}" for i in columns), "average", "foreground AUC"])
    for row in result.rows:
        mean_ap = row.mean_ap_by_threshold
        cells = [*(f"{mean_ap[i]:.1f}" for i in columns), f"{row.mean['average']:.1f}", f"{row.mean['auc']:.3f}"]
        table.add_row(row.name, *cells)
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


def experiment_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """A table of experiments, from its cells."""
    table = _table(title, head)
    for row in rows:
        table.add_row(*row)
    return table


def class_label_notes(recipes: Mapping[str, CaseConfig]) -> list[str]:
    """Says which recipes train with more than CASE in the rows that are named after it."""
    names = " and ".join(name for name, config in recipes.items() if config.loss.class_weight > 0)
    return [f"In {names}, +SCC+CCC also learns from class labels by transport, which are ours."] if names else []


def show(table: Table | None, notes: Iterable[str], console: Console | None = None) -> None:
    """Print a table, if there is one, and the sentences that belong to it."""
    console = console or Console()
    if table is not None:
        # Rich would cut numbers to make the table fit; a wide line is the smaller evil, and a file has no width at all.
        wide = console.options.update(max_width=1000)
        console.width = max(console.width, console.measure(table, options=wide).maximum)
        console.print(table)
    for note in notes:
        console.print(note, style="dim", highlight=False)


def _table(title: str, head: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=box.SIMPLE_HEAD)
    for column in head:
        text = column in {"", "class", "row", "foreground by"}
        table.add_column(column, justify="left" if text else "right", no_wrap=True)
    return table


def _shown(protocol: Protocol) -> list[int]:
    """Columns of the `SHOWN` thresholds; all of a protocol that has none of them or few at all."""
    tious = np.array(protocol.tious)
    found = [int(np.abs(tious - t).argmin()) for t in SHOWN if np.abs(tious - t).min() < 1e-9]
    return found if len(found) > 1 else list(range(len(tious)))
