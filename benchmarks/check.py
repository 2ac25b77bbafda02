"""Every answer is checked in float64: its marginals, and what it differs from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.workloads import Problem

BLOCK = 1 << 24  # entries turned into float64 at a time


@dataclass(frozen=True)
class Errors:
    """Errors of an answer, the worst problem of a batch.

    Attributes:
        finite: No NaN, inf or negative entry, and no empty row.
        rows: L1 error of the row sums before they are scaled, as a share of the mass.
        columns: L1 error of the class proportions once every row is scaled to the same sum.
        forbidden: Largest share of a class in a sample that may not take it.
        difference: Largest difference from the labels it was compared with.
        distance: Mean total variation from them.
    """

    finite: bool
    rows: float = float("nan")
    columns: float = float("nan")
    forbidden: float = 0.0
    difference: float | None = None
    distance: float | None = None


def check(plan: Tensor, problem: Problem, expected: Tensor | None = None) -> Errors:
    """Check a plan of any total mass, rows being samples, against the problem and, if given, against labels."""
    plan = plan.reshape(problem.scores.shape).to(problem.scores.device)
    step = max(1, BLOCK // (plan.numel() // plan.shape[-2]))
    mean, sums, difference, distance, forbidden = 0.0, [], 0.0, 0.0, 0.0
    for start in range(0, plan.shape[-2], step):
        block = plan[..., start : start + step, :].double()
        total = block.sum(dim=-1, keepdim=True)
        if not bool(torch.isfinite(total).all()) or float(block.min()) < 0 or float(total.min()) <= 0:
            return Errors(finite=False)
        block = block / total
        sums.append(total[..., 0])
        mean = mean + block.sum(dim=-2) / plan.shape[-2]
        if problem.mask is not None:
            allowed = problem.mask[..., start : start + step, :]
            forbidden = max(forbidden, float(block.masked_fill(allowed, 0).max()))
        if expected is not None:
            block = (block - expected[..., start : start + step, :]).abs_()
            difference = max(difference, float(block.max()))
            distance += float(block.sum()) / 2 / (plan.numel() // plan.shape[-1])
    row_sums = torch.cat(sums, dim=-1)
    row_sums = row_sums / row_sums.sum(dim=-1, keepdim=True)
    return Errors(
        finite=True,
        rows=float((row_sums - 1 / plan.shape[-2]).abs().sum(dim=-1).max()),
        columns=float((mean - problem.proportions).abs().sum(dim=-1).max()),
        forbidden=forbidden,
        difference=None if expected is None else difference,
        distance=None if expected is None else distance,
    )
