"""Command line: `python -m examples.case_wtal demo | train | evaluate | ablation | costs`.

What a command needs is imported when it runs, so that `--help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import tyro
from tyro.conf import subcommand

from examples.case_wtal.config import CaseConfig

if TYPE_CHECKING:
    from examples.case_wtal.data import LocalizationData

Dataset = Literal["watch", "ninapro", "thumos14"]
Recipe = Literal["paper", "released", "otlabel"]

PROGRAM = "python -m examples.case_wtal"


@dataclass(frozen=True)
class Demo:
    """Train and evaluate the parts of CASE on small real recordings: a table and a picture in about two minutes."""

    folder: Path = Path("runs/demo")  # receives recording.png

    def run(self) -> None:
        """Train, print the table, name the picture."""
        from examples.case_wtal.data import load
        from examples.case_wtal.demo import demo
        from examples.case_wtal.recipes import RECIPES
        from examples.case_wtal.report import class_label_notes, context, results_table, show
        from examples.case_wtal.run import protocol_of, selection_note

        data, config = load("watch"), RECIPES["otlabel"]("watch")
        results, picture = demo(config, data, self.folder, report=_say)
        protocol = protocol_of(config.inference.protocol)
        notes = [
            context(data, protocol, selection_note(config)),
            *class_label_notes({config.recipe: config}),
            f"A single seed ({config.train.seed}): differences of a few points are within what another seed changes. "
            f"For several seeds: {PROGRAM} ablation",
        ]
        show(results_table(results, protocol, "CASE on smartwatch exercises"), notes)
        _say(f"\nOne recording, drawn: {picture}")


@dataclass(frozen=True)
class Train:
    """Train one model into a run folder and evaluate it.

    Every setting starts from the recipe (or from a saved file) and can be changed by name:
    `train --recipe otlabel --dataset ninapro --root PATH --label.sigma 0.2`.
    """

    folder: Path | None = None  # run folder; None chooses a name under runs/
    saved: Annotated[Path | None, tyro.conf.arg(name="config")] = None  # start from a config.json, not from a recipe
    resume: bool = False  # go on with the interrupted run in `folder`, with its settings
    config: Annotated[CaseConfig, tyro.conf.arg(name="")] = field(default_factory=CaseConfig)

    def run(self) -> None:
        """Train, then print the evaluation."""
        from examples.case_wtal.evaluation import Detections
        from examples.case_wtal.report import context, evaluation_table, show
        from examples.case_wtal.run import evaluate_detections, selection_note, train
        from examples.case_wtal.run_folder import PREDICTIONS

        config, data = self.config, _load(self.config)
        name = f"{config.dataset}-{config.recipe}-{config.loss.components}-seed{config.train.seed}"
        folder = self.folder or Path("runs") / name
        train(config, data, folder, resume=self.resume)
        evaluation = evaluate_detections(Detections.read(folder / PREDICTIONS), data, config.inference.protocol)
        show(
            evaluation_table(evaluation, f"{config.recipe} on {data.name}"),
            [context(data, evaluation.protocol, selection_note(config)), f"Run folder: {folder}"],
        )


@dataclass(frozen=True)
class Evaluate:
    """Print the evaluation of a run folder, or of a file with predictions."""

    path: tyro.conf.Positional[Path]  # run folder, or JSON file in the ActivityNet results form
    dataset: Dataset | None = None  # needed for a file; a run folder names its own
    root: Path | None = None  # folder of a downloaded data set
    protocol: str | None = None  # name of a protocol; None takes the run's own, for a file thumos14

    def run(self) -> None:
        """Evaluate and print."""
        from examples.case_wtal.config_json import read_config
        from examples.case_wtal.evaluation import Detections
        from examples.case_wtal.report import context, evaluation_table, show
        from examples.case_wtal.run import evaluate_detections, evaluate_run, selection_note
        from examples.case_wtal.run_folder import PREDICTIONS

        if self.path.is_dir():
            config = read_config(self.path / "config.json")
            data = _load(replace(config, root=str(self.root) if self.root else config.root))
            weights = selection_note(config)
            evaluation = evaluate_run(self.path, data)
            if self.protocol is not None:
                found = Detections.read(self.path / PREDICTIONS)
                evaluation = evaluate_detections(found, data, self.protocol)
        else:
            if self.dataset is None:
                raise ValueError("`dataset` must be given with a file of predictions, got none. Add --dataset NAME.")
            data = _load(CaseConfig(dataset=self.dataset, root=str(self.root) if self.root else None))
            evaluation = evaluate_detections(Detections.read(self.path), data, self.protocol or "thumos14")
            weights = "unknown, predictions from a file"
        show(evaluation_table(evaluation, f"{self.path} on {data.name}"), [context(data, evaluation.protocol, weights)])


@dataclass(frozen=True)
class Ablation:
    """Train the parts of CASE from paired seeds and compare: base, +SCC, +SCC+CCC, +test."""

    dataset: Dataset = "watch"
    root: Path | None = None  # folder of a downloaded data set
    recipes: tuple[Recipe, ...] = ("released", "paper", "otlabel")  # which recipes to compare
    seeds: int = 5  # trainings of each kind, with seeds 0, 1, ...
    jobs: int = 1  # worker processes, with one thread each
    folder: Path = Path("runs/ablation")  # results; a second call goes on from them

    def run(self) -> None:
        """Train what is missing, then print and write the summary."""
        from examples.case_wtal.ablation import ablation
        from examples.case_wtal.recipes import RECIPES
        from examples.case_wtal.report import show, summary_notes, summary_table, write_summary
        from examples.case_wtal.run import protocol_of
        from examples.case_wtal.summary import summarise

        configs: dict[str, CaseConfig] = {
            name: RECIPES[name](self.dataset, str(self.root) if self.root else None) for name in self.recipes
        }
        first = configs[self.recipes[0]]
        data, protocol = _load(first), protocol_of(first.inference.protocol)
        results = ablation(data, configs, self.seeds, self.folder, jobs=self.jobs, report=_say)
        write_summary(results, data, protocol, self.folder, configs)
        show(
            summary_table(summarise(results), protocol, f"Ablation on {data.name}"),
            [
                *summary_notes(results, data, protocol, configs),
                f"Written to {self.folder}: results, summary.md, summary.csv.",
            ],
        )


@dataclass(frozen=True)
class Costs:
    """Print parameters and multiply-adds of the THUMOS14 model."""

    def run(self) -> None:
        """Count and print."""
        from examples.case_wtal.config import ModelConfig
        from examples.case_wtal.model import CaseNetwork, count_costs

        widths, classes, snippets = {"rgb": 1024, "flow": 1024}, 20, 750
        network = CaseNetwork(widths, classes, ModelConfig())
        parameters, operations = count_costs(network, widths, snippets)
        _say(f"THUMOS14 model: two streams of width 1024, {classes} classes, {ModelConfig().clusters} clusters")
        _say(f"{parameters:,} parameters")
        _say(f"{operations / 1e9:.5f} G multiply-adds for one recording of {snippets} snippets")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Without the program's name; None takes them from the command line.

    Returns:
        0, 2 after an error in what was asked for, 130 after an interruption.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = tyro.cli(_commands(arguments), prog=PROGRAM, description=__doc__.splitlines()[0], args=arguments)
        command.run()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. `train --resume` and `ablation` go on from what is finished.", file=sys.stderr)
        return 130
    return 0


def _commands(arguments: list[str]) -> Any:
    """The union of all commands; the settings of `train` start from what its own arguments name."""
    train = Train(config=_starting_config(arguments[1:])) if arguments[:1] == ["train"] else Train()
    parts: list[Any] = [
        Annotated[Demo, subcommand("demo")],
        Annotated[Train, subcommand("train", default=train)],
        Annotated[Evaluate, subcommand("evaluate")],
        Annotated[Ablation, subcommand("ablation")],
        Annotated[Costs, subcommand("costs")],
    ]
    return Union[tuple(parts)]  # noqa: UP007 - made from values


def _starting_config(arguments: list[str]) -> CaseConfig:
    """Settings before the changes of the command line: of a resumed run, a file, or a recipe."""
    from examples.case_wtal.config_json import read_config
    from examples.case_wtal.recipes import RECIPES

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--recipe", "--dataset", "--root", "--folder", "--config"):
        first.add_argument(option)
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(arguments)
    saved = known.config or (known.resume and known.folder and str(Path(known.folder) / "config.json"))
    if saved:
        if known.recipe is not None:
            raise ValueError(
                f"`recipe` must be left out when settings come from a file, got {known.recipe!r} and {saved}. "
                "Drop one of the two."
            )
        return read_config(saved)
    recipe = known.recipe or "otlabel"
    if recipe not in RECIPES:
        raise ValueError(f"`recipe` must be one of {', '.join(RECIPES)}, got {recipe!r}. Choose one of them.")
    return RECIPES[recipe](known.dataset or "watch", known.root)


def _load(config: CaseConfig) -> "LocalizationData":
    from examples.case_wtal.data import load

    return load(config.dataset, None if config.root is None else Path(config.root))


def _say(line: str) -> None:
    print(line, flush=True)
