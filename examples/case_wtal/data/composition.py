"""Plan untrimmed recordings out of trimmed ones: which piece of which exercise, in which order.

Lengths are in samples here. Nothing in this module looks at the signal.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Samples [start, stop) of the wearer's one recording of exercise number `exercise`."""

    exercise: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class PlanSettings:
    """How recordings are composed.

    Attributes:
        background: Exercise numbers that count as background.
        piece: Shortest and longest piece. (A piece cut to meet the wanted length keeps the shortest.)
        total: Shortest and longest wanted recording.
        share: Smallest and largest wanted background share of the recording.
        most_classes: Foreground classes per recording are drawn from 1..`most_classes`.
    """

    background: tuple[int, ...]
    piece: tuple[int, int]
    total: tuple[int, int]
    share: tuple[float, float]
    most_classes: int


def plan_recording(lengths: Sequence[int], settings: PlanSettings, rng: np.random.Generator) -> tuple[Piece, ...]:
    """Draw one recording: pieces in random order, no two neighbours of one exercise, no sample used twice.

    A wearer with little signal gets a shorter recording (too little background) or more classes (too little
    foreground in the classes drawn first) rather than repeated signal.

    Args:
        lengths: Samples of each exercise of one wearer.
        settings: What to compose.
        rng: Source of every draw.

    Returns:
        The pieces in order.
    """
    cuts = {exercise: _cut(exercise, length, settings.piece, rng) for exercise, length in enumerate(lengths)}
    background = [piece for exercise in settings.background for piece in cuts[exercise]]
    rng.shuffle(background)
    share = rng.uniform(*settings.share)
    total = min(rng.uniform(*settings.total), sum(map(len, background)) / share)

    candidates = rng.permutation([e for e in cuts if e not in settings.background]).tolist()
    wanted = int(rng.integers(1, settings.most_classes + 1))
    while wanted < settings.most_classes and _total(cuts, candidates[:wanted]) < total * (1 - share):
        wanted += 1
    first = [cuts[exercise].pop(int(rng.integers(len(cuts[exercise])))) for exercise in candidates[:wanted]]
    others = [piece for exercise in candidates[:wanted] for piece in cuts[exercise]]
    rng.shuffle(others)

    shortest = settings.piece[0]
    pieces = _take([*first, *others], total * (1 - share), shortest) + _take(background, total * share, shortest)
    return tuple(_arrange(pieces, rng))


def split_groups(
    groups: Sequence[tuple[int, ...]], train_groups: int, rng: np.random.Generator
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Random split of subjects that keeps every group on one side; both halves sorted."""
    order = rng.permutation(len(groups))
    train = sorted(subject for index in order[:train_groups] for subject in groups[index])
    test = sorted(subject for index in order[train_groups:] for subject in groups[index])
    return tuple(train), tuple(test)


def _cut(exercise: int, length: int, bounds: tuple[int, int], rng: np.random.Generator) -> list[Piece]:
    """Cut one series, from a random offset on, into neighbouring pieces of random length."""
    shortest, longest = bounds
    start = int(rng.integers(shortest))
    pieces = []
    while length - start >= shortest:
        stop = min(start + int(rng.integers(shortest, longest + 1)), length)
        pieces.append(Piece(exercise, start, stop))
        start = stop
    return pieces


def _total(cuts: dict[int, list[Piece]], exercises: Sequence[int]) -> int:
    return sum(len(piece) for exercise in exercises for piece in cuts[exercise])


def _take(pieces: Sequence[Piece], samples: float, shortest: int) -> list[Piece]:
    """The first pieces that reach `samples`, the last one trimmed to meet it but never below `shortest`."""
    taken: list[Piece] = []
    missing = round(samples)
    for piece in pieces:
        if missing <= 0:
            break
        length = min(len(piece), max(missing, shortest))
        taken.append(Piece(piece.exercise, piece.start, piece.start + length))
        missing -= length
    return taken


def _arrange(pieces: Sequence[Piece], rng: np.random.Generator) -> list[Piece]:
    """Random order without equal neighbours; where none exists, pieces of the commonest exercise are dropped.

    An order that starts behind `previous` exists if and only if no exercise has more than half (rounded up)
    of the pieces left, and `previous` itself no more than half rounded down. So drawing among the exercises
    that leave such a rest never runs into a dead end.
    """
    rest = [pieces[index] for index in rng.permutation(len(pieces))]
    while rest and not _can_follow(Counter(p.exercise for p in rest), None):
        commonest = Counter(p.exercise for p in rest).most_common(1)[0][0]
        rest.remove(next(p for p in rest if p.exercise == commonest))
    ordered: list[Piece] = []
    while rest:
        counts = Counter(p.exercise for p in rest)
        previous = ordered[-1].exercise if ordered else None
        fitting = [
            p for p in rest if p.exercise != previous and _can_follow(counts - Counter([p.exercise]), p.exercise)
        ]
        ordered.append(fitting[int(rng.integers(len(fitting)))])
        rest.remove(ordered[-1])
    return ordered


def _can_follow(counts: Counter[int], previous: int | None) -> bool:
    """Whether the counted exercises can be put behind `previous` without equal neighbours."""
    left = counts.total()
    return all(count <= (left if exercise == previous else left + 1) // 2 for exercise, count in counts.items())
