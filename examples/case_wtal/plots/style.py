"""Colours, sizes and the manners that all pictures share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any colour vision; without its yellow and black, and grey for the maps.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
GREY, PALE, INK = "#6b7280", "#e5e7eb", "#1f2937"
FOREGROUND, BACKGROUND = "#D55E00", "#8fa3bf"

PIXELS = (1200, 900)
DPI = 150


def new_figure(width: int = PIXELS[0], height: int = PIXELS[1]) -> "Figure":
    """An empty figure of that many pixels, on a canvas that needs no window, whatever backend is set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(name: str) -> str:
    """A name as it is: a dollar sign in it starts no formula."""
    return name.replace("$", r"\$")


def colours_of(names: Sequence[str], classes: Sequence[str] = ()) -> dict[str, str]:
    """A colour for each name: its own in the whole data set if `classes` are few, else by its place in `names`."""
    order = classes if 0 < len(classes) <= len(COLOURS) else names
    return {name: COLOURS[order.index(name) % len(COLOURS)] for name in names}


def calm(axis: "Axes", *, left: bool = True, size: float = 7) -> None:
    """Small grey ticks, and a frame of two sides at most."""
    axis.tick_params(labelsize=size, color=PALE, labelcolor=INK)
    for side in ("top", "right", *(() if left else ("left",))):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(PALE)
    axis.xaxis.label.set_fontsize(size + 1)
    axis.yaxis.label.set_fontsize(size + 1)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_color(INK)


def heading(axis: "Axes", text: str, size: float = 8) -> None:
    """A title at the left, as large as the rest."""
    axis.set_title(text, loc="left", fontsize=size, color=INK, pad=4)


def foreground_colours(name: str = "foreground") -> "LinearSegmentedColormap":
    """From blue-grey (background, 0) over a pale middle to vermilion (foreground, 1)."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, [BACKGROUND, "#efe3d6", FOREGROUND])
