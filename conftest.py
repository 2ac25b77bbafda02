"""Set-up of the test run: shape checks on the library, hypothesis profiles, runnable fences in the Markdown pages."""

import doctest
import os
from importlib.util import find_spec

import hypothesis
import pytest
from jaxtyping import install_import_hook

# Must come before anything imports otlabel: every annotated shape of the kernels is then checked in every test. Only of
# the kernels: elsewhere the hook would answer bad input before the library's own messages, which the tests are about.
if find_spec("beartype") is not None:
    install_import_hook(["otlabel.kernel", "otlabel.absorbed"], "beartype.beartype")

hypothesis.settings.register_profile("ci", derandomize=True, max_examples=100, deadline=None)
hypothesis.settings.register_profile("dev", max_examples=25, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

collect_ignore = ["docs/conf.py", "docs/_build", "docs/_ext", "docs/gallery", "docs/gallery_src"]


class Page(pytest.File):
    """A Markdown page, one test: its Python blocks run in order, each building on those above it."""

    def collect(self):
        if "```python" in self.path.read_text(encoding="utf-8"):
            yield PageBlocks.from_parent(self, name="blocks")


class PageBlocks(pytest.Item):
    def runtest(self):
        from sybil import Sybil
        from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

        blocks = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        for example in Sybil(parsers=[blocks, SkipParser()]).parse(self.path).examples():
            example.evaluate()

    def repr_failure(self, excinfo):
        # A doctest that differs explains itself; any other error is read best from its traceback.
        return str(excinfo.value) if hasattr(excinfo.value, "example") else super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, None, str(self.path.relative_to(self.config.rootpath))


def pytest_collect_file(file_path, parent):
    docs = parent.config.rootpath / "docs"
    page = file_path.suffix == ".md" and (file_path.name == "README.md" or docs in file_path.parents)
    return Page.from_parent(parent, path=file_path) if page and find_spec("sybil") is not None else None
