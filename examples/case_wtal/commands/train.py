"""The command `train`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from examples.case_wtal.commands.common import load_data
from examples.case_wtal.config import CaseConfig, Device


@dataclass(frozen=True)
class Train:
    """Train one model into a run folder and evaluate it.

    Every setting starts from the recipe (or from a saved file) and can be changed by name:
    `train --recipe otlabel --dataset ninapro --root PATH --label.sigma 0.2`.
    """

    folder: Path | None = None  # run folder; None is runs/DATASET-RECIPE-COMPONENTS-seedSEED
    saved: Annotated[Path | None, tyro.conf.arg(name="config")] = None  # start from a config.json, not from a recipe
    resume: bool = False  # go on with the interrupted run in `folder`, with its settings
    device: Device | None = None  # short for train.device
    config: Annotated[CaseConfig, tyro.conf.arg(name="")] = field(default_factory=CaseConfig)

    def run(self) -> None:
        """Train, then print the evaluation."""
        from examples.case_wtal.evaluation import Detections
        from examples.case_wtal.evaluation.ground_truth import GroundTruth
        from examples.case_wtal.evaluation.outcome import evaluate_results
        from examples.case_wtal.evaluation.tables import outcome_notes, outcome_tables, show
        from examples.case_wtal.run import train
        from examples.case_wtal.run_folder import PREDICTIONS, read_origin

        config, data = self.config, load_data(self.config)
        if self.device is not None:
            config = replace(config, train=replace(config.train, device=self.device))
        name = f"{config.dataset}-{config.recipe}-{config.loss.components}-seed{config.train.seed}"
        folder = self.folder or Path("runs") / name
        train(config, data, folder, resume=self.resume)
        outcome = evaluate_results(
            GroundTruth.of_data(data),
            Detections.read(folder / PREDICTIONS),
            config.inference.protocol,
            results=f"{config.recipe} on {data.name}",
            origin=read_origin(folder),
        )
        show(outcome_tables(outcome), [*outcome_notes(outcome), f"Run folder: {folder}"])
