"""Sphinx configuration. Everything builds without a network; `make docs` treats every warning as an error.

`-D plot_gallery=0` leaves the gallery's scripts unrun, for a quick look at the prose.
"""

import os
import re
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]  # own extensions; `examples`, which no wheel holds

project = "otlabel"
author = "otlabel developers"
copyright = f"2026, {author}"
version = release = metadata.version("otlabel")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "recipe_pages",
]
exclude_patterns = ["_build", "gallery_src", "gallery/*.ipynb", "recipes/systems/*.txt"]
suppress_warnings = ["config.cache"]  # functions in this file, which the cache cannot hold

# ---------------------------------------------------------------- look

html_theme = "furo"
html_title = f"otlabel {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["otlabel.css"]
# Blue of Okabe and Ito's palette, which the figures use too; the lighter one of the two is for dark pages.
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}
# Formulas need MathJax, by default from its public address. A copy in _static/mathjax, or the address in
# OTLABEL_DOCS_MATHJAX, lets pages be read and looked at without a network; no copy is part of the repository.
if mathjax := os.environ.get("OTLABEL_DOCS_MATHJAX"):
    mathjax_path = mathjax
elif (HERE / "_static" / "mathjax" / "tex-mml-chtml.js").exists():
    mathjax_path = "mathjax/tex-mml-chtml.js"

# ---------------------------------------------------------------- prose

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "fieldlist", "attrs_inline"]
myst_heading_anchors = 3
default_role = "code"  # docstrings quote names with single backticks
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "alpha"
bibtex_reference_style = "label"

# ---------------------------------------------------------------- reference

autodoc_member_order = "bysource"
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Own small inventories, written by _ext/inventories.py: links to these names without asking for theirs.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "inventories/python.inv"),
    "torch": ("https://docs.pytorch.org/docs/stable", "inventories/torch.inv"),
}

# sphinx-autodoc-typehints 3.6 calls a method that Sphinx 10 will drop; it is pinned together with Sphinx 9.
warnings.filterwarnings("ignore", message=".*set_application")

nitpick_ignore_regex = [
    ("py:.*", r"(torch|jaxtyping|typing|collections\.abc)\..*"),  # what the inventories do not list
    ("py:.*", r"Tensor|Ellipsis"),
    ("py:.*", r"otlabel\.distributed\.Ranks"),  # part of the type of `group`, not of what users pass
]

# ---------------------------------------------------------------- gallery

sphinx_gallery_conf = {
    "examples_dirs": "gallery_src",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"__init__\.py",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("otlabel",),
    "reference_url": {"otlabel": None},
    "reset_modules": ("matplotlib", "gallery_style.apply_style"),
    "reset_modules_order": "before",
    "image_srcset": ["2x"],
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 0,
    "download_all_examples": False,
    "remove_config_comments": True,
    "notebook_extensions": set(),
    "capture_repr": (),
}


def typehints_formatter(annotation: Any, config: Any) -> str | None:
    """Write array types as in the source, with their shapes, and torch's types by the names users import."""
    if type(annotation).__module__.startswith("jaxtyping"):
        return f"``{annotation.__name__}``"
    if getattr(annotation, "__module__", "") == "torch" and isinstance(annotation, type):
        name = "torch." + annotation.__name__
        return f":py:class:`{annotation.__name__ if annotation.__name__ == 'Tensor' else name} <{name}>`"
    return None


SHAPE = re.compile(r"(?<![`\w])(\((?:\*batch(?:_shape)?(?:, [\w +]+)*|[nmk],|[nmk](?:, [nmk])+)\))(?!`)")


def quote_shapes(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Set shapes such as (*batch, n, k) as code; to reStructuredText their star would begin an emphasis."""
    lines[:] = [line if ">>>" in line else SHAPE.sub(r"``\1``", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Register the hook ahead of napoleon (500), which takes the docstring apart."""
    app.connect("autodoc-process-docstring", quote_shapes, priority=400)
