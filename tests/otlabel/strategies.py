"""Hypothesis strategies that draw whole labelling problems."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from tests.otlabel.helpers import Problem

# Scores of range one and these epsilons keep every oracle at 1e-12 within a few hundred iterations; an epsilon of 0.2
# with a wide prior as well would take it minutes. Hence the narrow prior of `log_priors` too.
EPSILONS = st.floats(0.25, 1.0)


def tensors(shape: tuple[int, ...], low: float, high: float) -> st.SearchStrategy[Tensor]:
    """Float64 tensors with entries between `low` and `high`."""
    return hnp.arrays(np.float64, shape, elements=st.floats(low, high), fill=st.nothing()).map(torch.from_numpy)


def positive(size: int) -> st.SearchStrategy[Tensor]:
    """Positive masses that differ by a factor of ten at most."""
    return tensors((size,), 0.1, 1.0)


def log_priors(n: int, k: int) -> st.SearchStrategy[Tensor]:
    """Logarithms of priors that differ by a factor of five at most."""
    return tensors((n, k), -1.6, 0.0)


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    marginal: bool = False,
    prior: bool = False,
    largest: tuple[int, int] = (12, 5),
) -> Problem:
    """A problem without forbidden entries: weights are drawn or left out, marginal and prior as asked.

    With a prior the marginal is optional too.
    """
    n, k = draw(st.integers(1, largest[0]), label="n"), draw(st.integers(1, largest[1]), label="k")
    shares = positive(k).map(lambda mass: mass / mass.sum())
    return Problem(
        scores=draw(tensors((n, k), -0.5, 0.5), label="scores"),
        epsilon=draw(EPSILONS, label="epsilon"),
        sample_weight=draw(st.none() | positive(n), label="sample_weight"),
        marginal=draw(shares if marginal else (st.none() | shares) if prior else st.none(), label="marginal"),
        log_prior=draw(log_priors(n, k) if prior else st.none(), label="log_prior"),
        prior_weight=draw(st.floats(0.0, 1.5), label="prior_weight") if prior else 1.0,
    )


@st.composite
def masked_problems(draw: st.DrawFn, *, largest: tuple[int, int] = (9, 4)) -> Problem:
    """A problem with forbidden entries that has a plan, because its masses are those of a plan on the allowed entries.

    The plan is positive wherever a label is allowed, so the iteration converges at a linear rate.
    """
    n, k = draw(st.integers(2, largest[0]), label="n"), draw(st.integers(2, largest[1]), label="k")
    mask = draw(hnp.arrays(np.bool_, (n, k)).map(torch.from_numpy), label="mask")
    mask = mask.clone()
    mask[torch.arange(n), torch.arange(n) % k] = True  # every sample has a class,
    mask[torch.arange(k) % n, torch.arange(k)] = True  # and every class a sample
    plan = draw(tensors((n, k), 0.2, 1.0), label="plan") * mask
    if draw(st.booleans(), label="balanced"):
        plan = plan / plan.sum(dim=0)
    share = plan.sum(dim=0) / plan.sum()
    return Problem(
        scores=draw(tensors((n, k), -0.5, 0.5), label="scores"),
        epsilon=draw(EPSILONS, label="epsilon"),
        sample_weight=plan.sum(dim=1),
        marginal=share,
        log_prior=draw(st.none() | log_priors(n, k), label="log_prior"),
        mask=mask,
    )


@st.composite
def problems_with_idle_rows(draw: st.DrawFn) -> Problem:
    """A problem in which some samples have no weight and some classes no share, but never all of them."""
    problem = draw(problems(marginal=True, prior=True), label="problem")
    n, k = problem.scores.shape
    weight = torch.ones(n, dtype=torch.float64) if problem.sample_weight is None else problem.sample_weight.clone()
    share = problem.columns.clone()
    weight[draw(hnp.arrays(np.bool_, (n,)).map(torch.from_numpy), label="idle samples")] = 0.0
    share[draw(hnp.arrays(np.bool_, (k,)).map(torch.from_numpy), label="idle classes")] = 0.0
    weight[draw(st.integers(0, n - 1), label="busy sample")] = 0.7
    share[draw(st.integers(0, k - 1), label="busy class")] = 0.3
    return Problem(
        scores=problem.scores,
        epsilon=problem.epsilon,
        sample_weight=weight,
        marginal=share / share.sum(),
        log_prior=problem.log_prior,
        prior_weight=problem.prior_weight,
    )
