"""Whether the same actions lead the two simulators to the same states.  Knows no Ray."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_offset.columns import NEXT_STATE, STATE, concat_columns
from rllib_offset.replay.requests import ReplayRequest, ReplayResult, valid_rows
from rllib_offset.simulator_state import StateRange, state_divergence

__all__ = ["DynamicsWatch"]


class DynamicsWatch:
    """Measures the divergence of the two simulators, in units of the states seen so far.

    As long as the mode is open, it keeps the single steps that were bought: should the dynamics
    turn out to differ, they are read anew as labels of the one-step residual.

    Args:
        space: Gives the range of the bounded components of a state.
        max_labels: Single steps kept; the oldest are dropped where as many came after them.

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
        slow, fast, started = [], [], []
        for label in labels:
            if label.slow and NEXT_STATE in label.slow and NEXT_STATE in label.fast:
                valid = valid_rows(label)
                slow.append(label.slow[NEXT_STATE][valid])
                fast.append(label.fast[NEXT_STATE][valid])
                started += [
                    side[STATE][valid] for side in (label.slow, label.fast) if STATE in side
                ]
        self.latest = float("nan")
        if sum(map(len, slow)):
            self._range.see(np.concatenate([*started, *slow, *fast]))
            reached = np.concatenate(slow), np.concatenate(fast)
            self.latest = state_divergence(*reached, self._range.width)
        return self.latest

    def keep(self, labels: list[ReplayResult]) -> None:
        """Keep single steps that were taken in for the same dynamics."""
        for label in labels:
            if label.request.kind == "steps" and label.slow:
                self._kept.append(label)
                while len(self._kept) > 1 and _are_to_be_joined(*self._kept[-2:]):
                    self._kept[-2:] = [_joined(*self._kept[-2:])]
        too_many = sum(len(label.index) for label in self._kept) - self._max_labels
        while self._kept and too_many >= len(self._kept[0].index):
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


def _are_to_be_joined(older: ReplayResult, newer: ReplayResult) -> bool:
    """Whether to make one of two: few large answers cost a tenth of many small ones."""
    assert older.slow is not None
    assert newer.slow is not None
    return (
        len(older.index) <= len(newer.index)
        and older.slow.keys() == newer.slow.keys()
        and older.fast.keys() == newer.fast.keys()
    )


def _joined(older: ReplayResult, newer: ReplayResult) -> ReplayResult:
    """Return one answer with the finished single steps of two."""
    parts = (older, newer)
    actions = np.concatenate([part.request.actions[part.index] for part in parts])
    states = [part.request.states[part.index] for part in parts if part.request.states is not None]
    return replace(
        newer,
        request=ReplayRequest(newer.request.key, "steps", actions, states=np.concatenate(states)),
        slow=concat_columns([part.slow for part in parts if part.slow]),
        fast=concat_columns([part.fast for part in parts]),
        index=np.arange(len(actions)),
        unstored=(),
    )
