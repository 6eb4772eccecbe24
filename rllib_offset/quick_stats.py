"""RLlib's statistics, without its detours where there are but a few plain numbers.

An update logs and reduces some fifty metrics of one number each, and an iteration of some updates
reduces them again.  ``numpy.nanmean`` and its like take twenty times as long for that as a look.
"""

import math
from typing import Any

import numpy as np
import torch
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import DEFAULT_STATS_CLS_LOOKUP
from ray.rllib.utils.metrics.stats import EmaStats, MaxStats, MeanStats, MinStats, SeriesStats
from ray.rllib.utils.metrics.stats.utils import single_value_to_cpu

__all__ = ["QUICK_STATS"]


class _QuickSeriesMixin(SeriesStats):
    """Mean, least or greatest number of a window."""

    _reduce: Any  # of a list of numbers, none of which is NaN

    @override(SeriesStats)
    def window_reduce(self, values: Any = None) -> list[Any]:
        values = self.values if values is None else values
        numbers = _numbers(values)
        if numbers is None:
            reduced: list[Any] = super().window_reduce(values)
            return reduced
        return numbers if len(numbers) == 1 else [float(self._reduce(numbers))]


class _QuickMeanStats(_QuickSeriesMixin, MeanStats):
    _reduce = staticmethod(np.mean)


class _QuickMinStats(_QuickSeriesMixin, MinStats):
    _reduce = staticmethod(min)


class _QuickMaxStats(_QuickSeriesMixin, MaxStats):
    _reduce = staticmethod(max)


class _QuickEmaStats(EmaStats):
    """Moving average; merged ones are averaged as the values of a window are."""

    @override(EmaStats)
    def _quiet_nanmean(self, values: list[Any]) -> Any:
        numbers = _numbers(values)
        return super()._quiet_nanmean(values) if numbers is None else float(np.mean(numbers))


def _numbers(values: Any) -> list[float] | None:
    """Return values as plain numbers; ``None`` if there are none, or some other kind, or NaN."""
    if len(values) == 1 and isinstance(values[0], torch.Tensor) and not values[0].ndim:
        return [float(single_value_to_cpu(values[0]))]
    if not values or not all(isinstance(value, float | int | np.number) for value in values):
        return None
    numbers = [float(value) for value in values]
    return None if math.isnan(sum(numbers)) else numbers


# What `AlgorithmConfig.reporting(custom_stats_cls_lookup=...)` takes.
QUICK_STATS: dict[str, type] = DEFAULT_STATS_CLS_LOOKUP | {
    "mean": _QuickMeanStats,
    "min": _QuickMinStats,
    "max": _QuickMaxStats,
    "ema": _QuickEmaStats,
}
