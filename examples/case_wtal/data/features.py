"""Per-snippet statistics shared by the sensor data sets.

Axes: C sensor channels, S samples per snippet, T snippets.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def cut_snippets(signal: np.ndarray, samples_per_snippet: int) -> np.ndarray:
    """Cut a signal into whole snippets; samples behind the last whole one are left out.

    Args:
        signal: Shape (samples, C).
        samples_per_snippet: S.

    Returns:
        Shape (T, S, C) with T = samples // S.
    """
    snippets = len(signal) // samples_per_snippet
    return signal[: snippets * samples_per_snippet].reshape(snippets, samples_per_snippet, signal.shape[1])


def sliding_windows(signal: np.ndarray, samples_per_snippet: int, window: int) -> np.ndarray:
    """A longer window around the centre of each whole snippet; the first and last sample are repeated at the ends.

    Args:
        signal: Shape (samples, C).
        samples_per_snippet: From one snippet to the next.
        window: S, at least `samples_per_snippet`, differing from it by an even number.

    Returns:
        Shape (T, S, C) with T = samples // samples_per_snippet; a view that must not be written to.
    """
    snippets = len(signal) // samples_per_snippet
    margin = (window - samples_per_snippet) // 2
    padded = np.pad(signal[: snippets * samples_per_snippet], ((margin, margin), (0, 0)), mode="edge")
    return sliding_window_view(padded, window, axis=0)[::samples_per_snippet].swapaxes(1, 2)


def waveform_length(snippets: np.ndarray) -> np.ndarray:
    """Sum of absolute differences of neighbouring samples, (T, S, C) -> (T, C)."""
    return np.abs(np.diff(snippets, axis=1)).sum(axis=1)


def slope(snippets: np.ndarray, rate: float) -> np.ndarray:
    """Least-squares slope, in units of the signal per second, (T, S, C) -> (T, C).

    Args:
        snippets: Shape (T, S, C), S > 1.
        rate: Samples per second.
    """
    time = np.arange(snippets.shape[1]) / rate
    time -= time.mean()
    return np.einsum("tsc,s->tc", snippets, time / (time @ time))


def zscore(features: np.ndarray) -> np.ndarray:
    """Standardise each column over the whole recording, (T, D) -> (T, D) float32.

    A column that does not vary becomes 0. "Does not vary" is measured against the column's own size, because
    the mean of equal floats is not exactly their value, and that rounding would otherwise be blown up to 1.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    constant = deviation <= 1e-9 * np.abs(features).max(axis=0)
    centred = np.where(constant, 0.0, features - mean)
    return (centred / np.where(constant, 1.0, deviation)).astype(np.float32)
