"""Trajectories replayed side by side, in a simulator that advances many with one call.

For the kind of simulator that is parallel by itself: arrays over lanes, one solver call for many
right-hand sides, a GPU.  Whatever fails here is replayed alone afterwards.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import MEASUREMENT, Columns, slice_columns
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.pair import AnyVectorEnv
from rllib_offset.replay.global_rng import preserved_global_rng, seed_of
from rllib_offset.replay.known import LabelWriter
from rllib_offset.replay.requests import ReplayRequest, ReplayResult
from rllib_offset.replay.row_keeper import RowKeeper
from rllib_offset.replay.simulator import mark_valid
from rllib_offset.replay.simulator_lanes import SimulatorLanes, row_of
from rllib_offset.replay.termination import Termination, termination

__all__ = ["replay_side_by_side"]


def replay_side_by_side(
    requests: Sequence[ReplayRequest],
    env: AnyVectorEnv,
    writers: Sequence[LabelWriter | None] | None = None,
) -> list[ReplayResult]:
    """Answer requests for trajectories, one lane each; each answer is that of its request alone.

    A simulator that raises ends all trajectories that still run; what finished is kept.

    Args:
        requests: At most as many as there are lanes, each of kind ``"trajectory"``.
        env: The slow simulator's native vector form, which resets lanes only when told to.
        writers: Write a request's rows to disk while the replay goes on; ``None`` for none.

    Raises:
        ValueError: If the simulator draws from the global generators of Python or NumPy: an answer
            would depend on what is replayed beside it.
    """
    writers = writers or [None] * len(requests)
    with ExitStack() as stack:
        sigterm = stack.enter_context(termination())
        for request, writer in zip(requests, writers, strict=True):
            if writer is not None:
                stack.enter_context(writer.attempting(request))
        group = _Group(requests, SimulatorLanes(env, sigterm), writers, sigterm)
        try:
            with preserved_global_rng(seed_of(requests[0])):
                group.replay()
        except BaseException:  # a signal, or a refusal: no simulator's error comes so far
            for lane in group.lanes:
                lane.leave()
            raise
        sigterm.hold()
        return [lane.close() for lane in group.lanes]


class _Group:
    """Trajectories that are stepped together, and what they have returned.

    Rows are kept as the columns of all lanes, tick by tick.
    """

    def __init__(
        self,
        requests: Sequence[ReplayRequest],
        slow: SimulatorLanes,
        writers: Sequence[LabelWriter | None],
        sigterm: Termination,
    ) -> None:
        self._slow, self._sigterm = slow, sigterm
        self._rows = _Rows()
        self.lanes = [
            _Lane(request, number, writer, self._rows)
            for number, (request, writer) in enumerate(zip(requests, writers, strict=True))
        ]
        self._running = list(self.lanes)
        self._time_s = self._counted_s = 0.0  # that each of the running lanes has taken; in all

    def replay(self) -> None:
        """Reset, and step until every trajectory has ended or the simulator has raised."""
        try:
            self._slow.reset([lane.request.seed for lane in self.lanes])
            self._share_time()
            for actions in self._actions():
                self._step(actions)
                self._sigterm.release()
                if not self._running:
                    return
        except SlowSimulatorError as error:
            self._share_time()
            for lane in self._running:
                lane.fail(error, self._slow.num_calls, self._time_s)
        finally:
            self._sigterm.release()

    def _actions(self) -> NDArray[Any]:
        """Return the actions of every tick, ``(T, N, ...)``; resting lanes repeat some."""
        columns = [lane.request.actions for lane in self.lanes]
        columns += [columns[0]] * (self._slow.num_envs - len(columns))
        ticks = np.arange(max(map(len, columns)))
        return np.stack([column[np.minimum(ticks, len(column) - 1)] for column in columns], axis=1)

    def _step(self, actions: NDArray[Any]) -> None:
        columns, is_over = self._slow.step(actions, len(self._running))
        self._share_time()
        self._rows.add(columns)
        over = is_over.tolist()
        for lane in self._running:
            lane.reach(self._time_s, is_over=over[lane.number])
        for lane in self._running:
            lane.write()
        self._running = [lane for lane in self._running if not lane.is_over]

    def _share_time(self) -> None:
        """Share the time of a call out among the lanes that it was made for."""
        self._time_s += (self._slow.time_s - self._counted_s) / len(self._running)
        self._counted_s = self._slow.time_s


class _Rows:
    """The columns of all lanes, tick by tick, and joined once for whoever asks alike."""

    def __init__(self) -> None:
        self._ticks: list[Columns] = []
        self._range: tuple[int, int] = 0, 0  # of the ticks that are joined
        self._columns: Columns = {}

    def __len__(self) -> int:
        return len(self._ticks)

    def add(self, columns: Columns) -> None:
        """Take in a tick: a row per lane."""
        self._ticks.append(columns)

    def of(self, lane: int, first: int, stop: int) -> Columns:
        """Return the rows of a lane from tick ``first`` to before tick ``stop``."""
        if self._range != (first, len(self)):
            self._range = first, len(self)
            self._columns = _joined(self._ticks[first:])
        steps = slice(stop - first)
        return row_of({n: column[steps, lane].copy() for n, column in self._columns.items()})


class _Lane(RowKeeper):
    """One trajectory: how far it is, and how far that is on disk."""

    def __init__(
        self, request: ReplayRequest, number: int, writer: LabelWriter | None, rows: _Rows
    ) -> None:
        super().__init__(writer)
        self.request, self.number = request, number
        self.is_over = False
        self._num_rows = self._num_steps = 0  # a step whose answer makes no sense gives no row
        self._time_s = 0.0
        self._error: str | None = None
        self._rows = rows

    def reach(self, time_s: float, *, is_over: bool) -> None:
        """Count the row that has just finished, and note it."""
        self._num_rows = self._num_steps = len(self._rows)
        self._time_s = time_s
        self.is_over = is_over or self._num_rows == len(self.request)
        self.note(is_end=self.is_over)

    def fail(self, error: SlowSimulatorError, num_steps: int, time_s: float) -> None:
        """End here: the simulator has raised, in this lane or in another."""
        self._num_steps, self._time_s = num_steps, time_s
        whence = f"{self.request.whence()}, step {self._num_rows}, beside other trajectories"
        self._error = f"{error} ({whence}; replay {self.request.key})"

    def _so_far(self) -> tuple[int, float]:
        return self._num_rows, self._time_s

    def _result(self, first: int) -> ReplayResult:
        index, slow = np.arange(first, self._num_rows), None
        if len(index):
            rows = self._rows.of(self.number, first, self._num_rows)
            slow = mark_valid(rows, is_measured=MEASUREMENT in self.request.fast)
        return ReplayResult(
            request=self.request,
            slow=slow,
            fast=slice_columns(self.request.fast, index),
            sim_time_s=self._time_s,
            num_steps=self._num_steps,
            error=self._error,
            index=index,
        )


def _joined(ticks: list[Columns]) -> Columns:
    """Return columns ``(ticks, lanes, ...)``; where nothing was measured, NaN."""
    known = {name: column for tick in ticks for name, column in tick.items()}
    blank = {
        name: np.full_like(column, np.nan)
        for name, column in known.items()
        if any(name not in tick for tick in ticks)
    }
    return {
        name: np.concatenate(
            [tick[name] if name in tick else blank[name] for tick in ticks]
        ).reshape(len(ticks), *column.shape)
        for name, column in known.items()
    }
