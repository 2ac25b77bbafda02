"""Results of a table: per seed, in summary, and against what the paper says; to JSON and back."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cattrs
import numpy as np

from examples.case_wtal.experiments.jobs import JobResult
from examples.case_wtal.experiments.specs import MEASURES, Claim, Measure, Row, TableSpec
from examples.case_wtal.experiments.statistics import Difference, collapsed, deviation
from examples.case_wtal.files import write_text

Verdict = Literal["agrees", "does not agree", "undecided"]


@dataclass(frozen=True)
class RowResult:
    """One row over all seeds.

    Attributes:
        name: Of the row.
        foreground: Whose foreground probability counted.
        reference: Row it is compared with.
        mean_ap: mAP in percent of each seed at each threshold.
        values: Measure -> value of each seed; a measure that the row does not have is missing.
        mean: Measure -> mean over the seeds.
        sd: Measure -> standard deviation over the seeds; missing for one seed.
        difference: To the reference in the table's measure, paired by seed; None in the reference itself.
        collapsed: Seeds with less than half of the median mAP, if there are three or more.
        published: Data set -> average mAP in the paper.
    """

    name: str
    foreground: str
    reference: str
    mean_ap: tuple[tuple[float, ...], ...]
    values: dict[str, tuple[float, ...]]
    mean: dict[str, float]
    sd: dict[str, float]
    difference: Difference | None
    collapsed: tuple[int, ...]
    published: dict[str, float]

    @property
    def mean_ap_by_threshold(self) -> list[float]:
        """Mean over the seeds."""
        return [float(value) for value in np.mean(self.mean_ap, axis=0)]


@dataclass(frozen=True)
class ClaimResult:
    """A statement and what the seeds say.

    Attributes:
        sentence: Both in words.
        verdict: Whether the 95 % interval of the difference is on the stated side.
        difference: Row minus versus, paired by seed.
    """

    sentence: str
    verdict: Verdict
    difference: Difference


@dataclass(frozen=True)
class Curve:
    """A measure over training: value of each seed at each epoch."""

    row: str
    measure: str
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class TableResult:
    """A table; see `TableSpec` for what it was to be."""

    name: str
    title: str
    reference: str
    measure: Measure
    columns: tuple[Measure, ...]
    seeds: tuple[int, ...]
    rows: tuple[RowResult, ...]
    claims: tuple[ClaimResult, ...]
    curves: tuple[Curve, ...] = ()

    def row(self, name: str) -> RowResult:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class TablesFile:
    """What `tables.json` holds.

    Attributes:
        data: Name of the data set.
        note: What it is.
        recordings: How many to train on and to evaluate.
        split: Name of the evaluated split.
        protocol: Of the evaluation, in words.
        tious: Its thresholds.
        recipe: Whose settings the rows change.
        remarks: What else must be read with the tables.
        tables: In order.
    """

    data: str
    note: str
    recordings: tuple[int, int]
    split: str
    protocol: str
    tious: tuple[float, ...]
    recipe: str
    remarks: tuple[str, ...]
    tables: tuple[TableResult, ...]


def summarise(spec: TableSpec, results: Mapping[str, Sequence[JobResult]], seeds: Sequence[int]) -> TableResult:
    """Statistics of a table.

    Args:
        spec: The table.
        results: Row -> its trainings, in the order of the seeds.
        seeds: Of the trainings.
    """
    values = {row.name: _values(row, results[row.name]) for row in spec.rows}
    return TableResult(
        spec.name,
        spec.title,
        spec.reference,
        spec.measure,
        spec.columns,
        tuple(seeds),
        tuple(_row(spec, row, results[row.name], values, seeds) for row in spec.rows),
        tuple(_judge(claim, values) for claim in spec.claims),
        tuple(
            Curve(name, measure, tuple(tuple(result.history[column]) for result in results[name]))
            for name in spec.curves
            for measure in ("label_entropy", "class_entropy")
            for column in [f"clusters/{measure}"]
        ),
    )


def verdict_of(difference: Difference, claim: Claim) -> Verdict:
    """Whether the interval of the difference lies where the claim says, or where it contradicts it."""
    if difference.low is None or difference.high is None:
        return "undecided"
    low, high = difference.low, difference.high
    if claim.relation == "lower":
        low, high = -high, -low
    if claim.relation == "close":
        if -claim.margin <= low and high <= claim.margin:
            return "agrees"
        return "does not agree" if low > claim.margin or high < -claim.margin else "undecided"
    if low > 0:
        return "agrees"
    return "does not agree" if high < 0 else "undecided"


def write_tables(content: TablesFile, path: Path) -> None:
    """Write JSON."""
    write_text(path, json.dumps(CONVERTER.unstructure(content), indent=1, allow_nan=False) + "\n")


def read_tables(path: str | Path) -> TablesFile:
    """What `write_tables` wrote."""
    return CONVERTER.structure(json.loads(Path(path).read_text(encoding="utf-8")), TablesFile)


def _values(row: Row, results: Sequence[JobResult]) -> dict[Measure, tuple[float, ...]]:
    found: dict[Measure, tuple[float, ...]] = {}
    for measure in get_args(Measure):
        values = [MEASURES[measure].of(result, row.foreground) for result in results]
        known = tuple(value for value in values if value is not None and math.isfinite(value))
        if known and len(known) == len(results):
            found[measure] = known
    return found


def _row(
    spec: TableSpec,
    row: Row,
    results: Sequence[JobResult],
    values: Mapping[str, Mapping[Measure, tuple[float, ...]]],
    seeds: Sequence[int],
) -> RowResult:
    own, reference = values[row.name], row.reference or spec.reference
    other = values[reference]
    compared = reference != row.name and spec.measure in own and spec.measure in other
    deviations = {measure: deviation(found) for measure, found in own.items()}
    return RowResult(
        row.name,
        row.foreground,
        reference,
        tuple(tuple(result.mean_ap[row.foreground]) for result in results),
        dict(own.items()),
        {measure: float(np.mean(found)) for measure, found in own.items()},
        {measure: value for measure, value in deviations.items() if value is not None},
        Difference.of(own[spec.measure], other[spec.measure]) if compared else None,
        collapsed(own["average"], seeds),
        dict(row.published),
    )


def _judge(claim: Claim, values: Mapping[str, Mapping[Measure, tuple[float, ...]]]) -> ClaimResult:
    info = MEASURES[claim.measure]
    difference = Difference.of(values[claim.row][claim.measure], values[claim.versus][claim.measure])
    verdict = verdict_of(difference, claim)
    reason = ""
    if verdict == "undecided":
        reason = " (one seed has no interval)"
        if difference.low is not None:
            close = claim.relation == "close"
            reason = f" (interval reaches beyond ±{claim.margin:g})" if close else " (interval includes zero)"
    measured = f"{difference.text(info.digits)} {info.unit or info.title}"
    who = "Paper" if claim.by == "paper" else "Expected"
    return ClaimResult(f"{who}: {claim.text}. Measured: {verdict}{reason}, {measured}.", verdict, difference)


CONVERTER = cattrs.Converter(forbid_extra_keys=True)
