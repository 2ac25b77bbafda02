"""One recording, drawn: what is true, what the network says over time, and what it finds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.evaluation import Detections
from examples.case_wtal.inference import RecordingScores
from examples.case_wtal.plots.style import DPI, GREY, INK, PALE, PIXELS, colours_of, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_recording(
    scores: RecordingScores,
    detections: Detections,
    data: LocalizationData,
    config: CaseConfig,
    path: str | Path,
    *,
    most: int = 12,
) -> Path:
    """Write `draw_recording` to a file.

    Args:
        scores: Of the recording.
        detections: Those of other recordings are ignored.
        data: For the title and the order of the classes.
        config: For the thresholds and the way of fusing.
        path: File to write, PNG by its name; its folder is made.
        most: Detections drawn per class, the best by score.

    Returns:
        `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_recording(scores, detections, data, config, most=most).savefig(path, dpi=DPI)
    return path


def draw_recording(
    scores: RecordingScores, detections: Detections, data: LocalizationData, config: CaseConfig, *, most: int = 12
) -> "Figure":
    """A figure with panels over the same seconds; arguments as in `plot_recording`.

    From top to bottom: true segments; class activation (T-CAS) of the classes shown; attention; the clusters'
    foreground probability; the map of each class shown that thresholds cut, with these thresholds; detections. The
    shade behind the curves repeats the true segments.
    """
    found = _best(detections.of(scores.recording.name), most)
    shown = _classes_shown(scores, found, data.classes)
    colours = colours_of(shown, data.classes)
    figure = new_figure(*PIXELS)
    heights = [0.34 + 0.16 * len(shown), 1, 0.8, 0.8, 1, 0.34 + 0.16 * len(shown)]
    axes = figure.subplots(6, 1, sharex=True, height_ratios=heights)
    _draw_segments(axes[0], scores, colours)
    _draw_maps(axes[1:5], scores, data, config, colours)
    _draw_detections(axes[5], found, colours)
    _explain_missing(axes[5], scores, found, data, config, list(colours))
    _finish(figure, axes, scores, data)
    return figure


def _classes_shown(scores: RecordingScores, found: Detections, classes: Sequence[str]) -> list[str]:
    """Classes that are there or that were found, in the order of the data set."""
    there = {*scores.recording.labels, *(s.label for s in scores.recording.segments), *found.label.tolist()}
    return [name for name in classes if name in there]


def _best(found: Detections, most: int) -> Detections:
    """The best `most` detections of each class."""
    order = np.argsort(-found.score, kind="stable")
    kept: list[int] = []
    for name in dict.fromkeys(found.label.tolist()):
        kept += [i for i in order.tolist() if found.label[i] == name][:most]
    return found.select(np.array(kept, dtype=np.int64))


def _draw_segments(axis: "Axes", scores: RecordingScores, colours: dict[str, str]) -> None:
    rows = {name: i for i, name in enumerate(colours)}
    for segment in scores.recording.segments:
        axis.barh(
            rows[segment.label],
            segment.end - segment.start,
            left=segment.start,
            height=0.72,
            color=colours[segment.label],
            gid="segment",
        )
    _name_rows(axis, list(rows), "true")


def _draw_maps(
    axes: Sequence["Axes"],
    scores: RecordingScores,
    data: LocalizationData,
    config: CaseConfig,
    colours: dict[str, str],
) -> None:
    recording = scores.recording
    seconds = (np.arange(len(recording)) + 0.5) * recording.snippet_seconds
    fused = scores.class_map(config.inference)
    for name, colour in colours.items():
        column = data.classes.index(name)
        axes[0].plot(seconds, scores.class_activation[:, column], color=colour, linewidth=1.1)
        axes[3].plot(seconds, fused[:, column], color=colour, linewidth=1.1)
    for axis, values in ((axes[1], scores.attention), (axes[2], scores.cluster_foreground)):
        axis.fill_between(seconds, values, color=GREY, alpha=0.25, linewidth=0)
        axis.plot(seconds, values, color=INK, linewidth=1)
    for threshold in config.proposal.thresholds:
        axes[3].axhline(threshold, color=GREY, linewidth=0.4, linestyle=(0, (4, 4)), zorder=0)
    names = (
        "T-CAS",
        "attention\n$P^A$",
        "clusters\n$P^T$",
        "map,\nthresholds" if config.inference.foreground == "attention" else "fused map,\nthresholds",
    )
    for axis, name in zip(axes, names, strict=True):
        axis.set_ylim(0, 1.02)
        axis.set_yticks([0, 0.5, 1], ["0", "", "1"])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=10)
        for segment in recording.segments:
            axis.axvspan(segment.start, segment.end, color=colours[segment.label], alpha=0.13, linewidth=0, zorder=-1)


def _draw_detections(axis: "Axes", found: Detections, colours: dict[str, str]) -> None:
    rows = {name: i for i, name in enumerate(colours)}
    top = max(found.score.tolist(), default=1.0)
    for i in np.argsort(found.score, kind="stable").tolist():  # the best last, on top
        axis.barh(
            rows[str(found.label[i])],
            found.end[i] - found.start[i],
            left=found.start[i],
            height=0.72,
            color=colours[str(found.label[i])],
            alpha=float(np.clip(found.score[i] / top, 0.08, 1)) if top > 0 else 0.08,
            edgecolor="white",
            linewidth=0.5,
            gid="detection",
        )
    _name_rows(axis, list(rows), "found (the stronger the colour, the higher the score)")


def _explain_missing(
    axis: "Axes",
    scores: RecordingScores,
    found: Detections,
    data: LocalizationData,
    config: CaseConfig,
    rows: list[str],
) -> None:
    """Say why a class that is there has no detection."""
    for row, name in enumerate(rows):
        if name in found.label:
            continue
        video = scores.video_scores[data.classes.index(name)]
        gate = config.proposal.class_gate
        text = (
            f"not searched: score {video:.2f} in the whole recording, {gate:g} is needed" if video <= gate else "none"
        )
        axis.text(0.005, row, text, transform=axis.get_yaxis_transform(), va="center", fontsize=7, color=GREY)


def _name_rows(axis: "Axes", names: list[str], title: str) -> None:
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(range(len(names)), [plain(name) for name in names])
    axis.tick_params(axis="y", length=0)
    axis.set_title(title, loc="left", fontsize=8, color=GREY, pad=2)


def _finish(figure: "Figure", axes: Sequence["Axes"], scores: RecordingScores, data: LocalizationData) -> None:
    for axis in axes:
        axis.tick_params(labelsize=7, color=PALE)
        axis.yaxis.label.set_fontsize(8)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.spines["bottom"].set_color(PALE)
    axes[0].set_xlim(0, scores.recording.seconds)
    axes[-1].set_xlabel("seconds", fontsize=8)
    figure.suptitle(
        plain(f"{data.name}, {data.test_split} recording {scores.recording.name}"),
        x=0.01,
        ha="left",
        fontsize=11,
        color=INK,
    )
    figure.supxlabel(plain(data.note), x=0.01, ha="left", fontsize=7, color=GREY)
