"""Bookkeeping of a sample: steps into trajectories, and which steps are to be labelled.

NumPy only; the environment runners drive it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import (
    ACTION,
    OBS,
    PREV_OBS,
    REWARD,
    Columns,
    concat_columns,
    slice_columns,
)
from rllib_offset.correction import OffsetCorrection

__all__ = ["Recorder", "StepPicker", "Trajectory", "share_of"]


@dataclass(frozen=True)
class Trajectory:
    """One complete episode as arrays; ``T`` steps.

    ``obs`` (T+1, D) and ``rewards`` (T,) are what the agent saw (corrected, if there is a
    correction); ``fast`` holds what the environment itself returned and received, one row per step.
    """

    seed: int
    ordinal: int
    lane: int
    obs: NDArray[np.float32]
    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    outputs: Columns
    terminated: bool
    truncated: bool
    fast: Columns


class Recorder:
    """Step columns of all lanes, ``(ticks, lanes, ...)``, in arrays that double when full."""

    def __init__(self, lanes: int, ticks: int) -> None:
        self._lanes, self._ticks = lanes, ticks
        self._columns: dict[tuple[str, str], NDArray[Any]] = {}

    def put(self, tick: int, **groups: Columns) -> None:
        """Store one row per lane, columns in named groups."""
        if tick == self._ticks:
            self._ticks *= 2
            for key, column in self._columns.items():
                self._columns[key] = np.concatenate([column, np.zeros_like(column)])
        for group, columns in groups.items():
            for name, values in columns.items():
                if (group, name) not in self._columns:
                    self._columns[group, name] = np.zeros(
                        (self._ticks, *values.shape), values.dtype
                    )
                self._columns[group, name][tick] = values

    def trajectory(self, lane: int, steps: slice, **facts: Any) -> Trajectory:
        """Return a lane's steps as a trajectory; ``facts`` are its other fields."""

        def group(wanted: str) -> Columns:
            return {
                name: column[steps, lane].copy()
                for (group, name), column in self._columns.items()
                if group == wanted
            }

        seen = group("seen")
        return Trajectory(
            obs=np.concatenate([seen[PREV_OBS], seen[OBS][-1:]]),
            actions=seen[ACTION],
            rewards=seen[REWARD],
            outputs=group("outputs"),
            fast=group("fast"),
            lane=lane,
            **facts,
        )


class StepPicker:
    """Picks single steps for labelling while a sample runs.

    Slots are drawn before the sample; with more candidates than labels, the ones the ensemble is
    least sure of are kept.
    """

    def __init__(self, slots: NDArray[np.int64], quota: int) -> None:
        self._slots, self._quota, self._seen = slots, quota, 0
        self._picked: list[Columns] = []

    @classmethod
    def none(cls) -> "StepPicker":
        """Return a picker that picks nothing."""
        return cls(np.zeros(0, np.int64), 0)

    @classmethod
    def draw(
        cls, rng: np.random.Generator, num_timesteps: int, quota: int, candidates_per_label: int
    ) -> "StepPicker":
        """Draw which of the next ``num_timesteps`` steps to look at."""
        count = min(num_timesteps, quota * candidates_per_label)
        return cls(np.sort(rng.choice(num_timesteps, count, replace=False)), quota)

    def _slots_within(self, running: NDArray[np.bool_]) -> NDArray[np.int64]:
        first, last = np.searchsorted(self._slots, (self._seen, self._seen + running.sum()))
        return self._slots[first:last] - self._seen

    def wants(self, running: NDArray[np.bool_]) -> bool:
        """Tell whether one of the steps that the running lanes take now is to be picked."""
        return bool(self._slots_within(running).size)

    def pick(self, fast: Columns, running: NDArray[np.bool_]) -> None:
        """Keep the rows of ``fast`` (one per lane) whose turn it is."""
        lanes = np.flatnonzero(running)[self._slots_within(running)]
        self._picked.append(slice_columns(fast, lanes))

    def advance(self, running: NDArray[np.bool_]) -> None:
        """Count the steps that the running lanes took."""
        self._seen += int(running.sum())

    def chosen(self, correction: OffsetCorrection | None) -> Columns:
        """Return the steps to label, in the order they were taken."""
        if not self._picked:
            return {}
        columns = concat_columns(self._picked)
        num_picked = len(columns[REWARD])
        if num_picked > self._quota and correction is not None and correction.predictor is not None:
            _, std = correction.predictor.predict(correction.layout.features(columns))
            most_uncertain = np.argsort(-std.mean(axis=1), kind="stable")
        else:
            most_uncertain = np.arange(num_picked)
        return slice_columns(columns, np.sort(most_uncertain[: self._quota]))


def share_of(total: int, worker_index: int, num_workers: int) -> int:
    """Return the part of ``total`` that falls to one runner; the parts add up to ``total``.

    Example:
        >>> [share_of(5, index, 3) for index in (1, 2, 3)], share_of(5, 0, 0)
        ([2, 2, 1], 5)
    """
    if num_workers == 0:
        return total
    return total // num_workers + (worker_index - 1 < total % num_workers)
