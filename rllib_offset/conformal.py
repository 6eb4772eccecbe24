"""Split-conformal intervals: how far an ensemble's mean may be off, in units of its spread."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.row_statistics import evenly, nan_mean

__all__ = ["ConformalIntervals"]

_CONFIDENCE = 0.9
_RECENT = 200  # scores of fresh labels that are remembered

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class ConformalIntervals:
    """Intervals that hold 90 % of what was never fitted; ``K`` targets, ``N`` labels of one call.

    A *score* is the absolute error of the mean over the spread.  Those of labels held out count,
    and those of 200 of the latest labels at the time they arrived.

    Args:
        num_targets: ``K``.

    Attributes:
        scale: Half width of an interval over the spread, ``(K,)``; NaN before the first fit.
    """

    def __init__(self, num_targets: int) -> None:
        self.scale: Float64Array = np.full(num_targets, np.nan)
        self.forget()

    def forget(self) -> None:
        """Forget the scores of fresh labels, as of a slow simulator that has changed."""
        shape = (0, len(self.scale))
        self._scores: Float32Array = np.empty(shape, np.float32)
        self._covered: Float32Array = np.empty(shape, np.float32)  # 0, 1; NaN: no interval

    def record(self, scores: Float32Array, held_out: BoolArray, is_active: BoolArray) -> None:
        """Remember the scores of fresh labels.

        Args:
            scores: ``(N, K)``, NaN where unknown; of many, some evenly spread over them are taken.
            held_out: ``(N,)``, labels whose scores :meth:`fit` will be given.
            is_active: ``(K,)``, targets that have a say in the coverage.
        """
        scores, held_out = evenly(scores, _RECENT), evenly(held_out, _RECENT)
        covered = np.where(scores <= self.scale, np.float32(1), np.float32(0))
        covered[np.isnan(scores) | np.isnan(self.scale) | ~is_active] = np.nan
        self._scores = np.concatenate([self._scores, scores[~held_out]])[-_RECENT:]
        self._covered = np.concatenate([self._covered, covered])[-_RECENT:]

    def fit(self, held_out_scores: Float32Array) -> None:
        """Set ``scale``, given the scores of the labels held out, ``(N, K)``."""
        scores = np.concatenate([held_out_scores, self._scores])
        self.scale = np.array([_quantile(column) for column in scores.T])

    @property
    def coverage(self) -> float:
        """Share of fresh labels inside the interval that held when they arrived; NaN of none."""
        return float(nan_mean(self._covered, axis=None))

    def get_state(self) -> dict[str, Any]:
        """Return what :meth:`set_state` takes."""
        return {
            "conformal_scale": self.scale.copy(),
            "recent_scores": self._scores.copy(),
            "recent_covered": self._covered.copy(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` returned."""
        self.scale = np.array(state["conformal_scale"])
        self._scores = np.array(state["recent_scores"])
        self._covered = np.array(state["recent_covered"])


def _quantile(scores: Float32Array) -> float:
    """Return the split-conformal quantile of scores, the largest while there are too few."""
    known = np.sort(scores[~np.isnan(scores)])
    if not len(known):
        return math.nan
    rank = math.ceil((len(known) + 1) * _CONFIDENCE)
    return float(known[min(rank, len(known)) - 1])
