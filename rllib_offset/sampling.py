"""Bookkeeping of a sample: steps into trajectories, and which steps are to be labelled.

NumPy only; the environment runners drive it.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import (
    ACTION,
    OBS,
    PREV_OBS,
    REWARD,
    VALID,
    Columns,
    concat_columns,
    slice_columns,
)
from rllib_offset.correction import OffsetCorrection
from rllib_offset.measurements import NO_READER, MeasurementReader

__all__ = [
    "EndPicker",
    "Lanes",
    "Recorder",
    "StepPicker",
    "Trajectory",
    "are_in",
    "falls_on",
    "label_hashes",
    "share_of",
]


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


class Lanes:
    """Which lanes run, and which episode each of them is in; ``N`` lanes.

    Attributes:
        running: Which have an episode that has not ended, ``(N,)``.
        num_running: How many these are.
        num_started: Episodes started so far.
        seeds: Seed of the latest episode of each lane, ``(N,)``.
        times: Steps into that episode, ``(N,)``; whoever steps the lanes counts.
    """

    def __init__(self, num_lanes: int) -> None:
        self.running = np.zeros(num_lanes, bool)
        self.num_running = self.num_started = 0
        self.seeds = np.zeros(num_lanes, np.int64)
        self.times = np.zeros(num_lanes, np.float32)
        self._ordinals, self._started_at = (np.zeros(num_lanes, np.int64) for _ in range(2))

    def start(self, at_most: int, tick: int, seeds: Iterator[int]) -> NDArray[np.bool_]:
        """Start episodes on resting lanes; returns on which, ``(N,)``."""
        lanes = np.flatnonzero(~self.running)[:at_most]
        self.seeds[lanes] = [next(seeds) for _ in lanes]
        self._ordinals[lanes] = self.num_started + np.arange(lanes.size)
        self._started_at[lanes], self.times[lanes] = tick, 0
        self.running[lanes] = True
        self.num_started += lanes.size
        self.num_running += lanes.size
        starting = np.zeros_like(self.running)
        starting[lanes] = True
        return starting

    def end(self, ended: NDArray[np.bool_], tick: int) -> list[dict[str, Any]]:
        """Let lanes rest; returns what is known of their episodes, as a trajectory names it."""
        self.running &= ~ended
        self.num_running = int(np.count_nonzero(self.running))
        return [
            {
                "lane": lane,
                "steps": slice(int(self._started_at[lane]), tick),
                "seed": int(self.seeds[lane]),
                "ordinal": int(self._ordinals[lane]),
            }
            for lane in np.flatnonzero(ended).tolist()
        ]


class Recorder:
    """Step columns of all lanes, ``(ticks, lanes, ...)``, in arrays that double when full."""

    def __init__(self, lanes: int, ticks: int) -> None:
        self._lanes, self._ticks = lanes, ticks
        self._groups: dict[str, Columns] = {}

    def put(self, tick: int, **groups: Columns) -> None:
        """Store one row per lane, columns in named groups."""
        if tick == self._ticks:
            self._ticks *= 2
            for kept in self._groups.values():
                for name, column in kept.items():
                    blank = _blank(name, column[0], len(column))
                    kept[name] = np.concatenate([column, blank])
        for group, columns in groups.items():
            kept = self._groups.setdefault(group, {})
            for name, values in columns.items():
                if name not in kept:
                    kept[name] = _blank(name, values, self._ticks)
                kept[name][tick] = values

    def trajectory(self, lane: int, steps: slice, **facts: Any) -> Trajectory:
        """Return a lane's steps as a trajectory; ``facts`` are its other fields."""

        def group(name: str) -> Columns:
            columns = self._groups.get(name, {})
            return {name: column[steps, lane].copy() for name, column in columns.items()}

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


def _blank(name: str, values: NDArray[Any], ticks: int) -> NDArray[Any]:
    """Return rows like ``values`` for ticks at which nobody gives any: zero, and valid."""
    return np.full((ticks, *values.shape), name == VALID, values.dtype)


class StepPicker:
    """Picks single steps for labelling while a sample runs.

    Slots are drawn before the sample, more of them than labels are bought; afterwards the most
    useful ones are kept, and none that is labelled already.

    Args:
        slots: Which steps of the sample to look at, increasing.
        ranks: The slots' places in the draw, which decide among equally useful ones.
        quota: Labels to buy.
    """

    def __init__(self, slots: NDArray[np.int64], ranks: NDArray[np.int64], quota: int) -> None:
        self._slots, self._ranks, self._quota = slots.tolist(), ranks, quota
        self._seen = 0  # steps
        self._passed = 0  # slots
        self._picked: list[Columns] = []

    @classmethod
    def none(cls) -> "StepPicker":
        """Return a picker that picks nothing."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)

    @classmethod
    def draw(
        cls, rng: np.random.Generator, num_timesteps: int, quota: int, candidates_per_label: int
    ) -> "StepPicker":
        """Draw which of the next ``num_timesteps`` steps to look at."""
        count = min(num_timesteps, quota * candidates_per_label)
        drawn = rng.choice(num_timesteps, count, replace=False)
        ranks = np.argsort(drawn)
        return cls(drawn[ranks], ranks, min(quota, num_timesteps))

    @property
    def has_seen_all(self) -> bool:
        """Whether every slot of the draw has passed, so that the choice can be made."""
        return self._passed == len(self._slots) > 0

    def wants(self, running: NDArray[np.bool_]) -> bool:
        """Tell whether one of the steps that the running lanes take now is to be picked."""
        if self._passed == len(self._slots):
            return False
        return bool(self._slots[self._passed] < self._seen + np.count_nonzero(running))

    def pick(self, fast: Columns, running: NDArray[np.bool_]) -> None:
        """Keep the rows of ``fast`` (one per lane) whose turn it is."""
        lanes = np.flatnonzero(running)
        due = bisect_left(self._slots, self._seen + len(lanes), lo=self._passed)
        turns = np.array(self._slots[self._passed : due], np.int64) - self._seen
        self._picked.append(slice_columns(fast, lanes[turns]))
        self._passed = due

    def take(self, episode: Columns) -> None:
        """Look at the steps of an episode that has ended; single steps are picked before."""

    def advance(self, running: NDArray[np.bool_]) -> None:
        """Count the steps that the running lanes took, as long as slots are left."""
        if self._passed < len(self._slots):
            self._seen += int(np.count_nonzero(running))

    def chosen(
        self,
        correction: OffsetCorrection,
        choice: str = "uniform",
        held_labels: NDArray[np.uint64] | None = None,
        reader: MeasurementReader = NO_READER,
    ) -> Columns:
        """Return the steps to label, in the order they were taken.

        Args:
            correction: Tells which steps are outside of the labelled region, and the spread.
            choice: ``"uniform"`` or ``"uncertain"``.
            held_labels: Sorted hashes (:func:`label_hashes`) of steps labelled already.
            reader: What the pair makes of a measurement.
        """
        if not self._picked:
            return {}
        columns = concat_columns(self._picked)
        ranks = self._ranks[: len(columns[REWARD])]
        is_new = _are_new(columns, correction, reader, held_labels)
        spread = correction.relative_spread(columns, reader)
        is_inside = spread <= correction.flag_threshold
        uncertainty = -spread if choice == "uncertain" else np.zeros(len(ranks))
        order = np.lexsort((ranks, uncertainty, is_inside, ~is_new))
        num_labels = min(self._quota, int(is_new.sum()))
        return slice_columns(columns, np.sort(order[:num_labels]))


class EndPicker(StepPicker):
    """Picks the steps that episodes end with, and some on the way there.

    For tasks whose answer is where an episode ends: a design, a path, a setting.

    Args:
        rng: Draws the steps on the way, and which episodes are labelled.
        quota: Labels to buy, 60 % of them at the ends.
    """

    _SHARE_OF_ENDS = 0.6
    _STEPS_ON_THE_WAY = 8

    def __init__(self, rng: np.random.Generator, quota: int) -> None:
        nothing = np.zeros(0, np.int64)
        super().__init__(nothing, nothing, quota)
        self._rng = rng

    def take(self, episode: Columns) -> None:
        """Keep the last step of an episode and one of its first eight."""
        last = len(episode[REWARD]) - 1
        on_the_way = int(self._rng.integers(min(last, self._STEPS_ON_THE_WAY - 1) + 1))
        self._picked.append(slice_columns(episode, np.array([last, on_the_way])))

    def chosen(
        self,
        correction: OffsetCorrection,
        choice: str = "ends",
        held_labels: NDArray[np.uint64] | None = None,
        reader: MeasurementReader = NO_READER,
    ) -> Columns:
        """Return the steps to label, of episodes drawn at random; none labelled already."""
        if not self._picked:
            return {}
        order = self._rng.permutation(len(self._picked))
        columns = concat_columns([self._picked[i] for i in order])
        is_new = _are_new(columns, correction, reader, held_labels)
        ends, on_the_way = (np.flatnonzero(is_new[part::2]) * 2 + part for part in (0, 1))
        num_ends = max(round(self._SHARE_OF_ENDS * self._quota), self._quota - len(on_the_way))
        ends = ends[:num_ends]
        chosen = np.concatenate([ends, on_the_way[: self._quota - len(ends)]])
        return slice_columns(columns, np.sort(chosen))


def _are_new(
    steps: Columns,
    correction: OffsetCorrection,
    reader: MeasurementReader,
    held_labels: NDArray[np.uint64] | None,
) -> NDArray[np.bool_]:
    """Tell which steps are the first of their hash, not labelled already, and can be."""
    hashes = label_hashes(*correction.layout.identity(steps, reader))
    is_new = np.zeros(len(hashes), bool)
    is_new[np.unique(hashes, return_index=True)[1]] = True
    if held_labels is not None and len(held_labels):
        is_new &= ~are_in(held_labels, hashes)
    is_new &= steps.get(VALID, True)  # what is invalid in the fast simulator makes no label
    return is_new


def label_hashes(*columns: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a hash of each row of all columns together, ``(N,)``; equal for equal bits only."""
    num_rows = len(columns[0])
    wide = [column.reshape(num_rows, math.prod(column.shape[1:])) for column in columns]
    rows = np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in wide], axis=1)
    width, data = rows.shape[1], rows.tobytes()
    starts = range(0, num_rows * width, width)
    digests = [blake2b(data[i : i + width], digest_size=8).digest() for i in starts]
    return np.frombuffer(b"".join(digests), np.uint64)


def are_in(held: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which of a few hashes stand in a sorted array, which may be long."""
    places = np.searchsorted(held, hashes)
    found = np.zeros(len(hashes), bool)
    within = places < len(held)
    found[within] = held[places[within]] == hashes[within]
    return found


def falls_on(ordinal: int, fraction: float, phase: float) -> bool:
    """Tell whether episode ``ordinal`` belongs to an evenly spread ``fraction`` of all episodes.

    Example:
        >>> [k for k in range(10) if falls_on(k, 0.2, phase=0.5)]
        [2, 7]
    """
    return math.floor((ordinal + 1) * fraction + phase) > math.floor(ordinal * fraction + phase)


def share_of(total: int, worker_index: int, num_workers: int) -> int:
    """Return the part of ``total`` that falls to one runner; the parts add up to ``total``.

    Example:
        >>> [share_of(5, index, 3) for index in (1, 2, 3)], share_of(5, 0, 0)
        ([2, 2, 1], 5)
    """
    if num_workers == 0:
        return total
    return total // num_workers + (worker_index - 1 < total % num_workers)
