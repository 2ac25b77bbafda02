"""GeomLoss: `geomloss.ot.solve_batch`. Its iteration averages the two sides, and it takes no tolerance."""

from benchmarks.contenders.base import Ask, Contender, Run
from benchmarks.workloads import Problem


class GeomLoss(Contender):
    """torch float32; neither side is exact, so the number of iterations is searched for."""

    name = "GeomLoss"
    family = "GeomLoss"
    modules = ("geomloss.ot",)
    stop = "searched"
    copies = 6.0

    def prepare(self, problem: Problem) -> Run:
        from geomloss import ot

        cost, epsilon = problem.cost(), problem.epsilon
        cost = cost if problem.batched else cost[None]
        marginal = problem.proportions.float().expand(problem.count, -1)

        def run(ask: Ask) -> list:
            plan = ot.solve_batch(cost, reg=epsilon, b=marginal, max_iter=ask.most).plan
            return list(plan)

        return run
