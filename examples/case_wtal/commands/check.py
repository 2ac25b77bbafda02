"""The command `check`."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from examples.case_wtal.commands.common import Dataset, say

if TYPE_CHECKING:
    from rich.table import Table

    from examples.case_wtal.data import LocalizationData, Problem


@dataclass(frozen=True)
class Check:
    """Read every file of a data set and list all that is missing, broken or contradictory.

    Exit code 0 if the data set can be used, 2 if not.
    """

    dataset: tyro.conf.Positional[Dataset]
    root: Path | None = None  # folder of the data set
    export: Path | None = None  # if nothing is wrong, also write it as a new folder in the format for own data

    def run(self) -> None:
        """Load, then print problems or a summary."""
        from rich.console import Console

        from examples.case_wtal.data import IntegrityError, load, write_folder

        console = Console()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                data = load(self.dataset, self.root)
            except IntegrityError as error:
                console.print(problem_table(error.problems, f"{self.dataset} in {self.root}"))
                raise ValueError(summarise_problems(error)) from error
        console.print(summary_table(data))
        for warning in caught:
            say(f"Notice: {warning.message}")
        say(data.note)
        if self.export is not None:
            write_folder(data, self.export)
            say(f"Written to {self.export}: use it with --dataset folder --root {self.export}")


def problem_table(problems: "tuple[Problem, ...]", title: str) -> "Table":
    """A row for each problem; nothing is cut off."""
    from rich.table import Table

    table = Table("file", "problem", "found", title=title)
    for column in table.columns:
        column.overflow = "fold"
    for problem in problems:
        table.add_row(problem.file, problem.kind, problem.detail)
    return table


def summarise_problems(error: ValueError) -> str:
    """The error's last word: how many problems of which kind, and what to do."""
    from examples.case_wtal.data.integrity import IntegrityError, count_kinds

    assert isinstance(error, IntegrityError)  # noqa: S101 - for the type checker
    kinds = ", ".join(f"{count} {kind}" for kind, count in count_kinds(error.problems).items())
    return f"`root` must hold a complete data set, got problems ({kinds}), listed above. {error.advice}"


def summary_table(data: "LocalizationData") -> "Table":
    """Recordings, length, instances and classes of each split."""
    from rich.table import Table

    table = Table("", "recordings", "hours", "instances", "classes", title=data.name)
    for column in table.columns[1:]:
        column.justify = "right"
    for split, recordings in (("train", data.train), (data.test_split, data.test)):
        labels = {label for recording in recordings for label in recording.labels}
        table.add_row(
            split,
            f"{len(recordings):,}",
            f"{sum(recording.seconds for recording in recordings) / 3600:.2f}",
            f"{sum(len(recording.segments) for recording in recordings):,}",
            f"{len(labels)} of {len(data.classes)}",
        )
    return table
