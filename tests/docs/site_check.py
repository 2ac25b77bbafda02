"""Looks at a built site: names, links, search in a browser, and pictures of pages.

    python tests/docs/site_check.py docs/_build/html                  # names and links; no browser
    python tests/docs/site_check.py docs/_build/html --pictures DIR   # and search, widths and pictures; needs chromium

Formulas are drawn by MathJax, which is fetched from its public address. Without a network put a copy of the npm package
mathjax@3 (its folder es5) into _static/mathjax of the built site, and build with
OTLABEL_DOCS_MATHJAX=mathjax/tex-mml-chtml.js.
"""

import argparse
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.docs.site import broken_links, documented_names, public_names

SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
THEMES = ("light", "dark")
PAGES = (
    "index.html",
    "learn/transport.html",
    "howto/replace-your-loop.html",
    "gallery/index.html",
    "gallery/plot_05_solver_convergence.html",
    "recipes/index.html",
    "recipes/systems/p2ot.html",
    "api/index.html",
    "api/labelers.html",
    "benchmarks.html",
    "case.html",
    "decisions.html",
)
SOUGHT = "sinkhorn_prior_label"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Quiet(SimpleHTTPRequestHandler):
    """Files of the site, without a line for each."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def look(site: Path, pictures: Path, only: list[str]) -> list[str]:
    """Search and pages in a browser; what is wrong with them."""
    from selenium import webdriver

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        # Found here and not by selenium, which would ask the network.
        options.binary_location = which("chromium") or which("google-chrome") or ""
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(which("chromedriver")))
        try:
            problems += search(browser, address)
            for page in only or [page for page in PAGES if (site / page).exists()]:
                problems += photograph(browser, address, page, pictures)
        finally:
            browser.quit()
            server.shutdown()
    return problems


def search(browser: Any, address: str) -> list[str]:
    """Whether the search box finds a public name, and first of all its place in the reference."""
    browser.get(f"{address}/search.html?q={SOUGHT}")
    links: list[str] = []
    for _ in range(50):
        links = browser.execute_script("return [...document.querySelectorAll('#search-results li a')].map(a => a.href)")
        if links:
            break
        time.sleep(0.2)
    if not any(f"#otlabel.{SOUGHT}" in link for link in links):
        return [f"search for {SOUGHT} finds {links[:3]}"]
    sys.stdout.write(f"search for {SOUGHT}: {len(links)} results, first {links[0].removeprefix(address)}\n")
    return []


def photograph(browser: Any, address: str, page: str, pictures: Path) -> list[str]:
    """A picture for each size and theme; pages that are wider than their window, or whose formulas failed."""
    problems = []
    for size, (width, height) in SIZES.items():
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"},
        )
        for theme in THEMES:
            browser.get(f"{address}/{page}")
            browser.execute_script(f"localStorage.setItem('theme', '{theme}'); document.body.dataset.theme = '{theme}'")
            for _ in range(50):
                if browser.execute_script("return !window.MathJax || !!document.querySelector('mjx-container')"):
                    break
                if not browser.execute_script("return !!document.querySelector('.math')"):
                    break
                time.sleep(0.1)
            time.sleep(0.3)
            wide = browser.execute_script("return document.documentElement.scrollWidth") - width
            if wide > 1:
                problems.append(f"{page} on {size} is {wide} pixels too wide")
            if browser.execute_script("return !!document.querySelector('mjx-merror')"):
                problems.append(f"{page} has a formula that MathJax cannot read")
            pictures.mkdir(parents=True, exist_ok=True)
            name = f"{page.removesuffix('.html').replace('/', '-')}-{size}-{theme}.png"
            browser.save_screenshot(str(pictures / name))
    return problems


def main() -> None:
    """Check, list what is wrong, and fail if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder of the built pages")
    parser.add_argument("--pictures", type=Path, help="where to put pictures; starts a browser")
    parser.add_argument("--pages", nargs="+", default=[], metavar="PAGE", help="pages to look at (default: a dozen)")
    chosen = parser.parse_args()
    site = chosen.site.resolve()
    problems = [f"{name} is not documented" for name in public_names() if name not in documented_names(site)]
    problems += [f"broken link: {link}" for link in broken_links(site)]
    if chosen.pictures:
        problems += look(site, chosen.pictures, chosen.pages)
    found = "\n".join(problems) or f"{len(public_names())} public names documented, all internal links resolve"
    sys.stdout.write(found + "\n")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
