"""Snippet statistics, and which snippets stand for a recording."""

from itertools import pairwise

import numpy as np
import pytest

from examples.case_wtal.data import random_bin_indices, uniform_indices
from examples.case_wtal.data.features import cut_snippets, slope, waveform_length, zscore

# ---- statistics


def test_statistics_agree_with_loops():
    signal = np.random.default_rng(0).normal(size=(70, 3))
    snippets = cut_snippets(signal, 32)
    assert snippets.shape == (2, 32, 3)
    for t in range(2):
        for c in range(3):
            piece = signal[32 * t : 32 * (t + 1), c]
            walked = sum(abs(b - a) for a, b in pairwise(piece))
            assert waveform_length(snippets)[t, c] == pytest.approx(walked)
            assert slope(snippets, 50.0)[t, c] == pytest.approx(np.polyfit(np.arange(32) / 50.0, piece, 1)[0])


def test_zscore_of_a_constant_column_is_zero():
    features = np.stack([np.full(7, 0.1), np.arange(7.0)], axis=1)
    assert not zscore(features)[:, 0].any()
    np.testing.assert_allclose(zscore(features)[:, 1].std(), 1, rtol=1e-6)


# ---- sampling


def test_uniform_indices_are_the_floor_rule():
    assert uniform_indices(10, 4).tolist() == [0, 2, 5, 7]
    assert uniform_indices(3, 7).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert uniform_indices(5, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("n", "T"), [(10, 4), (7, 7), (751, 750), (2614, 750)])
def test_random_indices_fill_exactly_their_bins(n, T):
    rng = np.random.default_rng(0)
    draws = np.stack([random_bin_indices(n, T, rng) for _ in range(200)])
    for i in range(T):
        assert set(draws[:, i].tolist()) == set(range(i * n // T, (i + 1) * n // T))


def test_random_indices_repeat_snippets_of_a_short_recording():
    rng = np.random.default_rng(0)
    assert random_bin_indices(3, 7, rng).tolist() == uniform_indices(3, 7).tolist()


def test_random_indices_follow_the_generator():
    first, same, other = (random_bin_indices(100, 10, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1))
    assert first == same != other


@pytest.mark.parametrize(("n", "T", "argument"), [(0, 5, "n"), (5, 0, "T")])
def test_sampling_nothing_is_an_error(n, T, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be at least 1 snippet, got 0"):
        uniform_indices(n, T)
    with pytest.raises(ValueError, match=f"`{argument}` must be at least 1 snippet, got 0"):
        random_bin_indices(n, T, np.random.default_rng(0))
