"""The embeddings of the test snippets in two dimensions, and the cluster prototypes among them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from examples.case_wtal.data import LocalizationData
from examples.case_wtal.inference import RecordingScores
from examples.case_wtal.model import ClusterHead
from examples.case_wtal.module import CaseModule
from examples.case_wtal.plots.clusters import BACKGROUND_LABEL, snippet_labels_of
from examples.case_wtal.plots.style import (
    COLOURS,
    GREY,
    INK,
    PALE,
    PIXELS,
    calm,
    colours_of,
    foreground_colours,
    heading,
    new_figure,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Method = Literal["tsne", "pca"]
UNNAMED = "#c3c9d2"


def prototypes(module: CaseModule) -> np.ndarray:
    """Cluster prototypes of all streams beside each other, each of unit length, shape (K, sum of H).

    So they lie in the space of `RecordingScores.embedding`.
    """
    heads = [cast(ClusterHead, head).prototypes.detach().double() for head in module.network.heads]
    return np.concatenate([(p / p.norm(dim=-1, keepdim=True)).cpu().numpy() for p in heads], axis=1)


def cluster_foreground_of(module: CaseModule) -> np.ndarray:
    """Q^C[:, foreground], mean over the streams where they do not share their labels, shape (K,)."""
    value = module.cluster_foreground.detach().double().cpu().numpy()
    return value.reshape(-1, value.shape[-1]).mean(axis=0)


def flatten(points: np.ndarray, method: Method, *, seed: int = 0) -> np.ndarray:
    """Points (N, D) in two dimensions, (N, 2), centred.

    Args:
        points: Rows are compared by their Euclidean distance.
        method: "pca" keeps distances as well as two straight axes can; "tsne" keeps neighbours together, and neither
            the distance between groups nor their size means anything. The same seed gives the same map.
        seed: Of "tsne".
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    reduced = PCA(min(30 if method == "tsne" else 2, *points.shape), svd_solver="full").fit_transform(points)
    if method == "pca":
        return np.pad(reduced, ((0, 0), (0, 2 - reduced.shape[1])))
    nearest = min(30.0, (len(points) - 1) / 3)
    flat = TSNE(2, perplexity=nearest, init="pca", learning_rate="auto", random_state=seed).fit_transform(reduced)
    return flat - flat.mean(axis=0)


def draw_embedding(
    scores: Sequence[RecordingScores],
    centres: np.ndarray,
    foreground: np.ndarray,
    data: LocalizationData,
    *,
    method: Method = "tsne",
    most: int = 2000,
    seed: int = 0,
) -> "Figure":
    """Two panels of one map: true classes at the left, fused foreground probability P^M and prototypes at the right.

    Args:
        scores: Of the test recordings.
        centres: Cluster prototypes, as `prototypes` gives them, shape (K, D); none with K = 0.
        foreground: Q^C[:, foreground], shape (K,), the colour of the prototypes.
        data: For the order of the classes.
        method: See `flatten`.
        most: Snippets drawn, taken at random from more.
        seed: Of the choice of snippets and of "tsne".
    """
    embedding = np.concatenate([s.embedding for s in scores]).astype(np.float64)
    labels = np.concatenate([snippet_labels_of(s.recording) for s in scores])
    fused = np.concatenate([s.fused_foreground for s in scores])
    total = len(embedding)
    if total > most:
        chosen = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
        embedding, labels, fused = embedding[chosen], labels[chosen], fused[chosen]
    flat = flatten(np.concatenate([embedding, centres]), method, seed=seed)
    points, stars = flat[: len(embedding)], flat[len(embedding) :]
    figure = new_figure(PIXELS[0], 690)
    figure.set_layout_engine("none")
    left = figure.add_axes((0.02, 0.2, 0.47, 0.75))
    right = figure.add_axes((0.515, 0.2, 0.47, 0.75), sharex=left, sharey=left)
    _draw_classes(left, points, labels, data)
    _draw_foreground(right, points, fused, stars, foreground)
    heading(left, f"true class of {len(points):,} of {total:,} test snippets")
    heading(right, "foreground probability, and the clusters' prototypes" if len(stars) else "foreground probability")
    for axis in (left, right):
        axis.set(xticks=[], yticks=[], xlabel={"tsne": "t-SNE", "pca": "principal components"}[method])
        calm(axis)
    return figure


def _draw_foreground(
    axis: "Axes", points: np.ndarray, fused: np.ndarray, stars: np.ndarray, foreground: np.ndarray
) -> None:
    shades = foreground_colours()
    drawn = axis.scatter(
        points[:, 0], points[:, 1], c=fused, cmap=shades, vmin=0, vmax=1, s=5, linewidths=0, alpha=0.75, rasterized=True
    )
    axis.scatter(
        stars[:, 0],
        stars[:, 1],
        c=foreground,
        cmap=shades,
        vmin=0,
        vmax=1,
        marker="*",
        s=95,
        edgecolors=INK,
        linewidths=0.7,
        zorder=3,
        gid="prototypes",
    )
    for place, names in _together(stars, 0.02 * float(np.ptp(points))).items():
        axis.annotate(names, place, xytext=(5, 3), textcoords="offset points", fontsize=6.5, color=INK, weight="bold")
    bar = axis.figure.colorbar(drawn, cax=axis.figure.add_axes((0.615, 0.115, 0.27, 0.014)), orientation="horizontal")
    if bar.solids is not None:
        bar.solids.set(alpha=1, rasterized=True)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, color=PALE, labelcolor=INK)
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    label = "points: fused foreground probability $P^M$" + ("; stars: prototypes, $Q^C$" if len(stars) else "")
    bar.set_label(label, fontsize=7, color=INK)


def _together(stars: np.ndarray, near: float) -> dict[tuple[float, float], str]:
    """Place -> numbers of the prototypes there, so that those on top of each other share one label."""
    groups: dict[tuple[float, float], list[int]] = {}
    for k, (x, y) in enumerate(stars.tolist()):
        place = next((p for p in groups if np.hypot(p[0] - x, p[1] - y) < near), (x, y))
        groups.setdefault(place, []).append(k)
    return {place: ", ".join(map(str, names)) for place, names in groups.items()}


def _draw_classes(axis: "Axes", points: np.ndarray, labels: np.ndarray, data: LocalizationData) -> None:
    from matplotlib.lines import Line2D

    counts = {name: int((labels == name).sum()) for name in data.classes}
    named = sorted((n for n in data.classes if counts[n]), key=lambda n: -counts[n])[: len(COLOURS)]
    shown = {**colours_of([n for n in data.classes if n in named], data.classes), BACKGROUND_LABEL: UNNAMED}
    rest = ~np.isin(labels, list(shown))
    order = [BACKGROUND_LABEL, *[n for n in shown if n != BACKGROUND_LABEL]]
    if rest.any():
        axis.scatter(points[rest, 0], points[rest, 1], color=GREY, s=5, linewidths=0, alpha=0.75, rasterized=True)
    for label in order:
        axis.scatter(
            points[labels == label, 0],
            points[labels == label, 1],
            color=shown[label],
            s=5,
            linewidths=0,
            alpha=0.75,
            rasterized=True,
            gid=label,
        )
    entries = {**shown, **({"other classes": GREY} if rest.any() else {})}
    axis.legend(
        [Line2D([], [], marker="o", linestyle="", markersize=4, color=c) for c in entries.values()],
        [plain(name) for name in entries],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.07),
        ncols=3,
        frameon=False,
        fontsize=7,
        handletextpad=0.1,
    )
