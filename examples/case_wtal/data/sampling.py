"""Which snippets of a recording of `n` snippets stand for it when a fixed number `T` is wanted."""

import numpy as np


def random_bin_indices(n: int, T: int, rng: np.random.Generator) -> np.ndarray:
    """One random snippet out of each of `T` equal bins, for training.

    Bin `i` holds the snippets from `floor(i n / T)` up to, not including, `floor((i + 1) n / T)`. A recording of
    fewer than `T` snippets has empty bins: then the result is `uniform_indices(n, T)` and snippets repeat.

    Args:
        n: Snippets of the recording.
        T: Snippets wanted.
        rng: Source of the draws; left untouched when `n < T`.

    Returns:
        Shape (T,), int64, ascending, in 0..n-1.

    Raises:
        ValueError: `n` or `T` is below 1.
    """
    starts = uniform_indices(n, T)
    if n < T:
        return starts
    ends = np.append(starts[1:], n)
    return rng.integers(starts, ends)


def uniform_indices(n: int, T: int) -> np.ndarray:
    """`floor(i n / T)` for i = 0..T-1, for testing: snippets are skipped (n > T) or repeated (n < T).

    Args:
        n: Snippets of the recording.
        T: Snippets wanted.

    Returns:
        Shape (T,), int64, ascending, in 0..n-1.

    Raises:
        ValueError: `n` or `T` is below 1.
    """
    for argument, value in (("n", n), ("T", T)):
        if value < 1:
            raise ValueError(f"`{argument}` must be at least 1 snippet, got {value}. Drop empty recordings.")
    return np.arange(T, dtype=np.int64) * n // T
