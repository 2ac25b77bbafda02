"""Training into a run folder (see `run_folder`), and evaluation out of it."""

import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from examples.case_wtal.callbacks import BEST_ON_TEST, BestOnTest, EpochSampler, MetricsFile, ProgressLine
from examples.case_wtal.checkpoints import WholeCheckpointIO, fill, read_checkpoint
from examples.case_wtal.config import CaseConfig, Device
from examples.case_wtal.config_json import read_config, to_plain
from examples.case_wtal.data import LocalizationData, load
from examples.case_wtal.data.batches import RecordingDataset, collate
from examples.case_wtal.device import torch_device
from examples.case_wtal.evaluation import PROTOCOLS, Detections, Evaluation, Protocol, evaluate, foreground_auc
from examples.case_wtal.evaluation.foreground import foreground_notes, has_both_kinds
from examples.case_wtal.evaluation.ground_truth import GroundTruth
from examples.case_wtal.evaluation.outcome import Origin, evaluate_results
from examples.case_wtal.files import write_text, write_whole
from examples.case_wtal.inference import RecordingScores, detect, score_recordings
from examples.case_wtal.module import CaseModule
from examples.case_wtal.run_folder import (
    CHECKPOINT,
    EARLIER,
    EVALUATION,
    PREDICTIONS,
    existing,
    open_folder,
    read_data_description,
)


def train(
    config: CaseConfig,
    data: LocalizationData,
    folder: str | Path | None = None,
    *,
    progress: bool = True,
    resume: bool = False,
    callbacks: Sequence[L.Callback] = (),
) -> CaseModule:
    """Train one model; with a folder also evaluate it and write everything down.

    Equal settings and data give equal weights, bit by bit, on one machine with one number of threads, whether or not
    the run was interrupted and resumed. With several stages the earlier ones are trained first; each is a run of its
    own, in the subfolder `earlier`.

    Args:
        config: All settings.
        data: Its training split is learnt from. Its test split is evaluated at the end and, only with
            `checkpoint="best_on_test"`, decides which epoch is kept.
        folder: Run folder; None writes nothing.
        progress: Show a progress line.
        resume: Go on from the last finished epoch in `folder`.
        callbacks: More of them, to look on the last stage.

    Returns:
        The trained module, in evaluation mode.

    Raises:
        FileExistsError: `folder` holds a run and `resume` is False.
        FileNotFoundError: `resume` is True and `folder` holds no run.
        ValueError: Settings are out of range, or differ from those of the run that is resumed, or its checkpoint is
            damaged or of another network.
    """
    check_settings(config)
    folder = None if folder is None else Path(folder)
    checkpoint = open_folder(folder, config, data, resume=resume)
    teacher, stage = None, ""
    if _has_stages(config):
        earlier = replace(config, train=replace(config.train, stages=config.train.stages - 1))
        place = None if folder is None else folder / EARLIER
        resumes = resume and place is not None and (place / "config.json").exists()
        teacher = train(earlier, data, place, progress=progress, resume=resumes)
        stage = f", stage {config.train.stages}"
    with _quiet_lightning():
        L.seed_everything(config.train.seed, workers=True, verbose=False)
        module = CaseModule(data.stream_widths, len(data.classes), config, teacher)
        if checkpoint is not None:  # Lightning's own errors name neither the file nor what to do
            fill(module, read_checkpoint(checkpoint)["state_dict"], checkpoint)
        best = BestOnTest(lambda: test_average(module, data), config.train.epochs)
        watching = [*callbacks, *([best] if config.train.checkpoint == "best_on_test" else [])]
        if progress:
            watching.append(ProgressLine(f"{config.recipe}, {config.loss.components}, seed {config.train.seed}{stage}"))
        trainer = _make_trainer(config, folder, watching)
        trainer.fit(module, _train_loader(config, data, trainer), ckpt_path=checkpoint, weights_only=True)
    if config.train.checkpoint == "best_on_test":
        module.load_state_dict(best.weights)
    module = module.cpu().eval()
    if folder is not None:
        _evaluate_into(folder, module, data)
    return module


def load_run(folder: str | Path, *, device: Device = "cpu") -> tuple[CaseModule, CaseConfig]:
    """The trained module of a run folder, in evaluation mode, and its settings.

    The checkpoint is read with `weights_only=True`: nothing in it can run code.

    Args:
        folder: Run folder.
        device: Where to put the module.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
        ValueError: `config.json` holds unknown or wrong settings, `environment.json` does not say what the data were,
            the checkpoint is damaged or of another network, or there is no such device.
    """
    folder = Path(folder)
    config = read_config(existing(folder, "config.json"))
    shapes = read_data_description(folder)
    path = existing(folder, str(CHECKPOINT))
    checkpoint = read_checkpoint(path)
    module = CaseModule(shapes["stream_widths"], len(shapes["classes"]), config)
    if config.train.checkpoint == "best_on_test":
        states = [s for name, s in checkpoint.get("callbacks", {}).items() if name.startswith("BestOnTest")]
        fill(module, (states and states[0].get("weights")) or checkpoint["state_dict"], path)
    else:
        fill(module, checkpoint["state_dict"], path)
    return module.to(torch_device(device)).eval(), config


def evaluate_run(folder: str | Path, data: LocalizationData | None = None, *, device: Device = "cpu") -> Evaluation:
    """Evaluate the model of a run folder on the test split, and write predictions and evaluation there again.

    Args:
        folder: Run folder.
        data: None loads the data set that the settings name.
        device: Where to run the network; another one than the run's changes the last digits.
    """
    module, config = load_run(folder, device=device)
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


def foreground_aucs(scores: Sequence[RecordingScores], config: CaseConfig) -> dict[str, float]:
    """Foreground map that was trained -> its AUC; none where all snippets are of one kind."""
    recordings = [s.recording for s in scores]
    if not config.loss.attention or not has_both_kinds(recordings):
        return {}
    maps = {"attention": [s.attention for s in scores]}
    if config.loss.components != "baseline":
        maps["clusters"] = [s.cluster_foreground for s in scores]
        maps["both fused"] = [s.fused_foreground for s in scores]
    return {name: foreground_auc(values, recordings) for name, values in maps.items()}


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
    torch_device(config.train.device)
    rules = {
        "train.epochs": (config.train.epochs, 1),
        "train.batch_size": (config.train.batch_size, 1),
        "model.hidden": (config.model.hidden, 1),
        "model.clusters": (config.model.clusters, 1),
        "loss.topk_ratio": (config.loss.topk_ratio, 1),
        "loss.warm_start_epochs": (config.loss.warm_start_epochs, 0),
        "train.stages": (config.train.stages, 1),
        "train.seed": (config.train.seed, 0),
    }
    for field, (value, least) in rules.items():
        if value < least:
            raise ValueError(f"`{field}` must be at least {least}, got {value}. Correct it or leave it out.")
    if config.loss.components != "baseline" and not config.loss.attention:
        raise ValueError(
            f"`loss.attention` must be True to train {config.loss.components!r}, got False. Clusters are made of what "
            'the attention is read from; without it train the "baseline".'
        )
    for field, width in (
        ("label.smoothing", config.label.smoothing),
        ("inference.smoothing", config.inference.smoothing),
    ):
        if width < 1 or width % 2 == 0:
            raise ValueError(
                f"`{field}` must be odd and at least 1, got {width}. An even number of snippets has no middle; "
                "1 leaves it out."
            )


def _has_stages(config: CaseConfig) -> bool:
    """Whether there is an earlier stage: it would teach class labels, so one that learns none needs none."""
    return config.train.stages > 1 and config.loss.components == "scc_ccc" and config.loss.class_weight > 0


def _train_loader(config: CaseConfig, data: LocalizationData, trainer: L.Trainer) -> DataLoader:
    dataset = RecordingDataset(data.train, data.classes, config.train.snippets)
    sampler = EpochSampler(len(dataset), config.train.seed, lambda: trainer.current_epoch)
    return DataLoader(dataset, batch_size=config.train.batch_size, sampler=sampler, collate_fn=collate)


def _make_trainer(config: CaseConfig, folder: Path | None, callbacks: list[L.Callback]) -> L.Trainer:
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
        accelerator=torch_device(config.train.device).type,
        devices=1,
        logger=logger,
        callbacks=callbacks,
        log_every_n_steps=1,
        plugins=[WholeCheckpointIO()],
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _evaluate_into(folder: Path, module: CaseModule, data: LocalizationData) -> Evaluation:
    config = module.config
    scores = score_recordings(module, data.test)
    detections = detect(scores, data.classes, config)
    write_whole(folder / PREDICTIONS, detections.write)
    origin = Origin.of(data, selection_note(config), foreground_aucs(scores, config))
    truth = GroundTruth.of_data(data)
    outcome = evaluate_results(truth, detections, config.inference.protocol, results=PREDICTIONS, origin=origin)
    write_whole(folder / EVALUATION, outcome.write)
    evaluation = outcome.evaluations[0]
    lines = [origin.describe(), *foreground_notes(origin.foreground_auc), *outcome.notes, *evaluation.lines()]
    write_text(folder / "evaluation.txt", "\n".join(lines) + "\n")
    return evaluation


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice for larger machines out of the output; its warnings and errors stay.

    It also leaves torch in deterministic mode, and turns Ctrl-C into an exit and ignores further ones; that is undone.
    """
    deterministic, handler = torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGINT)
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Workers would cost more than they save on features that lie in memory.
            warnings.filterwarnings("ignore", message="The 'train_dataloader' does not have many workers")
            # A resumed run has both: its own checkpoint, and, if its folder was moved, another place than at the start.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", message="The dirpath has changed from")
            # lightning 2.6 calls torch's pytree API in a form that torch 2.13 deprecates.
            warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\)", category=FutureWarning)
            yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
    finally:
        logger.setLevel(level)
        torch.use_deterministic_algorithms(deterministic)
