"""Training, and the run folder: settings, environment, metrics, predictions, evaluation, checkpoint.

    config.json          every setting; `CaseConfig` comes back from it
    environment.json     versions, platform, seed, and what the data are
    metrics.csv          mean losses of each epoch; the same as curves in tensorboard/
    checkpoints/last.ckpt
    predictions.json     detections on the test split, ActivityNet results form
    evaluation.json      AP of each class and threshold; as a table in evaluation.txt
"""

import json
import logging
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from examples.case_wtal.callbacks import BEST_ON_TEST, BestOnTest, EpochSampler, MetricsFile, ProgressLine
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.config_json import describe_difference, read_config, to_plain, write_config
from examples.case_wtal.data import LocalizationData, load
from examples.case_wtal.data.batches import RecordingDataset, collate
from examples.case_wtal.evaluation import PROTOCOLS, Detections, Evaluation, Protocol, evaluate
from examples.case_wtal.inference import detect, score_recordings
from examples.case_wtal.module import CaseModule

CHECKPOINT = Path("checkpoints") / "last.ckpt"
PACKAGES = ("otlabel", "torch", "lightning", "numpy", "scipy", "scikit-learn")


def train(
    config: CaseConfig,
    data: LocalizationData,
    folder: str | Path | None = None,
    *,
    progress: bool = True,
    resume: bool = False,
) -> CaseModule:
    """Train one model; with a folder also evaluate it and write everything down.

    Equal settings and data give equal weights, bit by bit, on one machine with one number of threads, whether or not
    the run was interrupted and resumed.

    Args:
        config: All settings.
        data: Its training split is learnt from. Its test split is evaluated at the end and, only with
            `checkpoint="best_on_test"`, decides which epoch is kept.
        folder: Run folder; None writes nothing.
        progress: Show a progress line.
        resume: Go on from the last finished epoch in `folder`.

    Returns:
        The trained module, in evaluation mode.

    Raises:
        FileExistsError: `folder` holds a run and `resume` is False.
        FileNotFoundError: `resume` is True and `folder` holds no run.
        ValueError: Settings are out of range, or differ from those of the run that is resumed.
    """
    check_settings(config)
    folder = None if folder is None else Path(folder)
    checkpoint = _open_folder(folder, config, data, resume=resume)
    with _quiet_lightning():
        L.seed_everything(config.train.seed, workers=True, verbose=False)
        module = CaseModule(data.stream_widths, len(data.classes), config)
        best = BestOnTest(lambda: test_average(module, data), config.train.epochs)
        trainer = _make_trainer(config, folder, [best] if config.train.checkpoint == "best_on_test" else [], progress)
        trainer.fit(module, _train_loader(config, data, trainer), ckpt_path=checkpoint, weights_only=True)
    if config.train.checkpoint == "best_on_test":
        module.load_state_dict(best.weights)
    module = module.cpu().eval()
    if folder is not None:
        _evaluate_into(folder, module, data)
    return module


def load_run(folder: str | Path) -> tuple[CaseModule, CaseConfig]:
    """The trained module of a run folder, in evaluation mode, and its settings.

    The checkpoint is read with `weights_only=True`: nothing in it can run code.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
        ValueError: `config.json` holds unknown or wrong settings.
    """
    folder = Path(folder)
    config = read_config(_existing(folder, "config.json"))
    shapes = json.loads(_existing(folder, "environment.json").read_text())["data"]
    checkpoint = torch.load(_existing(folder, str(CHECKPOINT)), map_location="cpu", weights_only=True)
    module = CaseModule(shapes["stream_widths"], len(shapes["classes"]), config)
    if config.train.checkpoint == "best_on_test":
        states = [state for name, state in checkpoint["callbacks"].items() if name.startswith("BestOnTest")]
        module.load_state_dict(states[0]["weights"] or checkpoint["state_dict"])
    else:
        module.load_state_dict(checkpoint["state_dict"])
    return module.eval(), config


def evaluate_run(folder: str | Path, data: LocalizationData | None = None) -> Evaluation:
    """Evaluate the model of a run folder on the test split, and write predictions and evaluation there again.

    Args:
        folder: Run folder.
        data: None loads the data set that the settings name.
    """
    module, config = load_run(folder)
    if data is None:
        data = load(config.dataset, None if config.root is None else Path(config.root))
    return _evaluate_into(Path(folder), module, data)


def evaluate_detections(detections: Detections, data: LocalizationData, protocol: str) -> Evaluation:
    """Detections against the segments of the test split, under a protocol's name."""
    return evaluate({r.name: r.segments for r in data.test}, detections, protocol_of(protocol))


def test_average(module: CaseModule, data: LocalizationData) -> float:
    """Average mAP on the test split with the module's own settings."""
    detections = detect(score_recordings(module, data.test), data.classes, module.config)
    return evaluate_detections(detections, data, module.config.inference.protocol).average


def protocol_of(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {', '.join(PROTOCOLS)}, got {name!r}. Choose one of them.")
    return PROTOCOLS[name]


def selection_note(config: CaseConfig) -> str:
    """Which epoch's weights the numbers belong to."""
    return BEST_ON_TEST if config.train.checkpoint == "best_on_test" else "last epoch"


def check_settings(config: CaseConfig) -> None:
    """Refuse settings that no run can have.

    Raises:
        ValueError: The message names the field.
    """
    protocol_of(config.inference.protocol)
    rules = {
        "train.epochs": (config.train.epochs, 1),
        "train.batch_size": (config.train.batch_size, 1),
        "model.hidden": (config.model.hidden, 1),
        "model.clusters": (config.model.clusters, 1),
        "loss.topk_ratio": (config.loss.topk_ratio, 1),
        "loss.warm_start_epochs": (config.loss.warm_start_epochs, 0),
        "train.seed": (config.train.seed, 0),
    }
    for field, (value, least) in rules.items():
        if value < least:
            raise ValueError(f"`{field}` must be at least {least}, got {value}. Correct it or leave it out.")


def _train_loader(config: CaseConfig, data: LocalizationData, trainer: L.Trainer) -> DataLoader:
    dataset = RecordingDataset(data.train, data.classes, config.train.snippets)
    sampler = EpochSampler(len(dataset), config.train.seed, lambda: trainer.current_epoch)
    return DataLoader(dataset, batch_size=config.train.batch_size, sampler=sampler, collate_fn=collate)


def _make_trainer(config: CaseConfig, folder: Path | None, callbacks: list[L.Callback], progress: bool) -> L.Trainer:
    if progress:
        callbacks.append(ProgressLine(f"{config.recipe} ({config.loss.components}, seed {config.train.seed})"))
    logger: TensorBoardLogger | bool = False
    if folder is not None:
        logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
        logger.log_hyperparams(to_plain(config))
        callbacks.append(MetricsFile(folder / "metrics.csv"))
        # Last of all: it saves what the other callbacks know of the finished epoch.
        callbacks.append(
            ModelCheckpoint(
                folder / CHECKPOINT.parent,
                filename=CHECKPOINT.stem,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        )
    return L.Trainer(
        max_epochs=config.train.epochs,
        deterministic=True,
        # "auto" may choose an accelerator that lacks some of the operations.
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=1,
        logger=logger,
        callbacks=callbacks,
        log_every_n_steps=1,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _open_folder(folder: Path | None, config: CaseConfig, data: LocalizationData, *, resume: bool) -> Path | None:
    """Prepare the run folder; returns the checkpoint to go on from, if there is one."""
    if folder is None:
        if resume:
            raise ValueError("`resume` must be False without a run folder, got True. Name the folder of the run.")
        return None
    saved = folder / "config.json"
    if resume:
        differences = describe_difference(read_config(_existing(folder, "config.json")), config)
        if differences:
            raise ValueError(
                f"`config` must equal the settings of the run that is resumed, got {differences}. "
                "Resume with the saved settings, or start a new run in another folder."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"`folder` must be new or empty, got {folder} with "
            f"{'a run' if saved.exists() else 'other files'} in it. Choose another folder"
            f"{', or resume that run' if saved.exists() else ''}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, saved)
    _write_json(folder / "environment.json", _environment(config, data))
    checkpoint = folder / CHECKPOINT
    return checkpoint if resume and checkpoint.exists() else None


def _environment(config: CaseConfig, data: LocalizationData) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "seed": config.train.seed,
        "data": {
            "name": data.name,
            "note": data.note,
            "train": len(data.train),
            data.test_split: len(data.test),
            "classes": list(data.classes),
            "stream_widths": data.stream_widths,
        },
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed, used from its source tree"


def _evaluate_into(folder: Path, module: CaseModule, data: LocalizationData) -> Evaluation:
    detections = detect(score_recordings(module, data.test), data.classes, module.config)
    evaluation = evaluate_detections(detections, data, module.config.inference.protocol)
    detections.write(folder / "predictions.json")
    content = {
        "protocol": evaluation.protocol.describe(),
        "data": data.note,
        "split": data.test_split,
        "weights": selection_note(module.config),
        "tious": evaluation.protocol.tious,
        "average": evaluation.average,
        "mean_ap": evaluation.mean_ap.tolist(),
        "ap": dict(zip(evaluation.classes, evaluation.ap.tolist(), strict=True)),
    }
    _write_json(folder / "evaluation.json", content)
    head = [data.note, f"Split: {data.test_split}. Weights: {selection_note(module.config)}."]
    (folder / "evaluation.txt").write_text("\n".join([*head, *evaluation.lines()]) + "\n", encoding="utf-8")
    return evaluation


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise FileNotFoundError(f"`folder` must be a run folder with {name}, got {folder}. Train into it first.")
    return folder / name


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice for larger machines out of the output; its warnings and errors stay."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Workers would cost more than they save on features that lie in memory.
            warnings.filterwarnings("ignore", message="The 'train_dataloader' does not have many workers")
            # lightning 2.6 calls torch's pytree API in a form that torch 2.13 deprecates.
            warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\)", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
