"""Tables as cells, for Markdown and the terminal, and the Markdown page."""

import textwrap
from collections.abc import Sequence

from examples.case_wtal.experiments.results import RowResult, TableResult, TablesFile
from examples.case_wtal.experiments.specs import MEASURES, Measure
from examples.case_wtal.experiments.statistics import LEAST_SEEDS

SHOWN = (0.1, 0.3, 0.5, 0.7, 0.75, 0.95)
"""tIoU thresholds with a column of their own, where the protocol has them."""


def table_cells(table: TableResult, tious: Sequence[float]) -> tuple[list[str], list[list[str]]]:
    """Header and rows."""
    shown = [i for i, t in enumerate(tious) if any(abs(t - s) < 1e-9 for s in SHOWN)]
    published = list(dict.fromkeys(name for row in table.rows for name in row.published))
    head = ["row", "foreground by", *(f"@{tious[i]:g}" for i in shown), "average (sd)"]
    head += [MEASURES[measure].title for measure in table.columns]
    head += [f"{difference_title(table)} [95 %]", *(f"paper, {name}" for name in published)]
    rows = [
        [
            row.name,
            row.foreground,
            *(f"{row.mean_ap_by_threshold[i]:.1f}" for i in shown),
            _mean(row, "average"),
            *(_mean(row, measure) for measure in table.columns),
            "" if row.difference is None else row.difference.text(MEASURES[table.measure].digits),
            *(f"{row.published[name]:.1f}" if name in row.published else "" for name in published),
        ]
        for row in table.rows
    ]
    return head, rows


def difference_title(table: TableResult) -> str:
    """What the differences are: over one row, or each over its own."""
    what = "" if table.measure == "average" else f"{MEASURES[table.measure].title} "
    one = len({row.reference for row in table.rows}) == 1
    return f"{what}minus {table.reference if one else 'its base'}"


def table_notes(table: TableResult) -> list[str]:
    """The sentences under a table: what was claimed and came out, and which trainings collapsed."""
    notes = [claim.sentence for claim in table.claims]
    if len(table.seeds) < LEAST_SEEDS:
        notes.append(f"Too few seeds to judge collapse: {len(table.seeds)}, at least {LEAST_SEEDS} needed.")
    for row in table.rows:
        if row.collapsed:
            seeds = ", ".join(map(str, row.collapsed))
            notes.append(f"COLLAPSED: {row.name} with seed {seeds}, mAP below half of the row's median.")
    return notes


def context_notes(content: TablesFile) -> list[str]:
    """What every number depends on."""
    seeds = sorted({seed for table in content.tables for seed in table.seeds})
    train, test = content.recordings
    return [
        f"Data: {content.note} {train} recordings to train on, {test} to evaluate, split {content.split}.",
        f"mAP in % under protocol {content.protocol}. Recipe {content.recipe}, {_seeds(seeds)}, "
        "weights of the last epoch, no selection on the evaluated split.",
        "sd: over the seeds. Differences are paired by seed, with their 95 % t-interval. AUC: of foreground snippets, "
        "by the map that counts in that row. Entropies in nats, mean of the last epoch.",
        "A statement agrees if that interval lies on its side of zero, does not agree if it lies on the other, and is "
        "undecided if it includes zero. Nothing corrects for their number.",
        "Columns `paper`: published averages, on the data set that is named. Another data set: compare the signs.",
        *content.remarks,
    ]


def to_markdown(content: TablesFile, command: str, pictures: Sequence[str] = ()) -> str:
    """The page; `pictures` are files beside it, which belong to figure 4."""
    lines = [f"# CASE on {content.data}: the paper's tables", ""]
    lines += map(_bullet, context_notes(content))
    lines += ["", "Made by", "", "```console", f"$ {command}", "```", ""]
    for table in content.tables:
        head, rows = table_cells(table, content.tious)
        lines += [f"## {table.title}", ""]
        lines += ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
        lines += ["", *map(_bullet, table_notes(table)), ""]
        if table.curves:
            for picture, text in zip(pictures, PICTURE_TEXTS, strict=False):
                lines += [f"![{text}]({picture})", ""]
    return "\n".join(lines).rstrip() + "\n"


PICTURE_TEXTS = (
    "Average mAP against the number of clusters, with the baseline as a line",
    "Entropy of snippet labels and cluster labels over training, with and without the prior",
)


def _bullet(text: str) -> str:
    return textwrap.fill(text, 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def _mean(row: RowResult, measure: Measure) -> str:
    if measure not in row.mean:
        return "-"
    digits = MEASURES[measure].digits
    sd = f" ({row.sd[measure]:.{digits}f})" if measure == "average" and measure in row.sd else ""
    return f"{row.mean[measure]:.{digits}f}{sd}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"one seed ({seeds[0]})" if len(seeds) == 1 else f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]})"
