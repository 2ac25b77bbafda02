"""The float64 yardstick: how many iterations plain Sinkhorn needs, and the exact labels of the truncated loop."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.workloads import Problem


@dataclass
class Reference:
    """What plain Sinkhorn in float64 needs.

    Attributes:
        needed: Iterations for each tolerance, one number a problem; None where the time limit came first.
        iterations: Iterations run.
        error: L1 error of the class proportions at the end, worst problem.
        log_v: Class duals at the end, one list a problem, if the tightest tolerance was met: they give the labels.
    """

    needed: dict[str, list[int | None]]
    iterations: int
    error: float
    log_v: list[list[float]] | None = None

    def counts(self, tol: float) -> list[int] | None:
        """Iterations a problem, or None if any problem did not get there."""
        found = self.needed[f"{tol:g}"]
        return None if None in found else found

    def record(self) -> dict[str, Any]:
        """For the record file, without the duals, which can be long."""
        return {"needed": self.needed, "iterations": self.iterations, "error": self.error}


class _Absorbed:
    """Plain Sinkhorn on E = exp(log kernel + log v - row maximum), float64, columns first.

    An iteration is two matrix-vector products on E. When log v has moved far from its absorbed value, or a column of E
    is empty in float64, one exact log-domain column step is made and E is rebuilt.
    """

    FAR = 200.0  # exp(200) times the smallest float64 that matters is still a number

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        n = problem.workload.n
        self.log_b = problem.proportions.log()
        self.b = problem.proportions
        self.a = 1 / n
        self.absorb(self._column_step(torch.zeros(problem.count, 1, n, dtype=torch.float64, device=self.b.device)))

    def _log_kernel(self) -> Tensor:
        log_kernel = self.problem.log_kernel()
        return log_kernel if self.problem.batched else log_kernel[None]

    def _column_step(self, log_u: Tensor) -> Tensor:
        """log v = log b - logsumexp over samples of (log kernel + log u), exact for any spread."""
        log_kernel = self._log_kernel().add_(log_u.transpose(1, 2))
        top = log_kernel.amax(dim=1, keepdim=True)
        return self.log_b - (log_kernel.sub_(top).exp_().sum(dim=1).log() + top[:, 0])

    def absorb(self, log_v: Tensor) -> None:
        """Rebuild E around `log_v`."""
        kernel = self._log_kernel().add_(log_v[:, None])
        self.top = kernel.amax(dim=2, keepdim=True)
        self.kernel = kernel.sub_(self.top).exp_()
        self.base, self.move = log_v, torch.zeros_like(log_v)

    def error(self) -> Tensor:
        """L1 error of the class proportions with exact rows, one a problem; keeps what `step` needs."""
        scale = self.move.exp()[:, None]
        self.rows = scale @ self.kernel.transpose(1, 2)
        self.columns = ((self.a / self.rows) @ self.kernel)[:, 0]
        return (scale[:, 0] * self.columns - self.b).abs().sum(dim=1)

    def step(self) -> None:
        """One column step."""
        self.move = self.log_b - self.columns.log()
        self.move -= self.move.amax(dim=1, keepdim=True)
        if not float(self.move.abs().max()) < self.FAR:  # also true for inf and NaN
            self.absorb(self._column_step(-self.rows.log() - self.top.transpose(1, 2)))

    def log_v(self) -> Tensor:
        return self.base + self.move


def reference(problem: Problem, tols: list[float], seconds: float) -> Reference:
    """Run plain Sinkhorn until the tightest tolerance is met or the time is over."""
    loop, start = _Absorbed(problem), time.perf_counter()
    needed: dict[str, list[int | None]] = {f"{tol:g}": [None] * problem.count for tol in tols}
    for iteration in range(1, 1_000_000):
        errors = loop.error().tolist()
        for tol in tols:
            found = needed[f"{tol:g}"]
            for index, error in enumerate(errors):
                if found[index] is None and error <= tol:
                    found[index] = iteration
        converged = all(None not in found for found in needed.values())
        if converged or time.perf_counter() - start > seconds:
            break
        loop.step()
    return Reference(needed, iteration, max(errors), loop.log_v().tolist() if converged else None)


def truncated_labels(problem: Problem, iterations: int) -> Tensor:
    """The labels of the SwAV loop, in float64 and the log domain, where it cannot overflow: columns first."""
    log_plan, log_b = problem.log_kernel(), problem.proportions.log()
    for _ in range(iterations):
        log_plan += log_b - log_plan.logsumexp(dim=-2, keepdim=True)
        log_plan -= log_plan.logsumexp(dim=-1, keepdim=True)
    return log_plan.exp_()


def converged_labels(problem: Problem, log_v: list[list[float]]) -> Tensor:
    """The labels that belong to converged class duals, float64."""
    duals = torch.tensor(log_v, dtype=torch.float64, device=problem.scores.device)
    log_plan = problem.log_kernel().add_(duals[:, None] if problem.batched else duals[0])
    log_plan -= log_plan.amax(dim=-1, keepdim=True)
    labels = log_plan.exp_()
    return labels.div_(labels.sum(dim=-1, keepdim=True))
