"""What was logged in each epoch: losses, and how sharp and how balanced the cluster labels are."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from examples.case_wtal.plots.style import COLOURS, GREY, INK, PALE, PIXELS, calm, heading, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENTROPIES = {
    "clusters/label_entropy": "a snippet's label, $Q^S$",
    "clusters/class_entropy": "a cluster's label, $Q^C$",
    "clusters/proportion_entropy": "cluster proportions",
}
"""Column of metrics.csv -> what it is the entropy of."""


def read_metrics(path: str | Path) -> dict[str, list[float]]:
    """Column -> value of each epoch, from the metrics.csv of a run folder; an empty cell is NaN."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() if rows else ()
    return {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in names}


def draw_training(metrics: Mapping[str, Sequence[float]], *, clusters: int, warm_epochs: int = 0) -> "Figure":
    """Losses and, where they were logged, entropies against the epoch.

    Args:
        metrics: As `read_metrics` gives them.
        clusters: K; a dotted line marks ln K, the entropy of K equal proportions.
        warm_epochs: Length of the warm start, shaded; 0 shades nothing.
    """
    entropies = {label: metrics[name] for name, label in ENTROPIES.items() if name in metrics}
    losses = {n.removeprefix("loss/"): v for n, v in metrics.items() if n.startswith("loss/") and n != "loss/total"}
    figure = new_figure(PIXELS[0], 480)
    axes = figure.subplots(1, 2 if entropies else 1, squeeze=False)[0]
    epochs = [int(epoch) + 1 for epoch in metrics["epoch"]]
    _draw_lines(axes[0], epochs, losses)
    heading(axes[0], "losses, before their weights (mean of an epoch)")
    axes[0].set_ylabel("loss")
    if entropies:
        _draw_lines(axes[1], epochs, entropies)
        axes[1].axhline(math.log(clusters), color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        axes[1].text(1.3, 0.985 * math.log(clusters), f"ln {clusters}", va="top", fontsize=7, color=GREY)
        heading(axes[1], "entropy of the cluster labels")
        axes[1].set_ylabel("nats")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.set_xlim(1, max(2, epochs[-1]))
        axis.set_ylim(bottom=0)
        if 0 < warm_epochs < epochs[-1]:
            axis.axvspan(1, warm_epochs, color=PALE, alpha=0.5, linewidth=0, zorder=-1)
            axis.text(1.3, 0.01, "warm start", transform=axis.get_xaxis_transform(), fontsize=6.5, color=GREY)
        axis.grid(axis="y", color=PALE, linewidth=0.5)
        calm(axis)
    return figure


def _draw_lines(axis: "Axes", epochs: Sequence[int], lines: Mapping[str, Sequence[float]]) -> None:
    """Lines, named where they end: no legend to look up."""
    ends = sorted((values[-1], name) for name, values in lines.items() if not math.isnan(values[-1]))
    for (name, values), colour in zip(lines.items(), COLOURS, strict=False):
        axis.plot(epochs, values, color=colour, linewidth=1.5, gid=name)
    top = max((v for values in lines.values() for v in values if not math.isnan(v)), default=1.0)
    colours = dict(zip(lines, COLOURS, strict=False))
    lowest = -math.inf
    for value, name in ends:
        lowest = max(value, lowest + 0.07 * top)
        axis.annotate(
            plain(name) if name not in ENTROPIES.values() else name,
            (epochs[-1], lowest),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=colours.get(name, INK),
            annotation_clip=False,
        )
