"""Command line: `python -m examples.case_wtal demo | train | evaluate | ablation | costs`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Dataset = Literal["watch", "ninapro", "thumos14"]
Recipe = Literal["paper", "released", "otlabel"]


@dataclass(frozen=True)
class Ablation:
    """Train the parts of CASE from paired seeds and compare: base, +SCC, +SCC+CCC, +test."""

    dataset: Dataset = "watch"
    root: Path | None = None  # folder of a downloaded data set
    recipes: tuple[Recipe, ...] = ("released", "paper", "otlabel")  # which recipes to compare
    seeds: int = 5  # trainings of each kind, with seeds 0, 1, ...
    jobs: int = 1  # worker processes
    folder: Path = Path("runs/ablation")  # results; a second call goes on from them

    def run(self) -> None:
        from examples.case_wtal.ablation import ablation
        from examples.case_wtal.data import load
        from examples.case_wtal.recipes import RECIPES
        from examples.case_wtal.report import show, summary_notes, summary_table, write_summary
        from examples.case_wtal.run import protocol_of
        from examples.case_wtal.summary import summarise

        data = load(self.dataset, self.root)
        configs = {name: RECIPES[name](self.dataset) for name in self.recipes}
        results = ablation(
            data, configs, self.seeds, self.folder, jobs=self.jobs, report=lambda line: print(line, flush=True)
        )
        protocol = protocol_of(configs[self.recipes[0]].inference.protocol)
        write_summary(results, data, protocol, self.folder)
        title = f"Ablation on {data.name}"
        show(summary_table(summarise(results), protocol, title), summary_notes(results, data, protocol))


Command = Annotated[Ablation, tyro.conf.subcommand("ablation")]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    command = tyro.extras.subcommand_cli_from_dict({"ablation": Ablation}, args=arguments)
    command.run()
    return 0
