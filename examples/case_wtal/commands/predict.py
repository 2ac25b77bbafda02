"""The command `predict`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from examples.case_wtal.commands.common import say
from examples.case_wtal.config import Device

MOST_ROWS = 30


@dataclass(frozen=True)
class Predict:
    """Find actions in recordings of your own with a trained model.

    `predict runs/mine features/` for a folder with <stream>/<name>.npy, or in the format for own data;
    `predict runs/mine rgb=a.npy flow=b.npy` for one recording.
    """

    run_folder: tyro.conf.Positional[Path]  # run folder of the model
    features: tyro.conf.Positional[tuple[str, ...]]  # a folder, or stream=file.npy for each stream
    out: Path | None = None  # receives predictions.json and timelines/; None is `predict` in the run folder
    snippet_seconds: float | None = None  # time from one snippet to the next; None takes that of the training data
    plots: bool = True  # draw a timeline of each recording
    device: Device = "auto"  # where to run the network; auto is CUDA if there is one

    def run(self) -> None:
        """Predict, then print what was found."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        from examples.case_wtal.predict import predict
        from examples.case_wtal.run_folder import PREDICTIONS

        if not self.features:
            raise ValueError("`features` must be a folder, or stream=file for each stream, got nothing. Name one.")
        out = self.out or self.run_folder / "predict"
        prediction = predict(
            self.run_folder,
            self.features,
            out,
            snippet_seconds=self.snippet_seconds,
            plots=self.plots,
            device=self.device,
        )
        table = Table("recording", "seconds", "found", "surest", title=f"Found by {self.run_folder}", box=box.SIMPLE)
        for scores in prediction.scores[:MOST_ROWS]:
            recording, found = scores.recording, prediction.detections.of(scores.recording.name)
            surest = "-"
            if len(found):
                best = int(found.score.argmax())
                surest = f"{found.label[best]}, {found.start[best]:.2f} to {found.end[best]:.2f} s"
                surest += f" (score {found.score[best]:.2f})"
            table.add_row(recording.name, f"{recording.seconds:.2f}", str(len(found)), surest)
        Console().print(table)
        if len(prediction.scores) > MOST_ROWS:
            say(f"and {len(prediction.scores) - MOST_ROWS} more recordings")
        say(f"A snippet is {_seconds(prediction.scores[0].recording.snippet_seconds)} long; times follow from that.")
        say(f"Written to {out}: {PREDICTIONS}{', timelines/' if prediction.pictures else ''}.")


def _seconds(value: float) -> str:
    return f"{value:.4g} s"
