"""What `otlabel.hard.capacity_labels_of_blocks` raises; collected by test_messages.py."""

import torch

from otlabel import InfeasibleProblemError
from otlabel.hard import capacity_labels_of_blocks

SCORES = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.2, 0.7], [0.1, 0.6]])
START = torch.zeros(2)
INF, NAN = float("inf"), float("nan")


class Shrinking:
    """A source that has lost a sample when it is read again."""

    def __init__(self, scores):
        self.scores, self.fewer = scores, scores[1:]

    def __iter__(self):
        yield self.scores
        self.scores = self.fewer


def count(scores=SCORES, prices=START, capacity=None, **options):
    return capacity_labels_of_blocks([scores], prices, capacity, **options)


def with_entry(value):
    scores = SCORES.clone()
    scores[2, 1] = value
    return scores


CASES = {
    "blocks generator": (
        lambda: capacity_labels_of_blocks((rows for rows in SCORES.split(2)), START),
        TypeError,
        r"`blocks` must be an array, or iterable again and again, got generator\. .* `otlabel\.streaming\.as_blocks`",
    ),
    "blocks number": (
        lambda: capacity_labels_of_blocks(3, START),
        TypeError,
        "`blocks` must be an array, or iterable again and again, got int",
    ),
    "blocks of lists": (
        lambda: count([[0.1, 0.2]]),
        TypeError,
        "`blocks` must hold tensors or arrays, got list",
    ),
    "blocks of integers": (
        lambda: count(SCORES.long()),
        TypeError,
        r"`blocks` must hold floating numbers, got torch\.int64",
    ),
    "blocks that are rows": (
        lambda: capacity_labels_of_blocks(list(SCORES), START),
        ValueError,
        r"`blocks` must have shape \(m, 2\) to fit `prices`, got \(2,\) from row 0 on",
    ),
    "blocks array of other classes": (
        lambda: capacity_labels_of_blocks(torch.rand(4, 3), START),
        ValueError,
        r"`blocks` must have shape \(m, 2\) to fit `prices`, got \(4, 3\) from row 0 on",
    ),
    "blocks array without rows": (
        lambda: capacity_labels_of_blocks(torch.rand(0, 2), START),
        ValueError,
        "`blocks` must hold a sample, got 0. Skip the call",
    ),
    "blocks array without columns": (
        lambda: capacity_labels_of_blocks(torch.rand(4, 0), START),
        ValueError,
        r"`blocks` must have shape \(m, 2\) to fit `prices`, got \(4, 0\) from row 0 on",
    ),
    "blocks of other classes": (
        lambda: capacity_labels_of_blocks([SCORES, torch.rand(4, 3)], START),
        ValueError,
        r"`blocks` must have shape \(m, 2\) to fit `prices`, got \(4, 3\) from row 4 on",
    ),
    "blocks none": (
        lambda: capacity_labels_of_blocks([], START),
        ValueError,
        "`blocks` must hold a sample, got 0. Skip the call",
    ),
    "blocks that shrink": (
        lambda: capacity_labels_of_blocks(Shrinking(SCORES[:1].repeat(40, 20)), torch.zeros(40), candidates=1),
        ValueError,
        "`blocks` must hold the same samples in every pass, got 39 of them after 40",
    ),
    "blocks NaN": (
        lambda: count(with_entry(NAN)),
        ValueError,
        r"`blocks` must hold no NaN and no \+inf, got one in row 2",
    ),
    "blocks +inf": (
        lambda: count(with_entry(INF)),
        ValueError,
        r"`blocks` must hold no NaN and no \+inf, got one in row 2",
    ),
    "blocks too large": (
        lambda: count(SCORES.double() * 1e301),
        ValueError,
        r"`blocks` must be within 1e\+300, got larger scores\. Scale them down",
    ),
    "blocks with a sample without a class": (
        lambda: capacity_labels_of_blocks([SCORES, torch.full((1, 2), -INF)], START),
        InfeasibleProblemError,
        "-inf in `blocks` and `capacity` must leave every sample a class, got none for row 4",
    ),
    "blocks that confine samples": (
        lambda: count(torch.tensor([[1.0, -INF]]).expand(4, 2)),
        InfeasibleProblemError,
        "-inf in `blocks` must leave room for the counts, got too few samples that may take some classes",
    ),
    "prices list": (
        lambda: count(prices=[0.0, 0.0]),
        TypeError,
        r"`prices` must be a torch\.Tensor of real numbers, got list",
    ),
    "prices matrix": (
        lambda: count(prices=torch.zeros(1, 2)),
        ValueError,
        r"`prices` must have shape \(k,\) with a class, got \(1, 2\)",
    ),
    "prices NaN": (
        lambda: count(prices=torch.tensor([0.0, NAN])),
        ValueError,
        "`prices` must hold no NaN, got 1 of them",
    ),
    "candidates none": (
        lambda: count(candidates=0),
        ValueError,
        "`candidates` must be at least 1, got 0. 32 is a good value",
    ),
    "candidates share": (
        lambda: count(candidates=0.5),
        TypeError,
        "`candidates` must be an integer, got float",
    ),
    "max_passes text": (
        lambda: count(max_passes="all"),
        TypeError,
        "`max_passes` must be an integer, got str",
    ),
    "max_passes negative": (
        lambda: count(max_passes=-1),
        ValueError,
        "`max_passes` must be at least 1, got -1. None is optimal",
    ),
    "max_passes one": (
        lambda: count(max_passes=1),
        ValueError,
        "`max_passes` must be at least 2, got 1. The last one only adds up",
    ),
    "capacity of the blocks number": (
        lambda: count(capacity=2.0),
        TypeError,
        "`capacity` must be an integer or a tensor of them, got float",
    ),
    "capacity of the blocks too small": (
        lambda: count(capacity=1),
        InfeasibleProblemError,
        "`capacity` must sum to at least 4, the number of samples, got 2",
    ),
    "minimum of the blocks shape": (
        lambda: count(minimum=torch.tensor([1, 1, 1])),
        ValueError,
        r"`minimum` must have shape \(2,\) to fit `scores`, got \(3,\)",
    ),
}
