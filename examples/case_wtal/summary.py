"""Statistics of an ablation: per recipe and row, and differences that are paired by seed."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from examples.case_wtal.ablation import BASE, MAPS, ROWS, Result


@dataclass(frozen=True)
class Difference:
    """Mean paired difference in points of mAP, with its 95 % t-interval; NaN bounds from fewer than two pairs."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], reference: Sequence[float]) -> "Difference":
        """`values - reference`, pair by pair."""
        gain = np.subtract(values, reference)
        mean = float(gain.mean())
        if len(gain) < 2:
            return cls(mean, math.nan, math.nan)
        half = float(stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / math.sqrt(len(gain)))
        return cls(mean, mean - half, mean + half)

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.mean:+.1f}"
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


@dataclass(frozen=True)
class Line:
    """One recipe's row over all seeds.

    Attributes:
        recipe: Name.
        row: One of `ROWS`.
        seeds: How many.
        mean: Mean of the average mAP, percent.
        sd: Its standard deviation over the seeds, NaN for one seed.
        mean_ap: Mean mAP at each threshold, percent.
        auc: Mean foreground AUC of each map.
        gain: Paired difference to the baseline; None in the baseline's own line.
        collapsed: Seeds of the baseline with less than half of the median; empty in other lines.
    """

    recipe: str
    row: str
    seeds: int
    mean: float
    sd: float
    mean_ap: tuple[float, ...]
    auc: tuple[float, ...]
    gain: Difference | None
    collapsed: tuple[int, ...] = ()


def summarise(results: Sequence[Result]) -> list[Line]:
    """One line for each recipe and row that has results."""
    lines = []
    for recipe in dict.fromkeys(r.recipe for r in results):
        base = _by_seed(results, recipe, BASE)
        for row in ROWS:
            found = _by_seed(results, recipe, row)
            if not found:
                continue
            average = np.array([r.average for r in found.values()])
            pairs = [seed for seed in found if seed in base]
            gain = Difference.of([found[s].average for s in pairs], [base[s].average for s in pairs]) if pairs else None
            low = tuple(s for s, r in found.items() if r.average < np.median(average) / 2)
            lines.append(
                Line(
                    recipe,
                    row,
                    len(found),
                    float(average.mean()),
                    float(average.std(ddof=1)) if len(found) > 1 else math.nan,
                    tuple(np.mean([r.mean_ap for r in found.values()], axis=0).tolist()),
                    tuple(np.mean([r.auc for r in found.values()], axis=0).tolist()),
                    None if row == BASE else gain,
                    low if row == BASE else (),
                )
            )
    return lines


def between_recipes(results: Sequence[Result], row: str) -> list[tuple[str, str, Difference]]:
    """(recipe, reference, difference) of every two recipes in one row, over the seeds that both have."""
    recipes = list(dict.fromkeys(r.recipe for r in results))
    found = {recipe: _by_seed(results, recipe, row) for recipe in recipes}
    differences = []
    for i, reference in enumerate(recipes):
        for recipe in recipes[i + 1 :]:
            seeds = sorted(found[recipe].keys() & found[reference].keys())
            if seeds:
                values = [[found[name][s].average for s in seeds] for name in (recipe, reference)]
                differences.append((recipe, reference, Difference.of(*values)))
    return differences


def to_csv(lines: Sequence[Line], tious: Sequence[float]) -> str:
    """Full precision, one line per recipe and row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["recipe", "row", "seeds", "mean", "sd", "gain", "gain_low", "gain_high"]
    writer.writerow([*head, *(f"mAP@{t:g}" for t in tious), *(f"auc_{name}" for name in MAPS), "collapsed_seeds"])
    for line in lines:
        gain = ("", "", "") if line.gain is None else (line.gain.mean, line.gain.low, line.gain.high)
        collapsed = " ".join(map(str, line.collapsed))
        writer.writerow(
            [line.recipe, line.row, line.seeds, line.mean, line.sd, *gain, *line.mean_ap, *line.auc, collapsed]
        )
    return text.getvalue()


def _by_seed(results: Sequence[Result], recipe: str, row: str) -> dict[int, Result]:
    return {r.seed: r for r in sorted(results, key=lambda r: r.seed) if (r.recipe, r.row) == (recipe, row)}
