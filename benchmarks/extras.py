"""Measurements beside the tables: the cost of one pass, and on CUDA its bandwidth and a captured graph."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import otlabel
from benchmarks.contenders import Ask
from benchmarks.contenders.loops import Swav
from benchmarks.measure import Entrant, attempt, take_turns
from benchmarks.workloads import WORKLOADS, Workload, problem_of

ITERATIONS = 20  # a pass is measured as the difference between 3 and 23 iterations
EPSILON = 0.05


def _fixed(scores: Tensor, iterations: int) -> otlabel.LabelResult:
    solver = otlabel.Sinkhorn(max_iter=iterations, tol=None)
    return otlabel.sinkhorn_label(scores, epsilon=EPSILON, solver=solver)


def _interleaved(calls: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, Entrant]:
    """Time all calls in turns; a call that fails is left out."""
    entrants = []
    for name, call in calls.items():
        attempt(call, device, limit=300)  # warms up
        trial = attempt(call, device, limit=300)
        if trial.failure:
            print(f"{name}: {trial.failure}")
        else:
            entrants.append(Entrant(name, call, min(trial.seconds, 0.2)))  # all get all rounds
    take_turns(entrants, rounds, device)
    return {entrant.name: entrant for entrant in entrants}


def _pass_beside(scores: Tensor, other: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Seconds of one pass and of another call, and the median of their ratio."""
    calls = {"short": lambda: _fixed(scores, 3), "long": lambda: _fixed(scores, 3 + ITERATIONS), "other": other}
    found = _interleaved(calls, rounds, scores.device)
    columns = (found["short"].samples, found["long"].samples, found["other"].samples)
    passes = [(long - short) / ITERATIONS for short, long, _ in zip(*columns, strict=True)]
    ratios = [one / other for one, other in zip(passes, columns[2], strict=True)]
    return {
        "pass_seconds": statistics.median(passes),
        "other_seconds": statistics.median(columns[2]),
        "ratio": statistics.median(ratios),
    }


def pass_cost(device: str, rounds: int, *, tiny: bool) -> dict[str, Any]:
    """One Sinkhorn pass on workload e over `scores.sum()`, the cheapest thing that reads all scores."""
    workload = WORKLOADS["e"].tiny() if tiny else WORKLOADS["e"]
    scores = problem_of(workload, "clustered", "plain", EPSILON, device).scores
    return {"size": workload.size, "epsilon": EPSILON, **_pass_beside(scores, scores.sum, rounds)}


def bandwidth(device: str, rounds: int, *, tiny: bool) -> dict[str, Any]:
    """One pass as a share of what a device copy moves: a pass has to read the scores once, a copy reads and writes."""
    workload = Workload("", *((512, 64) if tiny else (65_536, 4_096)))
    generator = torch.Generator(device).manual_seed(0)
    scores = torch.randn(workload.shape, generator=generator, device=device).mul_(0.1)
    target = torch.empty_like(scores)
    found = _pass_beside(scores, lambda: target.copy_(scores), rounds)
    bytes_read = 4 * scores.numel()
    copied, passed = 2 * bytes_read / found["other_seconds"], bytes_read / found["pass_seconds"]
    return {"size": workload.size, "copy_gb_s": copied / 1e9, "pass_gb_s": passed / 1e9, "share": passed / copied}


def graph(device: str, rounds: int, *, tiny: bool) -> dict[str, Any]:
    """The fixed mode on workload a, called and replayed from a CUDA graph, beside the SwAV loop in both ways."""
    workload = WORKLOADS["a"].tiny() if tiny else WORKLOADS["a"]
    problem = problem_of(workload, "clustered", "plain", EPSILON, device)
    loop, ask = Swav("", folded=True).prepare(problem), Ask(iterations=(3,))
    calls = {"otlabel": lambda: _fixed(problem.scores, 3), "SwAV loop, folded": lambda: loop(ask)}
    failures = {}
    for name, call in list(calls.items()):
        captured = attempt(lambda call=call: _captured(call, device), problem.scores.device, limit=300)
        if captured.failure:
            failures[name] = captured.failure
        else:
            calls[f"{name}, captured"] = captured.answer
    found = _interleaved(calls, rounds, problem.scores.device)
    seconds = {name: entrant.median for name, entrant in found.items()}
    return {"size": workload.size, "seconds": seconds, "failures": failures}


def _captured(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """Capture a call into a CUDA graph; on the CPU, where there is none, the call itself."""
    if device == "cpu":
        return call
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        kept = call()

    def replay() -> Any:
        captured.replay()
        return kept

    return replay
