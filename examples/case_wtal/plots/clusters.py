"""The clusters: how much foreground each is, what it holds, and the snippets that are most typical of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from examples.case_wtal.data import LocalizationData, Recording
from examples.case_wtal.inference import RecordingScores
from examples.case_wtal.plots.style import (
    COLOURS,
    DPI,
    GREY,
    INK,
    PALE,
    PIXELS,
    calm,
    colours_of,
    foreground_colours,
    new_figure,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Thumbnail = Callable[[Recording, int], np.ndarray]
"""Recording and snippet -> picture of the snippet, (H, W, 3)."""

BACKGROUND_LABEL = "background"
ROW_PIXELS = 84


@dataclass(frozen=True)
class Typical:
    """One snippet that is typical of a cluster.

    Attributes:
        recording: Index in the scores.
        snippet: Index in the recording.
        probability: P^S of the cluster there.
        label: True class at the middle of the snippet, or "background".
    """

    recording: int
    snippet: int
    probability: float
    label: str


@dataclass(frozen=True)
class ClusterSummary:
    """One cluster on the test split.

    Attributes:
        index: Its number.
        foreground: Q^C, the probability that it is foreground.
        share: Share of all snippets for which it is the most probable cluster.
        composition: True class (or "background") -> share among these snippets; sums to 1 unless there are none.
        typical: Its most probable snippets, from as many recordings as possible.
    """

    index: int
    foreground: float
    share: float
    composition: dict[str, float]
    typical: list[Typical]


def snippet_labels_of(recording: Recording) -> np.ndarray:
    """True class at the middle of each snippet, or "background", str, shape (T,); of overlapping ones the last."""
    centre = (np.arange(len(recording)) + 0.5) * recording.snippet_seconds
    labels = np.full(len(recording), BACKGROUND_LABEL, dtype=object)
    for segment in recording.segments:
        labels[(centre >= segment.start) & (centre < segment.end)] = segment.label
    return labels.astype(np.str_)


def summarise_clusters(
    scores: Sequence[RecordingScores], foreground: np.ndarray, classes: Sequence[str], *, typical: int = 6
) -> list[ClusterSummary]:
    """All clusters, the most foreground first.

    Args:
        scores: Of the test recordings.
        foreground: Q^C[:, foreground], shape (K,).
        classes: Order of the composition.
        typical: Snippets named for each cluster.
    """
    probability = np.concatenate([s.cluster_probability for s in scores])
    labels = np.concatenate([snippet_labels_of(s.recording) for s in scores])
    recording = np.repeat(np.arange(len(scores)), [len(s.recording) for s in scores])
    snippet = np.concatenate([np.arange(len(s.recording)) for s in scores])
    assigned = probability.argmax(axis=1)
    found = []
    for k in np.argsort(-foreground, kind="stable").tolist():
        members = np.flatnonzero(assigned == k)
        names, counts = np.unique(labels[members], return_counts=True)
        share = dict(zip(names.tolist(), (counts / max(len(members), 1)).tolist(), strict=True))
        ranked = members[np.argsort(-probability[members, k], kind="stable")]
        # One snippet of each recording first: neighbours in time are nearly the same snippet.
        _, first = np.unique(recording[ranked], return_index=True)
        chosen = ranked[np.sort(first)][:typical]
        found.append(
            ClusterSummary(
                index=k,
                foreground=float(foreground[k]),
                share=len(members) / len(labels),
                composition={name: share[name] for name in (*classes, BACKGROUND_LABEL) if name in share},
                typical=[
                    Typical(int(recording[i]), int(snippet[i]), float(probability[i, k]), str(labels[i]))
                    for i in chosen
                ],
            )
        )
    return found


def draw_clusters(
    scores: Sequence[RecordingScores],
    foreground: np.ndarray,
    data: LocalizationData,
    *,
    typical: int = 6,
    most: int = 24,
    around: int = 8,
    thumbnail: Thumbnail | None = None,
) -> "Figure":
    """A row for each cluster, the most foreground first.

    From left to right: number and foreground probability Q^C; share of the snippets; their true classes; the most
    typical snippets with what surrounds them, their true class, recording and time.

    Args:
        scores: Of the test recordings.
        foreground: Q^C[:, foreground], shape (K,).
        data: For the order of the classes.
        typical: Snippets drawn for each cluster.
        most: Clusters drawn, those with the most snippets.
        around: Snippets shown on each side of a typical one.
        thumbnail: Draws a snippet, a video frame for example; None draws the features around it, as the curves of
            their first three principal components over the test split.
    """
    summary = summarise_clusters(scores, foreground, data.classes, typical=typical)
    largest = {c.index for c in sorted(summary, key=lambda c: -c.share)[:most]}
    rows = [c for c in summary if c.index in largest]
    top = 92
    figure = new_figure(PIXELS[0], top + ROW_PIXELS * len(rows) + 40)
    figure.set_layout_engine("none")  # the grid below is exact, and quicker
    grid = figure.add_gridspec(
        len(rows),
        2 + typical,
        left=0.045,
        right=0.995,
        top=1 - top / (top + ROW_PIXELS * len(rows) + 40),
        bottom=40 / (top + ROW_PIXELS * len(rows) + 40),
        width_ratios=[1.1, 1.5, *[1] * typical],
        wspace=0.1,
        hspace=0.75,
    )
    colours = {**colours_of(data.classes), BACKGROUND_LABEL: PALE}
    draw = _thumbnails(scores, around) if thumbnail is None else _pictures(scores, thumbnail)
    for i, cluster in enumerate(rows):
        _draw_foreground(figure.add_subplot(grid[i, 0]), cluster)
        _draw_composition(figure.add_subplot(grid[i, 1]), cluster, colours)
        for j, example in enumerate(cluster.typical):
            axis = figure.add_subplot(grid[i, 2 + j])
            draw(axis, example, colours[example.label])
            _name_example(axis, example, scores[example.recording].recording)
    _legend(figure, rows, colours, len(summary), around if thumbnail is None else None)
    return figure


def _draw_foreground(axis: "Axes", cluster: ClusterSummary) -> None:
    axis.barh(0, 1, height=0.42, color=PALE, alpha=0.6, linewidth=0)
    axis.barh(0, cluster.foreground, height=0.42, color=foreground_colours()(cluster.foreground), linewidth=0)
    axis.text(0, 0.62, f"{cluster.foreground:.2f}", fontsize=7, color=INK, va="center")
    axis.text(-0.09, 0, str(cluster.index), fontsize=8, color=INK, va="center", ha="right", weight="bold")
    axis.set(xlim=(0, 1), ylim=(-0.9, 0.9))
    axis.axis("off")


def _draw_composition(axis: "Axes", cluster: ClusterSummary, colours: dict[str, str]) -> None:
    left = 0.0
    for name, share in cluster.composition.items():
        axis.barh(0, share, left=left, height=0.42, color=colours[name], edgecolor="white", linewidth=0.6, gid=name)
        left += share
    if cluster.composition:
        name, share = max(cluster.composition.items(), key=lambda item: item[1])
        axis.text(0, 0.62, f"{share:.0%} {plain(name)}", fontsize=6.5, color=INK, va="center")
        axis.text(0, -0.62, f"{cluster.share:.1%} of all snippets", fontsize=6, color=GREY, va="center")
    else:
        axis.text(0, 0, "no test snippet", fontsize=6.5, color=GREY, va="center")
    axis.set(xlim=(0, 1), ylim=(-0.9, 0.9))
    axis.axis("off")


def _thumbnails(scores: Sequence[RecordingScores], around: int) -> Callable[["Axes", Typical, str], None]:
    """Curves of the features' first principal components around a snippet, all on one scale."""
    curves = principal_curves([s.recording for s in scores])
    limit = 1.08 * float(np.quantile(np.abs(np.concatenate(curves)), 0.999)) or 1.0

    def draw(axis: "Axes", example: Typical, colour: str) -> None:
        values = curves[example.recording]
        times = np.arange(example.snippet - around, example.snippet + around + 1)
        inside = (times >= 0) & (times < len(values))
        axis.axvspan(example.snippet - 0.5, example.snippet + 0.5, color=PALE, linewidth=0)
        for component in range(values.shape[1])[::-1]:
            shade = (colour, GREY, GREY)[component] if colour != PALE else (INK, GREY, GREY)[component]
            axis.plot(
                times[inside],
                values[times[inside], component],
                color=shade,
                linewidth=(1.2, 0.7, 0.5)[component],
                alpha=(1, 0.7, 0.45)[component],
            )
        axis.set(xlim=(times[0] - 0.5, times[-1] + 0.5), ylim=(-limit, limit), xticks=[], yticks=[])
        calm(axis, left=False)

    return draw


def _pictures(scores: Sequence[RecordingScores], thumbnail: Thumbnail) -> Callable[["Axes", Typical, str], None]:
    def draw(axis: "Axes", example: Typical, colour: str) -> None:
        axis.imshow(thumbnail(scores[example.recording].recording, example.snippet))
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=colour, linewidth=1.5)

    return draw


def principal_curves(recordings: Sequence[Recording], components: int = 3) -> list[np.ndarray]:
    """First principal components of the streams' features, beside each other, over all snippets: (T, components)."""
    features = [np.concatenate(list(r.streams.values()), axis=1).astype(np.float64) for r in recordings]
    together = np.concatenate(features)
    centre = together.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(together - centre, rowvar=False).reshape(len(centre), len(centre)))
    return [(f - centre) @ vectors[:, ::-1][:, :components] for f in features]


def _name_example(axis: "Axes", example: Typical, recording: Recording) -> None:
    seconds = (example.snippet + 0.5) * recording.snippet_seconds
    title = f"{_short(recording.name)}  {seconds:.1f} s"
    axis.set_title(plain(title), fontsize=5.5, color=GREY, pad=2, loc="left")
    strong = INK if example.label != BACKGROUND_LABEL else GREY
    axis.text(0, -0.06, plain(example.label), transform=axis.transAxes, fontsize=6, color=strong, va="top")


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _legend(
    figure: "Figure", rows: Sequence[ClusterSummary], colours: dict[str, str], clusters: int, around: int | None
) -> None:
    from matplotlib.patches import Patch

    height = figure.get_figheight() * DPI
    present = [name for name in colours if any(name in c.composition for c in rows)]
    columns = ((0.045, "foreground\nprobability $Q^C$"), (0.19, "true classes of its snippets"))
    typical = "its most typical snippets: most probable, one a recording"
    if around is not None:
        typical += f";\nfeatures ±{around} snippets around, first three principal components"
    for x, text in (*columns, (0.372, typical)):
        figure.text(x, 1 - 58 / height, text, fontsize=7, color=INK, va="center")
    if len(rows) < clusters:
        figure.text(0.045, 12 / height, f"the {len(rows)} largest of {clusters} clusters", fontsize=7, color=GREY)
    if len(present) <= 3 * len(COLOURS):
        figure.legend(
            [Patch(color=colours[name]) for name in present],
            [plain(name) for name in present],
            loc="upper left",
            bbox_to_anchor=(0.036, 1),
            ncols=min(len(present), 7),
            frameon=False,
            fontsize=7,
            handlelength=1,
            handleheight=1,
        )
