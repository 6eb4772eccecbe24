"""Which labels are held already, so that none is bought, counted or fitted twice."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import Columns, slice_columns
from rllib_offset.replay.requests import ReplayResult, nothing, valid_rows
from rllib_offset.sampling import are_in, label_hashes

__all__ = ["HeldLabels"]


class HeldLabels:
    """Remembers single steps and whole trajectories by their hashes.

    Args:
        identity: Of single steps, the arrays in which two differ if their labels can.

    Attributes:
        steps: Sorted hashes of single steps.
        trajectories: Sorted hashes of trajectories, of their seeds and actions.
    """

    def __init__(self, identity: Callable[[Columns], tuple[NDArray[Any], ...]]) -> None:
        self._identity = identity
        # of results looked at and not added yet, by id, which is a result's own as long as it lives
        self._hashed: dict[int, tuple[ReplayResult, NDArray[np.int64], NDArray[np.uint64]]] = {}
        self.forget()

    def forget(self) -> None:
        """Hold nothing."""
        self.steps, self.trajectories = np.zeros(0, np.uint64), np.zeros(0, np.uint64)

    def add(self, results: list[ReplayResult]) -> None:
        """Remember what has a valid row."""
        hashes: dict[bool, list[NDArray[np.uint64]]] = {True: [], False: []}
        for result in results:
            hashes[result.request.kind == "steps"].append(self._hashes(result)[1])
        self.steps = _merged(self.steps, *hashes[True])
        self.trajectories = _merged(self.trajectories, *hashes[False])

    def left_out_of(self, results: list[ReplayResult]) -> list[ReplayResult]:
        """Return the results without what is held, or comes a second time.

        What is left out and came for free counts nowhere; what was bought counts as wasted.  Of an
        answer that is both, the free rows are taken to be the ones left out.
        """
        fresh, given = [], set[int]()
        self._hashed.clear()
        for result in results:
            rows, hashes = self._hashes(result)
            self._hashed[id(result)] = result, rows, hashes
            are_steps = result.request.kind == "steps"
            held = self.steps if are_steps else self.trajectories
            repeats = are_in(held, hashes) | np.array([h in given for h in hashes.tolist()], bool)
            if are_steps:
                again = np.ones(len(hashes), bool)
                again[np.unique(hashes, return_index=True)[1]] = False
                repeats |= again
            given.update(hashes.tolist())
            fresh.append(_without(result, rows[repeats]) if repeats.any() else result)
        return fresh

    def _hashes(self, result: ReplayResult) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return which finished rows have a hash, and these: one for all rows of a trajectory."""
        known = self._hashed.pop(id(result), None)
        if known is not None:
            return known[1:]
        valid = valid_rows(result)
        if not valid.any():
            return np.zeros(0, np.int64), np.zeros(0, np.uint64)
        request = result.request
        if request.kind == "steps":
            identity = self._identity(slice_columns(result.fast, valid))
            return np.flatnonzero(valid), label_hashes(*identity)
        actions = request.actions[result.index]
        name = label_hashes(np.array([request.seed]), actions[None])
        return np.arange(len(valid)), np.repeat(name, len(valid))


def _without(result: ReplayResult, rows: NDArray[np.int64]) -> ReplayResult:
    """Return a result as if some of its finished rows had never been asked for."""
    num_reused = max(0, result.num_reused - len(rows))
    asked = np.setdiff1d(np.arange(len(result.request)), result.index[rows])
    if len(rows) == len(result.index):
        bare = nothing(result.request)
        if result.error is not None and result.request.kind == "steps":
            bare = nothing(result.request.rows(asked), result.error)
        return replace(
            bare,
            sim_time_s=result.sim_time_s,
            num_steps=result.num_steps,
            num_reused=num_reused,
            unstored=result.unstored,
        )
    assert result.slow is not None
    kept = np.setdiff1d(np.arange(len(result.index)), rows)
    return replace(
        result,
        request=result.request.rows(asked),
        slow=slice_columns(result.slow, kept),
        fast=slice_columns(result.fast, kept),
        index=np.searchsorted(asked, result.index[kept]),
        num_reused=num_reused,
    )


def _merged(held: NDArray[np.uint64], *new: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the sorted union of a sorted array, which may be long, and of a few values."""
    hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *new]))
    fresh = hashes[~are_in(held, hashes)]
    return np.insert(held, np.searchsorted(held, fresh), fresh)
