"""Balanced labels: otlabel beside the loops that people copy, interleaved in one run, every answer checked in float64.

    python -m benchmarks.labelers --out benchmarks/results/cpu.md

Ratios are medians of paired times (contender / otlabel), so above 1 means that otlabel is faster. A contender whose
column error misses the tolerance, or that returns NaN, is listed as failed, not as fast. Run nothing else meanwhile.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ot
import torch
from torch import Tensor
from torch.nn.functional import normalize

import otlabel

WORKLOADS = {"7,500 x 16": (7500, 16), "3,840 x 3,000": (3840, 3000), "64 x 10": (64, 10)}
EPSILONS = (0.05, 0.01)
TOL = 1e-3


@dataclass(frozen=True)
class Contender:
    """A way to balance labels: scores, epsilon, iterations (None: until TOL) -> labels (n, k)."""

    name: str
    run: Callable[[Tensor, float, int | None], Tensor]


def ours(scores: Tensor, epsilon: float, iterations: int | None) -> Tensor:
    """The library's defaults, but for the tolerance."""
    if iterations is None:
        solver = otlabel.Sinkhorn(tol=TOL, max_iter=100_000)
    else:
        solver = otlabel.Sinkhorn(max_iter=iterations, tol=None)
    return otlabel.sinkhorn_label(scores, epsilon=epsilon, solver=solver).labels


def swav(scores: Tensor, epsilon: float, iterations: int | None) -> Tensor:
    """The exponential-domain loop of SwAV, from its formula, in the scores' dtype."""
    n, k = scores.shape
    plan = (scores / epsilon).exp()
    for step in range(iterations or 100_000):
        plan = plan / (plan.sum(dim=0, keepdim=True) * k)
        plan = plan / (plan.sum(dim=1, keepdim=True) * n)
        if iterations is None and step % 10 == 9:
            error = (plan.sum(dim=0) - 1 / k).abs().sum()
            if not error > TOL:  # also ends on NaN
                break
    return plan * n


def naive_log(scores: Tensor, epsilon: float, iterations: int | None) -> Tensor:
    """Two logsumexp calls an iteration, the usual answer to overflow."""
    k = scores.shape[1]
    log_plan = scores / epsilon
    for step in range(iterations or 100_000):
        log_plan = log_plan - torch.logsumexp(log_plan, dim=0, keepdim=True)
        log_plan = log_plan - torch.logsumexp(log_plan, dim=1, keepdim=True)
        if iterations is None and step % 10 == 9 and (log_plan.exp().mean(dim=0) - 1 / k).abs().sum() <= TOL:
            break
    return log_plan.exp()


def pot_log(scores: Tensor, epsilon: float, iterations: int | None) -> Tensor:
    """POT's log-domain Sinkhorn on the torch backend; it stops on an L2 error, so it gets a tenth of the tolerance."""
    n, k = scores.shape
    a, b = scores.new_full((n,), 1 / n), scores.new_full((k,), 1 / k)
    limits = {"numItermax": iterations or 100_000, "stopThr": 0.0 if iterations else TOL / 10, "warn": False}
    return ot.sinkhorn(a, b, -scores, epsilon, method="sinkhorn_log", **limits) * n


CONTENDERS = (
    Contender("otlabel", ours),
    Contender("SwAV loop", swav),
    Contender("naive logsumexp", naive_log),
    Contender("POT sinkhorn_log (torch)", pot_log),
)


def scores_of(shape: tuple[int, int]) -> Tensor:
    """Cosines of clustered, long-tailed features with unit prototypes, float32."""
    n, k = shape
    generator = torch.Generator().manual_seed(0)
    prototypes = normalize(torch.randn(k, 64, generator=generator), dim=1)
    share = 1 / torch.arange(1, k + 1)
    cluster = torch.multinomial(share, n, replacement=True, generator=generator)
    noise = normalize(torch.randn(n, 64, generator=generator), dim=1)
    return normalize(prototypes[cluster] + noise, dim=1) @ prototypes.T


def failure(labels: Tensor, iterations: int | None) -> str:
    """Why an answer does not count, or an empty string."""
    labels = labels.double()
    if not torch.isfinite(labels).all():
        return "NaN"
    labels = labels / labels.sum(dim=1, keepdim=True)
    error = (labels.mean(dim=0) - 1 / labels.shape[1]).abs().sum().item()
    return f"error {error:.0e}" if iterations is None and error > 1.1 * TOL else ""


def measure(scores: Tensor, epsilon: float, iterations: int | None, rounds: int) -> list[str]:
    """One table cell for each contender."""
    failures = {c.name: failure(c.run(scores, epsilon, iterations), iterations) for c in CONTENDERS}  # warms up too
    running = [c for c in CONTENDERS if not failures[c.name]]
    times: dict[str, list[float]] = {c.name: [] for c in running}
    for _ in range(rounds):
        for contender in running:
            start = time.perf_counter()
            contender.run(scores, epsilon, iterations)
            times[contender.name].append(time.perf_counter() - start)
    cells = []
    for contender in CONTENDERS:
        if failures[contender.name]:
            cells.append(f"failed ({failures[contender.name]})")
        else:
            pairs = zip(times[contender.name], times["otlabel"], strict=True)
            cells.append(f"{statistics.median(theirs / mine for theirs, mine in pairs):.1f}")
    return cells


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cpu.md"), help="Markdown file to write")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repetitions")
    options = parser.parse_args()
    lines = [
        "# Balanced labels on the CPU: time of each contender divided by otlabel's",
        "",
        f"`python -m benchmarks.labelers --rounds {options.rounds}`; medians of {options.rounds} interleaved rounds;",
        f"torch {torch.__version__}, POT {ot.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}. Scores: clustered, long-tailed cosines, float32.",
        "",
        "| scores | epsilon | until | " + " | ".join(c.name for c in CONTENDERS) + " |",
        "|---|---|---|" + "---|" * len(CONTENDERS),
    ]
    for name, shape in WORKLOADS.items():
        scores = scores_of(shape)
        for epsilon in EPSILONS:
            for iterations in (3, None):
                until = f"{iterations} iterations" if iterations else f"error {TOL:g}"
                cells = measure(scores, epsilon, iterations, options.rounds)
                lines.append(f"| {name} | {epsilon} | {until} | " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
