"""RegOT: sparse Newton (SSNS) and a sparse plus low-rank quasi-Newton method (SPLR), C++, float64."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.base import Ask, Contender, Run
from benchmarks.workloads import Problem

MAX_ITER = 10_000


class RegOt(Contender):
    """One problem after the other, classes first: that is the faster and the more reliable orientation.

    A call cannot be interrupted, and late steps can cost a hundred times the first ones, so a first run is made in a
    process of its own, which can be ended.
    """

    family = "Newton peers"
    modules = ("regot",)
    stop = "own test"
    fixed = False
    loops = True
    copies = 14.0
    cuda = False
    on_torch = False

    def __init__(self, method: str) -> None:
        self.name, self.function = f"RegOT {method}", f"sinkhorn_{method.lower()}"

    def _inputs(self, problem: Problem) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        costs = problem.once("RegOT costs", lambda: [np.asfortranarray(cost.T) for cost in problem.costs64()])
        proportions, n = problem.proportions.numpy(), problem.workload.n
        return costs, proportions / proportions.sum(), np.full(n, 1 / n)

    def prepare(self, problem: Problem) -> Run:
        import regot

        solve = getattr(regot, self.function)
        costs, rows, columns = self._inputs(problem)

        def run(ask: Ask) -> list[Any]:
            return [solve(cost, rows, columns, problem.epsilon, tol=ask.tol, max_iter=MAX_ITER) for cost in costs]

        return run

    def plan(self, answer: list[Any]):
        return super().plan([np.asarray(result.plan).T for result in answer])

    def iterations(self, answer: list[Any]) -> int:
        return max(result.niter for result in answer)

    def first_run(self, problem: Problem, ask: Ask, seconds: float) -> str:
        costs, rows, columns = self._inputs(problem)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "problem.npz")
            np.savez(file, *costs, rows=rows, columns=columns)
            load = 2 + 4 * file.stat().st_size / 1e9  # seconds for the start and the file, about
            command = [sys.executable, "-c", _FIRST_RUN, str(file), self.function, repr(problem.epsilon), repr(ask.tol)]
            try:
                code = subprocess.run(command, timeout=seconds + load, check=False, env=os.environ).returncode
            except subprocess.TimeoutExpired:
                return f"not within {seconds:.2g} s"
            return f"ended with code {code}" if code else ""


_FIRST_RUN = f"""
import sys
import numpy as np
import regot
file, function, epsilon, tol = sys.argv[1:]
inputs = np.load(file)
solve, rows, columns = getattr(regot, function), inputs["rows"], inputs["columns"]
for name in inputs.files:
    if name.startswith("arr_"):
        cost = np.asfortranarray(inputs[name])
        solve(cost, rows, columns, float(epsilon), tol=float(tol), max_iter={MAX_ITER})
"""
