"""The command `evaluate`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from examples.case_wtal.commands.common import Dataset, load_data
from examples.case_wtal.config import CaseConfig, Device

if TYPE_CHECKING:
    from examples.case_wtal.evaluation import Detections
    from examples.case_wtal.evaluation.ground_truth import GroundTruth
    from examples.case_wtal.evaluation.outcome import Origin

Flag = tyro.conf.FlagCreatePairsOff
Unknown = Literal["error", "ignore", "false-positive"]


@dataclass(frozen=True)
class Evaluate:
    """Print the evaluation of a file with detections, or of a run folder."""

    path: tyro.conf.Positional[Path]  # JSON file in the ActivityNet results form, or run folder
    ground_truth: Path | None = None  # JSON file with annotations in ActivityNet's form, or folder of the THUMOS kit
    subset: str = "test"  # subset of the ground truth
    ambiguous: Path | None = None  # more ambiguous segments, text file of the THUMOS kit
    protocol: str | None = None  # a protocol's name, or all; None takes a run's own, for a file thumos14
    tious: tuple[float, ...] = ()  # other thresholds than the protocol's
    on_unknown: Unknown = "error"  # what becomes of detections in videos and of labels that the ground truth lacks
    profile: Annotated[bool, Flag] = False  # average recall, kinds of errors, and which instances are hard
    out: Path | None = None  # folder for evaluation.json and plots
    plots: Annotated[bool, Flag] = False  # draw into the folder: precision and recall of each class, and the profile
    dataset: Dataset | None = None  # instead of a ground truth: a data set of the example; a run folder names its own
    root: Path | None = None  # folder of a downloaded data set
    device: Device = "cpu"  # where a run folder's network runs; another one than the run's changes the last digits

    def run(self) -> None:
        """Evaluate, print, and write what was asked for."""
        if self.plots and self.out is None:
            raise ValueError("`out` must be given with plots, got none. Add --out FOLDER.")
        if self.path.is_dir():
            if self.ground_truth is not None:
                raise ValueError(
                    f"`ground_truth` must be left out for a run folder, got {self.ground_truth}. "
                    "Give its predictions.json instead of the folder."
                )
            self._run_folder()
        elif self.ground_truth is not None:
            self._file()
        else:
            self._file_on_data()

    def _file(self) -> None:
        from examples.case_wtal.evaluation import Detections
        from examples.case_wtal.evaluation.ground_truth import GroundTruth

        if self.dataset is not None:
            raise ValueError(
                f"`dataset` must be left out with a ground truth, got {self.dataset} and {self.ground_truth}. "
                "Drop one of the two."
            )
        truth = GroundTruth.read(self.ground_truth or Path(), self.subset, self.ambiguous)
        self._report(truth, Detections.read(self.path), self.protocol or "thumos14", None)

    def _file_on_data(self) -> None:
        from examples.case_wtal.evaluation import Detections
        from examples.case_wtal.evaluation.ground_truth import GroundTruth
        from examples.case_wtal.evaluation.outcome import Origin

        if self.dataset is None:
            raise ValueError(
                "`dataset` must be given with a file of predictions, or a ground truth, got none. "
                "Add --ground-truth FILE or --dataset NAME."
            )
        data = load_data(CaseConfig(dataset=self.dataset, root=str(self.root) if self.root else None))
        found = Detections.read(self.path)
        origin = Origin.of(data, "unknown, predictions from a file")
        self._report(GroundTruth.of_data(data), found, self.protocol or "thumos14", origin)

    def _run_folder(self) -> None:
        from examples.case_wtal.config_json import read_config
        from examples.case_wtal.evaluation import Detections
        from examples.case_wtal.evaluation.ground_truth import GroundTruth
        from examples.case_wtal.run import evaluate_run
        from examples.case_wtal.run_folder import PREDICTIONS, read_origin

        config = read_config(self.path / "config.json")
        data = load_data(replace(config, root=str(self.root) if self.root else config.root))
        evaluate_run(self.path, data, device=self.device)
        found = Detections.read(self.path / PREDICTIONS)
        protocol = self.protocol or config.inference.protocol
        self._report(GroundTruth.of_data(data), found, protocol, read_origin(self.path))

    def _report(self, truth: "GroundTruth", found: "Detections", protocol: str, origin: "Origin | None") -> None:
        from examples.case_wtal.evaluation.outcome import evaluate_results
        from examples.case_wtal.evaluation.tables import outcome_notes, outcome_tables, show

        outcome = evaluate_results(
            truth,
            found,
            protocol,
            results=str(self.path),
            tious=self.tious,
            on_unknown=self.on_unknown,
            diagnose=self.profile or self.plots,
            origin=origin,
        )
        written = []
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            outcome.write(self.out / "evaluation.json")
            written.append(f"Written to {self.out}: evaluation.json")
            if self.plots:
                from examples.case_wtal.evaluation.figures import write_figures

                written += [path.name for path in write_figures(outcome, self.out)]
        show(outcome_tables(outcome), [*outcome_notes(outcome), *([", ".join(written)] if written else [])])
