"""Momentum learns how slow a linear iteration is, and makes it as fast as the heavy ball can be."""

import math

import pytest
import torch

from otlabel import Auto, Sinkhorn, sinkhorn_label, sinkhorn_marginal_label
from otlabel.solvers import iterate
from otlabel.solvers.momentum import Momentum
from tests.otlabel.helpers import clustered, randn


def steps_to(goal, eigenvalues, momentum):
    """Steps of `v <- v - (1 - eigenvalues) v` until the error shrank to `goal`; momentum is told the rate of three."""
    value, errors = torch.ones_like(eigenvalues), []
    while not errors or errors[-1] > goal * errors[0]:
        errors.append(value.abs().sum().item())
        if len(errors) > 6 and len(errors) % 3 == 0:
            momentum.learn((errors[-1] / errors[-4]) ** (1 / 3))
        residual = -(1 - eigenvalues) * value
        value = value + (momentum.step(residual) if len(errors) > 6 else residual)
    return len(errors)


@pytest.mark.parametrize("goal", [1e-3, 1e-6])
@pytest.mark.parametrize("largest", [0.5, 0.9, 0.95, 0.99])
def test_momentum_needs_the_root_of_the_steps(largest, goal):
    eigenvalues = largest * torch.linspace(0.0, 1.0, 15, dtype=torch.float64) ** 2
    momentum, root = Momentum(), math.sqrt(1 - largest)
    steps = steps_to(goal, eigenvalues, momentum)
    assert steps <= 1.5 * math.log(goal) / math.log((1 - root) / (1 + root)) + 10
    if largest > 0.5:
        assert 2 * steps <= math.log(goal) / math.log(largest)  # what plain steps need


def test_momentum_before_anything_is_known_is_the_plain_step():
    residual = randn(2, 5)
    assert torch.equal(Momentum().step(residual.clone()), residual)


def test_momentum_is_never_endless():
    momentum = Momentum()
    momentum.learn(0.9)
    momentum.step(randn(2, 5))
    for _ in range(50):
        momentum.learn(0.97)
    assert 0.9 < momentum.largest <= 0.9999
    assert 0 < momentum.rate < 1


def test_momentum_is_not_changed_by_a_rate_that_was_reckoned_with():
    momentum = Momentum()
    momentum.learn(0.9)
    momentum.step(randn(2, 5))
    before = momentum.largest
    for rate in (0.1, momentum.rate, 1.05 * momentum.rate, 0.99, 1.5, math.nan):
        momentum.learn(rate)
    assert momentum.largest == before


def test_momentum_starts_again_where_problems_left_the_batch():
    momentum = Momentum()
    momentum.learn(0.9)
    momentum.step(randn(3, 5))
    residual = randn(2, 5)
    fresh = Momentum()
    fresh.learn(0.9)
    assert torch.equal(momentum.step(residual.clone()), fresh.step(residual.clone()))


@pytest.mark.parametrize("shape", [(7500, 16), (1000, 300)], ids=str)
def test_default_needs_half_the_passes_of_sinkhorn(shape):
    scores = clustered(*shape)
    plain = sinkhorn_label(scores, solver=Sinkhorn(tol=1e-3, check_every=1))
    assert 2 * sinkhorn_label(scores, solver=Auto(tol=1e-3)).n_iter <= plain.n_iter


def test_rounding_of_float32_does_not_keep_from_the_tolerance(monkeypatch):
    """Many classes of unlike shares: float32 ends at an error of 1e-6, and the kernel becomes float64."""
    scores = clustered(2000, 1500)
    share = 1 / torch.arange(1.0, 1501)
    result = sinkhorn_marginal_label(scores, share / share.sum(), solver=Auto(tol=5.1e-7, max_iter=300))
    assert result.converged
    monkeypatch.setattr(iterate, "STUCK_LOOKS", 10_000)
    with pytest.warns(match="stopped at max_iter"):
        sinkhorn_marginal_label(scores, share / share.sum(), solver=Auto(tol=5.1e-7, max_iter=300))
