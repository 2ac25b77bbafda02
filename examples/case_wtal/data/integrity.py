"""What is wrong with a data set on disk: every loader collects its problems here and raises them all at once."""

import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal[
    "missing",  # a file or array that must be there
    "unreadable",  # not in its format, or refused by the system
    "truncated",  # shorter than its header says
    "unpinned",  # a pickle whose hash the user did not pin
    "hash",  # a pickle other than the pinned one
    "shape",
    "dtype",
    "not finite",  # NaN or infinity
    "lengths",  # streams of one recording, or features and duration, that differ too much
    "no annotation",  # features of a recording that nothing describes
    "no features",  # a described recording that has none
    "annotation",  # an entry or row that cannot be understood
    "segment",  # no times, reversed, empty, or outside the recording
    "label",  # a class outside the declared ones
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: Relative to the data set's folder; entries of a file follow it, as `annotations.json: video`.
        kind: What kind of thing.
        detail: What was found.
    """

    file: str
    kind: Kind
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


class IntegrityError(ValueError):
    """A data set is broken; the message lists every problem.

    Attributes:
        problems: In the order in which they were found.
    """

    def __init__(self, root: Path, problems: tuple[Problem, ...], advice: str) -> None:
        super().__init__(root, problems, advice)
        self.root, self.problems, self.advice = root, problems, advice

    def __str__(self) -> str:
        listed = "".join(f"\n  {problem}" for problem in self.problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return f"`root` must hold a complete data set, got {count} in {self.root}:{listed}\n{self.advice}"


@dataclass
class Report:
    """Collects problems and notices while a folder is read.

    Attributes:
        root: Folder of the data set.
        problems: What must be repaired.
        notices: What was repaired in passing, one sentence each; they become warnings.
    """

    root: Path
    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def add(self, file: Path | str, kind: Kind, detail: str = "") -> None:
        """Note a problem of `file`, a path below the root or a name for what has no file of its own."""
        if isinstance(file, Path):
            file = str(file.relative_to(self.root) if file.is_relative_to(self.root) else file)
        self.problems.append(Problem(file, kind, detail))

    def conclude(self, advice: str) -> None:
        """Raise if there are problems, warn of each notice otherwise.

        Args:
            advice: What the user can do, the error's last sentence.

        Raises:
            IntegrityError: There are problems.

        Warns:
            UserWarning: One for each notice.
        """
        if self.problems:
            raise IntegrityError(self.root, tuple(self.problems), advice)
        for notice in self.notices:
            warnings.warn(notice, stacklevel=3)


def count_kinds(problems: tuple[Problem, ...]) -> dict[str, int]:
    """Kind -> how many problems, most frequent first."""
    return dict(Counter(problem.kind for problem in problems).most_common())
