"""What happens around the epochs of a run: order of the data, metrics file, best epoch, progress line."""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from examples.case_wtal.files import write_whole

# About the released program's 50 steps on THUMOS14, where an epoch has 12.
EPOCHS_BETWEEN_TESTS = 4

BEST_ON_TEST = "best on test (test labels used for selection)"
"""How every output names a checkpoint that was chosen with the labels of the evaluated split."""


class EpochSampler(Sampler[int]):
    """Shuffled indices that depend on the seed and the epoch only, so that a resumed run sees the same batches.

    Args:
        size: Number of items.
        seed: Of the run.
        epoch: Says which epoch comes next; Lightning's `set_epoch` comes after the first batch was fetched.
    """

    def __init__(self, size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.size = size
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        # The global generator, because the data set draws its random snippets from it too.
        torch.manual_seed(int(np.random.SeedSequence((self.seed, self.epoch())).generate_state(1)[0]))
        yield from torch.randperm(self.size).tolist()


class MetricsFile(L.Callback):
    """One line per epoch in a CSV file; a resumed run goes on behind the epochs that it has.

    A loss that begins later has empty cells before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop the lines of epochs that are trained again."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < trainer.current_epoch]
        write_whole(self.path, self._write)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append the epoch's mean losses."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": trainer.current_epoch, **metrics})
        write_whole(self.path, self._write)

    def _write(self, path: Path) -> None:
        names = sorted({name for row in self.rows for name in row} - {"epoch"})
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *names], restval="")
            writer.writeheader()
            writer.writerows(self.rows)


class BestOnTest(L.Callback):
    """Keeps the weights of the epoch with the highest average mAP on the test split, as the released program does.

    Its numbers look better than what the method would reach on unseen recordings: the test labels choose.
    """

    def __init__(self, score: Callable[[], float], epochs: int, every: int = EPOCHS_BETWEEN_TESTS) -> None:
        self.score = score
        self.epochs = epochs
        self.every = every
        self.best = -1.0
        self.epoch = -1
        self.weights: dict[str, Tensor] = {}

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate every few epochs, and after the last."""
        done = trainer.current_epoch + 1
        if done % self.every and done != self.epochs:
            return
        value = self.score()
        pl_module.train()
        if value > self.best:
            self.best, self.epoch = value, trainer.current_epoch
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in pl_module.state_dict().items()}

    @override
    def state_dict(self) -> dict[str, Any]:
        """Travels in the checkpoint of the run."""
        return {"best": self.best, "epoch": self.epoch, "weights": self.weights}

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Of a resumed run."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        self.weights = dict(state_dict["weights"])


class ProgressLine(L.Callback):
    """One line for the whole training: epochs done, loss, time."""

    def __init__(self, title: str) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:>6}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
        )
        self.title = title

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the line."""
        self.progress.start()
        self.task = self.progress.add_task(
            self.title, total=trainer.max_epochs, completed=trainer.current_epoch, loss="-"
        )

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move on."""
        loss = f"{float(trainer.callback_metrics['loss/total']):.3f}"
        self.progress.update(self.task, completed=trainer.current_epoch + 1, loss=loss)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the finished line."""
        self.progress.stop()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self.progress.stop()
