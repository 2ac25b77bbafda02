"""Figure 4: mAP against the number of clusters, and entropies of the labels over training."""

import math
from typing import TYPE_CHECKING

import numpy as np

from examples.case_wtal.experiments.results import Curve, RowResult, TableResult, TablesFile
from examples.case_wtal.experiments.statistics import half_interval
from examples.case_wtal.plots.style import COLOURS, GREY, INK, PALE, PIXELS, calm, heading, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "label_entropy": "of a snippet's label, $Q^S$",
    "class_entropy": "of a cluster's label, $Q^C$",
}


def draw_clusters(table: TableResult, content: TablesFile) -> "Figure":
    """Average mAP against K, with 95 % t-intervals of the mean over the seeds; the baseline as a line and band."""
    figure = new_figure(PIXELS[0], 700)
    axis = figure.subplots()
    points = {int(row.name[4:]): row for row in table.rows if row.name[:4] == "K = " and row.name[4:].isdigit()}
    base = table.row(table.reference)
    mean, half = base.mean["average"], _half(base)
    axis.axhspan(mean - half, mean + half, color=GREY, alpha=0.18, linewidth=0)
    axis.axhline(mean, color=GREY, linewidth=1.2, linestyle=(0, (4, 2)))
    clusters, rows = list(points), list(points.values())
    axis.errorbar(
        clusters,
        [row.mean["average"] for row in rows],
        yerr=[_half(row) for row in rows],
        color=COLOURS[0],
        marker="o",
        markersize=5,
        linewidth=1.6,
        capsize=3,
    )
    for k, row in points.items():
        axis.annotate(
            f"{row.mean['average']:.1f}",
            (k, row.mean["average"] - _half(row)),
            xytext=(0, -6),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            color=COLOURS[0],
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(clusters, [str(k) for k in clusters])
    axis.set_xlim(clusters[0] / 1.3, clusters[-1] * 2.2)
    axis.annotate(
        f"{base.name}, {mean:.1f}",
        (1, mean),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        color=GREY,
    )
    axis.set_xlabel("number of clusters K")
    axis.set_ylabel("average mAP, %")
    axis.grid(axis="y", color=PALE, linewidth=0.5)
    seeds = len(table.seeds)
    spread = f"mean of {seeds} seeds and its 95 % t-interval" if seeds > 1 else "one seed"
    heading(axis, f"{plain(content.data)}, recipe {plain(content.recipe)}: {spread}")
    calm(axis, size=8)
    return figure


def draw_entropies(table: TableResult, content: TablesFile) -> "Figure":
    """Entropies over training: mean over the seeds, and a band of one standard deviation to each side."""
    figure = new_figure(PIXELS[0], 560)
    left, right = figure.subplots(1, 2)
    with_prior = table.curves[0].row
    clusters = int("".join(c for c in with_prior if c.isdigit()))
    for axis, measure, bound in ((left, "label_entropy", clusters), (right, "class_entropy", 2)):
        curves = [curve for curve in table.curves if curve.measure == measure]
        axis.axhline(math.log(bound), color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
        epochs = len(curves[0].values[0])
        text = f"ln {bound}: {bound} equal shares"
        axis.text(epochs, math.log(bound), text, ha="right", va="bottom", fontsize=7, color=GREY)
        for i, curve in enumerate(curves):
            _draw_curve(axis, curve, COLOURS[(0, 4)[i % 2]], ("-", (0, (5, 2)))[i % 2])
        axis.set_xlim(1, max(2, epochs))
        axis.set_ylim(0, 1.1 * math.log(bound))
        axis.set_xlabel("epoch")
        axis.grid(axis="y", color=PALE, linewidth=0.5)
        heading(axis, f"entropy {TITLES[measure]}")
        calm(axis, size=8)
    left.set_ylabel("nats")
    left.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="best")
    seeds = len(table.seeds)
    spread = f"mean of {seeds} seeds, band: one standard deviation" if seeds > 1 else "one seed"
    figure.suptitle(
        f"{plain(content.data)}, recipe {plain(content.recipe)}: {spread}", x=0.01, ha="left", fontsize=8.5, color=INK
    )
    return figure


def _draw_curve(axis: "Axes", curve: Curve, colour: str, style: str | tuple[int, tuple[int, int]]) -> None:
    values = np.array(curve.values)
    epochs, mean = np.arange(1, values.shape[1] + 1), values.mean(axis=0)
    axis.plot(epochs, mean, color=colour, linestyle=style, linewidth=1.6, label=curve.row)
    if len(values) > 1:
        sd = values.std(axis=0, ddof=1)
        axis.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)


def _half(row: RowResult) -> float:
    return half_interval(row.values["average"]) or 0.0
