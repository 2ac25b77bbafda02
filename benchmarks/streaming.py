"""Labels of a score matrix larger than memory: time, memory and rate beside a plain read of the same file.

    python -m benchmarks.streaming --folder FOLDER

makes a float16 file of 1,281,167 x 3,000 clustered and long-tailed cosines in FOLDER (7.7 GB), labels it to a marginal
error of 1e-3, labels it again from 512-d features (1.3 GB, made too) and prototypes, gives every class its exact count
of hard labels, and writes benchmarks/results/streaming.md.
"""

import argparse
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.machine import processor, versions
from otlabel import Auto, hard, streaming

WIDTH = 512
BLOCK = 8192


@dataclass
class Measured:
    """Wall time and peak memory of one thing done."""

    what: str
    seconds: float = 0.0
    gigabytes: float = 0.0
    peak: float = 0.0
    notes: list[str] = field(default_factory=list)

    def row(self) -> str:
        rate = f"{self.gigabytes / self.seconds:.2f}" if self.gigabytes else ""
        return f"| {self.what} | {self.seconds:.0f} | {rate} | {self.peak:.2f} | {'; '.join(self.notes)} |"


def anonymous() -> float:
    """Resident memory of the process in GiB, without the pages of mapped files, which are the page cache's."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 2**20
    return float("nan")


@contextmanager
def measure(what: str) -> Iterator[Measured]:
    """Watch time and memory."""
    found, base, done = Measured(what), anonymous(), threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found.peak = max(found.peak, anonymous() - base)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    yield found
    found.seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    print(found.row(), flush=True)


def make(scores_path: Path, features_path: Path, n: int, k: int) -> Tensor:
    """Features around long-tailed prototypes with a common drift, and their cosines; returns the prototypes."""
    generator = torch.Generator().manual_seed(0)
    prototypes = normalize(torch.randn(k, WIDTH, generator=generator), dim=1)
    drift = 0.5 * WIDTH**-0.5 * torch.randn(1, WIDTH, generator=generator)
    if scores_path.exists() and features_path.exists():
        return prototypes
    tail = 1 / torch.arange(1, k + 1)
    files = {
        path: np.lib.format.open_memmap(path.with_suffix(".part"), mode="w+", dtype="float16", shape=(n, width))
        for path, width in ((scores_path, k), (features_path, WIDTH))
    }
    for start in range(0, n, BLOCK):
        rows = min(BLOCK, n - start)
        cluster = torch.multinomial(tail, rows, replacement=True, generator=generator)
        noise = 0.7 * WIDTH**-0.5 * torch.randn(rows, WIDTH, generator=generator)
        features = normalize(prototypes[cluster] + drift + noise, dim=1).half()
        files[features_path][start : start + rows] = features.numpy()
        files[scores_path][start : start + rows] = (features.float() @ prototypes.T).half().numpy()
    for path, file in files.items():
        file.flush()
        path.with_suffix(".part").replace(path)
    return prototypes


def checked_error(scores: np.ndarray, log_v: Tensor, epsilon: float) -> float:
    """Marginal error in float64, from the scores and the class duals."""
    total = torch.zeros_like(log_v)
    for start in range(0, len(scores), BLOCK // 8):
        block = torch.tensor(scores[start : start + BLOCK // 8]).double()
        total += torch.softmax(block / epsilon + log_v, dim=1).sum(dim=0)
    return (total / len(scores) - 1 / len(log_v)).abs().sum().item()


def run(folder: Path, n: int, k: int, epsilon: float, tol: float) -> Iterator[Measured]:
    """Do everything once."""
    scores_path, features_path = folder / "scores.npy", folder / "features.npy"
    prototypes = make(scores_path, features_path, n, k)
    scores, features = (np.load(path, mmap_mode="r") for path in (scores_path, features_path))
    size = scores.nbytes / 1e9
    with measure("plain read of the scores") as found:
        for start in range(0, n, BLOCK):
            torch.tensor(scores[start : start + BLOCK])
        found.gigabytes = size
    yield found
    with measure(f"soft labels to {tol:g}, from the scores") as found:
        soft = streaming.stream_label(scores, epsilon=epsilon, solver=Auto(tol=tol), progress=True)
        found.gigabytes = size * soft.passes
    found.notes += [
        f"{soft.status.name}",
        f"marginal_error {soft.marginal_error:.1e}, in float64 {checked_error(scores, soft.log_v, epsilon):.1e}",
        f"{soft.passes} passes",
    ]
    yield found

    def head(block: Tensor) -> Tensor:
        return block.float() @ prototypes.T

    for origin, init in (("from the duals above", soft), ("from the start", None)):
        with measure(f"the same from {WIDTH}-d features, {origin}") as found:
            other = streaming.stream_label(
                features, head=head, epsilon=epsilon, solver=Auto(tol=tol), init=init, progress=True
            )
            found.gigabytes = features.nbytes / 1e9 * other.passes
        gap = other.log_v - soft.log_v
        found.notes += [
            f"{other.status.name}",
            f"marginal_error {other.marginal_error:.1e}",
            f"{other.passes} passes of {2e-9 * n * k * WIDTH:.0f} GFLOP",
            f"log_v as from the scores to {(gap - gap.mean()).abs().max():.1e}",
        ]
        yield found
    yield hard_labels(soft, n, k)


class Counted:
    """Blocks of a source that know how often they were read."""

    def __init__(self, source: Iterable[object]) -> None:
        self.source, self.passes = source, 0

    def __iter__(self) -> Iterator[object]:
        self.passes += 1
        return iter(self.source)


def hard_labels(soft: streaming.StreamResult, n: int, k: int) -> Measured:
    """Exact counts from the prices of the soft labels."""
    blocks, start = Counted(soft.source), time.process_time()
    with measure("hard labels of exact equipartition, from the soft ones") as found:
        exact = hard.capacity_labels_of_blocks(blocks, -soft.epsilon * soft.log_v)
        found.gigabytes = 2e-9 * n * k * blocks.passes
    counts = exact.labels.bincount(minlength=k)
    found.notes += [
        f"counts {int(counts.min())} to {int(counts.max())} ({n} / {k} = {n / k:.2f})",
        f"at most {float(exact.gap) / abs(float(exact.score)):.1e} of the total score below the optimum",
        f"{blocks.passes} passes",
        f"{time.process_time() - start:.0f} s of processor time",
    ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the files are made, or were made before")
    parser.add_argument("--n", type=int, default=1_281_167)
    parser.add_argument("--k", type=int, default=3000)
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/streaming.md"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    names = ("Python", "torch", "numpy", "otlabel")
    found = versions()
    lines = [
        "# Labels of a score matrix that does not fit in memory",
        "",
        f"`python -m benchmarks.streaming --folder FOLDER --n {asked.n} --k {asked.k} --epsilon {asked.epsilon} "
        f"--tol {asked.tol}`",
        "",
        f"{asked.n:,} x {asked.k:,} float16 cosines ({2e-9 * asked.n * asked.k:.1f} GB), clustered and long-tailed, "
        f"epsilon {asked.epsilon}. {processor()}, {len(os.sched_getaffinity(0))} cores, "
        f"{torch.get_num_threads()} threads, {platform.system()}; "
        + ", ".join(f"{name} {found[name]}" for name in names)
        + ". One run. Memory is the peak of what is resident beyond the interpreter and its libraries, without the "
        "page cache; GB/s counts every pass.",
        "",
        "| what | seconds | GB/s | GiB | |",
        "|---|---|---|---|---|",
    ]
    for measured in run(asked.folder, asked.n, asked.k, asked.epsilon, asked.tol):
        lines.append(measured.row())
        asked.out.write_text("\n".join([*lines, ""]), encoding="utf-8")  # what is done stays if the rest fails


if __name__ == "__main__":
    main()
