"""Independent solvers: POT in its log form for the entropic problem, an exact linear program for epsilon -> 0."""

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from tests.otlabel.helpers import Problem

# Distance of the oracle's own marginals from those asked for, far below the differences that the tests allow.
ORACLE_TOLERANCE = 1e-11


def pot_solve(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Plan and log-scalings of both sides by POT, in float64; a prior enters as a shift of the cost.

    The log form, because the default one returns a finite wrong plan when it underflows; warnings are errors, and the
    marginals of the plan are checked, because a wrong oracle would be blamed on the library.
    """
    ot = pytest.importorskip("ot")
    cost = -problem.scores.double().numpy()
    if problem.log_prior is not None:
        cost = cost - problem.epsilon * problem.prior_weight * problem.log_prior.double().numpy()
    a, b = problem.rows.numpy(), problem.columns.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan, log = ot.sinkhorn(
            a, b, cost, problem.epsilon, method="sinkhorn_log", stopThr=1e-13, numItermax=200_000, log=True
        )
    for name, sums, want in (("rows", plan.sum(axis=1), a), ("columns", plan.sum(axis=0), b)):
        gap = np.abs(sums - want).sum()
        if not gap <= ORACLE_TOLERANCE:
            raise AssertionError(f"the oracle misses its own {name} by {gap:.2e}")
    return torch.from_numpy(plan), torch.from_numpy(log["log_u"]), torch.from_numpy(log["log_v"])


def exact_plan(problem: Problem) -> Tensor:
    """Plan of the largest total score, by linear programming."""
    n, k = problem.scores.shape
    rows = np.kron(np.eye(n), np.ones(k))
    columns = np.kron(np.ones(n), np.eye(k))
    allowed = np.ones(n * k, dtype=bool) if problem.mask is None else problem.mask.reshape(-1).numpy()
    solution = linprog(
        np.where(allowed, -problem.scores.double().reshape(-1).numpy(), 0.0),
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([problem.rows.numpy(), problem.columns.numpy()]),
        bounds=[(0, None if fits else 0) for fits in allowed],
        method="highs",
    )
    if not solution.success:
        raise AssertionError(f"the linear program failed: {solution.message}")
    return torch.from_numpy(solution.x.reshape(n, k))
