"""Tables of trainings for the terminal. Beside every number: protocol, data, and how the weights were chosen."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.evaluation import Protocol
from examples.case_wtal.evaluation.outcome import Origin
from examples.case_wtal.evaluation.tables import new_table

if TYPE_CHECKING:
    from examples.case_wtal.experiments.results import TableResult

SHOWN = (0.1, 0.3, 0.5, 0.7)
"""tIoU thresholds with a column of their own, where the protocol has them."""


def context(data: LocalizationData, protocol: Protocol, weights: str) -> str:
    """The sentence under every table."""
    return f"mAP in % under protocol {protocol.describe()}. {Origin.of(data, weights).describe()}"


def results_table(result: "TableResult", protocol: Protocol, title: str) -> Table:
    """Rows of single trainings: mAP at some thresholds and on average."""
    columns = _shown(protocol)
    table = new_table(title, ["", *(f"@{protocol.tious[i]:g}" for i in columns), "average", "foreground AUC"])
    for row in result.rows:
        mean_ap = row.mean_ap_by_threshold
        cells = [*(f"{mean_ap[i]:.1f}" for i in columns), f"{row.mean['average']:.1f}", f"{row.mean['auc']:.3f}"]
        table.add_row(row.name, *cells)
    return table


def experiment_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """A table of experiments, from its cells."""
    table = new_table(title, head)
    for row in rows:
        table.add_row(*row)
    return table


def class_label_notes(recipes: Mapping[str, CaseConfig]) -> list[str]:
    """Says which recipes train with more than CASE in the rows that are named after it."""
    names = " and ".join(name for name, config in recipes.items() if config.loss.class_weight > 0)
    return [f"In {names}, +SCC+CCC also learns from class labels by transport, which are ours."] if names else []


def _shown(protocol: Protocol) -> list[int]:
    """Columns of the `SHOWN` thresholds; all of a protocol that has none of them or few at all."""
    tious = np.array(protocol.tious)
    found = [int(np.abs(tious - t).argmin()) for t in SHOWN if np.abs(tious - t).min() < 1e-9]
    return found if len(found) > 1 else list(range(len(tious)))
