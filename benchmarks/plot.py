"""Time against the error reached, one panel a workload, one file a kind of scores."""

from pathlib import Path
from typing import Any

from benchmarks.contenders import DEFAULT
from benchmarks.records import Records
from benchmarks.summary import COUNTS, Results, standings
from benchmarks.workloads import WORKLOADS

COLOURS = {
    "otlabel": "#d62728",
    "loops": "#7f7f7f",
    "POT": "#1f77b4",
    "OTT": "#ff7f0e",
    "GeomLoss": "#2ca02c",
    "Newton peers": "#9467bd",
}
LABELS = {"loops": "SwAV and logsumexp loops", "Newton peers": "MDOT-TNT and RegOT"}
MARKERS = ("o", "s", "^", "D")  # one an epsilon
FLOOR = 1e-10  # errors below it are drawn there


def write(records: Records, out: Path) -> list[Path]:
    """Write OUT_<kind>.png for every kind of scores in the records."""
    results = {cell: found for cell, found in records.results().items() if cell[2] == "plain"}
    paths = []
    for kind in dict.fromkeys(cell[1] for cell in results):
        path = out.with_name(f"{out.name}_{kind}.png")
        _figure({cell: found for cell, found in results.items() if cell[1] == kind}, kind, path)
        paths.append(path)
        print(f"wrote {path}")
    return paths


def _figure(results: Results, kind: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    names = sorted({cell[0] for cell in results})
    epsilons = sorted({cell[3] for cell in results}, reverse=True)
    columns = min(4, len(names) + 1)
    rows = -(-(len(names) + 1) // columns)  # one more panel holds the legend
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.8 * rows), squeeze=False, sharex=True, layout="constrained"
    )
    panels = list(axes.flat)
    for name, panel in zip(names, panels, strict=False):
        _panel(panel, {cell: found for cell, found in results.items() if cell[0] == name}, epsilons)
        panel.set_title(f"{name}: {WORKLOADS[name].size}")
    for panel in axes[:, 0]:
        panel.set_ylabel("milliseconds")
    for index, panel in enumerate(panels[: len(names)]):
        panel.tick_params(labelbottom=True)
        if index + columns >= len(names):
            panel.set_xlabel("L1 error of the class proportions")
    for panel in panels[len(names) :]:
        panel.axis("off")
    families = [
        family for family in COLOURS if any(r["family"] == family for f in results.values() for r in f.values())
    ]
    dot = {"linestyle": "", "markeredgewidth": 0}
    handles = [Line2D([], [], color=COLOURS[f], marker="o", label=LABELS.get(f, f), **dot) for f in families]
    for epsilon, marker in zip(epsilons, MARKERS, strict=False):
        handles.append(Line2D([], [], color="black", marker=marker, label=f"epsilon {epsilon:g}", **dot))
    handles.append(Line2D([], [], color="black", marker="o", fillstyle="none", linestyle="", label="time predicted"))
    handles.append(Line2D([], [], color=COLOURS[DEFAULT.family], linewidth=0.9, label="otlabel's default"))
    handles.append(Line2D([], [], color="black", linewidth=0.9, label="best correct peer"))
    panels[len(names)].legend(handles=handles, loc="center", frameon=False, fontsize=11)
    figure.suptitle(f"Balanced labels, {kind} scores: correct answers only; lower and further left is better")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(panel: Any, results: Results, epsilons: list[float]) -> None:
    """Every correct answer, otlabel on top; lines join otlabel's default, and the best peers, of an epsilon."""
    for (*_, epsilon, goal), contenders in results.items():
        marker = MARKERS[epsilons.index(epsilon) % len(MARKERS)]
        for record in contenders.values():
            if record["status"] not in COUNTS or not _has_error(record, goal):
                continue
            ours, colour = record["family"] == DEFAULT.family, COLOURS[record["family"]]
            default = record["contender"] == DEFAULT.name
            panel.plot(
                *_point(record, goal),
                marker=marker,
                markersize=8 if default else 5,
                markerfacecolor="none" if record["status"] == "extrapolated" else colour,
                markeredgecolor="black" if default else colour,
                alpha=1 if ours else 0.55,
                zorder=4 if default else 3 if ours else 2,
            )
    found = standings(results)
    for epsilon in epsilons:
        mine = [s for s in found if s.cell[3] == epsilon]
        ours = [_point(s.ours, s.cell[4]) for s in mine if s.ours["status"] == "ok"]
        peers = [_point(s.peer, s.cell[4]) for s in mine if s.peer and _has_error(s.peer, s.cell[4])]
        for points, colour in ((ours, COLOURS[DEFAULT.family]), (peers, "black")):
            panel.plot(*zip(*points, strict=True), color=colour, linewidth=0.9, alpha=0.7, zorder=1) if points else None
    panel.set_xscale("log")
    panel.set_yscale("log")
    for tol in (1e-3, 1e-6):
        panel.axvline(tol, color="black", linewidth=0.6, linestyle=":", zorder=1)
    panel.grid(alpha=0.25)


def _has_error(record: dict[str, Any], goal: str) -> bool:
    """Whether an error is known: a fixed number of iterations that was only predicted has none."""
    return record["status"] == "ok" or goal != "fixed"


def _point(record: dict[str, Any], goal: str) -> tuple[float, float]:
    """Error and milliseconds; a predicted answer sits at the error asked for."""
    error = float(goal) if record["status"] == "extrapolated" else record["error"]
    return max(error, FLOOR), 1e3 * record["seconds"]
