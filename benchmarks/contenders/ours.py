"""otlabel, through its public functions and with their checks of the input."""

from collections.abc import Iterator
from functools import cache

import otlabel
from benchmarks.contenders.base import Ask, Contender, Run
from benchmarks.workloads import Problem

SOLVERS = {
    "otlabel": lambda tol: otlabel.Auto(tol=tol),
    "otlabel Newton": lambda tol: otlabel.Newton(tol=tol),
    "otlabel Anderson": lambda tol: otlabel.Anderson(tol=tol),
    "otlabel Sinkhorn": lambda tol: otlabel.Sinkhorn(tol=tol, max_iter=1_000_000),
}


class Otlabel(Contender):
    """One solver; the first also stands for the fixed mode."""

    family = "otlabel"
    stop = "own test"
    copies = 4.0

    def __init__(self, name: str) -> None:
        self.name = name
        self.fixed = name == "otlabel"

    def prepare(self, problem: Problem) -> Run:
        scores, epsilon, options = problem.scores, problem.epsilon, {}
        if problem.mask is not None:
            options["mask"] = problem.mask

        @cache
        def solver_of(most: int | None, tol: float | None) -> otlabel.Solver:
            """Settings are made once, as in a training script."""
            return SOLVERS[self.name](tol) if most is None else otlabel.Sinkhorn(max_iter=most, tol=None)

        def run(ask: Ask) -> otlabel.LabelResult:
            solver = solver_of(None if ask.iterations is None else ask.most, ask.tol)
            if problem.log_prior is not None:
                return otlabel.sinkhorn_prior_label(
                    scores, log_prior=problem.log_prior, epsilon=epsilon, solver=solver, **options
                )
            if problem.marginal is not None:
                return otlabel.sinkhorn_marginal_label(
                    scores, problem.marginal, epsilon=epsilon, solver=solver, **options
                )
            return otlabel.sinkhorn_label(scores, epsilon=epsilon, solver=solver, **options)

        return run

    def plan(self, answer: otlabel.LabelResult):
        return answer.labels

    def iterations(self, answer: otlabel.LabelResult) -> int:
        return int(answer.n_iter.max())

    def settings(self, tol: float) -> Iterator[float]:
        yield tol  # the tolerance asked for is the one it has to meet
