"""Labels with exact class counts, proved optimal by the prices that come with them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from otlabel.errors import InfeasibleProblemError, require, require_beside, require_count
from otlabel.hard.counts import bounds_of, dual_value, pool_price
from otlabel.hard.exchange import Exchange, Scores
from otlabel.labelers import sinkhorn_marginal_label
from otlabel.problem import LARGEST_EXPONENT, build_kernel, check_scores
from otlabel.result import LabelResult
from otlabel.sides import Relax
from otlabel.solvers import Auto

# The soft labels whose duals are the first prices: epsilon in units of the usual lead of a sample's best class over its
# middle one, such that a class of n / k samples has a few undecided ones; much less costs more than it saves.
UNDECIDED_SAMPLES = 0.1
EPSILON_RANGE = (1e-5, 5e-3)
TOLERANCE_RANGE = (1e-6, 1e-3)
SOFT_ITERATIONS = 100
# Bounds that leave less than this share of the samples open are met by soft labels at one count between them.
NARROW_BOUNDS = 0.02
# Samples that are looked at for that lead.
SCALE_SAMPLES = 1024
# Below this share of the largest score, and below this number, epsilon means nothing in float64.
SMALLEST_SHARE, SMALLEST_EPSILON = 1e-13, 1e-290


@dataclass(frozen=True, eq=False)
class CapacityResult:
    """Labels with exact counts, and the proof of how good they are.

    Attributes:
        labels: Class of each sample, int64, shape (*batch, n).
        score: Total score of the labels, float64, shape (*batch).
        bound: Upper bound on the total score of any labels with allowed counts: the dual value of `prices`.
        prices: Class prices, float64, shape (*batch, k): each sample has a class where `scores - prices` is largest.
            The argmax of the same difference labels unseen samples.
    """

    labels: Int[Tensor, "*batch n"]
    score: Float[Tensor, "*batch"]
    bound: Float[Tensor, "*batch"]
    prices: Float[Tensor, "*batch k"]

    @property
    def gap(self) -> Float[Tensor, "*batch"]:
        """Most that the total score can be below the optimum. Zero, up to float64's rounding, proves it optimal."""
        return (self.bound - self.score).clamp(min=0)


def capacity_labels(
    scores: Float[Tensor, "*batch n k"],
    capacity: Int[Tensor, "*batch k"] | int | None = None,
    *,
    minimum: Int[Tensor, "*batch k"] | int | None = None,
    mask: Bool[Tensor, "*batch n k"] | None = None,
    max_rounds: int | None = None,
    init: LabelResult | CapacityResult | None = None,
) -> CapacityResult:
    r"""Hard labels of the largest total score with exact counts: every class gets what it is to get, to the sample.

    .. math::
        \max_l \sum_i S_{i\,l(i)} \quad\text{s.t.}\quad m_j \le |\{i : l(i) = j\}| \le c_j

    The argmax of balanced soft labels is not balanced; this is. Prices from soft labels leave a few samples too many in
    some classes, and shortest chains of exchanges between the classes bring them where they lose least. The answer is
    optimal and `gap` shows it. Beside the soft labels it takes three passes over the scores, k x k numbers, and work
    that grows with the number of samples left to move, not with n.

    Args:
        scores: Larger is a better match, shape (*batch, n, k), each leading index a problem of its own; float16,
            bfloat16, float32 or float64; -inf forbids a label. Not changed.
        capacity: Most samples of each class, integers, shape (*batch, k) or (k,), or one number for all. Where they sum
            to n, the counts are exactly these. Default: counts as even as possible, n / k rounded down or up.
        minimum: Fewest samples of each class; default 0, and with the default capacity n / k rounded down.
        mask: True where a label is allowed, broadcasts to the shape of `scores`.
        max_rounds: Rounds of optimal exchanges (None: all that are needed), after which the counts are completed
            quickly; `gap` then says how far from the optimum the labels are at most.
        init: Earlier soft labels of these scores or of similar ones, or an earlier answer, for the same classes and
            batch shape, whose prices are the start; saves the soft labels that are otherwise made first.

    Returns:
        CapacityResult with `labels`, `score`, `bound`, `gap` and `prices`. Among labels of equal score the choice is
        arbitrary, but the same in every run.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong shape, value or device, or scores are beyond 1e300.
        InfeasibleProblemError: If the counts cannot be met: bounds that do not allow n samples, or a mask or -inf
            scores that leave no such labels.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.7, 0.3], [0.6, 0.6]])
        >>> capacity_labels(scores).labels
        tensor([0, 0, 1, 1])
        >>> capacity_labels(scores, torch.tensor([3, 3])).labels
        tensor([0, 0, 0, 1])

    Source: the balanced assignment of Lewis et al., "BASE Layers: Simplifying Training of Large, Sparse Models", ICML
    2021, sec. 3.1, there by an approximate auction; the method is in `otlabel.hard.exchange`.
    """
    scores = check_scores(scores, "scores")
    kernel = build_kernel(scores, strength=1.0, mask=mask)  # checks the mask
    if max_rounds is not None:
        require_count(max_rounds, "max_rounds", "None is optimal.")
    batch_shape, (n, k) = scores.shape[:-2], scores.shape[-2:]
    lower, upper = bounds_of(capacity, minimum, scores)
    start = _start(init, scores)
    finite = kernel.scores.masked_fill(kernel.scores == -torch.inf, 0.0) if scores.dtype == torch.float64 else None
    require(
        finite is None or finite.abs().amax() <= LARGEST_EXPONENT,
        "`scores` must be within {:g}, got larger ones. Scale them down.",
        LARGEST_EXPONENT,
    )
    solved = [
        _solve_one(
            kernel.scores[at],
            None if kernel.mask is None else kernel.mask[at],
            lower[at],
            upper[at],
            None if start is None else start[at],
            max_rounds,
        )
        for at in range(kernel.scores.shape[0])
    ]
    labels, score, bound, prices = (torch.stack(values) for values in zip(*solved, strict=True))
    return CapacityResult(
        labels=labels.reshape(*batch_shape, n),
        score=score.reshape(batch_shape),
        bound=bound.reshape(batch_shape),
        prices=prices.reshape(*batch_shape, k),
    )


def _solve_one(
    values: Tensor, mask: Tensor | None, lower: Tensor, upper: Tensor, start: Tensor | None, max_rounds: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scores = Scores(values, mask, upper > 0)
    barred = scores.best(torch.zeros_like(upper, dtype=torch.float64))[1] == -torch.inf
    if barred.any():
        raise InfeasibleProblemError(
            f"`mask`, -inf in `scores` and `capacity` must leave every sample a class, got {int(barred.sum())} "
            f"without, first row {int(barred.nonzero()[0])}. Allow it a class, or leave it out."
        )
    prices = soft_prices(scores, lower, upper) if start is None else start
    prices = prices.masked_fill(~prices.isfinite() | (upper == 0), 0.0)
    exchange = Exchange(scores, lower, upper, torch.cat([prices, pool_price(prices, lower, upper, len(values))]))
    exchange.run(max_rounds)
    labels, prices = exchange.labels(), exchange.prices[:-1] - exchange.prices[-1]
    score = values.gather(1, labels[:, None]).sum(dtype=torch.float64)
    return labels, score, dual_value(scores.best(prices)[1], prices, lower, upper), prices


def soft_prices(scores: Scores, lower: Tensor, upper: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """Prices from soft labels of a small epsilon; any are right, good ones leave little to exchange."""
    n, k = scores.values.shape
    step = -(-n // SCALE_SAMPLES)
    rows = scores.rows(slice(None, None, step))
    peak, lead = rows.amax(dim=1, keepdim=True), (rows.amax(dim=1, keepdim=True) - rows)
    scale = lead.masked_fill(lead == torch.inf, torch.nan).nanmedian(dim=1).values.median()
    scale = scale if scale > 0 else lead.masked_fill(lead == torch.inf, 0.0).amax()
    if k == 1 or not scale > 0:
        return torch.zeros_like(upper, dtype=torch.float64)
    epsilon = scale.item() * min(max(UNDECIDED_SAMPLES * k / n, EPSILON_RANGE[0]), EPSILON_RANGE[1])
    epsilon = max(epsilon, SMALLEST_SHARE * peak.abs().amax().item(), SMALLEST_EPSILON)
    tol = min(max(0.05 * k / n, TOLERANCE_RANGE[0]), TOLERANCE_RANGE[1])
    low, high = lower.to(torch.float64), upper.to(torch.float64)
    spare = (high - low).sum().item()
    share = (low + (high - low) * ((n - low.sum()) / spare if spare > 0 else 0.0)) / n
    target = share.clamp(min=torch.finfo(torch.float64).tiny) * n
    relax = Relax(lower=low / target, upper=(high / target).clamp(min=1)) if spare > NARROW_BOUNDS * n else None
    try:
        result = sinkhorn_marginal_label(
            scores.values,
            share,
            epsilon=epsilon,
            sample_weight=sample_weight,
            mask=scores.mask,
            classes=relax,
            solver=Auto(tol=tol, max_iter=SOFT_ITERATIONS, on_failure="ignore"),
        )
    except InfeasibleProblemError:  # soft labels are to meet one count within the bounds; the exchanges need not
        return torch.zeros_like(upper, dtype=torch.float64)
    return -epsilon * result.log_v


def _start(init: LabelResult | CapacityResult | None, scores: Tensor) -> Tensor | None:
    """Prices of an earlier result, shape (batch, k)."""
    if init is None:
        return None
    if isinstance(init, LabelResult):
        prices = -init.epsilon[..., None] * init.log_v
    elif isinstance(init, CapacityResult):
        prices = init.prices
    else:
        raise TypeError(
            f"`init` must be a LabelResult or a CapacityResult, got {type(init).__name__}. Pass an earlier result."
        )
    shape = (*scores.shape[:-2], scores.shape[-1])
    require(
        tuple(prices.shape) == shape,
        "`init` must be a result for classes of shape {}, got {}. Use one of the same batch and classes.",
        shape,
        tuple(prices.shape),
    )
    require_beside(prices, "init", scores, "scores")
    return prices.reshape(-1, scores.shape[-1])
