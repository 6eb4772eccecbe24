"""Replays requests in the slow simulator: a request in, a result out.

Neither torch nor Ray is imported here: a process that replays starts as fast as its simulator.
"""

import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import (
    ACTION,
    MEASUREMENT,
    NEXT_STATE,
    OBS,
    PREV_OBS,
    REWARD,
    STATE,
    TERMINATED,
    TIME,
    VALID,
    Columns,
    slice_columns,
)
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.pair import EnvPair
from rllib_offset.replay.requests import ReplayRequest, ReplayResult
from rllib_offset.simulator_state import (
    can_get_simulator_state,
    can_set_simulator_state,
    get_simulator_state,
    set_simulator_state,
)

__all__ = ["ReplayWorker", "preserved_global_rng", "replay"]

AnyEnv = gym.Env[Any, Any]
Row = dict[str, Any]

_was_reset: WeakSet[AnyEnv] = WeakSet()  # environments that have been reset in this process


class ReplayWorker:
    """One process with a pair of simulators of its own."""

    def __init__(self, pair: EnvPair) -> None:
        self.pair = pair
        self._slow: AnyEnv | None = None
        self._fast: AnyEnv | None = None

    def ready(self) -> bool:
        """Build the simulators, which may take its time."""
        if self._slow is None:
            self._slow, self._fast = self.pair.make_slow(), self.pair.make_fast()
        return True

    def replay(self, request: ReplayRequest) -> ReplayResult:
        """Answer one request."""
        self.ready()
        assert self._slow is not None
        return replay(request, self._slow, self._fast)

    def pid(self) -> int:
        """Return the id of this process."""
        return os.getpid()

    def close(self) -> None:
        """Close both simulators."""
        for env in (self._slow, self._fast):
            if env is not None:
                env.close()  # type: ignore[no-untyped-call]


def replay(
    request: ReplayRequest, slow_env: AnyEnv, fast_env: AnyEnv | None = None
) -> ReplayResult:
    """Answer a request; equal requests get equal answers, whichever process gives them.

    A simulator that raises ends a trajectory, but only one row of ``"steps"``; what finished is
    kept and ``error`` says what happened.  The global random generators are seeded from the key of
    the request for the time of the replay, and are afterwards as they were.

    Raises:
        ValueError: If the pair does not offer what this kind of replay needs.
    """
    slow = _Simulator("slow", slow_env)
    fast = None if fast_env is None else _Simulator("fast", fast_env)
    log = _Log(request)
    with preserved_global_rng(zlib.crc32(repr(request.key).encode())):
        _KINDS[request.kind](request, slow, fast, log)
    index = np.array(log.index, dtype=np.int64)
    return ReplayResult(
        request=request,
        slow=_columns(log.slow) if log.slow else None,
        fast=_columns(log.fast) if log.fast else slice_columns(request.fast, index),
        sim_time_s=slow.time_s,
        num_steps=slow.num_steps,
        error=log.error,
        index=index,
    )


@contextmanager
def preserved_global_rng(seed: int | None = None) -> Iterator[None]:
    """Keep a simulator's use of ``random`` and ``np.random`` from anyone else's.

    Args:
        seed: Seeds both within the block; None leaves them as they are.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


class _Simulator:
    """An environment whose steps are timed, counted and turned into rows."""

    def __init__(self, name: str, env: AnyEnv) -> None:
        self.name, self.env = name, env
        self.can_get, self.can_set = can_get_simulator_state(env), can_set_simulator_state(env)
        self.time_s, self.num_steps = 0.0, 0

    def reset(self, seed: int | None) -> NDArray[np.float32]:
        with self._call():
            obs, _ = self.env.reset(seed=seed)
        _was_reset.add(self.env)
        return np.array(obs, np.float32)

    def reset_once(self) -> None:
        """Reset an environment never used before: wrappers insist on it."""
        if self.env not in _was_reset:
            self.reset(seed=0)

    def state(self) -> NDArray[np.float64]:
        with self._blame():
            return get_simulator_state(self.env)

    def set_state(self, state: NDArray[np.float64]) -> None:
        with self._blame():
            set_simulator_state(self.env, state)

    def step(self, action: NDArray[Any]) -> tuple[Row, bool]:
        """Step, and return the row and whether the episode is over."""
        state = {STATE: self.state()} if self.can_get else {}
        with self._call():  # the action is copied: a request stays as it is
            obs, reward, terminated, truncated, info = self.env.step(action.copy())
        self.num_steps += 1
        row = _row(obs, reward, terminated, info) | state
        if self.can_get:
            row[NEXT_STATE] = self.state()
        return row, bool(terminated or truncated)

    @contextmanager
    def _call(self) -> Iterator[None]:
        start_s = time.perf_counter()
        try:
            with self._blame():
                yield
        finally:
            self.time_s += time.perf_counter() - start_s

    @contextmanager
    def _blame(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise SlowSimulatorError(f"the {self.name} simulator raised {what}") from error


class _Log:
    """Rows that finished, and why the others did not."""

    def __init__(self, request: ReplayRequest) -> None:
        self.request = request
        self.index: list[int] = []
        self.slow: list[Row] = []
        self.fast: list[Row] = []
        self.error: str | None = None

    def add(self, i: int, slow: Row, fast: Row | None) -> None:
        self.index.append(i)
        self.slow.append(slow)
        if fast is not None:
            self.fast.append(fast)

    @contextmanager
    def failures(self, row: int | None = None) -> Iterator[None]:
        """Note what a simulator raises, with what reproduces it; anything else passes through."""
        try:
            yield
        except SlowSimulatorError as error:
            self.error = f"{error} ({self._whence(row)}; replay {self.request.key})"

    def _whence(self, row: int | None) -> str:
        if row is not None and self.request.states is not None:
            state, action = self.request.states[row], self.request.actions[row]
            return f"state {state.tolist()}, action {action.tolist()}"
        return f"seed {self.request.seed}, step {len(self.index)}"


def _replay_trajectory(
    request: ReplayRequest, slow: _Simulator, fast: _Simulator | None, log: _Log
) -> None:
    with log.failures():
        slow.reset(request.seed)
        for i, action in enumerate(request.actions):
            row, is_over = slow.step(action)
            log.add(i, row, None)
            if is_over:
                break


def _replay_steps(
    request: ReplayRequest, slow: _Simulator, fast: _Simulator | None, log: _Log
) -> None:
    _need(slow.can_set, "single steps need a slow simulator with `set_simulator_state(state)`")
    computes_fast = not request.fast
    if computes_fast:
        _need(
            fast is not None and fast.can_set,
            "steps without fast columns need a fast simulator with `set_simulator_state(state)`",
        )
    assert request.states is not None
    for i, (state, action) in enumerate(zip(request.states, request.actions, strict=True)):
        with log.failures(row=i):
            slow_row = _step_from(slow, state, action)
            fast_row = _step_from(fast, state, action) if computes_fast and fast else None
            log.add(i, slow_row, fast_row)


def _replay_resync(
    request: ReplayRequest, slow: _Simulator, fast: _Simulator | None, log: _Log
) -> None:
    _need(slow.can_get, "a resync needs a slow simulator with `get_simulator_state()`")
    if fast is None or not fast.can_set:
        raise ValueError("a resync needs a fast simulator with `set_simulator_state(state)`")
    with log.failures():
        prev_obs = slow.reset(request.seed)
        for i, action in enumerate(request.actions):
            fast_row = _step_from(fast, slow.state(), action)
            slow_row, is_over = slow.step(action)
            log.add(i, slow_row, fast_row | {PREV_OBS: prev_obs, TIME: np.float32(i + 1)})
            prev_obs = slow_row[OBS]
            if is_over:
                break


_KINDS: dict[str, Callable[[ReplayRequest, _Simulator, _Simulator | None, _Log], None]] = {
    "trajectory": _replay_trajectory,
    "steps": _replay_steps,
    "resync": _replay_resync,
}


def _need(holds: bool, text: str) -> None:
    if not holds:
        raise ValueError(text)


def _step_from(simulator: _Simulator, state: NDArray[np.float64], action: NDArray[Any]) -> Row:
    """Take one step from ``state``; that a time limit has run out meanwhile means nothing."""
    simulator.reset_once()
    simulator.set_state(state)
    row, _ = simulator.step(action)
    return row | {STATE: np.array(state, np.float64), ACTION: np.array(action)}


def _row(obs: Any, reward: Any, terminated: Any, info: dict[str, Any]) -> Row:
    row: Row = {
        OBS: np.array(obs, np.float32),
        REWARD: np.float32(reward),
        TERMINATED: bool(terminated),
        VALID: bool(info.get("valid", True)),
    }
    if MEASUREMENT in info:
        row[MEASUREMENT] = np.array(info[MEASUREMENT], np.float64).reshape(-1)
    return row


def _columns(rows: list[Row]) -> Columns:
    """Stack rows; one with a number that is not finite, or without its measurement, is invalid."""
    measured = next((row[MEASUREMENT] for row in rows if MEASUREMENT in row), None)
    if measured is not None:
        blank = np.full_like(measured, np.nan)
        rows = [{MEASUREMENT: blank} | row for row in rows]
    columns: Columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    results = [columns[name] for name in (OBS, REWARD, MEASUREMENT) if name in columns]
    is_finite = [np.isfinite(column.reshape(len(rows), -1)).all(axis=1) for column in results]
    columns[VALID] = np.logical_and.reduce([columns[VALID], *is_finite])
    return columns
