r"""The public labelers: soft labels by entropic optimal transport, three ways to say what the classes should get.

All three solve

.. math::
    \max_{Q \ge 0} \; \langle Q, S \rangle - \epsilon\, \mathrm{KL}(Q \,\|\, R^w)
    \quad \text{s.t.} \quad Q 1 = a, \; Q^\top 1 = b .
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from otlabel.errors import require, require_beside
from otlabel.problem import LabelProblem, resolve_log_prior
from otlabel.result import LabelResult
from otlabel.solvers import Auto, Solver

_DEFAULT_SOLVER = Auto()


def sinkhorn_label(
    scores: Tensor,
    *,
    epsilon: float | Tensor = 0.05,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    solver: Solver = _DEFAULT_SOLVER,
    init: LabelResult | None = None,
) -> LabelResult:
    r"""Balanced labels: every class gets the same share of the samples.

    Maximises :math:`\langle Q, S \rangle - \epsilon \sum Q \log Q` over plans whose rows sum to the sample weights and
    whose columns all sum to 1/k.

    Args:
        scores: Larger is a better match; logits or cosines, shape (*batch, n, k): n samples, k classes, each leading
            index a problem of its own. float16, bfloat16, float32 or float64; -inf forbids a label. Not changed, and no
            gradient flows: labels are constants.
        epsilon: Entropic strength in units of the scores: smaller is harder and slower. Number, or tensor that
            broadcasts to the batch shape. 0.05 is the usual value for cosines.
        sample_weight: Mass of each sample, any non-negative scale, shape (*batch, n) or (n,); default all alike. A
            sample of weight 0 (padding) does not act on the others and is labelled like unseen data.
        mask: True where a label is allowed, broadcasts to the shape of `scores`.
        solver: Settings of the solver; `Auto` picks the method, `Sinkhorn(max_iter=3, tol=None)` is the truncated loop
            of SwAV and DINO.
        init: Earlier result for the same classes (and batch shape), whose class duals are the start.

    Returns:
        LabelResult with `labels`, duals, and the marginal error really reached.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong shape, value or device.
        InfeasibleProblemError: If mask and -inf scores leave no plan.
        ConvergenceError: If the tolerance is missed and the solver is to raise.

    Warns:
        ConvergenceWarning: If the tolerance is missed.
        NumericalWarning: If the tolerance is below what the number format can show.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.7, 0.3], [0.6, 0.6]])
        >>> result = sinkhorn_label(scores)
        >>> result.hard_labels
        tensor([0, 0, 1, 1])
        >>> result.proportions.round(decimals=3)
        tensor([0.5000, 0.5000], dtype=torch.float64)

    Source: Asano et al., "Self-labelling via simultaneous clustering and representation learning", ICLR 2020, eqs. 6-8;
    Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020, eqs. 3-5.
    """
    return _solve(scores, epsilon=epsilon, sample_weight=sample_weight, mask=mask, solver=solver, init=init)


def sinkhorn_marginal_label(
    scores: Tensor,
    marginal: Tensor,
    *,
    epsilon: float | Tensor = 0.05,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    solver: Solver = _DEFAULT_SOLVER,
    init: LabelResult | None = None,
) -> LabelResult:
    r"""Prior-marginal labels: class j gets the share `marginal[j]` of the samples.

    As `sinkhorn_label`, with columns that sum to `marginal`.

    Args:
        scores: Larger is a better match, shape (*batch, n, k); see `sinkhorn_label`.
        marginal: Class proportions that sum to 1, shape (*batch, k) or (k,); see `otlabel.marginals` for builders. A
            class of proportion 0 gets no label.
        epsilon: Entropic strength in units of the scores.
        sample_weight: Mass of each sample, shape (*batch, n) or (n,).
        mask: True where a label is allowed.
        solver: Settings of the solver.
        init: Earlier result for the same classes (and batch shape), whose class duals are the start.

    Returns:
        LabelResult with `labels`, duals, and the marginal error really reached.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong shape, value or device, or `marginal` does not sum to 1.
        InfeasibleProblemError: If mask and -inf scores leave no plan.
        ConvergenceError: If the tolerance is missed and the solver is to raise.

    Warns:
        ConvergenceWarning: If the tolerance is missed.
        NumericalWarning: If the tolerance is below what the number format can show.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.7, 0.3], [0.6, 0.6]])
        >>> sinkhorn_marginal_label(scores, torch.tensor([0.25, 0.75])).hard_labels
        tensor([0, 1, 1, 1])

    Source: Liu et al., "Revisiting Foreground and Background Separation in Weakly-supervised Temporal Action
    Localization: A Clustering-based Approach", ICCV 2023, eq. 13 and appendix; Li et al., "Class-Balanced Pixel-Level
    Self-Labeling", CVPR 2022.
    """
    if marginal is None:
        raise TypeError(
            "`marginal` must be a torch.Tensor of shape (*batch, k), got None. Use `sinkhorn_label` for 1/k."
        )
    return _solve(
        scores, epsilon=epsilon, sample_weight=sample_weight, marginal=marginal, mask=mask, solver=solver, init=init
    )


def sinkhorn_prior_label(
    scores: Tensor,
    prior: Tensor | None = None,
    *,
    log_prior: Tensor | None = None,
    prior_weight: float = 1.0,
    marginal: Tensor | None = None,
    epsilon: float | Tensor = 0.05,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    solver: Solver = _DEFAULT_SOLVER,
    init: LabelResult | None = None,
) -> LabelResult:
    r"""KL-prior labels: plans near a prior assignment R are preferred.

    Maximises :math:`\langle Q, S \rangle - \epsilon\, \mathrm{KL}(Q \,\|\, R^w)`, that is, adds
    :math:`w \log R` to :math:`S/\epsilon`. A lower epsilon therefore weakens the prior.

    Args:
        scores: Larger is a better match, shape (*batch, n, k); see `sinkhorn_label`.
        prior: Prior assignment, any non-negative scale, broadcasts to the shape of `scores`; 0 forbids a label.
        log_prior: Its logarithm instead, which does not underflow; see `otlabel.priors` for builders.
        prior_weight: Strength w of the prior in units of epsilon; 0 ignores it, 1 is CASE and TOT.
        marginal: Class proportions that sum to 1, shape (*batch, k) or (k,); default all alike.
        epsilon: Entropic strength in units of the scores.
        sample_weight: Mass of each sample, shape (*batch, n) or (n,).
        mask: True where a label is allowed.
        solver: Settings of the solver.
        init: Earlier result for the same classes (and batch shape), whose class duals are the start.

    Returns:
        LabelResult with `labels`, duals, and the marginal error really reached.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong shape, value or device, or not exactly one prior is given.
        InfeasibleProblemError: If mask, -inf scores and zeros of the prior leave no plan.
        ConvergenceError: If the tolerance is missed and the solver is to raise.

    Warns:
        ConvergenceWarning: If the tolerance is missed.
        NumericalWarning: If the tolerance is below what the number format can show.

    Example:
        >>> scores = torch.zeros(4, 2)  # they say nothing, the prior decides
        >>> prior = torch.tensor([[3.0, 1.0], [1.0, 3.0], [3.0, 1.0], [1.0, 3.0]])
        >>> sinkhorn_prior_label(scores, prior).labels
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500],
                [0.7500, 0.2500],
                [0.2500, 0.7500]])

    Source: Liu et al., "Revisiting Foreground and Background Separation in Weakly-supervised Temporal Action
    Localization: A Clustering-based Approach", ICCV 2023, eqs. 11-12; Kumar et al., "Unsupervised Action Segmentation
    by Joint Representation Learning and Online Clustering", CVPR 2022.
    """
    if not isinstance(scores, Tensor):
        raise TypeError(
            f"`scores` must be a torch.Tensor, got {type(scores).__name__}. Convert it with torch.as_tensor."
        )
    return _solve(
        scores,
        epsilon=epsilon,
        sample_weight=sample_weight,
        marginal=marginal,
        log_prior=resolve_log_prior(prior, log_prior, scores, reads_values=_reads_values(scores, solver)),
        prior_weight=prior_weight,
        mask=mask,
        solver=solver,
        init=init,
    )


def _solve(
    scores: Tensor,
    *,
    solver: Solver,
    init: LabelResult | None,
    epsilon: float | Tensor,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    marginal: Tensor | None = None,
    log_prior: Tensor | None = None,
    prior_weight: float = 1.0,
) -> LabelResult:
    if not isinstance(solver, Solver) or type(solver) is Solver:  # type: ignore[redundant-expr]
        raise TypeError(f"`solver` must be a settings object such as Auto(), got {type(solver).__name__}. Build one.")
    device = str(getattr(getattr(scores, "device", None), "type", "cpu"))
    autocasts = device != "meta" and torch.is_autocast_enabled(device)  # it would multiply in half precision
    with torch.autocast(device, enabled=False) if autocasts else nullcontext():
        problem = LabelProblem.build(
            scores,
            epsilon=epsilon,
            sample_weight=sample_weight,
            marginal=marginal,
            log_prior=log_prior,
            prior_weight=prior_weight,
            mask=mask,
            reads_values=_reads_values(scores, solver),
        )
        start = None if init is None else _start(init, problem)
        return solver(problem, init=start, stacklevel=4)  # the line that called the public labeler


def _reads_values(scores: Tensor, solver: Solver) -> bool:
    """Whether values are checked: a truncated solve on a device must not wait for it, and a compiler sees no values."""
    on_host = getattr(scores, "is_cpu", True) and not torch.compiler.is_compiling()
    return on_host or getattr(solver, "tol", None) is not None


def _start(init: LabelResult, problem: LabelProblem) -> Tensor:
    """Class duals of an earlier result, for a problem of the same classes."""
    if not isinstance(init, LabelResult):
        raise TypeError(f"`init` must be a LabelResult or None, got {type(init).__name__}. Pass an earlier result.")
    shape = (*problem.batch_shape, problem.marginal.shape[1])
    require(
        tuple(init.log_v.shape) == shape,
        "`init` must be a result for classes of shape {}, got {}. Use one of the same batch and classes.",
        shape,
        tuple(init.log_v.shape),
    )
    require_beside(init.log_v, "init", problem.marginal, "scores")
    # A class that had no mass has no dual to start from.
    return torch.where(init.log_v == -torch.inf, 0.0, init.log_v).reshape(problem.marginal.shape)
