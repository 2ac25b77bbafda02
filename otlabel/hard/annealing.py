r"""Class prices from soft labels of a falling epsilon, on a table of candidates.

For epsilon towards zero the prices that balance soft labels (`otlabel.hard.descent`) tend to those of the best hard
labels. A price may have to cross a gap in which it changes nothing: a class of 430 samples that are to be 427 keeps
them all until its price reaches their lead over the next best class. At a large epsilon the gap is bridged, and the
prices follow as epsilon falls. The smallest one leaves a class about one undecided sample.
"""

import torch
from torch import Tensor

from otlabel.hard.candidates import Candidates
from otlabel.hard.descent import Descent

# Share of the samples whose two best classes are within the first epsilon: at first about those that are misplaced, and
# one for each class, since prices of an exact answer make so many ties.
FIRST_UNDECIDED = (0.03, 0.3)
# At last, as a multiple of those that a class holds.
LAST_UNDECIDED = 1.0
SMALLER_EPSILON = 0.25
# Excess that a stage leaves, as a share of the samples.
STAGE_TOL = 2e-3
# Samples looked at for the gaps.
GAP_SAMPLES = 2**16
# Below this share of the largest score epsilon means nothing in float64.
SMALLEST_SHARE, SMALLEST_EPSILON = 1e-13, 1e-290
# Bounds that leave less than this share of the samples open are met by one count between them.
NARROW_BOUNDS = 0.02


def anneal_prices(table: Candidates, prices: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Prices at which the best class of almost every sample has room for it.

    Returns:
        The prices, and the mass of soft labels that each class has only by the ceiling; shape (k,).
    """
    n, k = table.shape
    spare = int((upper - lower).sum())
    if spare <= NARROW_BOUNDS * n:
        lower = upper = lower + (upper - lower) * ((n - int(lower.sum())) / max(spare, 1))
    lower, upper = lower.to(torch.float64), upper.to(torch.float64)
    count = torch.bincount(table.best(prices)[0], minlength=k)
    error = (count - count.clamp(lower, upper)).abs().sum().item() / n
    epsilon = _epsilon(table, prices, min(max(error + k / n, FIRST_UNDECIDED[0]), FIRST_UNDECIDED[1]))
    beyond = torch.zeros_like(prices)
    while epsilon > 0:
        prices, point = Descent(table, epsilon, lower, upper).run(prices, STAGE_TOL)
        beyond = point.beyond
        last = _epsilon(table, prices, min(LAST_UNDECIDED * k / n, FIRST_UNDECIDED[1]))
        if epsilon <= 2 * last or last == 0:
            break
        epsilon = max(last, SMALLER_EPSILON * epsilon)
    return prices, beyond


def _epsilon(table: Candidates, prices: Tensor, undecided: float) -> float:
    """Epsilon within which this share of the samples has two classes; 0 where float64 cannot tell them apart."""
    step = -(-table.shape[0] // GAP_SAMPLES)
    classes, values = table.rows(slice(None, None, step))
    net = values - prices[classes]
    net = torch.cat([net, (table.rest[::step] + (table.offers - prices).amax())[:, None]], dim=1)
    best = net.topk(2, dim=1).values
    epsilon = (best[:, 0] - best[:, 1]).quantile(undecided).item()
    size = values.masked_fill(values == -torch.inf, 0.0).abs().amax().item()
    return epsilon if max(SMALLEST_EPSILON, SMALLEST_SHARE * size) < epsilon < torch.inf else 0.0
