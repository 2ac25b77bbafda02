"""The record file: one JSON object a line, written as it is measured, so that a cut-off run can be continued."""

import json
from pathlib import Path
from typing import Any

from benchmarks.workloads import KINDS, VARIANTS

CELL = ("workload", "kind", "variant", "epsilon", "goal")


def cell_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """The cell that a record belongs to."""
    return tuple(record[name] for name in CELL)


def _order(cell: tuple[Any, ...]) -> tuple[Any, ...]:
    workload, kind, variant, epsilon, goal = cell
    return workload, VARIANTS.index(variant), KINDS.index(kind), -epsilon, goal != "fixed", goal


class Records:
    """Appends to a file; knows which cells are complete."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.unlink(missing_ok=True)
        self.all = read(path)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")  # ends the line that was cut off

    def add(self, name: str, /, **values: Any) -> None:
        """Write a record: its name, and what it says."""
        record = {"record": name, **values}
        self.all.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def of(self, name: str) -> list[dict[str, Any]]:
        """All records of that name."""
        return [record for record in self.all if record["record"] == name]

    def done(self) -> set[tuple[Any, ...]]:
        """Cells whose last record was written."""
        return {cell_of(record) for record in self.of("done")}

    def results(self) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
        """Contender by contender for each complete cell, in the order of the tables.

        What a cut-off run left of a cell is replaced by the later measurement.
        """
        done: set[tuple[Any, ...]] = self.done()
        found: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
        for record in self.of("result"):
            if cell_of(record) in done:
                found.setdefault(cell_of(record), {})[record["contender"]] = record
        return {cell: found[cell] for cell in sorted(found, key=_order)}


def read(path: Path) -> list[dict[str, Any]]:
    """All records of a file; a last line that was cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path}: a line is cut off and left out")
    return records
