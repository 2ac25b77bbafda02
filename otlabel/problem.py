r"""The labelling problem, checked and in canonical form. The only place that validates.

.. math::
    \max_{Q \ge 0} \; \langle Q, S \rangle - \epsilon\, \mathrm{KL}(Q \,\|\, R^w)
    \quad \text{s.t.} \quad Q 1 = a, \; Q^\top 1 = b

with scores S, prior R, sample weights a and class proportions b, both of total mass one. The optimum is
:math:`Q = \exp(S/\epsilon + w \log R + \log u + \log v)`: duals `log_u` of the samples, `log_v` of the classes.
"""

import math
from collections.abc import Callable
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
from otlabel.kernel import DenseKernel, label_dtype, numbers
from otlabel.sides import TOTAL_SLACK, Relax, Side, build_side

# A marginal is renormalised exactly; further from 1 than this (or than the rounding of its dtype) it is a mistake.
MARGINAL_SUM_TOLERANCE = 1e-3
# Largest |scores| / epsilon: sums of a few such numbers stay finite in float64.
LARGEST_EXPONENT = 1e300
# Slack of the feasibility checks: rounding of float32 proportions, summed.
FEASIBILITY_TOLERANCE = 1e-6
# Up to this many classes every set of classes is checked (2**k sums), beyond only single classes.
EXHAUSTIVE_CLASSES = 12
# Entries that are looked at together when the range of finite values is needed.
RANGE_ENTRIES = 2**20
# What may forbid labels, in words.
MASK, SCORES, PRIOR = "`mask`", "-inf in `scores`", "zeros of the prior (-inf in `log_prior`)"


@dataclass(slots=True, eq=False)
class LabelProblem:
    """A checked problem: leading dimensions flattened to one, marginals in float64.

    Attributes:
        kernel: The scores with everything that reweights them; also holds the sample weights a.
        given_marginal: b, shape (batch, k); None for all alike.
        batch_shape: The leading dimensions as the user gave them.
        prior_weight: Weight of the prior, None without one.
        empty: True for the classes without mass, shape (batch, k); None if there are none.
        top: Largest score; None where the values could not be looked at.
        exponent_range: Bound on the range of the finite entries of L; infinite if unknown.
        sides: Rules of the classes and of the samples where either is not met exactly; None if both are.
        spans: Smallest and largest finite score, and log-prior where there is one; None where they were not read.
        limits: What may forbid labels, in words.
    """

    kernel: DenseKernel
    given_marginal: Tensor | None
    batch_shape: torch.Size
    prior_weight: float | None = None
    empty: Tensor | None = None
    top: float | None = None
    exponent_range: float = math.inf
    sides: tuple[Side, Side] | None = None
    spans: list[tuple[float, float]] | None = None
    limits: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the labels."""
        return (*self.batch_shape, *self.kernel.scores.shape[1:])

    @property
    def is_uniform(self) -> bool:
        """Whether a and b were left at their defaults, all alike."""
        return self.given_marginal is None and self.kernel.given_weight is None

    @property
    def marginal(self) -> Tensor:
        """b, shape (batch, k)."""
        if self.given_marginal is not None:
            return self.given_marginal
        batch, _, k = self.kernel.scores.shape
        return self.kernel.scores.new_full((batch, k), 1.0 / k, dtype=torch.float64)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the labels."""
        return label_dtype(self.kernel.scores.dtype)

    @property
    def largest_exponent(self) -> float:
        """Bound on the size of the finite entries of L; infinite if unknown."""
        if self.top is None:
            return math.inf
        peak = self.peak
        return max(abs(peak), abs(peak - self.exponent_range))

    @property
    def peak(self) -> float:
        """Bound on the largest entry of L, of the problem with the smallest epsilon; infinite if unknown."""
        if self.top is None:
            return math.inf
        peak = self.top * _largest_scale(self.kernel)
        return peak if self.kernel.log_prior is None else peak + self.prior_peak

    @property
    def prior_peak(self) -> float:
        """What the prior adds to the exponents, at most."""
        if self.kernel.log_prior is None or self.spans is None:
            return 0.0
        return max(self.spans[1][1], -1e300) * self.kernel.prior_weight

    @property
    def movement(self) -> float:
        """Bound on how far a Sinkhorn step moves the duals: log(1 / (smallest weight x smallest share))."""
        if self.is_uniform:
            return math.log(self.kernel.scores.shape[1]) + math.log(self.marginal.shape[1])
        if self.top is None:
            return math.inf
        masses = (self.kernel.weight, self.marginal)
        return -sum(math.log(mass[mass > 0].min().item()) for mass in masses)

    @property
    def log_marginal(self) -> Tensor:
        """Log b; -inf for classes without mass."""
        return self.marginal.log()

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
        classes: Relax | None = None,
        samples: Relax | None = None,
        mass: Tensor | None = None,
        reads_values: bool = True,
        is_shard: bool = False,
    ) -> "LabelProblem":
        """Check every argument and bring it to canonical form; see the labelers for their meaning.

        `mass`, checked already, scales the targets of the classes and fixes the total mass of the plan.

        Types, shapes and devices are always checked. Values are only if `reads_values`, because the host then waits
        for the device.

        A shard has some samples of a problem, perhaps none. Its sample weights stay as they are, and what takes the
        samples of all shards is left to `otlabel.distributed`.
        """
        scores, span = _check_scores(scores, "scores", reads_values=reads_values, is_shard=is_shard)
        strength = _epsilon(epsilon, scores, reads_values=reads_values)
        weight = _sample_weight(sample_weight, scores, reads_values=reads_values, is_shard=is_shard)
        share = resolve_marginal(marginal, scores, reads_values=reads_values)
        require_number(prior_weight, "prior_weight", "CASE uses 1.")
        require(
            0 <= prior_weight < math.inf,
            "`prior_weight` must be finite and at least 0, got {}. 0 ignores the prior, 1 is the KL of CASE.",
            prior_weight,
        )
        empty = None if share is None else share == 0
        if empty is not None and reads_values and not empty.any():
            empty = None
        kernel = build_kernel(
            scores,
            strength=strength,
            weight=weight,
            log_prior=log_prior,
            prior_weight=prior_weight,
            mask=mask,
            reads_values=reads_values,
        )
        spans, limits = (None, ()) if span is None else _spans(kernel, span)
        kernel.has_infinities = spans is None or empty is not None or SCORES in limits or PRIOR in limits
        kernel.has_holes = kernel.has_infinities or mask is not None
        problem = cls(
            kernel=kernel,
            given_marginal=share,
            batch_shape=scores.shape[:-2],
            prior_weight=None if log_prior is None else kernel.prior_weight,
            empty=empty,
            top=None if span is None else span[1],
            exponent_range=exponent_range(kernel, spans),
            spans=spans,
            limits=limits,
        )
        problem.sides = build_sides(problem, classes, samples, mass)
        if not is_shard:
            problem.check_feasible()
        return problem

    def check_feasible(self) -> None:
        """Raise where certainly no plan exists; needs the normalised weights of all samples."""
        if self.sides is not None:
            check_totals(*self.sides, self.kernel.total)
        if self.limits:
            _check_feasible(self.kernel, *self.exact_sides(), self.limits)

    def exact_sides(self) -> tuple[Side, Side]:
        """The sides of a problem that meets both exactly, or those it has."""
        if self.sides is not None:
            return self.sides
        epsilon = self.kernel.epsilon
        return Side(self.log_marginal, epsilon), Side(self.kernel.log_weight, epsilon)


def build_sides(
    problem: LabelProblem, classes: Relax | None, samples: Relax | None, mass: Tensor | None
) -> tuple[Side, Side] | None:
    """Rules of both sides, None if both are met exactly."""
    if classes is None and samples is None and mass is None:
        return None  # spares a small problem the tensors below
    epsilon, share = problem.kernel.epsilon, problem.log_marginal
    total = None if mass is None else mass.to(torch.float64).expand(problem.batch_shape).reshape(-1)
    if total is not None:
        share = share + total.log()[:, None]
    sides = (
        build_side(classes, "classes", share, epsilon, problem.batch_shape, total),
        build_side(samples, "samples", problem.kernel.log_weight, epsilon, problem.batch_shape, None),
    )
    return None if all(side.rho is None for side in sides) else sides


def check_totals(classes: Side, samples: Side, total: Callable[[Tensor], Tensor] = lambda value: value) -> None:
    """Raise unless some total mass suits both sides; `total` adds what other processes have of the samples."""
    (low, high), (least, most) = classes.total_range, (total(part) for part in samples.total_range)
    gaps = [low - most, least - high]
    if classes.total is not None:
        gaps += [low - classes.total, classes.total - high, least - classes.total, classes.total - most]
    gap = torch.stack(gaps).amax().item()
    if gap > TOTAL_SLACK:
        raise InfeasibleProblemError(
            f"`classes` and `samples` must allow a common total mass, got bounds that are {gap:.3g} apart. Widen the "
            "bounds, relax the other side too, or ask for another mass."
        )


def build_kernel(
    scores: Tensor,
    *,
    strength: float | Tensor,
    weight: Tensor | None = None,
    log_prior: Tensor | None = None,
    prior_weight: float = 1.0,
    mask: Tensor | None = None,
    reads_values: bool = True,
) -> DenseKernel:
    """Check what reweights the (already checked) scores, broadcast it, and flatten the leading dimensions."""
    shape = (scores.shape[:-2].numel(), *scores.shape[-2:])
    if log_prior is not None:
        log_prior = check_log_prior(log_prior, scores, reads_values=reads_values)
        log_prior = broadcast(log_prior, scores.shape, "log_prior").reshape(shape)
        if reads_values:
            _require_range(log_prior, prior_weight, "prior_weight", "prior_weight * log_prior", "Lower it")
    if mask is not None:
        mask = broadcast(check_mask(mask, scores), scores.shape, "mask").reshape(shape)
    return DenseKernel(
        scores=scores.unsqueeze(0) if scores.ndim == 2 else scores.reshape(shape),
        strength=strength.reshape(-1) if isinstance(strength, Tensor) else strength,
        given_weight=weight,
        # A prior of weight zero must not act, not even by the entries that it forbids: 0 * -inf is NaN.
        log_prior=log_prior if prior_weight > 0 else None,
        prior_weight=float(prior_weight),
        mask=mask,
    )


def _spans(kernel: DenseKernel, span: tuple[float, float]) -> tuple[list[tuple[float, float]], tuple[str, ...]]:
    """Smallest and largest finite score, and log-prior where there is one; and what forbids labels."""
    limits = [] if kernel.mask is None else [MASK]
    if span[0] == -math.inf:
        limits.append(SCORES)
        span = _finite_range(kernel.scores)
    if kernel.log_prior is None:
        return [span], tuple(limits)
    low, high = value_range(kernel.log_prior)
    if low == -math.inf:
        limits.append(PRIOR)
        low, high = _finite_range(kernel.log_prior)
    return [span, (low, high)], tuple(limits)


def exponent_range(kernel: DenseKernel, spans: list[tuple[float, float]] | None) -> float:
    """Bound on the range of the finite entries of L."""
    if spans is None:
        return math.inf
    low, high = spans[0]
    width = max(0.0, high - low) * _largest_scale(kernel)
    if len(spans) == 1:
        return width
    low, high = spans[1]
    return width + max(0.0, high - low) * kernel.prior_weight


def _largest_scale(kernel: DenseKernel) -> float:
    """1 / epsilon of the problem with the smallest; looks at the device where problems have their own."""
    return kernel.scale if kernel.scale is not None else 1.0 / kernel.epsilon.amin().item()


def _finite_range(value: Tensor) -> tuple[float, float]:
    """Smallest and largest entry above -inf, block by block; infinity and its negative where there is none."""
    if value.numel() == 0:
        return math.inf, -math.inf
    lows, highs = [], []
    for block in torch.split(value, max(1, RANGE_ENTRIES // value[:, :1].numel()), dim=1):
        highs.append(block.amax())
        lows.append(torch.where(block == -torch.inf, torch.inf, block).amin())
    return torch.stack(lows).amin().item(), torch.stack(highs).amax().item()


def check_scores(scores: object, name: str, *, is_shard: bool = False) -> Tensor:
    """Raise unless `scores` is a floating tensor (*batch, n, k) without NaN or +inf; return it detached.

    Only a shard may be without samples.
    """
    return _check_scores(scores, name, reads_values=True, is_shard=is_shard)[0]


def _check_scores(
    scores: object, name: str, *, reads_values: bool, is_shard: bool
) -> tuple[Tensor, tuple[float, float] | None]:
    """See `check_scores`; also the smallest and largest score, None if they were not read."""
    scores = _check_floating(scores, name)
    require(
        scores.ndim >= 2,
        "`{}` must have shape (*batch, n, k), got {}. Add a dimension: rows are samples, columns classes.",
        name,
        tuple(scores.shape),
    )
    require(
        scores.numel() > 0 or (is_shard and math.prod((*scores.shape[:-2], scores.shape[-1])) > 0),
        "`{}` must not be empty, got shape {}. Skip the call when there is nothing to label.",
        name,
        tuple(scores.shape),
    )
    if not reads_values:
        return scores, None
    if scores.numel() == 0:
        return scores, (math.inf, -math.inf)
    span = value_range(scores)
    if not span[1] < math.inf:
        nan, inf = int(scores.isnan().sum()), int((scores == math.inf).sum())
        raise ValueError(
            f"`{name}` must hold no NaN and no +inf, got {nan} NaN and {inf} +inf of {scores.numel()} entries. "
            "Find the layer that made them; -inf is allowed and forbids a label."
        )
    return scores, span


def _check_floating(value: object, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"`{name}` must be a torch.Tensor, got {type(value).__name__}. Convert it with torch.as_tensor."
        )
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(
            f"`{name}` must be float16, bfloat16, float32 or float64, got {value.dtype}. Convert it with `.float()`."
        )
    return value.detach() if value.requires_grad else value  # labels are constants: nothing records a gradient


def _epsilon(epsilon: float | Tensor, scores: Tensor, *, reads_values: bool) -> float | Tensor:
    """Entropic strength: a number for all problems, or one for each in float64."""
    value: float | Tensor
    if isinstance(epsilon, Tensor):
        value = _beside(_check_floating(epsilon, "epsilon"), scores, "epsilon").to(torch.float64)
        value = broadcast(value, scores.shape[:-2], "epsilon")
        if not reads_values:
            return value
        smallest, largest = value_range(value)
    else:
        require_number(epsilon, "epsilon", "It may also be a tensor; the usual value is 0.05.")
        value = smallest = largest = float(epsilon)
    require(
        0 < smallest <= largest < math.inf,
        "`epsilon` must be positive and finite, got {}. It is in units of the scores; the usual value is 0.05.",
        largest if smallest > 0 else smallest,
    )
    if reads_values:
        inverse = 1 / smallest if smallest > 1 / LARGEST_EXPONENT else math.inf
        _require_range(scores, inverse, "epsilon", "scores / epsilon", "Raise it")
    return value


def _require_range(value: Tensor, factor: float, name: str, product: str, advice: str) -> None:
    # Only float64 values, or an absurd factor, can leave float64's range; spare the others the pass over the values.
    if torch.finfo(value.dtype).max * factor > LARGEST_EXPONENT:
        low, high = _finite_range(value.reshape(1, -1, value.shape[-1] if value.ndim else 1))
        size = max(abs(low), abs(high)) if low <= high else 0.0
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


def resolve_log_prior(
    prior: Tensor | None, log_prior: Tensor | None, scores: Tensor, *, reads_values: bool = True
) -> Tensor:
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
    if reads_values:
        require_mass(prior, "prior", "Pass logarithms as `log_prior`.")
    return prior.to(torch.float64).log()


def check_log_prior(log_prior: object, scores: Tensor, *, reads_values: bool = True) -> Tensor:
    """Raise unless `log_prior` is a floating tensor beside the scores without NaN or +inf; return it detached."""
    value = _beside(_check_floating(log_prior, "log_prior"), scores, "log_prior")
    if not reads_values:
        return value
    largest = value_range(value)[1]
    require(
        largest < math.inf,
        "`log_prior` must hold no NaN and no +inf, got {}. -inf is allowed and forbids a label.",
        largest,
    )
    return value


def check_mask(mask: object, scores: Tensor) -> Tensor:
    """Raise unless `mask` is a boolean tensor beside the scores; on the CPU its bytes are 0 and 1."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`mask` must be a boolean torch.Tensor, got {got}. False forbids a label; try `mask.bool()`.")
    mask = _beside(mask, scores, "mask")
    # Bytes that became a mask by `view` may be others; for torch all but 0 are True.
    number = numbers(mask)
    return mask if number is mask or number.numel() == 0 or number.amax() <= 1 else number != 0


def _sample_weight(
    sample_weight: Tensor | None, scores: Tensor, *, reads_values: bool, is_shard: bool
) -> Tensor | None:
    """Weights of total mass one, shape (batch, n); None for all alike. Those of a shard are left as they are."""
    shape = scores.shape[:-1]
    if sample_weight is None:
        return scores.new_ones((shape[:-1].numel(), shape[-1]), dtype=torch.float64) if is_shard else None
    require_numbers(sample_weight, "sample_weight")
    weight = _beside(sample_weight.detach(), scores, "sample_weight").to(torch.float64)
    weight = broadcast(weight, shape, "sample_weight").reshape(shape[:-1].numel(), shape[-1])
    if is_shard:
        if reads_values:
            require_mass(weight, "sample_weight", "0 ignores a sample.")
        return weight
    # Divide by the maximum first: the sum of huge weights could overflow.
    peak = weight.amax(dim=-1, keepdim=True)
    if reads_values:
        require_mass(weight, "sample_weight", "0 ignores a sample.")
        require(
            bool((peak > 0).all()),
            "`sample_weight` must not sum to zero, got a sum of 0. Give some sample a positive weight.",
        )
    weight = weight / peak
    return weight / weight.sum(dim=-1, keepdim=True)


def resolve_marginal(marginal: object, scores: Tensor, *, reads_values: bool = True) -> Tensor | None:
    """Class proportions of total mass one, shape (batch, k)."""
    if marginal is None:
        return None
    shape = (*scores.shape[:-2], scores.shape[-1])
    marginal = _beside(_check_floating(marginal, "marginal"), scores, "marginal")
    rounding = torch.finfo(marginal.dtype).eps
    share = broadcast(marginal.to(torch.float64), shape, "marginal").reshape(-1, shape[-1])
    total = share.sum(dim=-1, keepdim=True)
    if not reads_values:
        return share / total
    require_mass(share, "marginal", "A proportion of 0 empties a class.")
    off = total.flatten()[(total - 1).abs().argmax()].item()
    require(
        abs(off - 1) <= max(MARGINAL_SUM_TOLERANCE, rounding),
        "`marginal` must sum to 1, got a sum of {:g}. Divide it by its sum, or use otlabel.marginals.from_counts.",
        off,
    )
    return share / total


def resolve_mass(mass: float | Tensor, scores: Tensor) -> Tensor:
    """Share of the samples to label, float64, of the batch shape."""
    if isinstance(mass, Tensor):
        value = _beside(_check_floating(mass, "mass"), scores, "mass").to(torch.float64)
        value = broadcast(value, scores.shape[:-2], "mass")
    else:
        require_number(mass, "mass", "It may also be a tensor.")
        value = scores.new_full(scores.shape[:-2], mass, dtype=torch.float64)
    low, high = value_range(value)
    require(
        0 < low <= high <= 1,
        "`mass` must be above 0 and at most 1, got {:g}. It is the share of the samples to label.",
        low if not 0 < low <= 1 else high,
    )
    return value


def _beside(value: Tensor, scores: Tensor, name: str) -> Tensor:
    require_beside(value, name, scores, "scores")
    return value


def broadcast(value: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
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


def _check_feasible(kernel: DenseKernel, classes: Side, samples: Side, limits: tuple[str, ...]) -> None:
    """Necessary conditions for a plan; with few classes and no relaxed side also sufficient (Hall's theorem)."""
    by, total = " and ".join(limits), kernel.total
    is_exact = classes.rho is None and samples.rho is None
    weight, share, takes = samples.least, classes.least, classes.most > 0
    room = _Room(kernel, limits, takes, is_exact=is_exact)
    found = room.tally(weight, samples.most > 0)
    empty = (share > 0) & (total(found.pop("members")) == 0)
    if empty.any():
        problem, label = (int(index) for index in empty.nonzero()[0])
        raise InfeasibleProblemError(
            f"{by} must leave every class with mass a weighted sample, got {int(empty.sum())} without, first class "
            f"{label} of problem {problem}. Allow it a sample, or give it a `marginal` of 0."
        )
    count = int(total(found.pop("stuck")))
    if count:
        problem, row = room.first_stuck or (0, "of another rank")
        raise InfeasibleProblemError(
            f"{by} must leave every weighted sample a class with mass, got {count} without, first row {row} "
            f"of problem {problem}. Allow it a class, or give it a `sample_weight` of 0."
        )
    short = room.missing_mass({name: total(part) for name, part in found.items()}, share) if is_exact else 0.0
    if short > FEASIBILITY_TOLERANCE:
        raise InfeasibleProblemError(
            f"{by} must leave room for the class proportions, got a set of samples whose allowed classes lack "
            f"{short:.3g} of the total mass. Allow more labels, or change `marginal`."
        )


def _sums(weight: Tensor, allowed: Tensor) -> Tensor:
    """Weight of the samples of each class, shape (batch, k)."""
    return torch.bmm(weight.to(allowed.dtype).unsqueeze(1), allowed).squeeze(1)


class _Room:
    """Where samples may go, in one sweep over blocks of rows."""

    def __init__(self, kernel: DenseKernel, limits: tuple[str, ...], takes: Tensor, *, is_exact: bool) -> None:
        self.kernel, self.limits, self.is_exact = kernel, limits, is_exact
        self.k = takes.shape[-1]
        self.takes = None if takes.all() else takes[:, None]
        self.is_alike = is_exact and kernel.given_weight is None
        # Counts of samples and of classes are exact in float32, sums of weights are not.
        self.dtype = torch.float32 if self.is_alike else torch.float64
        self.first_stuck: tuple[int, int] | None = None

    def tally(self, weight: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """Sums over the samples.

        `members` are the samples of each class, `stuck` those with weight and without a class; `reachable` is the
        weight of the samples that a class may get and `confined` of those that no other class may get, for few classes
        of those that go to exactly one set of classes each.
        """
        batch, k = weight.shape[0], self.k
        stuck = torch.zeros((), dtype=torch.int64, device=weight.device)
        members, reachable, confined = (weight.new_zeros(batch, k) for _ in range(3))
        is_exhaustive = self.is_exact and k <= EXHAUSTIVE_CLASSES
        sets = weight.new_zeros(batch, 2**k) if is_exhaustive else confined
        powers = 2.0 ** torch.arange(k, dtype=self.dtype, device=weight.device)
        for rows in self.kernel.row_blocks():
            allowed, mass = self._allowed(rows), weight[:, rows]
            choices = torch.bmm(allowed.new_ones(batch, 1, k), allowed.mT).squeeze(1)
            members += _sums(counts[:, rows], allowed)
            if not self.is_alike:
                reachable += _sums(mass, allowed)
            if choices.amin() < 2:
                is_stuck = (mass > 0) & (choices == 0)
                stuck += is_stuck.sum()
                if self.first_stuck is None and is_stuck.any():
                    problem, row = (int(index) for index in is_stuck.nonzero()[0])
                    self.first_stuck = problem, row + rows.start
                confined += _sums(mass * (choices == 1), allowed.to(mass.dtype))
            if is_exhaustive:
                sets.scatter_add_(1, (allowed @ powers).to(torch.int64), mass)
        found = {"members": members, "stuck": stuck}
        if self.is_exact:
            found["confined"] = sets
            if not is_exhaustive:
                found["reachable"] = members * weight.amax(dim=1, keepdim=True) if self.is_alike else reachable
        return found

    def _allowed(self, rows: slice) -> Tensor:
        """1 where a label is allowed, else 0."""
        kernel = self.kernel
        allowed = None if kernel.mask is None else numbers(kernel.mask[:, rows]).to(self.dtype)
        for name, value in ((SCORES, kernel.scores), (PRIOR, kernel.log_prior)):
            if name in self.limits and value is not None:
                finite = numbers(value[:, rows] > -torch.inf)
                allowed = finite.to(self.dtype) if allowed is None else allowed.mul_(finite)
        assert allowed is not None  # noqa: S101 - for the type checker: something limits the labels
        return allowed if self.takes is None else allowed.mul_(self.takes)

    def missing_mass(self, found: dict[str, Tensor], share: Tensor) -> float:
        """Largest mass of samples that is confined to a set of classes which cannot hold it.

        A plan exists exactly if, for every set A of classes, the samples confined to A weigh no more than A's share.
        With many classes only sets of one class, or of all but one, are looked at.
        """
        confined, k = found["confined"], self.k
        if k > EXHAUSTIVE_CLASSES:
            return max((confined - share).max().item(), (share - found["reachable"]).max().item())
        bits = 2 ** torch.arange(k, device=share.device)
        holds = ((torch.arange(2**k, device=share.device)[:, None] & bits) > 0).to(share.dtype) @ share.T
        for j in range(k):  # sums over subsets, one class at a time
            halves = confined.view(-1, 2 ** (k - 1 - j), 2, 2**j)
            halves[:, :, 1] += halves[:, :, 0]
        return (confined - holds.T).max().item()
