"""Whether the same actions lead the two simulators to the same states.  Knows no Ray."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_offset.columns import NEXT_STATE, STATE
from rllib_offset.replay.requests import ReplayResult, valid_rows
from rllib_offset.simulator_state import StateRange, state_divergence

__all__ = ["DynamicsWatch"]


class DynamicsWatch:
    """Measures the divergence of the two simulators, in units of the states seen so far.

    As long as the mode is open, it keeps the single steps that were bought: should the dynamics
    turn out to differ, they are read anew as labels of the one-step residual.

    Args:
        space: Gives the range of the bounded components of a state.
        max_labels: Single steps kept; beyond it the oldest are dropped.

    Attributes:
        latest: The divergence of the labels looked at last; NaN if unknown.
    """

    def __init__(self, space: spaces.Space[Any] | None, *, max_labels: int = 0) -> None:
        self._range = StateRange(space)
        self._max_labels = max_labels
        self._kept: list[ReplayResult] = []
        self.latest = float("nan")

    def look_at(self, labels: list[ReplayResult]) -> float:
        """Return how far the same actions led the two simulators apart; NaN if unknown."""
        slow, fast = [], []
        for label in labels:
            if label.slow and NEXT_STATE in label.slow and NEXT_STATE in label.fast:
                valid = valid_rows(label)
                slow.append(label.slow[NEXT_STATE][valid])
                fast.append(label.fast[NEXT_STATE][valid])
                for started in (label.slow.get(STATE), label.fast.get(STATE)):
                    if started is not None:
                        self._range.see(started[valid])
        self.latest = float("nan")
        if sum(map(len, slow)):
            reached = np.concatenate(slow), np.concatenate(fast)
            for states in reached:
                self._range.see(states)
            self.latest = state_divergence(*reached, self._range.width)
        return self.latest

    def keep(self, labels: list[ReplayResult]) -> None:
        """Keep single steps that were taken in for the same dynamics."""
        self._kept += [label for label in labels if label.request.kind == "steps" and label.slow]
        too_many = sum(len(label.index) for label in self._kept) - self._max_labels
        while too_many > 0:
            too_many -= len(self._kept.pop(0).index)

    def hand_over(self) -> list[ReplayResult]:
        """Return what was kept, oldest first, and forget it."""
        kept, self._kept = self._kept, []
        return kept

    def get_state(self) -> dict[str, Any]:
        """Return the range of the states and the labels kept."""
        return {"range": self._range.seen, "kept": list(self._kept)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`get_state`, or begin anew where nothing was saved."""
        seen: NDArray[np.float64] | None = state.get("range")
        self._range.seen, self._kept = seen, list(state.get("kept", ()))
