"""How many corrections of a sample lie outside of the labelled region."""

import numpy as np
from numpy.typing import NDArray

from rllib_offset.correction import OffsetCorrection, Predicted

__all__ = ["OutsideCounter"]

_MOST_ROWS, _MOST_VALUES = 2048, 2**18  # that are held


class OutsideCounter:
    """Counts corrections, many ticks at once: one by one they would cost as much as predicting."""

    def __init__(self) -> None:
        self._num_steps = self._num_outside = 0
        self._most_ticks = 0
        self._correction: OffsetCorrection | None = None
        self._features: list[NDArray[np.float32]] = []
        self._members: list[NDArray[np.float32]] = []
        self._running: list[NDArray[np.bool_]] = []

    def note(
        self, correction: OffsetCorrection, predicted: Predicted, running: NDArray[np.bool_]
    ) -> None:
        """Take note of a tick: what ``correction`` predicted, and which lanes ``(N,)`` count."""
        if correction is not self._correction or len(self._running) >= self._most_ticks:
            self._count()
            self._correction = correction
            values = predicted.members.size + predicted.features.size
            self._most_ticks = int(min(_MOST_ROWS / len(running), _MOST_VALUES / values))
        self._features.append(predicted.features.copy())  # may be a simulator's own array
        self._members.append(predicted.members)
        self._running.append(running.copy())

    def fraction(self) -> float | None:
        """Return the share of the steps noted so far; ``None`` if there are none."""
        self._count()
        return self._num_outside / self._num_steps if self._num_steps else None

    def _count(self) -> None:
        if self._correction is None or not self._running:
            return
        running = np.concatenate(self._running)
        are_outside = self._correction.are_outside(
            np.concatenate(self._features), np.concatenate(self._members, axis=1)
        )
        self._num_steps += int(np.count_nonzero(running))
        self._num_outside += int(np.count_nonzero(are_outside & running))
        self._features, self._members, self._running = [], [], []
