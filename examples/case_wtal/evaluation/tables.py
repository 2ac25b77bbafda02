"""Tables of an evaluation for the terminal."""

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from examples.case_wtal.evaluation.average_precision import Evaluation
from examples.case_wtal.evaluation.diagnosis import OUTCOMES, Bin, ErrorProfile, Sensitivity
from examples.case_wtal.evaluation.foreground import foreground_notes
from examples.case_wtal.evaluation.outcome import RANGES, Outcome, averages
from examples.case_wtal.evaluation.protocol import range_text
from examples.case_wtal.evaluation.recall import AverageRecall

SHOWN = (0.1, 0.3, 0.5, 0.7, 0.75, 0.95)
"""Thresholds with a column of their own where protocols stand side by side."""

TEXT = frozenset({"", "bin", "characteristic", "class", "foreground by", "outcome", "protocol", "row"})
"""Heads of the columns that hold words."""

UNITS = {"coverage": "of the video", "length": "s", "instances": "of the class in the video"}


def outcome_tables(outcome: Outcome) -> list[Table]:
    """All tables of an outcome, in order."""
    first = outcome.evaluations[0]
    if len(outcome.evaluations) == 1:
        tables = [evaluation_table(first, f"{outcome.results}, AP in %")]
    else:
        tables = [protocols_table(outcome.evaluations, f"{outcome.results}, mAP in % under each protocol")]
    if outcome.diagnosis is not None:
        tables += [
            errors_table(outcome.diagnosis.profile),
            sensitivity_table(outcome.diagnosis.sensitivity),
            recall_table(outcome.diagnosis.recall),
        ]
    return tables


def outcome_notes(outcome: Outcome) -> list[str]:
    """What belongs under the tables: data, protocols, what was left out."""
    origin = outcome.origin
    notes = [f"Ground truth: {outcome.truth.describe()}."]
    for evaluation in outcome.evaluations:
        means = [f"average {grid} {100 * value:.1f}" for grid, value in averages(evaluation).items()]
        notes.append("Protocol " + "; ".join([evaluation.protocol.describe(), *means]) + ".")
    if origin is not None:
        notes += [origin.describe(), *foreground_notes(origin.foreground_auc)]
    return [*notes, *outcome.notes]


def evaluation_table(evaluation: Evaluation, title: str) -> Table:
    """Every class and threshold of one evaluation."""
    tious = [f"@{t:g}" for t in evaluation.protocol.tious]
    table = new_table(title, ["class", "instances", *tious, "average"])
    rows = zip(evaluation.classes, evaluation.instances.tolist(), 100 * evaluation.ap, strict=True)
    for name, count, ap in rows:
        table.add_row(name, f"{count:,}", *(f"{v:.1f}" for v in (*ap, ap.mean())))
    table.add_section()
    mean = 100 * evaluation.mean_ap
    total = f"{int(evaluation.instances.sum()):,}"
    table.add_row("mean over classes", total, *(f"{v:.1f}" for v in (*mean, mean.mean())), style="bold")
    return table


def protocols_table(evaluations: Sequence[Evaluation], title: str) -> Table:
    """The same detections under several protocols."""
    shown = [t for t in SHOWN if any(t in e.protocol.tious for e in evaluations)]
    grids = [range_text([i / 10 for i in range(round(10 * low), round(10 * high) + 1)]) for low, high in RANGES]
    grids = [grid for grid in grids if any(grid in averages(e) for e in evaluations)]
    head = ["protocol", "instances", *(f"@{t:g}" for t in shown), *(f"mean {grid}" for grid in grids), "mean of all"]
    table = new_table(title, head)
    for evaluation in evaluations:
        at = dict(zip(evaluation.protocol.tious, evaluation.mean_ap.tolist(), strict=True))
        means = averages(evaluation)
        values = [*(at.get(t) for t in shown), *(means.get(grid) for grid in grids), evaluation.average]
        total = f"{int(evaluation.instances.sum()):,}"
        table.add_row(evaluation.protocol.name, total, *("-" if v is None else f"{100 * v:.1f}" for v in values))
    return table


def errors_table(profile: ErrorProfile) -> Table:
    """What the best detections are, and what removing each error would gain."""
    counts = profile.counts.sum(axis=1).mean(axis=0)
    shares = profile.shares
    table = new_table(
        f"Errors of the best 10 G detections (G: instances of the class), tIoU {range_text(profile.tious)}",
        ["outcome", "detections", "% of top G", "% of top 10 G", "mAP without", "mAP_N without"],
    )
    for code, name in enumerate(OUTCOMES):
        gains = [f"{100 * g[name]:+.1f}" if code else "" for g in (profile.gains, profile.normalised_gains)]
        share = 100 * counts[code] / max(counts.sum(), 1)
        table.add_row(name, f"{counts[code]:,.0f}", f"{100 * shares[0, code]:.1f}", f"{share:.1f}", *gains)
    return table


def sensitivity_table(sensitivity: Sensitivity) -> Table:
    """How well instances of each kind are found."""
    table = new_table(
        f"Sensitivity, tIoU {range_text(sensitivity.tious)}: mAP_N {100 * sensitivity.overall:.1f} %, missed "
        f"{100 * sensitivity.missed:.1f} % of all instances",
        ["characteristic", "bin", "from", "to", "instances", "mAP_N in %", "missed in %"],
    )
    for name, bins in sensitivity.bins.items():
        for i, one in enumerate(bins):
            table.add_row(f"{name} {UNITS.get(name, '')}".strip() if i == 0 else "", *_bin_cells(one))
        table.add_section()
    return table


def _bin_cells(one: Bin) -> list[str]:
    values = ["-" if math.isnan(v) else f"{100 * v:.1f}" for v in (one.mean_ap, one.missed)]
    return [one.name, f"> {one.low:g}", "" if math.isinf(one.high) else f"{one.high:g}", f"{one.instances:,}", *values]


def recall_table(recall: AverageRecall) -> Table:
    """Average recall at a few numbers of proposals per video."""
    points = [p for p in (1, 5, 10, 50, 100) if p <= recall.proposals[-1]]
    table = new_table(
        f"Average recall in %, tIoU {range_text(recall.tious.tolist())}, labels ignored",
        [*(f"AR@{p}" for p in points), "area under AR-AN"],
    )
    table.add_row(*(f"{100 * recall.at(p):.1f}" for p in points), f"{100 * recall.area:.1f}")
    return table


def show(tables: Iterable[Table], notes: Iterable[str], console: Console | None = None) -> None:
    """Print tables and the sentences that belong to them."""
    console = console or Console()
    for table in tables:
        # Rich would cut numbers to make the table fit; a wide line is the smaller evil, and a file has no width at all.
        wide = console.options.update(max_width=1000)
        console.width = max(console.width, console.measure(table, options=wide).maximum)
        console.print(table)
    for note in notes:
        console.print(note, style="dim", highlight=False, markup=False)


def new_table(title: str, head: Sequence[str]) -> Table:
    """A table without rows: columns of text to the left, of numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=box.SIMPLE_HEAD)
    for column in head:
        table.add_column(column, justify="left" if column in TEXT else "right", no_wrap=True)
    return table
