"""One training step of CASE beside a plain transcription of the method, and the evaluation of THUMOS14's test videos.

    python -m benchmarks.case_wtal --annotations FOLDER --folder FOLDER

writes features for THUMOS14's 410 videos, SIMULATED on their real timings, to --folder (1 GB, kept for the next call),
trains both programs from the same weights on the same batches in turns, and writes benchmarks/results/case_wtal.md.
The transcription is what one writes with the formulas of the paper in hand: torch operations, loops over streams and
videos, log-domain Sinkhorn until the cluster sizes are met. Before anything is timed, its labels and losses on the
first batch are held against ours.
"""

import argparse
import ctypes
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader

from benchmarks.machine import processor, versions
from benchmarks.streaming import measure
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data.batches import Batch, RecordingDataset, collate
from examples.case_wtal.data.thumos14 import load_thumos14
from examples.case_wtal.data.thumos14_simulated import write_simulated_features
from examples.case_wtal.inference import detect, score_recordings
from examples.case_wtal.module import CaseModule
from examples.case_wtal.recipes import paper
from examples.case_wtal.run import evaluate_detections

TOLERANCE = 2e-3
"""Largest relative difference of a loss: both solve the transport problem to a marginal error of 1e-3."""


class PlainStream(nn.Module):
    """Two branches and the cluster prototypes of one stream."""

    def __init__(self, width: int, classes: int, config: CaseConfig) -> None:
        super().__init__()
        hidden = config.model.hidden
        self.class_layers = nn.Sequential(nn.Conv1d(width, hidden, 1), nn.ReLU(), nn.Conv1d(hidden, classes, 1))
        self.attention_encoder = nn.Sequential(nn.Conv1d(width, hidden, 1), nn.ReLU())
        self.attention_layer = nn.Conv1d(hidden, 1, 1)
        self.prototypes = nn.Parameter(torch.randn(config.model.clusters, hidden))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features (B, T, D) -> class logits, attention, embedding, cluster cosines."""
        signal = features.permute(0, 2, 1)
        cas = self.class_layers(signal).permute(0, 2, 1)
        hidden = self.attention_encoder(signal)
        attention = torch.sigmoid(self.attention_layer(hidden))[:, 0]
        embedding = hidden.permute(0, 2, 1)
        cosine = normalize(embedding, dim=-1) @ normalize(self.prototypes, dim=-1).T
        return cas, attention, embedding, cosine


class PlainCase(nn.Module):
    """The method's training step; every video has the same number of snippets, as on THUMOS14."""

    def __init__(self, widths: Sequence[int], classes: int, config: CaseConfig) -> None:
        super().__init__()
        self.config = config
        self.streams = nn.ModuleList(PlainStream(width, classes, config) for width in widths)
        self.cluster_foreground = torch.full((config.model.clusters,), 0.5)
        self.snippet_label = torch.empty(0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The four losses, unweighted."""
        config, clusters = self.config, self.config.model.clusters
        outputs = [stream(f) for stream, f in zip(self.streams, batch.streams.values(), strict=True)]
        videos, snippets, _ = outputs[0][0].shape
        # Calibrated class activation, top-k, pseudo-labels of the foreground.
        with torch.no_grad():
            activation = sum(cas.softmax(dim=-1) for cas, *_ in outputs) / len(outputs)
            calibrated = (activation + sum(a for _, a, *_ in outputs)[..., None]) / (1 + len(outputs))
            best = calibrated.topk(max(1, snippets // config.loss.topk_ratio), dim=1).indices
            foreground = torch.zeros(videos, snippets, dtype=torch.bool)
            for v in range(videos):
                for g in batch.labels[v].nonzero()[:, 0].tolist():
                    foreground[v, best[v, :, g]] = True
        target = batch.labels / batch.labels.sum(dim=1, keepdim=True)
        video = attention_loss = snippet = cluster = torch.zeros(())
        for cas, attention, *_ in outputs:
            logits = cas.gather(1, best).mean(dim=1)
            video = video - (target * logits.log_softmax(dim=1)).sum(dim=1).mean() / len(outputs)
            for v in range(videos):
                for probability in (attention[v][foreground[v]], 1 - attention[v][~foreground[v]]):
                    attention_loss = attention_loss + ((1 - probability**0.7) / 0.7).mean() / videos
        # Snippets -> clusters.
        flat = foreground.flatten()
        with torch.no_grad():
            mean_attention = (sum(a for _, a, *_ in outputs) / len(outputs)).flatten()
            rank = mean_attention.argsort().argsort() + 1
            distance = rank[:, None] / len(rank) - self.cluster_foreground
            prior = -(distance**2) / (2 * config.label.sigma**2)
            scores = (sum(cosine for *_, cosine in outputs) / len(outputs)).flatten(0, 1)
            shares = torch.full((clusters,), 1 / clusters)
            snippet_label = plain_sinkhorn(scores / config.label.epsilon + prior, shares, config)
        self.snippet_label = snippet_label
        # Clusters -> foreground and background.
        sides = torch.stack((flat, ~flat), dim=1).float()
        predictions = []
        for _, _, embedding, cosine in outputs:
            points = embedding.flatten(0, 1)
            snippet = snippet + cross_entropy(config.model.temperature * cosine.flatten(0, 1), snippet_label)
            cluster_prototypes = (snippet_label.T @ points) / snippet_label.sum(dim=0)[:, None]
            side_prototypes = (sides.T @ points) / sides.sum(dim=0)[:, None]
            predictions.append(normalize(cluster_prototypes, dim=1) @ normalize(side_prototypes, dim=1).T)
        with torch.no_grad():
            scores = sum(predictions) / len(predictions) / config.label.epsilon
            cluster_label = plain_sinkhorn(scores, sides.mean(dim=0), config)
        for prediction in predictions:
            cluster = cluster + cross_entropy(config.model.temperature * prediction, cluster_label)
        self.cluster_foreground = cluster_label[:, 0]
        return {"video": video, "attention": attention_loss, "snippet": snippet, "cluster": cluster}


def plain_sinkhorn(log_kernel: Tensor, shares: Tensor, config: CaseConfig) -> Tensor:
    """Labels whose rows sum to one and whose column means are `shares`, up to the tolerance of the settings."""
    rows = torch.full((len(log_kernel),), 1 / len(log_kernel))
    u, v = torch.zeros(len(rows)), torch.zeros(len(shares))
    for _ in range(config.label.max_iter):
        v = shares.log() - torch.logsumexp(log_kernel + u[:, None], dim=0)
        u = rows.log() - torch.logsumexp(log_kernel + v, dim=1)
        plan = torch.exp(log_kernel + u[:, None] + v)
        if (plan.sum(dim=0) - shares).abs().sum() < config.label.tol:
            break
    return plan * len(rows)


class Recorder(CaseModule):
    """Our module outside a trainer: what it would log is kept."""

    def log_dict(self, dictionary: dict[str, Tensor], *_: object, **__: object) -> None:  # type: ignore[override]
        """Keep the values."""
        self.logged = dictionary


def share_weights(module: CaseModule, plain: PlainCase) -> None:
    """Give the transcription the weights of our network."""
    heads = module.network.heads
    with torch.no_grad():
        for ours, head, theirs in zip(module.network.baseline.streams.values(), heads, plain.streams, strict=True):
            for mine, layer in (
                (ours.class_encoder, theirs.class_layers[0]),
                (ours.classifier, theirs.class_layers[2]),
                (ours.attention_encoder, theirs.attention_encoder[0]),
                (ours.attention_layer, theirs.attention_layer),
            ):
                layer.load_state_dict(mine.state_dict())
            theirs.prototypes.copy_(head.prototypes)


@dataclass(frozen=True)
class Parity:
    """How far apart the two programs are on the first batch."""

    losses: dict[str, tuple[float, float]]
    label: float
    foreground: float

    def check(self) -> None:
        """Stop where they do not compute the same."""
        for name, (ours, theirs) in self.losses.items():
            if not abs(ours - theirs) <= TOLERANCE * abs(theirs):
                raise SystemExit(f"error: loss {name} is {ours} here and {theirs} in the transcription.")
        if not (self.label <= TOLERANCE and self.foreground <= TOLERANCE):
            raise SystemExit(f"error: labels differ by {self.label}, cluster foreground by {self.foreground}.")


def compare(module: Recorder, plain: PlainCase, batch: Batch) -> Parity:
    """Losses and labels of both on one batch; leaves neither changed, but for the clusters' foreground."""
    kept: list[Tensor] = []
    from examples.case_wtal import module as place

    original = place.snippet_labels

    def keep(*arguments: object) -> Tensor:
        kept.append(original(*arguments))  # type: ignore[arg-type]
        return kept[-1]

    place.snippet_labels = keep
    try:
        with torch.no_grad():
            module.training_step(batch)
            theirs = plain.losses(batch)
    finally:
        place.snippet_labels = original
    losses = {name: (float(module.logged[f"loss/{name}"]), float(value)) for name, value in theirs.items()}
    label = float((kept[0] - plain.snippet_label).abs().sum(dim=1).mean())
    foreground = float((module.cluster_foreground - plain.cluster_foreground).abs().max())
    return Parity(losses, label, foreground)


def stepper(parameters: Iterator[nn.Parameter], loss: Callable[[Batch], Tensor], config: CaseConfig) -> Callable:
    """One whole step: forward, labels, losses, backward, Adam."""
    optimizer = torch.optim.Adam(parameters, lr=config.train.learning_rate, weight_decay=config.train.weight_decay)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()

    return step


def trim_memory() -> None:
    """Give freed memory back, where the C library can, so that what a step takes is seen whole."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def describe(seconds: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Run, write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.case_wtal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True, help="folder with basnet_gt.json and split files")
    parser.add_argument("--folder", type=Path, required=True, help="where the simulated features are or will be")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each program (default 30)")
    parser.add_argument(
        "--learn", type=int, default=200, help="steps that ours takes before it localises, 0 for none (default 200)"
    )
    parser.add_argument("--videos", type=int, help="only so many videos of each split, to try the program")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "case_wtal.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not (args.folder / "features").exists():
        args.folder.mkdir(parents=True, exist_ok=True)
        write_simulated_features(args.folder, args.annotations, seed=0, videos=args.videos)
    data, config = load_thumos14(args.folder), paper("thumos14")
    torch.manual_seed(0)
    module = Recorder(data.stream_widths, len(data.classes), config)
    plain = PlainCase(list(data.stream_widths.values()), len(data.classes), config)
    share_weights(module, plain)
    loss = config.loss

    def plain_total(batch: Batch) -> Tensor:
        parts = plain.losses(batch)
        clusters = loss.snippet_weight * parts["snippet"] + loss.cluster_weight * parts["cluster"]
        return parts["video"] + parts["attention"] + clusters

    dataset = RecordingDataset(data.train, data.classes, config.train.snippets)
    loader = DataLoader(dataset, batch_size=config.train.batch_size, shuffle=True, drop_last=True, collate_fn=collate)
    first = next(iter(loader))
    parity = compare(module, plain, first)
    parity.check()
    steps = {
        "ours": stepper(module.parameters(), module.training_step, config),
        "transcription": stepper(plain.parameters(), plain_total, config),
    }
    peaks = {}
    for name, step in steps.items():
        step(first)  # warm up; the optimizer's state exists from here on
        peaks[name] = 0.0
        for _ in range(3):
            trim_memory()
            with measure(name) as found:
                step(first)
            peaks[name] = max(peaks[name], found.peak)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    while len(seconds["ours"]) < args.steps:
        for batch in loader:
            order = list(steps.items())
            for name, step in order if len(seconds["ours"]) % 2 else order[::-1]:  # neither is always first
                start = time.perf_counter()
                step(batch)
                seconds[name].append(time.perf_counter() - start)
            print(", ".join(f"{name} {times[-1]:.3f} s" for name, times in seconds.items()), flush=True)
            if len(seconds["ours"]) == args.steps:
                break
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["transcription"], strict=True)]
    learned = len(seconds["ours"]) + 4  # those to warm up and to measure memory count too
    while learned < args.learn:
        for batch in loader:
            steps["ours"](batch)
            learned += 1
    with measure("scores") as scoring:
        scores = score_recordings(module, data.test)
    with measure("detections") as detecting:
        detections = detect(scores, data.classes, config)
    with measure("evaluation") as evaluating:
        evaluate_detections(detections, data, config.inference.protocol)
    found = versions()
    names = ", ".join(f"{name} {found[name]}" for name in ("Python", "torch", "numpy", "otlabel"))
    threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
    lines = [
        "# CASE on THUMOS14's shape",
        "",
        "`python -m benchmarks.case_wtal --annotations FOLDER --folder FOLDER`",
        "",
        f"{len(data.train)} training and {len(data.test)} test videos with real timings and SIMULATED features "
        f"(2 x 1024), T = {config.train.snippets}, batch {config.train.batch_size}, K = {config.model.clusters}. "
        f"{processor()}, {threads}, {platform.system()}; {names}.",
        "",
        "A step is forward pass, labels, losses, backward pass and Adam; batches are loaded outside. Both programs "
        "start from the same weights and take turns on the same batches. Median and quartiles "
        f"of {args.steps} steps; memory is the peak beyond what was resident before the step.",
        "",
        "| program | seconds per step | GiB |",
        "|---|---|---|",
        f"| this example | {describe(seconds['ours'])} | {peaks['ours']:.2f} |",
        f"| transcription in plain torch | {describe(seconds['transcription'])} | {peaks['transcription']:.2f} |",
        "",
        f"Ratio of paired steps: {describe(ratios)}.",
        "",
        "On the first batch, before any step: "
        + ", ".join(f"{name} loss {a:.5f} and {b:.5f}" for name, (a, b) in parity.losses.items())
        + f"; snippet labels differ by {parity.label:.1e} of a snippet's mass on average, the clusters' foreground by "
        f"{parity.foreground:.1e} at most. Both stop at a marginal error of {config.label.tol:g}.",
        "",
        f"The {len(data.test)} test videos after {learned} steps, read from disk: network {scoring.seconds:.1f} s, "
        f"proposals {detecting.seconds:.1f} s, evaluation of the {len(detections):,} detections "
        f"{evaluating.seconds:.2f} s; peak {max(m.peak for m in (scoring, detecting, evaluating)):.2f} GiB. So few "
        "steps teach little: real detections, ten times as many, are evaluated in `benchmarks/results/evaluation.md`.",
        "",
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
