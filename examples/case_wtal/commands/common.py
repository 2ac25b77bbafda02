"""What several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from examples.case_wtal.config import CaseConfig

if TYPE_CHECKING:
    from examples.case_wtal.data import LocalizationData

Dataset = Literal[
    "watch", "ninapro", "inertial", "thumos14", "thumos14-212", "activitynet12", "activitynet13", "folder"
]
Recipe = Literal["paper", "released", "otlabel"]

PROGRAM = "python -m examples.case_wtal"


def load_data(config: CaseConfig) -> "LocalizationData":
    """The data set that the settings name."""
    from examples.case_wtal.data import load

    return load(config.dataset, None if config.root is None else Path(config.root))


def say(line: str) -> None:
    """Print a line at once, into a pipe too."""
    print(line, flush=True)
