r"""Labels with exact class counts for scores that do not fit in memory.

A few candidate classes of every sample are kept at prices that are nearly right, with a ceiling on its scores for all
other classes (`otlabel.hard.candidates`). On these the prices are made better (`otlabel.hard.annealing`), then the
counts exact (`otlabel.hard.exchange`). If no sample ends in a class of which only the ceiling is known, the labels are
optimal among all. Else the classes where some do are read whole in the next pass, which also finds the candidates at
the new prices; so passes and memory grow with the few classes that cannot fill from their neighbours.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from otlabel.errors import InfeasibleProblemError, require, require_count, require_numbers
from otlabel.hard.annealing import anneal_prices
from otlabel.hard.candidates import Candidates, check_size, checked, survey
from otlabel.hard.capacity import CapacityResult, soft_prices
from otlabel.hard.counts import bounds_of, counts_of, dual_value, pool_price
from otlabel.hard.exchange import Exchange, Scores

# Where more than this share of the samples would sit in classes of which only the ceiling is known, another pass at
# the new prices comes before exact counts.
MOST_UNKNOWN = 2e-3
# Where more than this share is misplaced at the first prices, those of soft labels of a sample of this size are better.
POOR_START = 0.4
SAMPLE_ENTRIES = 2**25
# Most classes, as a multiple of the candidates, that a pass reads whole for the first time; of those that some samples
# have only by the ceiling.
MOST_COLUMNS = 4
LEAST_BEYOND = 0.5
# Rounding of a sum, relative to the sum of the sizes.
ROUNDING = 1e-14
# Entries of a block of an array: 34 MiB in float16.
ARRAY_ENTRIES = 17 * 2**20


def capacity_labels_of_blocks(
    blocks: Iterable[object],
    prices: Float[Tensor, " k"],
    capacity: Int[Tensor, " k"] | int | None = None,
    *,
    minimum: Int[Tensor, " k"] | int | None = None,
    candidates: int = 32,
    max_passes: int | None = None,
) -> CapacityResult:
    r"""Hard labels of the largest total score with exact counts, from scores read a block of rows at a time.

    .. math::
        \max_l \sum_i S_{i\,l(i)} \quad\text{s.t.}\quad m_j \le |\{i : l(i) = j\}| \le c_j

    The answer of `capacity_labels`, optimal and with its proof, without the scores in memory: one to three passes over
    the blocks from good prices, two more from poor ones, the first of which only picks a sample. Prices of soft labels
    are poor where their epsilon is larger than the differences between a sample's best scores. Kept are `candidates`
    classes and scores for each sample, 4 bytes each for float16 scores; from the second pass on all scores of the
    classes that cannot fill from those, mostly fewer than 100; about 100 bytes for each sample besides, and some
    matrices of k x k numbers.

    Args:
        blocks: The scores, rows in a fixed order: blocks of shape (m, k) of any m, tensors or arrays, or one array of
            shape (n, k), such as a tensor, a `numpy.memmap` or an HDF5 data set; float16, bfloat16, float32 or float64;
            -inf forbids a label. Iterated once a pass, so a list or an object whose `__iter__` starts again, not a
            generator; `otlabel.streaming.as_blocks` makes such an object of any source that `stream_label` takes, and
            gives back the pages of a mapped file as they are read. Not changed.
        prices: Class prices to start from, shape (k,): `-epsilon * log_v` of soft labels, or the prices of an earlier
            answer. Any are right, good ones save passes; zeros where none are known. The work is done on their device.
        capacity: Most samples of each class, integers, shape (k,), or one number for all. Where they sum to n, the
            counts are exactly these. Default: counts as even as possible, n / k rounded down or up.
        minimum: Fewest samples of each class; default 0, and with the default capacity n / k rounded down.
        candidates: Classes kept of each sample. More of them need more memory and fewer passes.
        max_passes: Most passes, at least 2 (None: all that are needed), after which the labels are taken as they are;
            `gap` then says how far from the optimum they are at most. More are made only while a label is forbidden.

    Returns:
        CapacityResult with `labels`, `score`, `bound`, `gap` and `prices`, on the device of `prices`. The size of the
        blocks changes nothing. Among labels of equal score the choice is arbitrary, but the same in every run.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong shape, value or device, if scores are beyond 1e300, or if a pass finds
            another number of samples than the one before.
        InfeasibleProblemError: If the counts cannot be met: bounds that do not allow n samples, or -inf scores that
            leave no such labels.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.7, 0.3], [0.6, 0.6]])
        >>> result = capacity_labels_of_blocks(scores.split(3), torch.zeros(2))
        >>> result.labels, result.gap
        (tensor([0, 0, 1, 1]), tensor(0., dtype=torch.float64))

    Source: as `capacity_labels`. Candidates that are refreshed at new prices are column generation (Ford and Fulkerson,
    "A Suggested Computation for Maximal Multi-Commodity Network Flows", Management Science 1958).
    """
    blocks = _rows_of(blocks)
    prices = _start(blocks, prices)
    require_count(candidates, "candidates", "32 is a good value.")
    if max_passes is not None:
        require_count(max_passes, "max_passes", "None is optimal.")
        require(max_passes >= 2, "`max_passes` must be at least 2, got {}. The last one only adds up.", max_passes)
    # The number of samples is not known before the first pass, but what cannot fit any is told before it.
    is_open = counts_of(1 if capacity is None else capacity, "capacity", prices[None])[0] > 0
    counts_of(0 if minimum is None else minimum, "minimum", prices[None])
    prices = prices.masked_fill(~(prices.isfinite() & is_open), 0.0)
    columns = torch.zeros(0, dtype=torch.int64, device=prices.device)
    labels: Tensor | None = None
    size: int | None = None
    passes = 0
    while True:
        found = survey(blocks, prices, is_open, count=candidates, columns=columns, labels=labels, size=size)
        table, passes = found.table, passes + 1
        size = table.shape[0]
        lower, upper = (bound[0] for bound in bounds_of(capacity, minimum, prices.expand(table.shape)))
        if labels is not None:
            score, bound = found.scores.sum(), dual_value(found.best, prices, lower, upper)
            rounding = ROUNDING * (found.scores.abs().sum() + found.best.abs().sum())
            is_enough = bound - score <= rounding or (max_passes is not None and passes >= max_passes)
            if score > -torch.inf and is_enough:
                return CapacityResult(labels, score, bound, prices)
        del found
        has_time = max_passes is None or max_passes >= 4
        if passes == 1 and has_time and _misplaced(table, prices, upper) > POOR_START:
            nearest = table.best(prices)[0]
            del table
            prices = _sampled_prices(blocks, nearest, is_open, lower, upper)
            passes += 1
            continue
        prices = prices - pool_price(prices, lower, upper, size)
        prices, beyond = anneal_prices(table, prices, lower, upper)
        labels, _ = table.best(prices)
        unknown = labels[table.known(labels) == -torch.inf]
        count = torch.bincount(unknown, minlength=len(prices))
        if len(unknown) > MOST_UNKNOWN * size and (max_passes is None or passes + 1 < max_passes):
            labels, wanted = None, count + beyond
        else:
            labels, prices = _exchange(table, prices, lower, upper)
            scores = table.known(labels)
            unknown = labels[scores == -torch.inf]
            if not len(unknown):
                bound = dual_value(table.best(prices)[1], prices, lower, upper)
                return CapacityResult(labels, scores.sum(), bound, prices)
            wanted = torch.bincount(unknown, minlength=len(prices)).to(prices.dtype)
        wanted, order = (found[: MOST_COLUMNS * candidates] for found in wanted.sort(descending=True, stable=True))
        columns = torch.cat([columns, order[wanted > LEAST_BEYOND]])
        del table


def _misplaced(table: Candidates, prices: Tensor, upper: Tensor) -> float:
    """Share of the samples that their best classes have no room for."""
    count = torch.bincount(table.best(prices)[0], minlength=len(prices))
    return (count - upper).clamp(min=0).sum().item() / len(table.rest)


def _sampled_prices(blocks: Iterable[object], nearest: Tensor, is_open: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Prices from soft labels of some of the samples.

    Half of them are of all classes alike, with weights: how many samples like a class best, more than it may hold or
    fewer, decides on which side of a wide gap its price is, and a few samples of it cannot tell that by their number.
    """
    n, k = len(nearest), len(is_open)
    count = torch.bincount(nearest, minlength=k)
    picked = (SAMPLE_ENTRIES / k * (count / (2 * n) + 1 / (2 * k))).ceil().to(torch.int64).minimum(count)
    by_class = nearest.argsort(stable=True)
    label = nearest[by_class]
    place = torch.arange(n, device=count.device) - (count.cumsum(dim=0) - count)[label]
    is_picked = (place * picked[label]) // count[label] < ((place + 1) * picked[label]) // count[label]
    samples = by_class[is_picked].sort().values
    rows, seen = [], 0
    for block in blocks:
        part = checked(block, lower, seen)
        first, last = torch.searchsorted(samples, torch.tensor([seen, seen + len(part)], device=count.device)).tolist()
        rows.append(part[samples[first:last] - seen])
        seen += len(part)
    check_size(seen, n)
    sample = torch.cat(rows)
    share = len(sample) / n
    weight = (count / picked)[nearest[samples]]
    prices = soft_prices(Scores(sample, None, is_open), share * lower, share * upper, weight)
    return prices.masked_fill(~(prices.isfinite() & is_open), 0.0)


def _exchange(table: Candidates, prices: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The best labels on the table, and their prices."""
    pool = pool_price(prices, lower, upper, table.shape[0])
    exchange = Exchange(table, lower, upper, torch.cat([prices, pool]))
    try:
        exchange.run(None)
    except InfeasibleProblemError:
        raise InfeasibleProblemError(
            "-inf in `blocks` must leave room for the counts, got too few samples that may take some classes. "
            "Allow more labels, or change `capacity` or `minimum`."
        ) from None
    return exchange.labels(), exchange.prices[:-1] - exchange.prices[-1]


class _Rows:
    """An array as blocks of its rows."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __iter__(self) -> Iterator[object]:
        n, k = self.array.shape
        step = max(1, ARRAY_ENTRIES // max(1, k))
        return (self.array[row : row + step] for row in range(0, n, step))


def _rows_of(blocks: Any) -> Any:
    """Blocks of an array; anything else as it is."""
    shape = getattr(blocks, "shape", None)
    return _Rows(blocks) if isinstance(shape, tuple) and len(shape) == 2 else blocks


def _start(blocks: object, prices: object) -> Tensor:
    """The prices in float64, and a check that the blocks can be read again."""
    if not isinstance(blocks, Iterable) or isinstance(blocks, Iterator):
        raise TypeError(
            f"`blocks` must be an array, or iterable again and again, got {type(blocks).__name__}. Pass a list of "
            "blocks, or what `otlabel.streaming.as_blocks` makes of other sources."
        )
    require_numbers(prices, "prices")
    assert isinstance(prices, Tensor)  # noqa: S101 - for the type checker
    require(
        prices.ndim == 1 and len(prices) > 0,
        "`prices` must have shape (k,) with a class, got {}. Zeros are a start, too.",
        tuple(prices.shape),
    )
    missing = int(prices.isnan().sum())
    require(missing == 0, "`prices` must hold no NaN, got {} of them. Zeros are a start, too.", missing)
    return prices.detach().to(torch.float64)
