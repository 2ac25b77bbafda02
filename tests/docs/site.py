"""What can be said of a built site without a browser: the names it documents, and whether its links lead somewhere."""

import importlib
import inspect
import zlib
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import otlabel

# Public rooms of the library. Those in `otlabel.__all__` are found by themselves; these are imported by name.
MORE_ROOMS = ("otlabel.solvers", "otlabel.testing")


def public_names() -> list[str]:
    """Full names of what users may import: `__all__` of otlabel and of its rooms; without it, what a room defines."""
    rooms = {name: room for name, room in vars(otlabel).items() if name in otlabel.__all__ and inspect.ismodule(room)}
    names = {f"otlabel.{name}" for name in otlabel.__all__ if name not in rooms}
    for room in (*rooms.values(), *map(importlib.import_module, MORE_ROOMS)):
        names |= {f"{room.__name__}.{name}" for name in _names_of(room)}
    # The solvers are documented under the name that users import.
    return sorted(name for name in names if not _is_at_top(name))


def _names_of(room: ModuleType) -> list[str]:
    own = [name for name, value in vars(room).items() if getattr(value, "__module__", "") == room.__name__]
    return list(getattr(room, "__all__", [name for name in own if not name.startswith("_")]))


def _is_at_top(name: str) -> bool:
    room, _, last = name.rpartition(".")
    return room == "otlabel.solvers" and last in otlabel.__all__


def documented_names(site: Path) -> set[str]:
    """Python names in the inventory of a built site."""
    raw = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(raw).decode().splitlines()
    return {line.split(" ")[0] for line in lines if line.split(" ")[1].startswith("py:")}


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := given.get(key))}
        link = given.get("href") if tag in ("a", "link") else given.get("src") if tag in ("img", "script") else None
        if link:
            self.links.append(link)


def broken_links(site: Path) -> list[str]:
    """Links and pictures within a built site that lead nowhere, as `page: link`."""
    pages = {
        path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if "_static" not in path.parts
    }
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            if not target.exists():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{path.relative_to(site)}: {link} (no such place)")
    return sorted(set(broken))
