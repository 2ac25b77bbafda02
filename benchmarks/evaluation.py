"""Time of a THUMOS14-size evaluation, beside the reference algorithm in plain Python.

    python -m benchmarks.evaluation --results FILE --ground-truth FILE

evaluates a file of detections with `examples.case_wtal.evaluation` and with loops written from the rules of
ActivityNet's evaluation, in turns, compares the answers, and writes benchmarks/results/evaluation.md. Needs no torch.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.machine import processor
from examples.case_wtal.evaluation import THUMOS14, THUMOS14_WIDE, Detections, Evaluation, Protocol, evaluate
from examples.case_wtal.evaluation.diagnosis import error_profile, sensitivity
from examples.case_wtal.evaluation.ground_truth import GroundTruth
from examples.case_wtal.evaluation.recall import average_recall
from examples.case_wtal.segments import Segment

# Seconds of the published programs for the same 31,587 detections, 9 thresholds, one process, on a machine with two
# cores. They do not run with today's numpy, so they cannot take turns here.
PUBLISHED = {"ActionFormer, DETAD": 75.0, "ActivityNet toolkit": 90.0, "OpenTAD": 97.0}


def plain_evaluate(
    truth: Mapping[str, Sequence[Segment]], rows: Sequence[tuple[str, str, float, float, float]], tious: Sequence[float]
) -> dict[str, list[float]]:
    """Class -> AP at each threshold: one detection, one instance, one threshold at a time."""
    labels = list(dict.fromkeys(s.label for own in truth.values() for s in own))
    result = {}
    for label in labels:
        instances: dict[str, list[tuple[float, float]]] = {}
        for video, own in truth.items():
            for s in own:
                if s.label == label:
                    instances.setdefault(video, []).append((s.start, s.end))
        total = sum(map(len, instances.values()))
        found = sorted((row for row in rows if row[1] == label), key=lambda row: row[4])[::-1]
        hits = plain_matches(found, instances, tious)
        result[label] = [plain_ap(own, total) for own in hits]
    return result


def plain_matches(
    found: Sequence[tuple[str, str, float, float, float]],
    instances: Mapping[str, Sequence[tuple[float, float]]],
    tious: Sequence[float],
) -> list[list[bool]]:
    """Whether each detection takes an instance, for each threshold."""
    hits: list[list[bool]] = [[] for _ in tious]
    taken = [{video: [False] * len(own) for video, own in instances.items()} for _ in tious]
    for video, _, start, end, _ in found:
        own = instances.get(video, ())
        overlaps = []
        for first, last in own:
            inner = max(0.0, min(end, last) - max(start, first))
            overlaps.append(inner / ((end - start) + (last - first) - inner))
        order = sorted(range(len(own)), key=overlaps.__getitem__)[::-1]
        for level, tiou in enumerate(tious):
            hit = False
            for j in order:
                if overlaps[j] < tiou:
                    break
                if not taken[level][video][j]:
                    taken[level][video][j] = hit = True
                    break
            hits[level].append(hit)
    return hits


def plain_ap(hits: Sequence[bool], total: int) -> float:
    """Area under interpolated precision."""
    recall, precision, true = [0.0], [0.0], 0
    for rank, hit in enumerate(hits, start=1):
        true += hit
        recall.append(true / total)
        precision.append(true / rank)
    recall.append(1.0)
    precision.append(0.0)
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


@dataclass
class Times:
    """Seconds of a call in each round, by the clock and of the processor."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add(self, call: Callable[[], object]) -> None:
        wall, own = time.perf_counter(), time.process_time()
        call()
        self.processor.append(time.process_time() - own)
        self.wall.append(time.perf_counter() - wall)


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Time all calls, one after the other, in each round."""
    times = {name: Times() for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].add(call)
    return times


def row(name: str, own: Times, plain: Times) -> str:
    """A line of the table: medians, range, and how many times longer the others take."""
    wall, busy = statistics.median(own.wall), statistics.median(own.processor)
    times = statistics.median(a / b for a, b in zip(plain.processor, own.processor, strict=True))
    ratios = [f"{times:,.1f}", *(f"{seconds / wall:,.0f}" for seconds in PUBLISHED.values())]
    spread = f"{min(own.processor):.3f} to {max(own.processor):.3f}"
    return f"| {name} | {busy:.3f} | {spread} | {wall:.3f} | " + " | ".join(ratios) + " |"


def report(results: Path, ground_truth: Path, rounds: int) -> list[str]:
    """Measure, check, and write down."""
    truth, found = GroundTruth.read(ground_truth), Detections.read(results)
    columns = (found.video, found.label, found.start, found.end, found.score)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    load = os.getloadavg()[0]
    lines = [
        "# Time of an evaluation",
        "",
        "`python -m benchmarks.evaluation --results FILE --ground-truth FILE`",
        "",
        f"{results.name}: {len(found):,} detections, {len(truth.classes)} classes; {ground_truth.name}: "
        f"{len(truth.segments)} videos, {sum(map(len, truth.segments.values())):,} instances, all of it in memory; "
        f"reading both files takes {_reading(results, ground_truth):.2f} s more. Medians of {rounds} rounds in which "
        "both take turns.",
        "",
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, one used; {platform.system()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}. Load average {load:.1f} at the start"
        + (
            ": other programs ran on the same cores, so the clock (wall) says too much, and ratios to the published "
            "programs, which are taken from it, too little."
            if load >= 1
            else ". Ratios to the published programs are taken from the clock (wall)."
        ),
        "",
        "| evaluation | processor seconds | of all rounds | wall seconds | plain Python takes, times | "
        + " | ".join(f"{name} ({seconds:.0f} s), times" for name, seconds in PUBLISHED.items())
        + " |",
        "|---|---|---|---|---|" + "---|" * len(PUBLISHED),
    ]
    differences = []
    for protocol in (THUMOS14, THUMOS14_WIDE):
        plain, ours = _both(truth, found, rows, protocol)
        differences.append(np.abs(np.array(list(plain().values())) - ours().ap).max())
        times = in_turns({"plain": plain, "ours": ours}, rounds)
        lines.append(row(f"{protocol.name}, {len(protocol.tious)} thresholds", times["ours"], times["plain"]))
        lines.append(row("the same in plain Python", times["plain"], times["plain"]))
    lines += [
        "",
        f"Largest difference of an AP between the two: {max(differences):.0e}. The published programs' seconds are "
        "for 9 thresholds, measured on another day on a machine with two cores; they compare with `thumos14-wide`. "
        "They make an object of a data frame for every detection, which loops over plain lists are spared.",
        "",
        "| diagnosis at tIoU .5 | processor seconds |",
        "|---|---|",
    ]
    half = THUMOS14.at(0.5)
    diagnoses: dict[str, Callable[[], object]] = {
        "error profile and gains": lambda: error_profile(truth.segments, found, half),
        "sensitivity": lambda: sensitivity(truth.segments, found, half, durations=truth.durations),
        "average recall, 10 thresholds": lambda: average_recall(truth.segments, found),
    }
    times = in_turns(diagnoses, rounds)
    return [*lines, *(f"| {name} | {statistics.median(own.processor):.3f} |" for name, own in times.items())]


def _both(
    truth: GroundTruth,
    found: Detections,
    rows: Sequence[tuple[str, str, float, float, float]],
    protocol: Protocol,
) -> tuple[Callable[[], dict[str, list[float]]], Callable[[], Evaluation]]:
    return (
        lambda: plain_evaluate(truth.segments, rows, protocol.tious),
        lambda: evaluate(truth.segments, found, protocol),
    )


def _reading(results: Path, ground_truth: Path) -> float:
    start = time.process_time()
    GroundTruth.read(ground_truth)
    Detections.read(results)
    return time.process_time() - start


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="JSON in the ActivityNet results form")
    parser.add_argument("--ground-truth", type=Path, required=True, help="JSON in ActivityNet's form")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evaluation.md"))
    asked = parser.parse_args()
    lines = report(asked.results, asked.ground_truth, asked.rounds)
    asked.out.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
