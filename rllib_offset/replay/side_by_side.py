"""Trajectories replayed side by side, in a simulator that advances many with one call.

For the kind of simulator that is parallel by itself: arrays over lanes, one solver call for many
right-hand sides, a GPU.  Whatever fails here is replayed alone afterwards.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import (
    MEASUREMENT,
    NEXT_STATE,
    OBS,
    REWARD,
    STATE,
    TERMINATED,
    VALID,
    Columns,
    slice_columns,
)
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.pair import AnyVectorEnv
from rllib_offset.replay.global_rng import preserved_global_rng, rng_position, seed_of
from rllib_offset.replay.known import LabelWriter
from rllib_offset.replay.requests import ReplayRequest, ReplayResult
from rllib_offset.replay.simulator import Blame, check_shape, mark_valid
from rllib_offset.replay.termination import Termination, termination
from rllib_offset.simulator_state import can_get_simulator_states, get_simulator_states

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
        group = _Group(requests, env, writers, sigterm)
        try:
            with preserved_global_rng(seed_of(requests[0])):
                before = rng_position()
                group.replay()
                draws_globally = rng_position() != before
        except BaseException:  # a signal: no simulator's error comes so far
            group.leave()
            raise
        sigterm.hold()
        results = group.close()
    if draws_globally:
        raise ValueError(
            "the slow simulator draws from `random` or `np.random`, so trajectories side by side "
            "would depend on each other; draw from `self.np_random`, or use "
            "num_envs_per_replay_worker=1"
        )
    return results


class _Group:
    """Lanes that are stepped together, and what they have returned.

    Rows are kept as the columns of all lanes, tick by tick.
    """

    def __init__(
        self,
        requests: Sequence[ReplayRequest],
        env: AnyVectorEnv,
        writers: Sequence[LabelWriter | None],
        sigterm: Termination,
    ) -> None:
        self._env, self._sigterm = env, sigterm
        self._blame = Blame("slow", sigterm)
        self._shape = env.observation_space.shape
        self._can_get = can_get_simulator_states(env)
        self._states = np.zeros((env.num_envs, 0))
        self._rows = _Rows()
        self._lanes = [
            _Lane(request, number, writer, self._rows)
            for number, (request, writer) in enumerate(zip(requests, writers, strict=True))
        ]
        self._running = list(self._lanes)
        self._time_s = 0.0  # that each of the running lanes has taken

    def replay(self) -> None:
        """Reset, and step until every trajectory has ended or the simulator has raised."""
        try:
            self._reset()
            for actions in self._actions():
                self._step(actions)
                self._sigterm.release()
                if not self._running:
                    return
        except SlowSimulatorError as error:
            for lane in self._running:
                lane.fail(error, self._time_s)
        finally:
            self._sigterm.release()

    def close(self) -> list[ReplayResult]:
        """Write what is left, and return the answers."""
        return [lane.close() for lane in self._lanes]

    def leave(self) -> None:
        """Note, or else write, what is left: this process will not come to it."""
        for lane in self._lanes:
            lane.leave()

    def _actions(self) -> NDArray[Any]:
        """Return the actions of every tick, ``(T, lanes, ...)``; resting lanes repeat some."""
        columns = [lane.request.actions for lane in self._lanes]
        columns += [columns[0]] * (self._env.num_envs - len(columns))
        ticks = np.arange(max(map(len, columns)))
        return np.stack([column[np.minimum(ticks, len(column) - 1)] for column in columns], axis=1)

    def _reset(self) -> None:
        seeds: list[int | None] = [lane.request.seed for lane in self._lanes]
        seeds += [None] * (self._env.num_envs - len(seeds))
        is_used = np.arange(len(seeds)) < len(self._lanes)
        self._call(self._env.reset, seed=seeds, options={"reset_mask": is_used})
        if self._can_get:
            self._states = self._read_states()

    def _step(self, actions: NDArray[Any]) -> None:
        answer = self._call(self._env.step, actions)
        self._sigterm.hold()
        with self._blame:
            obs, rewards, terminated, truncated, infos = answer
            columns = _columns(obs, rewards, terminated, infos)
            check_shape("observations", columns[OBS], self._shape)
        if self._can_get:
            before, self._states = self._states, self._read_states()
            columns |= {STATE: before, NEXT_STATE: self._states}
        self._rows.add(columns)
        is_over = (columns[TERMINATED] | np.asarray(truncated, bool)).tolist()
        for lane in self._running:
            lane.reach(self._time_s, is_over=is_over[lane.number])
        self._running = [lane for lane in self._running if not lane.is_over]

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call into the simulator; the lanes that it is done for share the time."""
        start_s = time.perf_counter()
        try:
            with self._blame:
                return function(*args, **kwargs)
        finally:
            self._time_s += (time.perf_counter() - start_s) / len(self._running)

    def _read_states(self) -> NDArray[np.float64]:
        with self._blame:
            return np.array(get_simulator_states(self._env), np.float64)


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
        return {name: column[steps, lane].copy() for name, column in self._columns.items()}


class _Lane:
    """One trajectory: how far it is, and how far that is on disk."""

    def __init__(
        self, request: ReplayRequest, number: int, writer: LabelWriter | None, rows: _Rows
    ) -> None:
        self.request, self.number = request, number
        self.is_over = False
        self._num_rows, self._time_s = 0, 0.0
        self._error: str | None = None
        self._rows, self._writer = rows, writer
        self._written = self._noted = (0, 0.0)  # rows, and seconds that they took

    def reach(self, time_s: float, *, is_over: bool) -> None:
        """Count the row that has just finished, and see that it survives this process."""
        self._num_rows, self._time_s = len(self._rows), time_s
        self.is_over = is_over or self._num_rows == len(self.request)
        writer = self._writer
        if writer is None:
            return
        if writer.is_noted(time_s - self._noted[1]):
            self._note(writer)
        if writer.is_due(time_s - self._written[1]):
            self._write(writer)

    def fail(self, error: SlowSimulatorError, time_s: float) -> None:
        """End here: the simulator has raised, in this lane or in another."""
        self._time_s = time_s
        whence = f"{self.request.whence()}, step {self._num_rows}, beside other trajectories"
        self._error = f"{error} ({whence}; replay {self.request.key})"

    def close(self) -> ReplayResult:
        """Write what is left, and return the answer."""
        if self._writer is None:
            return self._result(0)
        if self._written[0] < self._num_rows:
            self._write(self._writer)
        return self._writer.signed(self._result(0))

    def leave(self) -> None:
        """Note, or else write, what is left."""
        if self._writer is None or self._noted[0] == self._num_rows:
            return
        leave = self._note if self._writer.is_noted(math.inf) else self._write
        leave(self._writer)

    def _note(self, writer: LabelWriter) -> None:
        num_rows, seconds = self._noted
        self._noted = self._num_rows, self._time_s
        writer.note(self._result(num_rows), self._time_s - seconds, is_end=self.is_over)

    def _write(self, writer: LabelWriter) -> None:
        num_rows, seconds = self._written
        self._written = self._noted = self._num_rows, self._time_s
        writer.write(self._result(num_rows), self._time_s - seconds, is_end=self.is_over)

    def _result(self, first: int) -> ReplayResult:
        """Return the finished rows from number ``first`` on."""
        index = np.arange(first, self._num_rows)
        is_empty = first == self._num_rows
        return ReplayResult(
            request=self.request,
            slow=None
            if is_empty
            else mark_valid(self._rows.of(self.number, first, self._num_rows)),
            fast=slice_columns(self.request.fast, index),
            sim_time_s=self._time_s,
            num_steps=self._num_rows,
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


def _columns(obs: Any, rewards: Any, terminated: Any, infos: dict[str, Any]) -> Columns:
    """Return a step of all lanes in the types of a single row."""
    columns: Columns = {
        OBS: np.array(obs, np.float32),
        REWARD: np.array(rewards, np.float32),
        TERMINATED: np.array(terminated, bool),
        VALID: np.ones(len(obs), bool),
    }
    if VALID in infos:
        columns[VALID] = np.array(infos[VALID], bool) | ~_tell(infos, VALID)
    if MEASUREMENT in infos:
        measured = np.array(list(infos[MEASUREMENT]), np.float64).reshape(len(obs), -1)
        measured[~_tell(infos, MEASUREMENT)] = np.nan
        columns[MEASUREMENT] = measured
    return columns


def _tell(infos: dict[str, Any], name: str) -> NDArray[np.bool_]:
    """Return which lanes have something of that name in their infos; Gymnasium's form."""
    return np.asarray(infos.get(f"_{name}", np.ones(len(infos[name]))), bool)
