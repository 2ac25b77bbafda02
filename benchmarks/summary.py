"""From the records to statements: the best correct peer of a cell, geometric means, cells where otlabel is behind."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import DEFAULT

Cell = tuple[Any, ...]  # workload, kind, variant, epsilon, goal
Results = dict[Cell, dict[str, dict[str, Any]]]
COUNTS = ("ok", "extrapolated")  # a predicted time stands for an answer that was not waited for


@dataclass(frozen=True)
class Standing:
    """otlabel's default and the best correct peer in a cell; `peer` is None where no peer is correct."""

    cell: Cell
    ours: dict[str, Any]
    peer: dict[str, Any] | None

    @property
    def ratio(self) -> float | None:
        """Time of the peer over otlabel's, None where one of them has none."""
        return self.peer.get("ratio") if self.peer and self.ours["status"] == "ok" else None


def standings(results: Results) -> list[Standing]:
    """One a cell, in the order of the records."""
    found = []
    for cell, contenders in results.items():
        peers = [r for r in contenders.values() if r["family"] != DEFAULT.family and r["status"] in COUNTS]
        best = min(peers, key=lambda record: record["seconds"], default=None)
        found.append(Standing(cell, contenders[DEFAULT.name], best))
    return found


def geometric_mean(values: Iterable[float]) -> float | None:
    """Of positive numbers, None for none."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def behind(found: list[Standing]) -> list[Standing]:
    """Cells where a correct peer is faster, or where otlabel is not correct."""
    return [s for s in found if s.ours["status"] != "ok" or (s.ratio is not None and s.ratio < 1)]


def outdone_by_own(results: Results) -> Iterator[tuple[Cell, str, float]]:
    """Cells where another solver of otlabel needs less than nine tenths of the default's time."""
    for cell, contenders in results.items():
        for name, record in contenders.items():
            ours = record["family"] == DEFAULT.family and name != DEFAULT.name and record["status"] == "ok"
            if ours and record.get("ratio", 1) < 0.9:
                yield cell, name, record["ratio"]


@dataclass(frozen=True)
class Total:
    """One contender over many cells: how often it was correct, and the geometric means of its ratio."""

    name: str
    correct: int
    predicted: int
    cells: int
    ratio_easy: float | None
    ratio_hard: float | None


def totals(results: Results) -> list[Total]:
    """Over the cells with a tolerance, for each contender that took part in any."""
    rows: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for cell, contenders in results.items():
        if cell[4] == "fixed":
            continue
        for name, record in contenders.items():
            if record["status"] != "skipped":
                rows.setdefault(name, []).append((cell[3], record))
    found = []
    for name, records in rows.items():
        good = [(epsilon, r) for epsilon, r in records if r["status"] in COUNTS]
        ratios = [(epsilon, r["ratio"]) for epsilon, r in good if "ratio" in r]
        found.append(
            Total(
                name,
                correct=len(good),
                predicted=sum(r["status"] == "extrapolated" for _, r in good),
                cells=len(records),
                ratio_easy=geometric_mean(ratio for epsilon, ratio in ratios if epsilon > EASY),
                ratio_hard=geometric_mean(ratio for epsilon, ratio in ratios if epsilon <= EASY),
            )
        )
    return found


EASY = 0.005  # at and below it the problems are hard
