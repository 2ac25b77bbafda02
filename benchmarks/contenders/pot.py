"""POT: `ot.sinkhorn` on numpy float64 and torch float32, and `ot.batch`, all told when to stop."""

import warnings
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.contenders.base import Ask, Contender, Run
from benchmarks.workloads import Problem

# A zero threshold never stops the loop. `tau` matters to the stabilised method only: once a dimension passes the
# default, 1e3, the method of version 0.9.7 loses the plan's mass with every absorption.
LIMITS = {
    "sinkhorn": {"stopThr": 0.0, "warn": False},
    "sinkhorn_log": {"stopThr": 0.0, "warn": False},
    "sinkhorn_stabilized": {"stopThr": 0.0, "warn": False, "tau": 1e9},
}


def _solve(method: str, epsilon: float, a: Any, b: Any, costs: list[Any]) -> Run:
    import ot

    # On an overflow POT warns and returns its last plan; as an error it is reported instead of a wrong plan.
    warnings.filterwarnings("error", message=".*numerical errors")

    def run(ask: Ask) -> list[Any]:
        return [
            ot.sinkhorn(a, b, cost, epsilon, method=method, numItermax=count, **LIMITS[method])
            for cost, count in zip(costs, ask.iterations, strict=True)
        ]

    return run


class PotNumpy(Contender):
    """`ot.sinkhorn` on numpy arrays in float64, POT's usual way."""

    family = "POT"
    modules = ("ot",)
    loops = True
    cuda = False
    on_torch = False

    def __init__(self, method: str) -> None:
        self.method, self.name = method, f"POT {method}, numpy float64"
        self.copies = 14.0 if method == "sinkhorn_log" else 8.0

    def prepare(self, problem: Problem) -> Run:
        n = problem.workload.n
        b = problem.proportions.cpu().numpy()
        return _solve(self.method, problem.epsilon, np.full(n, 1 / n), b / b.sum(), problem.costs64())


class PotTorch(Contender):
    """`ot.sinkhorn` on torch tensors in float32."""

    family = "POT"
    modules = ("ot",)
    loops = True
    copies = 5.0

    def __init__(self, method: str) -> None:
        self.method, self.name = method, f"POT {method}, torch float32"

    def prepare(self, problem: Problem) -> Run:
        cost = problem.cost()
        a = cost.new_full((problem.workload.n,), 1 / problem.workload.n)
        b = problem.proportions.float()
        return _solve(self.method, problem.epsilon, a, b, list(cost) if problem.batched else [cost])


class PotBatch(Contender):
    """`ot.batch.solve_batch` on torch tensors in float32, one count for the whole batch.

    Classes are given as the rows: the loop starts on rows and ends on columns, and so keeps to SwAV's order and leaves
    the samples exact. It is the faster orientation too.
    """

    family = "POT"
    modules = ("ot", "ot.batch")
    copies = 6.0

    def __init__(self, method: str) -> None:
        self.method, self.name = method, f"POT batch {method}, torch float32"

    def prepare(self, problem: Problem) -> Run:
        import ot

        def build() -> Tensor:
            cost = problem.cost().transpose(-2, -1).contiguous()
            return cost if problem.batched else cost[None]

        cost, epsilon, n = problem.once("cost, classes first", build), problem.epsilon, problem.workload.n
        a = problem.proportions.float().expand(problem.count, -1)
        b = cost.new_full((problem.count, n), 1 / n)

        def run(ask: Ask) -> Tensor:
            limits = {"max_iter": ask.most, "tol": 0.0, "grad": "detach"}
            return ot.batch.solve_batch(cost, epsilon, a, b, method=self.method, **limits).plan

        return run

    def plan(self, answer: Tensor) -> Tensor:
        plan = answer.transpose(-2, -1)
        return plan if len(plan) > 1 else plan[0]
