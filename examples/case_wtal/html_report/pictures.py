"""Matplotlib figures as inline SVG that follows the page: its colours, light or dark, and its text as text."""

import io
import re
import warnings
from html import escape
from typing import TYPE_CHECKING

from examples.case_wtal.evaluation.figures import LEVELS
from examples.case_wtal.plots.style import COLOURS, GREY, INK, PALE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THEMED = {
    INK: "--ink",
    "#000000": "--ink",
    GREY: "--muted",
    PALE: "--line",
    "#ffffff": "--card",
    **{colour.lower(): f"--c{i}" for i, colour in enumerate(COLOURS)},
    **{colour.lower(): f"--level{i}" for i, colour in enumerate(LEVELS)},
}
"""Colour of a figure -> variable of the style sheet: ink, paper and curves change with the page."""


def to_svg(figure: "Figure", name: str, description: str) -> str:
    """One `<svg>` element.

    Args:
        figure: Drawn on a transparent ground.
        name: Unique on the page, of ASCII letters: keeps the definitions of several pictures apart.
        description: What a screen reader says.
    """
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)  # nothing refers to groups, and their ids repeat from file to file
    text = re.sub(r"font: ((?:[\w.]+ )*[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    for colour, variable in THEMED.items():
        text = text.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None  # noqa: S101 - matplotlib always writes it
    opening = (
        f'<svg {box.group()} xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="{escape(description)}">'
    )
    return opening + text[text.index(">") + 1 :].strip()
