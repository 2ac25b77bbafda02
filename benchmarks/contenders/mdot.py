"""MDOT-TNT: annealed truncated Newton, torch float64. Its licence is non-commercial: it is measured, never copied."""

import math
import warnings
from collections.abc import Iterator

from torch import Tensor

from benchmarks.contenders.base import Ask, Contender, Run
from benchmarks.workloads import Problem


def _scaled(problem: Problem) -> tuple[Tensor, float]:
    """Costs between 0 and 1, as it asks for, classes first (the faster orientation), and the temperature to match."""

    def build() -> tuple[Tensor, float]:
        cost = problem.cost().double().transpose(-2, -1).contiguous()
        largest = float(cost.max())
        return cost.div_(largest), largest / problem.epsilon

    return problem.once("scaled cost, classes first", build)


def _uniform(problem: Problem) -> Tensor:
    return problem.proportions.new_full((problem.workload.n,), 1 / problem.workload.n)


class Mdot(Contender):
    """One problem after the other through `mdot`, whose exponent `p` sets how far it goes: errors of gamma^-p."""

    name = "MDOT-TNT"
    family = "Newton peers"
    modules = ("mdot_tnt",)
    stop = "own test"
    fixed = False
    loops = True
    copies = 12.0

    def prepare(self, problem: Problem) -> Run:
        import mdot_tnt

        cost, gamma = _scaled(problem)
        costs = list(cost) if problem.batched else [cost]
        rows, columns = problem.proportions / problem.proportions.sum(), _uniform(problem)

        def solve(cost: Tensor, p: float) -> Tensor:
            u, v, reached, *_ = mdot_tnt.mdot(rows, columns, cost, gamma, p=p)
            if reached < gamma * (1 - 1e-9):
                # It gives up at a higher epsilon with a plan that has the right marginals: a wrong answer all the same.
                raise ArithmeticError(f"it stopped at epsilon {problem.epsilon * gamma / reached:.2g}")
            return cost.mul(-gamma).add_(u[:, None]).add_(v).exp_()

        def run(ask: Ask) -> list[Tensor]:
            p = -math.log(ask.tol) / math.log(gamma)
            return [solve(cost, p) for cost in costs]

        return run

    def plan(self, answer: list[Tensor]) -> Tensor:
        return super().plan(answer).transpose(-2, -1)


class MdotDefault(Contender):
    """`solve_OT` or, for a batch, `solve_OT_batched`: they have no setting for the tolerance."""

    name = "MDOT-TNT, its own tolerance"
    family = "Newton peers"
    modules = ("mdot_tnt",)
    stop = "own test"
    fixed = False
    copies = 14.0

    def prepare(self, problem: Problem) -> Run:
        import mdot_tnt

        cost, gamma = _scaled(problem)
        rows, columns = problem.proportions / problem.proportions.sum(), _uniform(problem)
        # It warns when it gives up at a higher epsilon; the plan then has the right marginals and is wrong.
        warnings.filterwarnings("error", message=".*Projection failed")
        solve = mdot_tnt.solve_OT
        if problem.batched:
            rows, columns = rows.expand(problem.count, -1), columns.expand(problem.count, -1)
            solve = mdot_tnt.solve_OT_batched

        def run(ask: Ask) -> Tensor:  # noqa: ARG001 - it stops by a rule of its own
            return solve(rows, columns, cost, gamma_f=gamma, return_plan=True, round=False)

        return run

    def plan(self, answer: Tensor) -> Tensor:
        return answer.transpose(-2, -1)

    def settings(self, tol: float) -> Iterator[float]:
        yield tol
