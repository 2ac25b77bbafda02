r"""The labelling problem, checked and in canonical form. The only place that validates.

.. math::
    \max_{Q \ge 0} \; \langle Q, S \rangle - \epsilon\, \mathrm{KL}(Q \,\|\, R^w)
    \quad \text{s.t.} \quad Q 1 = a, \; Q^\top 1 = b

with scores S, prior R, sample weights a and class proportions b, both of total mass one. The optimum is
:math:`Q = \exp(S/\epsilon + w \log R + \log u + \log v)`: duals `log_u` of the samples, `log_v` of the classes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from otlabel.errors import (
    InfeasibleProblemError,
    require,
    require_beside,
    require_mass,
    require_number,
    require_numbers,
    value_range,
)
from otlabel.kernel import DenseKernel, label_dtype

# A marginal is renormalised exactly; further from 1 than this (or than the rounding of its dtype) it is a mistake.
MARGINAL_SUM_TOLERANCE = 1e-3
# Largest |scores| / epsilon: sums of a few such numbers stay finite in float64.
LARGEST_EXPONENT = 1e300
# Slack of the feasibility checks: rounding of float32 proportions, summed.
FEASIBILITY_TOLERANCE = 1e-6
# Up to this many classes every set of classes is checked (2**k sums), beyond only single classes.
EXHAUSTIVE_CLASSES = 12


@dataclass(frozen=True)
class LabelProblem:
    """A checked problem: leading dimensions flattened to one, marginals in float64 logarithms.

    Attributes:
        kernel: The scores with everything that reweights them; also holds log a.
        log_marginal: log b, shape (batch, k); -inf for classes without mass.
        batch_shape: The leading dimensions as the user gave them.
        prior_weight: Weight of the prior, None without one.
    """

    kernel: DenseKernel
    log_marginal: Tensor
    batch_shape: torch.Size
    prior_weight: float | None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the labels."""
        return label_dtype(self.kernel.scores.dtype)

    @classmethod
    def build(
        cls,
        scores: Tensor,
        *,
        epsilon: float | Tensor,
        sample_weight: Tensor | None = None,
        marginal: Tensor | None = None,
        log_prior: Tensor | None = None,
        prior_weight: float = 1.0,
        mask: Tensor | None = None,
    ) -> "LabelProblem":
        """Check every argument and bring it to canonical form; see the labelers for their meaning."""
        scores = check_scores(scores, "scores")
        strength = _epsilon(epsilon, scores)
        weight = _sample_weight(sample_weight, scores)
        share = _marginal(marginal, scores)
        require_number(prior_weight, "prior_weight", "CASE uses 1.")
        require(
            0 <= prior_weight < math.inf,
            "`prior_weight` must be finite and at least 0, got {}. 0 ignores the prior, 1 is the KL of CASE.",
            prior_weight,
        )
        kernel = build_kernel(
            scores,
            epsilon=strength,
            sample_weight=weight,
            log_prior=log_prior,
            prior_weight=prior_weight,
            mask=mask,
        )
        _check_feasible(kernel, weight, share)
        return cls(
            kernel=kernel,
            log_marginal=share.log(),
            batch_shape=scores.shape[:-2],
            prior_weight=None if log_prior is None else kernel.prior_weight,
        )


def build_kernel(
    scores: Tensor,
    *,
    epsilon: Tensor,
    sample_weight: Tensor | None = None,
    log_prior: Tensor | None = None,
    prior_weight: float = 1.0,
    mask: Tensor | None = None,
) -> DenseKernel:
    """Check what reweights the (already checked) scores, broadcast it, and flatten the leading dimensions."""
    n, k = scores.shape[-2:]
    if log_prior is not None:
        log_prior = _broadcast(_check_log_prior(log_prior, scores), scores.shape, "log_prior").reshape(-1, n, k)
        _require_range(log_prior, prior_weight, "prior_weight", "prior_weight * log_prior", "Lower it")
    if mask is not None:
        mask = _broadcast(_check_mask(mask, scores), scores.shape, "mask").reshape(-1, n, k)
    flat = scores.reshape(-1, n, k)
    weight = flat.new_ones(flat.shape[:2], dtype=torch.float64) if sample_weight is None else sample_weight
    return DenseKernel(
        scores=flat,
        epsilon=epsilon.reshape(-1),
        log_weight=weight.log(),
        # A prior of weight zero must not act, not even by the entries that it forbids: 0 * -inf is NaN.
        log_prior=log_prior if prior_weight > 0 else None,
        prior_weight=float(prior_weight),
        mask=mask,
    )


def check_scores(scores: object, name: str) -> Tensor:
    """Raise unless `scores` is a non-empty floating tensor (*batch, n, k) without NaN or +inf; return it detached."""
    scores = _check_floating(scores, name)
    require(
        scores.ndim >= 2,
        "`{}` must have shape (*batch, n, k), got {}. Add a dimension: rows are samples, columns classes.",
        name,
        tuple(scores.shape),
    )
    require(
        scores.numel() > 0,
        "`{}` must not be empty, got shape {}. Skip the call when there is nothing to label.",
        name,
        tuple(scores.shape),
    )
    if not scores.amax().item() < math.inf:  # one reduction finds both: the maximum of NaN is NaN
        nan, inf = int(scores.isnan().sum()), int((scores == math.inf).sum())
        raise ValueError(
            f"`{name}` must hold no NaN and no +inf, got {nan} NaN and {inf} +inf of {scores.numel()} entries. "
            "Find the layer that made them; -inf is allowed and forbids a label."
        )
    return scores


def _check_floating(value: object, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"`{name}` must be a torch.Tensor, got {type(value).__name__}. Convert it with torch.as_tensor."
        )
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(
            f"`{name}` must be float16, bfloat16, float32 or float64, got {value.dtype}. Convert it with `.float()`."
        )
    return value.detach()


def _epsilon(epsilon: float | Tensor, scores: Tensor) -> Tensor:
    batch_shape = scores.shape[:-2]
    if isinstance(epsilon, Tensor):
        value = _beside(_check_floating(epsilon, "epsilon"), scores, "epsilon").to(torch.float64)
        value = _broadcast(value, batch_shape, "epsilon")
    else:
        require_number(epsilon, "epsilon", "It may also be a tensor; the usual value is 0.05.")
        value = scores.new_full(batch_shape, epsilon, dtype=torch.float64)
    smallest, largest = value_range(value)
    require(
        0 < smallest <= largest < math.inf,
        "`epsilon` must be positive and finite, got {}. It is in units of the scores; the usual value is 0.05.",
        largest if smallest > 0 else smallest,
    )
    inverse = 1 / smallest if smallest > 1 / LARGEST_EXPONENT else math.inf
    _require_range(scores, inverse, "epsilon", "scores / epsilon", "Raise it")
    return value


def _require_range(value: Tensor, factor: float, name: str, product: str, advice: str) -> None:
    # Only float64 values, or an absurd factor, can leave float64's range; spare the others the pass over the values.
    if torch.finfo(value.dtype).max * factor > LARGEST_EXPONENT:
        size = torch.where(value == -torch.inf, 0.0, value.abs()).amax().item()
        size = size * factor if size > 0 else 0.0
        require(
            size <= LARGEST_EXPONENT,
            "`{}` must keep `{}` within {:g}, got {:g}. {}, or scale the input down.",
            name,
            product,
            LARGEST_EXPONENT,
            size,
            advice,
        )


def resolve_log_prior(prior: Tensor | None, log_prior: Tensor | None, scores: Tensor) -> Tensor:
    """The log-prior from whichever of the two was given."""
    require(
        (prior is None) != (log_prior is None),
        "exactly one of `prior` and `log_prior` must be given, got {}. Prefer `log_prior`: it does not underflow.",
        "neither" if prior is None else "both",
    )
    if prior is None:
        assert log_prior is not None  # noqa: S101 - for the type checker
        return log_prior
    prior = _beside(_check_floating(prior, "prior"), scores, "prior")
    require_mass(prior, "prior", "Pass logarithms as `log_prior`.")
    return prior.to(torch.float64).log()


def _check_log_prior(log_prior: object, scores: Tensor) -> Tensor:
    value = _beside(_check_floating(log_prior, "log_prior"), scores, "log_prior")
    largest = value_range(value)[1]
    require(
        largest < math.inf,
        "`log_prior` must hold no NaN and no +inf, got {}. -inf is allowed and forbids a label.",
        largest,
    )
    return value


def _check_mask(mask: object, scores: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`mask` must be a boolean torch.Tensor, got {got}. False forbids a label; try `mask.bool()`.")
    return _beside(mask, scores, "mask")


def _sample_weight(sample_weight: Tensor | None, scores: Tensor) -> Tensor:
    """Weights of total mass one, shape (batch, n)."""
    shape = scores.shape[:-1]
    if sample_weight is None:
        return scores.new_full(shape, 1.0 / shape[-1], dtype=torch.float64).reshape(-1, shape[-1])
    require_numbers(sample_weight, "sample_weight")
    weight = _beside(sample_weight.detach(), scores, "sample_weight").to(torch.float64)
    weight = _broadcast(weight, shape, "sample_weight").reshape(-1, shape[-1])
    require_mass(weight, "sample_weight", "0 ignores a sample.")
    # Divide by the maximum first: the sum of huge weights could overflow.
    peak = weight.amax(dim=-1, keepdim=True)
    require(
        bool((peak > 0).all()),
        "`sample_weight` must not sum to zero, got a sum of 0. Give some sample a positive weight.",
    )
    weight = weight / peak
    return weight / weight.sum(dim=-1, keepdim=True)


def _marginal(marginal: object, scores: Tensor) -> Tensor:
    """Class proportions of total mass one, shape (batch, k)."""
    shape = (*scores.shape[:-2], scores.shape[-1])
    if marginal is None:
        return scores.new_full(shape, 1.0 / shape[-1], dtype=torch.float64).reshape(-1, shape[-1])
    marginal = _beside(_check_floating(marginal, "marginal"), scores, "marginal")
    rounding = torch.finfo(marginal.dtype).eps
    share = _broadcast(marginal.to(torch.float64), shape, "marginal").reshape(-1, shape[-1])
    require_mass(share, "marginal", "A proportion of 0 empties a class.")
    total = share.sum(dim=-1, keepdim=True)
    off = total.flatten()[(total - 1).abs().argmax()].item()
    require(
        abs(off - 1) <= max(MARGINAL_SUM_TOLERANCE, rounding),
        "`marginal` must sum to 1, got a sum of {:g}. Divide it by its sum, or use otlabel.marginals.from_counts.",
        off,
    )
    return share / total


def _beside(value: Tensor, scores: Tensor, name: str) -> Tensor:
    require_beside(value, name, scores, "scores")
    return value


def _broadcast(value: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Expand to `shape`; a dimension of size 1 or a missing leading one is repeated."""
    fits = value.ndim <= len(shape) and all(
        have in (1, want) for have, want in zip(value.shape[::-1], tuple(shape)[::-1], strict=False)
    )
    require(
        fits,
        "`{}` must have shape {} (or broadcast to it), got {}. Rows are samples, columns classes.",
        name,
        tuple(shape),
        tuple(value.shape),
    )
    return value.expand(shape)


def _check_feasible(kernel: DenseKernel, weight: Tensor, share: Tensor) -> None:
    """Necessary conditions for a plan; with few classes they are also sufficient (Hall's theorem)."""
    smallest = kernel.scores.amin().item()
    if smallest > -math.inf and kernel.mask is None and kernel.log_prior is None:
        return
    allowed = kernel.scores > -torch.inf
    if kernel.mask is not None:
        allowed &= kernel.mask
    if kernel.log_prior is not None:
        allowed &= kernel.log_prior > -torch.inf
    by = " and ".join(
        name
        for name, present in (
            ("`mask`", kernel.mask is not None),
            ("-inf in `scores`", smallest == -math.inf),
            ("zeros of the prior (-inf in `log_prior`)", kernel.log_prior is not None),
        )
        if present
    )
    empty = (share > 0) & ~(allowed & (weight > 0)[..., None]).any(dim=-2)
    if empty.any():
        problem, label = (int(index) for index in empty.nonzero()[0])
        raise InfeasibleProblemError(
            f"{by} must leave every class with mass a weighted sample, got {int(empty.sum())} without, first class "
            f"{label} of problem {problem}. Allow it a sample, or give it a `marginal` of 0."
        )
    allowed &= (share > 0)[:, None, :]
    stuck = (weight > 0) & ~allowed.any(dim=-1)
    if stuck.any():
        problem, row = (int(index) for index in stuck.nonzero()[0])
        raise InfeasibleProblemError(
            f"{by} must leave every weighted sample a class with mass, got {int(stuck.sum())} without, first row {row} "
            f"of problem {problem}. Allow it a class, or give it a `sample_weight` of 0."
        )
    short = _missing_mass(allowed, weight, share)
    if short > FEASIBILITY_TOLERANCE:
        raise InfeasibleProblemError(
            f"{by} must leave room for the class proportions, got a set of samples whose allowed classes lack "
            f"{short:.3g} of the total mass. Allow more labels, or change `marginal`."
        )


def _missing_mass(allowed: Tensor, weight: Tensor, share: Tensor) -> float:
    """Largest mass of samples that is confined to a set of classes which cannot hold it.

    A plan exists exactly if, for every set A of classes, the samples confined to A weigh no more than A's share.
    """
    k = share.shape[-1]
    if k > EXHAUSTIVE_CLASSES:
        confined = (weight[..., None] * (allowed & (allowed.sum(dim=-1, keepdim=True) == 1))).sum(dim=-2)
        reachable = (weight[..., None] * allowed).sum(dim=-2)
        return max((confined - share).max().item(), (share - reachable).max().item())
    bits = 2 ** torch.arange(k, device=weight.device)
    confined = weight.new_zeros(weight.shape[0], 2**k).scatter_add_(1, (allowed * bits).sum(dim=-1), weight)
    holds = ((torch.arange(2**k, device=weight.device)[:, None] & bits) > 0).to(share.dtype) @ share.T
    for j in range(k):  # sums over subsets, one class at a time
        halves = confined.view(-1, 2 ** (k - 1 - j), 2, 2**j)
        halves[:, :, 1] += halves[:, :, 0]
    return (confined - holds.T).max().item()
