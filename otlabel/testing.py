"""Helpers for users' own tests: a slow, obvious reference solver, and assertions on plans."""

import torch
from torch import Tensor

from otlabel.errors import ConvergenceError, require


def reference_solve(
    scores: Tensor,
    *,
    epsilon: float = 0.05,
    sample_weight: Tensor | None = None,
    marginal: Tensor | None = None,
    log_prior: Tensor | None = None,
    prior_weight: float = 1.0,
    mask: Tensor | None = None,
    tol: float = 1e-12,
    max_iter: int = 100_000,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve one labelling problem in float64 with nothing but `logsumexp`, until both marginals hold.

    Written to be read, and shares no code with the labelers.

    Args:
        scores: Shape (n, k), no batch.
        epsilon: Entropic strength in units of the scores.
        sample_weight: Shape (n,), any scale; default all alike.
        marginal: Class proportions, shape (k,), any scale; default all alike.
        log_prior: Shape (n, k).
        prior_weight: Strength of the prior.
        mask: True where a label is allowed, shape (n, k).
        tol: Largest L1 error of the column sums.
        max_iter: Give up after this many iterations.

    Returns:
        Plan (n, k) of mass one, `log_u` (n,), `log_v` (k,), all float64.

    Raises:
        ConvergenceError: If `tol` is not reached.

    Example:
        >>> plan, log_u, log_v = reference_solve(torch.eye(2))
        >>> plan.sum(dim=0)
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    n, k = scores.shape
    a = torch.ones(n) if sample_weight is None else sample_weight
    b = torch.ones(k) if marginal is None else marginal
    a, b = a.double() / a.double().sum(), b.double() / b.double().sum()
    log_kernel = scores.double() / epsilon
    if log_prior is not None and prior_weight > 0:
        log_kernel = log_kernel + prior_weight * log_prior.double()
    if mask is not None:
        log_kernel = log_kernel.masked_fill(~mask, -torch.inf)
    log_v = torch.where(b > 0, 0.0, -torch.inf)
    for _ in range(max_iter):
        log_u = torch.where(a > 0, a.log() - torch.logsumexp(log_kernel + log_v, dim=1), -torch.inf)
        plan = (log_kernel + log_u[:, None] + log_v).exp()
        error = (plan.sum(dim=0) - b).abs().sum().item()
        if error <= tol:
            return plan, log_u, log_v
        log_v = torch.where(b > 0, b.log() - torch.logsumexp(log_kernel + log_u[:, None], dim=0), -torch.inf)
    raise ConvergenceError(
        f"`tol` must be reachable within max_iter={max_iter} iterations, got an error of {error:.2e} > {tol:.2e}. "
        "Raise `epsilon`, `tol` or `max_iter`."
    )


def assert_feasible(
    plan: Tensor, *, sample_weight: Tensor | None = None, marginal: Tensor | None = None, atol: float = 1e-4
) -> None:
    """Raise AssertionError unless the plan is non-negative and meets both marginals.

    Args:
        plan: Shape (*batch, n, k), total mass one.
        sample_weight: Row sums up to a factor, shape (*batch, n) or (n,); default all alike.
        marginal: Column sums up to a factor, shape (*batch, k) or (k,); default all alike.
        atol: Largest L1 error of either side.

    Raises:
        AssertionError: If the plan is not finite, has a negative entry, or misses a marginal.
        ValueError: If `plan` has fewer than two dimensions.

    Example:
        >>> assert_feasible(torch.full((2, 2), 0.25))
    """
    require(plan.ndim >= 2, "`plan` must have shape (*batch, n, k), got {}. Add a dimension.", tuple(plan.shape))
    plan = plan.double()
    if not torch.isfinite(plan).all():
        raise AssertionError("`plan` must be finite, got NaN or infinity.")
    if plan.min() < 0:
        raise AssertionError(f"`plan` must be non-negative, got {plan.min().item():.3g}.")
    for name, sums, target in (
        ("row", plan.sum(dim=-1), sample_weight),
        ("column", plan.sum(dim=-2), marginal),
    ):
        want = torch.ones_like(sums) if target is None else target.double().expand_as(sums)
        error = (sums - want / want.sum(dim=-1, keepdim=True)).abs().sum(dim=-1).max().item()
        if not error <= atol:
            raise AssertionError(f"`plan` must meet its {name} marginal to {atol:.1e}, got an L1 error of {error:.3e}.")
