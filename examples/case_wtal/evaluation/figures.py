"""Plots of an evaluation, each as PNG and SVG."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from examples.case_wtal.evaluation.average_precision import Evaluation
from examples.case_wtal.evaluation.diagnosis import OUTCOMES, Bin, ErrorProfile, Sensitivity
from examples.case_wtal.evaluation.outcome import Outcome
from examples.case_wtal.evaluation.protocol import range_text
from examples.case_wtal.evaluation.recall import AverageRecall

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY, PALE, INK = "#6b7280", "#e5e7eb", "#1f2937"
# Okabe and Ito's palette, told apart with any colour vision; green is what is right, grey what has no instance near.
COLOURS = dict(zip(OUTCOMES, ("#009E73", "#56B4E9", "#CC79A7", "#E69F00", "#D55E00", "#b8bec8"), strict=True))
LEVELS = ("#0b3c5d", "#2f7fb8", "#9cc9e8")  # thresholds, the strictest pale: its curve is the lowest
CURVES = (0.3, 0.5, 0.7)
MOST_CLASSES = 40
DPI = 150


def write_figures(outcome: Outcome, folder: Path) -> list[Path]:
    """Draw everything that an outcome holds.

    Args:
        outcome: Its first evaluation is drawn, and the diagnosis if there is one.
        folder: Where the files go; it exists.

    Returns:
        The files: `precision_recall`, and with a diagnosis `average_recall`, `errors` and `sensitivity`, as `.png` and
        `.svg`.
    """
    import matplotlib

    first = outcome.evaluations[0]
    line = first.protocol.describe()
    with matplotlib.rc_context({"text.parse_math": False}):  # a class may be called "$x$": it is no formula
        figures = {"precision_recall": draw_precision_recall(first)}
        if outcome.diagnosis is not None:
            figures["average_recall"] = draw_average_recall(outcome.diagnosis.recall, line)
            figures["errors"] = draw_errors(outcome.diagnosis.profile, line)
            figures["sensitivity"] = draw_sensitivity(outcome.diagnosis.sensitivity, line)
    paths = []
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            paths.append(folder / f"{name}.{ending}")
            # Without a date, the same evaluation writes the same file.
            figure.savefig(paths[-1], dpi=DPI, metadata={"Date": None} if ending == "svg" else None)
    return paths


def draw_precision_recall(evaluation: Evaluation) -> "Figure":
    """Precision against recall of each class, at up to three thresholds; the classes with most instances first.

    At most 40 classes are drawn. The number beside a class is its AP at the middle one of the thresholds.
    """
    tious = [t for t in CURVES if t in evaluation.protocol.tious] or list(evaluation.protocol.tious[:3])
    middle = tious[len(tious) // 2]
    column = evaluation.protocol.tious.index(middle)
    order = np.argsort(-evaluation.instances, kind="stable")[:MOST_CLASSES]
    columns = min(5, len(order))
    rows = math.ceil(len(order) / columns)
    figure = _figure(2.1 * columns + 0.6, 1.75 * rows + 1.1)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(order) :]:
        axis.set_visible(False)
    for axis, index in zip(axes.flat, order.tolist(), strict=False):
        name = evaluation.classes[index]
        for tiou, colour in zip(tious, LEVELS, strict=False):
            precision, recall = evaluation.precision_recall(name, tiou)
            best = np.maximum.accumulate(precision[::-1])[::-1]
            x, y = np.concatenate([[0], recall, recall[-1:]]), np.concatenate([best[:1], best, [0]])
            axis.plot(x, y, color=colour, linewidth=1.3, drawstyle="steps-pre", label=f"tIoU {range_text([tiou])}")
        _plain_axis(axis)
        axis.set_title(f"{name}  ({evaluation.instances[index]:,})", loc="left", fontsize=8, color=INK, pad=3)
        axis.text(
            0.98, 0.95, f"{100 * evaluation.ap[index, column]:.0f}", transform=axis.transAxes, ha="right", va="top",
            fontsize=10, color=LEVELS[len(tious) // 2 if len(tious) > 1 else 0], fontweight="bold",
        )  # fmt: skip
        axis.set(xlim=(0, 1), ylim=(0, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axis.set_xticklabels(["0", ".5", "1"])
        axis.set_yticklabels(["0", ".5", "1"])
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    axes[-1, columns // 2].set_xlabel("recall", fontsize=9, color=GREY)
    # Beside one row of panels the long name would run into the title.
    label = "precision" if len(axes) == 1 else "precision (best at this recall or more)"
    figure.supylabel(label, fontsize=9, color=GREY)
    shown = "" if len(order) == len(evaluation.classes) else f", {len(order)} of {len(evaluation.classes)} classes"
    _title(
        figure,
        f"Precision and recall by class (instances), AP in % at tIoU {range_text([middle])}{shown}",
        evaluation.protocol.describe(),
    )
    return figure


def draw_average_recall(recall: AverageRecall, line: str) -> "Figure":
    """Average recall against the number of proposals, above the recall at each threshold."""
    figure = _figure(6.4, 4.2)
    axis = figure.subplots()
    for level, tiou in enumerate(recall.tious.tolist()):
        axis.plot(recall.proposals, 100 * recall.recall[level], color="#b6c2cf", linewidth=0.9)
        if level in {0, len(recall.tious) // 2, len(recall.tious) - 1}:
            axis.annotate(
                f"tIoU {range_text([tiou])}", (recall.proposals[-1], 100 * recall.recall[level, -1]), (4, 0),
                textcoords="offset points", fontsize=8, color=GREY, va="center", annotation_clip=False,
            )  # fmt: skip
    axis.plot(recall.proposals, 100 * recall.average, color=LEVELS[0], linewidth=2.2)
    for point in (p for p in (10, 50, 100) if p <= recall.proposals[-1]):
        value = 100 * recall.at(point)
        axis.plot([point], [value], "o", color=LEVELS[0], markersize=4.5, clip_on=False)
        axis.annotate(
            f"AR@{point}  {value:.1f}", (point, value), (-3, 7) if point == recall.proposals[-1] else (5, -13),
            textcoords="offset points", fontsize=8.5, color=INK, fontweight="bold",
            ha="right" if point == recall.proposals[-1] else "left",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6},
        )  # fmt: skip
    _plain_axis(axis)
    axis.grid(axis="y", color=PALE, linewidth=0.7)
    axis.set(xlim=(0, recall.proposals[-1]), ylim=(0, 100))
    axis.set_xlabel("average number of proposals per video", fontsize=9, color=GREY)
    axis.set_ylabel("recall in %, labels ignored", fontsize=9, color=GREY)
    grid = range_text(recall.tious.tolist())
    _title(figure, f"Average recall over tIoU {grid}: area under the curve {100 * recall.area:.1f} %", line)
    return figure


def draw_errors(profile: ErrorProfile, line: str) -> "Figure":
    """What detections of each rank are, and what removing each kind of error would gain."""
    figure = _figure(9.6, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=[1.75, 1])
    shares = 100 * profile.shares
    bottom = np.zeros(len(shares))
    where = np.arange(len(shares))
    for code, name in enumerate(OUTCOMES):
        left.bar(where, shares[:, code], bottom=bottom, width=0.86, color=COLOURS[name], label=name, linewidth=0)
        for x, (low, height) in enumerate(zip(bottom, shares[:, code], strict=True)):
            if height >= 7:
                left.text(x, low + height / 2, f"{height:.0f}", ha="center", va="center", fontsize=7.5, color=INK)
        bottom += shares[:, code]
    left.set(ylim=(0, 100), xlim=(-0.6, len(shares) - 0.4))
    left.set_xticks(where, [f"{g + 1}G" if g else "G" for g in range(len(shares))])
    left.set_ylabel("share of the detections in %", fontsize=9, color=GREY)
    left.set_xlabel("detections of each class by score, G: instances of the class", fontsize=9, color=GREY)
    left.set_title("What they are", loc="left", fontsize=9, color=INK)
    names = list(profile.gains)[::-1]
    gains = [100 * profile.gains[name] for name in names]
    right.barh(names, gains, height=0.62, color=[COLOURS[name] for name in names], linewidth=0)
    widest = max(*gains, 1.0)
    for y, gain in enumerate(gains):
        right.text(max(gain, 0) + 0.02 * widest, y, f"{gain:+.1f}", va="center", fontsize=8.5, color=INK)
    right.set_xlim(min(0, *gains), 1.2 * widest)
    right.set_title(f"mAP gained without them (now {100 * profile.average:.1f})", loc="left", fontsize=9, color=INK)
    right.set_xlabel("points", fontsize=9, color=GREY)
    for axis in (left, right):
        _plain_axis(axis)
        axis.tick_params(length=0)
    right.tick_params(axis="y", labelsize=8, labelcolor=INK)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    _title(figure, f"Errors of the best 10 G detections, tIoU {range_text(profile.tious)} (DETAD)", line)
    return figure


def draw_sensitivity(sensitivity: Sensitivity, line: str) -> "Figure":
    """mAP_N and the missed share of instances of each kind, beside those of all instances."""
    figure = _figure(3.1 * len(sensitivity.bins) + 0.6, 4.4)
    axes = figure.subplots(1, len(sensitivity.bins), sharey=True, squeeze=False)[0]
    titles = {
        "coverage": "coverage of the video",
        "length": "length in seconds",
        "instances": "instances of the class in the video",
    }
    for axis, (name, bins) in zip(axes, sensitivity.bins.items(), strict=True):
        where = np.arange(len(bins))
        axis.bar(where, [100 * one.mean_ap for one in bins], width=0.7, color=LEVELS[1], linewidth=0, label="mAP$_N$")
        axis.plot(
            where,
            [100 * one.missed for one in bins],
            "o",
            color="#D55E00",
            markersize=6,
            label="missed by all",
        )
        for value, colour in ((sensitivity.overall, LEVELS[0]), (sensitivity.missed, "#D55E00")):
            axis.axhline(100 * value, color=colour, linewidth=1, linestyle=(0, (4, 3)), zorder=0.5)
        for x, one in enumerate(bins):
            if one.instances:
                axis.text(x, 1, f"{100 * one.mean_ap:.0f}", ha="center", va="bottom", fontsize=8.5, color="white")
        axis.set_xticks(where, [f"{one.name}\n{_range(one)}\nn {one.instances:,}" for one in bins], fontsize=7.5)
        axis.set_title(titles.get(name, name), loc="left", fontsize=9, color=INK)
        _plain_axis(axis)
        axis.tick_params(length=0)
        axis.set_ylim(0, 100)
        axis.grid(axis="y", color=PALE, linewidth=0.7)
        axis.set_axisbelow(True)
    axes[0].set_ylabel("%", fontsize=9, color=GREY)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    _title(
        figure,
        f"Which instances are hard, tIoU {range_text(sensitivity.tious)}: mAP$_N$ {100 * sensitivity.overall:.1f}, "
        f"missed {100 * sensitivity.missed:.1f} of all (dashed)",
        line,
    )
    return figure


def _range(one: Bin) -> str:
    if math.isinf(one.high):
        return f"> {one.low:g}"
    return f"to {one.high:g}"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # a canvas that needs no window, whatever backend is set
    return figure


def _plain_axis(axis: "Axes") -> None:
    axis.tick_params(labelsize=8, color=PALE, labelcolor=GREY)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(PALE)


def _title(figure: "Figure", title: str, line: str) -> None:
    """What is shown, and in small print the protocol."""
    figure.suptitle(f"{title}\n", x=0.01, ha="left", fontsize=10.5, color=INK, fontweight="bold", linespacing=1.6)
    figure.text(0.01, 1 - 0.31 / figure.get_figheight(), line, ha="left", va="top", fontsize=7.5, color=GREY)
