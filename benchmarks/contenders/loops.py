"""The two loops that people copy into their programs, written from their formulas, in the scores' dtype."""

from torch import Tensor

from benchmarks.contenders.base import Ask, Contender, Run
from benchmarks.workloads import Problem


class Swav(Contender):
    """The exponential-domain loop of SwAV: exp(scores / epsilon), then columns and rows in turn.

    As published it divides by the sums and then by k or n, two passes each; `folded` puts the constant into the sums.
    """

    family = "loops"
    copies = 3.0

    def __init__(self, name: str, *, folded: bool) -> None:
        self.name, self.folded = name, folded

    def prepare(self, problem: Problem) -> Run:
        scores, epsilon = problem.folded_scores(), problem.epsilon
        n, k = problem.workload.n, problem.workload.k
        marginal = problem.marginal

        def as_published(plan: Tensor) -> None:
            plan /= plan.sum(dim=-2, keepdim=True)
            if marginal is None:
                plan /= k
            else:
                plan *= marginal
            plan /= plan.sum(dim=-1, keepdim=True)
            plan /= n

        def with_folded_constants(plan: Tensor) -> None:
            sums = plan.sum(dim=-2, keepdim=True)
            plan /= sums.mul_(k) if marginal is None else sums.div_(marginal)
            plan /= plan.sum(dim=-1, keepdim=True).mul_(n)

        step = with_folded_constants if self.folded else as_published

        def run(ask: Ask) -> Tensor:
            plan = scores.div(epsilon).exp_()
            plan /= plan.sum(dim=(-2, -1), keepdim=True)
            for _ in range(ask.most):
                step(plan)
            return plan.mul_(n)

        return run


class NaiveLog(Contender):
    """Two logsumexp calls an iteration, the usual answer to overflow."""

    name = "naive logsumexp"
    family = "loops"
    copies = 4.0

    def prepare(self, problem: Problem) -> Run:
        scores, epsilon = problem.folded_scores(), problem.epsilon
        log_marginal = None if problem.marginal is None else problem.marginal.log()

        def run(ask: Ask) -> Tensor:
            log_plan = scores / epsilon
            for _ in range(ask.most):
                log_plan -= log_plan.logsumexp(dim=-2, keepdim=True)
                if log_marginal is not None:
                    log_plan += log_marginal
                log_plan -= log_plan.logsumexp(dim=-1, keepdim=True)
            return log_plan.exp_()

        return run
