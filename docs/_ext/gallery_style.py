"""One look for all pictures of the gallery: Okabe and Ito's colours, direct labels, sizes that a phone can show."""

from typing import Any

# Told apart with any colour vision; blue is what the page is about, orange what it is compared with.
BLUE, ORANGE, GREEN, PINK, RED, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#6b7280",
    "axes.grid": False,
    "axes.labelcolor": "#1f2937",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.figsize": (7.2, 3.6),
    "figure.titlesize": 12,
    "font.size": 10,
    "grid.color": "#e5e7eb",
    "image.cmap": "viridis",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
}


def apply_style(gallery_conf: dict[str, Any], fname: str | None) -> None:
    """Set the style, and one thread: the examples are small, and their bits should not depend on the machine's load."""
    import matplotlib as mpl
    import torch

    torch.set_num_threads(1)
    mpl.rcParams.update(STYLE)
    mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=[BLUE, ORANGE, GREEN, PINK, RED, SKY])
