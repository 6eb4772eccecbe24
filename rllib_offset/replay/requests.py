"""What is asked of the slow simulator, and what comes back."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import VALID, Columns, slice_columns, stack_columns

__all__ = [
    "Key",
    "ReplayRequest",
    "ReplayResult",
    "Rows",
    "merge_results",
    "missing_rows",
    "nothing",
    "steps_per_call",
    "valid_rows",
]

Key = tuple[int, ...]
Rows = NDArray[np.int64]

_KINDS = ("trajectory", "steps", "resync")
_MAX_STEPS_PER_CALL = 256


@dataclass(frozen=True, eq=False)
class ReplayRequest:
    """Actions to replay; the answer is a function of this request alone.

    Shapes: ``T`` actions, ``S`` values of simulator state.

    Args:
        key: Names the request, and orders it: the lowest is served first.
        kind: ``"trajectory"`` replays from a seeded reset; ``"steps"`` takes one step from each
            state; ``"resync"`` replays from a reset and steps the fast simulator from every slow
            state.
        actions: ``(T, ...)``, what the environment received.
        seed: Of the reset; for a trajectory and a resync.
        states: ``(T, S)``, for steps.
        fast: Columns of length ``T`` carried through to the result.

    Raises:
        ValueError: If a part is missing or has the wrong length.

    Example:
        >>> request = ReplayRequest((0, 1), "steps", np.zeros((3, 2)), states=np.ones((3, 4)))
        >>> len(request), len(request.rows(np.array([2])))
        (3, 1)
    """

    key: Key
    kind: Literal["trajectory", "steps", "resync"]
    actions: NDArray[Any]
    seed: int | None = None
    states: NDArray[np.float64] | None = None
    fast: Columns = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"`kind` must be one of {_KINDS}, got {self.kind!r}")
        if len(self.actions) < 1:
            raise ValueError("a replay needs at least one action, got none")
        if self.kind == "steps" and self.states is None:
            raise ValueError("`steps` start from given states; pass `states` of shape (T, S)")
        if self.kind != "steps" and self.seed is None:
            raise ValueError(f"a {self.kind!r} replay starts from a seeded reset; pass `seed`")
        columns = dict(self.fast) if self.states is None else {**self.fast, "states": self.states}
        for name, column in columns.items():
            if len(column) != len(self):
                raise ValueError(f"{name!r} must have {len(self)} rows, got {len(column)}")

    def __len__(self) -> int:
        return len(self.actions)

    def whence(self, row: int | None = None) -> str:
        """Say what it takes to reproduce a row, by default the only one, or a whole trajectory."""
        if self.states is None:
            return f"seed {self.seed}"
        if row is None and len(self) > 1:
            return f"{len(self)} single steps"
        state, action = self.states[row or 0], self.actions[row or 0]
        return f"state {state.tolist()}, action {action.tolist()}"

    def rows(self, rows: Rows) -> "ReplayRequest":
        """Return the request for some of its rows; only single steps can be asked for apart."""
        if self.kind != "steps" or len(rows) == len(self):
            return self
        assert self.states is not None
        return replace(
            self,
            actions=self.actions[rows],
            states=self.states[rows],
            fast=slice_columns(self.fast, rows),
        )


@dataclass
class ReplayResult:
    """What the slow simulator returned; whatever finished before a failure is kept.

    Args:
        request: What was asked.
        slow: Columns of the finished rows; None if there are none.
        fast: Fast columns of the same rows.
        sim_time_s: Seconds spent inside the slow simulator.
        num_steps: Slow steps bought for this request, those of failed attempts included.
        error: Why rows are missing, with what it takes to reproduce the failure.
        index: Which rows of the request are here, increasing.
        num_reused: How many of these rows were bought for another request before.
        purchase: Names the attempt that these rows come from, where labels are stored.
        unstored: Answers of which not every row could be written to the store yet.
    """

    request: ReplayRequest
    slow: Columns | None
    fast: Columns
    sim_time_s: float
    num_steps: int
    error: str | None
    index: Rows
    num_reused: int = 0
    purchase: str = ""
    unstored: tuple["ReplayResult", ...] = ()

    @property
    def num_wasted(self) -> int:
        """Steps that finished and were bought again, as a trajectory is only bought whole."""
        return self.num_steps + self.num_reused - len(self.index)

    @property
    def num_missing(self) -> int:
        """Rows given up after a failure; those after an early end are no failure."""
        return 0 if self.error is None else len(self.request) - len(self.index)


def nothing(request: ReplayRequest, error: str | None = None) -> ReplayResult:
    """Return the answer of a replay without a finished row."""
    return ReplayResult(request, None, {}, 0.0, 0, error, np.arange(0))


def valid_rows(result: ReplayResult) -> NDArray[np.bool_]:
    """Return which finished rows mean something in both simulators, ``(N,)``."""
    if result.slow is None:
        return np.zeros(0, bool)
    valid = result.slow[VALID].astype(bool)
    return valid & result.fast[VALID].astype(bool) if VALID in result.fast else valid


def missing_rows(result: ReplayResult) -> Rows:
    """Return the rows still to be asked for; a trajectory is always asked for as a whole."""
    rows = np.arange(len(result.request))
    return np.setdiff1d(rows, result.index) if result.request.kind == "steps" else rows


def merge_results(result: ReplayResult, part: ReplayResult, rows: Rows) -> ReplayResult:
    """Add to ``result`` a later answer to the rows ``rows`` of its request."""
    if result.request.kind == "steps":
        merged = _join_rows(result, replace(part, index=rows[part.index]))
    else:
        is_better = part.error is None or len(part.index) >= len(result.index)
        longer = part if is_better else result
        merged = replace(longer, error=part.error)
    return replace(
        merged,
        request=result.request,
        sim_time_s=result.sim_time_s + part.sim_time_s,
        num_steps=result.num_steps + part.num_steps,
        num_reused=result.num_reused + part.num_reused,
        unstored=result.unstored + part.unstored,
    )


def _join_rows(first: ReplayResult, second: ReplayResult) -> ReplayResult:
    index = np.concatenate([first.index, second.index])
    order = np.argsort(index)
    is_complete = len(index) == len(first.request)
    slow = [part.slow for part in (first, second) if part.slow is not None]
    fast = [part.fast for part in (first, second) if part.slow is not None]
    return replace(
        first,
        slow=slice_columns(stack_columns(slow), order) if slow else None,
        fast=slice_columns(stack_columns(fast), order) if fast else {},
        index=index[order],
        error=None if is_complete else second.error or first.error,
    )


def steps_per_call(steps: int, workers: int) -> int:
    """How many single steps travel together: one call for each worker, as every call costs time.

    Where that would be too many for one call, all workers take equally many calls of equal length.

    Example:
        >>> steps_per_call(1000, workers=8), steps_per_call(3200, workers=8)
        (125, 200)
    """
    each = max(-(-steps // max(1, workers)), 1)
    calls = -(-each // _MAX_STEPS_PER_CALL)
    return -(-each // calls)
