r"""The best few classes of every sample at some prices, and a ceiling on its scores for all others.

One read of scores that are too many to keep finds for each sample i the m classes of largest :math:`S_{ij} - p_j`. The
last of these differences, :math:`t_i`, bounds those of the others. With all scores of a few classes J beside them,

.. math::
    \hat S_{ij} = \begin{cases} S_{ij} & j \in J \text{ or among the m} \\ t_i + p_j & \text{else} \end{cases}
    \quad \ge \quad S_{ij} .

Labels that are optimal for :math:`\hat S` and sit where it equals S are optimal for S too, and in any case the dual
value of :math:`\hat S` bounds that of S.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from otlabel.errors import InfeasibleProblemError, require
from otlabel.problem import LARGEST_EXPONENT

# Entries of a float64 block of rows: few enough to stay in a core's cache.
CACHED_ENTRIES = 2**17
# Rows that tables start with and then double.
FIRST_ROWS = 2**14


@dataclass(slots=True, eq=False)
class Candidates:
    """What is kept of the scores.

    Attributes:
        classes: Candidates of each sample, no class twice, int16 or int32, shape (n, m).
        values: Their scores as they came, -inf where a label is forbidden, shape (n, m).
        columns: Classes that are a candidate of every sample besides, shape (c,).
        column_values: Their scores, shape (n, c).
        rest: Most that score minus price can be for any other class, float64, shape (n,); -inf where there is none.
        offers: The prices of that difference; -inf for `columns` and for classes that may hold no sample; float64,
            shape (k,).
    """

    classes: Tensor
    values: Tensor
    columns: Tensor
    column_values: Tensor
    rest: Tensor
    offers: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of samples and of classes."""
        return self.classes.shape[0], self.offers.shape[0]

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some samples at a time: which, and the classes and scores of all their candidates."""
        n, m = self.classes.shape
        step = max(1, CACHED_ENTRIES // (m + len(self.columns)))
        for start in range(0, n, step):
            samples = slice(start, start + step)
            yield samples, *self.rows(samples)

    def rows(self, samples: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Classes, as indices, and scores, in float64, of all candidates of these samples."""
        classes, values = self.classes[samples].to(torch.int64), self.values[samples]
        if len(self.columns):
            classes = torch.cat([classes, self.columns.expand(len(classes), -1)], dim=1)
            values = torch.cat([values, self.column_values[samples]], dim=1)
        return classes, values.to(torch.float64)

    def best(self, prices: Tensor) -> tuple[Tensor, Tensor]:
        """Class of largest score minus price of every sample, a candidate if there is a choice; and that difference."""
        margin, other = (self.offers - prices).max(dim=0)
        labels, values = torch.empty_like(self.rest, dtype=torch.int64), torch.empty_like(self.rest)
        for rows, classes, scores in self.blocks():
            found, at = (scores - prices[classes]).max(dim=1)
            ceiling = self.rest[rows] + margin
            labels[rows] = torch.where(ceiling > found, other, classes.gather(1, at[:, None]).squeeze(1))
            values[rows] = torch.maximum(found, ceiling)
        return labels, values

    def least_loss(self, samples: Tensor, label: int) -> Tensor:
        """Least that a sample of the class loses by moving to each other class, shape (k,); inf where none may."""
        least = torch.full_like(self.offers, torch.inf)
        if len(samples):
            (classes, values), rest = self.rows(samples), self.rest[samples]
            own = self._own(classes, values, rest, label)
            least = (own - rest).amin() - self.offers
            losses, m = own[:, None] - values, self.classes.shape[1]
            least.scatter_reduce_(0, classes[:, :m].flatten(), losses[:, :m].flatten(), "amin")
            least[self.columns] = losses[:, m:].amin(dim=0)  # no offer and no other candidate is of these classes
        least[label] = torch.inf
        return least

    def loss(self, samples: Tensor, label: int, other: int) -> Tensor:
        """What each of these samples of class `label` loses by moving to `other`: as in `least_loss`, to the bit."""
        (classes, values), rest = self.rows(samples), self.rest[samples]
        own = self._own(classes, values, rest, label)
        found = torch.where(classes == other, values, -torch.inf).amax(dim=1)
        return torch.minimum(own - found, (own - rest) - self.offers[other])

    def known(self, labels: Tensor) -> Tensor:
        """Score of each sample's label, -inf where it is no candidate; shape (n,)."""
        scores = torch.empty_like(self.rest)
        for rows, classes, values in self.blocks():
            scores[rows] = torch.where(classes == labels[rows, None], values, -torch.inf).amax(dim=1)
        return scores

    def _own(self, classes: Tensor, values: Tensor, rest: Tensor, label: int) -> Tensor:
        found = torch.where(classes == label, values, -torch.inf).amax(dim=1)
        return torch.maximum(found, rest + self.offers[label])


@dataclass(slots=True, eq=False)
class Survey:
    """What one read of all scores tells.

    Attributes:
        table: The candidates.
        best: Largest score minus price of each sample, float64, shape (n,).
        scores: Score of each sample's given label, float64, shape (n,); without labels -inf.
    """

    table: Candidates
    best: Tensor
    scores: Tensor


def survey(
    blocks: Iterable[object],
    prices: Tensor,
    is_open: Tensor,
    *,
    count: int,
    columns: Tensor,
    labels: Tensor | None,
    size: int | None,
) -> Survey:
    """Read all blocks once: `count` candidates at these prices, and all scores of the classes in `columns`.

    `size` is the number of samples, if known.
    """
    k = len(prices)
    closing = torch.where(is_open, prices, torch.inf)
    ranked = min(count, k - len(columns))
    index_type = torch.int16 if k <= 2**15 else torch.int32
    grown: list[_Grown] = []
    seen = 0
    for block in blocks:
        for part in torch.split(checked(block, prices, seen), max(1, CACHED_ENTRIES // k)):
            rows = slice(seen, seen + len(part))
            net = part.to(torch.float64) - closing
            best = net.amax(dim=1)
            _check_values(best, part, seen)
            net[:, columns] = -torch.inf
            top, classes = net.topk(ranked, dim=1)
            values = part.gather(1, classes).masked_fill_(top == -torch.inf, -torch.inf)
            # Where the classes run out the last of them bounds nothing.
            rest = top[:, -1] if ranked < k - len(columns) else torch.full_like(best, -torch.inf)
            own = torch.full_like(best, -torch.inf)
            if labels is not None and rows.stop <= len(labels):
                own = part.gather(1, labels[rows, None]).squeeze(1).to(torch.float64)
            found = (classes.to(index_type), values, part[:, columns], rest, best, own)
            grown = grown or [_Grown(value) for value in found]
            for kept, value in zip(grown, found, strict=True):
                kept.append(value)
            seen = rows.stop
    require(seen > 0, "`blocks` must hold a sample, got {}. Skip the call when there is nothing to label.", seen)
    check_size(seen, size)
    classes, values, column_values, rest, best, own = (kept.whole() for kept in grown)
    offers = torch.where(is_open, prices, -torch.inf)
    offers[columns] = -torch.inf
    return Survey(Candidates(classes, values, columns, column_values, rest, offers), best, own)


class _Grown:
    """Rows that arrive in parts; memory that is not yet written is not yet used."""

    def __init__(self, like: Tensor) -> None:
        self.rows, self.length = like.new_empty((FIRST_ROWS, *like.shape[1:])), 0

    def append(self, part: Tensor) -> None:
        end = self.length + len(part)
        if end > len(self.rows):
            before = self.whole()
            self.rows = before.new_empty((max(end, 2 * len(self.rows)), *before.shape[1:]))
            self.rows[: self.length] = before
        self.rows[self.length : end] = part
        self.length = end

    def whole(self) -> Tensor:
        return self.rows[: self.length]


def checked(block: object, prices: Tensor, seen: int) -> Tensor:
    """The block as a tensor beside the prices."""
    if not isinstance(block, Tensor):
        if not hasattr(block, "__array__"):
            raise TypeError(
                f"`blocks` must hold tensors or arrays, got {type(block).__name__}. Convert them with torch.as_tensor."
            )
        block = torch.tensor(block)  # a copy: the pages of a mapped file need not stay
    if block.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"`blocks` must hold floating numbers, got {block.dtype}. Convert them with `.float()`.")
    require(
        block.ndim == 2 and block.shape[1] == len(prices),
        "`blocks` must have shape (m, {}) to fit `prices`, got {} from row {} on. Rows are samples, columns classes.",
        len(prices),
        tuple(block.shape),
        seen,
    )
    return block.detach().to(prices.device)


def check_size(seen: int, size: int | None) -> None:
    """Raise if a pass found another number of samples than the one before."""
    require(
        size in (None, seen),
        "`blocks` must hold the same samples in every pass, got {} of them after {}. Drop and shuffle nothing.",
        seen,
        size,
    )


def _check_values(best: Tensor, part: Tensor, seen: int) -> None:
    """Raise unless every sample has a class and the scores are finite or -inf."""
    is_wrong = ~best.isfinite()
    if not bool(is_wrong.any()):
        if part.dtype == torch.float64:
            largest = part.masked_fill(part == -torch.inf, 0.0).abs().amax()
            require(
                largest <= LARGEST_EXPONENT,
                "`blocks` must be within {:g}, got larger scores. Scale them down.",
                LARGEST_EXPONENT,
            )
        return
    row = int(is_wrong.nonzero()[0])
    if best[row] == -torch.inf:
        raise InfeasibleProblemError(
            f"-inf in `blocks` and `capacity` must leave every sample a class, got none for row {seen + row}. "
            "Allow it a class, or leave it out."
        )
    raise ValueError(
        f"`blocks` must hold no NaN and no +inf, got one in row {seen + row}. "
        "Find the layer that made it; -inf is allowed and forbids a label."
    )
