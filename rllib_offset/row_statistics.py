"""Statistics over rows of which some values may be unknown (NaN)."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["evenly", "mean_std", "nan_mean", "percentile"]

_MAX_ROWS = 100_000  # evenly over all

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
_Scalar = TypeVar("_Scalar", bound=np.generic)


def evenly(rows: NDArray[_Scalar], at_most: int) -> NDArray[_Scalar]:
    """Return ``at_most`` rows, evenly spread over all."""
    if len(rows) <= at_most:
        return rows
    return rows[np.arange(at_most) * len(rows) // at_most]


def mean_std(values: Float32Array) -> tuple[Float64Array, Float64Array]:
    """Return mean and standard deviation of each column, NaN ignored; zeros for an empty one."""
    values = evenly(values, _MAX_ROWS)
    is_known = ~np.isnan(values)
    count = np.maximum(is_known.sum(axis=0), 1)
    mean = np.where(is_known, values, 0.0).sum(axis=0, dtype=np.float64) / count
    variance = np.square(np.where(is_known, values - mean, 0.0)).sum(axis=0) / count
    return mean, np.sqrt(variance)


def nan_mean(values: NDArray[np.floating[Any]], axis: int | None = 0) -> Float64Array:
    """Return ``np.nanmean(values, axis)``, without its warning where there is no number."""
    is_known = ~np.isnan(values)
    count = is_known.sum(axis)
    total = np.where(is_known, values, 0.0).sum(axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def percentile(values: NDArray[np.floating[Any]], q: float) -> float:
    """Return ``np.percentile(values, q)`` of a few numbers, to the bit, at a tenth of its time.

    Args:
        values: ``(N,)``, at least one, none of them NaN.
        q: Within [0, 100].
    """
    ordered = np.sort(values)
    place = q / 100 * (len(ordered) - 1)
    below = int(place)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    share, width = place - below, high - low
    # from the nearer of the two, as NumPy does
    return float(high - width * (1 - share) if share >= 0.5 else low + width * share)
