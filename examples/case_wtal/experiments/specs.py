"""What a table is made of: rows, what they are compared with, what the paper says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from examples.case_wtal.config import CaseConfig, Component
from examples.case_wtal.experiments.jobs import JobResult
from examples.case_wtal.inference import Foreground

Change = Callable[[CaseConfig], CaseConfig]
Measure = Literal["average", "auc", "label_entropy", "class_entropy", "proportion_entropy"]
Relation = Literal["higher", "lower", "close"]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: Its first cell.
        change: Makes its settings of the recipe's.
        foreground: Whose foreground probability counts at test time.
        published: Data set -> average mAP in percent, as the paper states it.
        reference: Row it is compared with; None is the table's.
    """

    name: str
    change: Change
    foreground: Foreground = "fused"
    published: Mapping[str, float] = field(default_factory=dict)
    reference: str | None = None


@dataclass(frozen=True)
class Claim:
    """A statement about two rows that the seeds can confirm or contradict.

    Attributes:
        text: The statement, without a full stop.
        row: `row` minus `versus` is tested, seed by seed.
        versus: Name of the other row.
        measure: Of what.
        relation: `row` is higher, lower, or as good as equal.
        margin: How far from equal "close" allows.
        by: Who says so.
    """

    text: str
    row: str
    versus: str
    measure: Measure = "average"
    relation: Relation = "higher"
    margin: float = 0.0
    by: Literal["paper", "us"] = "paper"


@dataclass(frozen=True)
class TableSpec:
    """A table or a figure.

    Attributes:
        name: As the command line calls it.
        title: Heading.
        rows: In order.
        reference: Name of the row that others are compared with, seed by seed.
        claims: What is said about it.
        measure: Of the differences.
        columns: Measures with a column of their own, beside mAP.
        curves: Rows whose entropies over training are kept.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    reference: str
    claims: tuple[Claim, ...] = ()
    measure: Measure = "average"
    columns: tuple[Measure, ...] = ("auc",)
    curves: tuple[str, ...] = ()

    def configs(self, config: CaseConfig, seeds: Sequence[int]) -> list[CaseConfig]:
        """Settings of all trainings, seed by seed, so that an early stop leaves whole pairs."""
        changed = [row.change(config) for row in self.rows]
        return [replace(c, train=replace(c.train, seed=seed, checkpoint="last")) for seed in seeds for c in changed]


@dataclass(frozen=True)
class MeasureInfo:
    """How a measure is called and printed, and what one training says about it."""

    title: str
    unit: str
    digits: int
    of: Callable[[JobResult, Foreground], float | None]


def _last(name: str) -> Callable[[JobResult, Foreground], float | None]:
    return lambda result, _: result.history[name][-1] if name in result.history else None


def _auc(result: JobResult, foreground: Foreground) -> float | None:
    untrained = not result.config.loss.attention
    return None if untrained else result.auc[foreground]


MEASURES: dict[Measure, MeasureInfo] = {
    "average": MeasureInfo("average", "points", 1, lambda result, foreground: result.average(foreground)),
    "auc": MeasureInfo("AUC", "", 3, _auc),
    "label_entropy": MeasureInfo("entropy of a snippet's label", "nats", 2, _last("clusters/label_entropy")),
    "class_entropy": MeasureInfo("entropy of a cluster's label", "nats", 2, _last("clusters/class_entropy")),
    "proportion_entropy": MeasureInfo("entropy of proportions", "nats", 2, _last("clusters/proportion_entropy")),
}
"""Measures of a training, given the foreground that counted; entropies are those of the last epoch."""


def same(config: CaseConfig) -> CaseConfig:
    """The recipe as it is."""
    return config


def components(value: Component) -> Change:
    """Other parts of CASE."""
    return loss(components=value)


def loss(**changes: Any) -> Change:
    """Other settings of the losses."""
    return lambda config: replace(config, loss=replace(config.loss, **changes))


def label(**changes: Any) -> Change:
    """Other settings of the labels."""
    return lambda config: replace(config, label=replace(config.label, **changes))


def model(**changes: Any) -> Change:
    """Other settings of the network."""
    return lambda config: replace(config, model=replace(config.model, **changes))


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(config: CaseConfig) -> CaseConfig:
        for step in changes:
            config = step(config)
        return config

    return change


def class_branch_alone(config: CaseConfig) -> CaseConfig:
    """The baseline without its attention branch, in training and at test time."""
    bare = loss(components="baseline", attention=False)(config)
    return replace(bare, inference=replace(bare.inference, fusion="class_activation"))
