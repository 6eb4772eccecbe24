"""A simulator as replays see it: every call timed, counted, limited, and blamed if it fails."""

import faulthandler
import time
from collections.abc import Callable
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
    REWARD,
    STATE,
    TERMINATED,
    VALID,
    Columns,
)
from rllib_offset.errors import SlowSimulatorError, kind_and_message
from rllib_offset.replay.termination import Termination
from rllib_offset.simulator_state import (
    can_get_simulator_state,
    can_set_simulator_state,
    state_reader,
    state_writer,
)

__all__ = [
    "Blame",
    "Row",
    "Simulator",
    "TimedCalls",
    "check_like",
    "check_shape",
    "mark_valid",
    "was_reset",
]

_ARRAYS = (OBS, MEASUREMENT, STATE, NEXT_STATE)  # of a row; the others are single values

AnyEnv = gym.Env[Any, Any]
Row = dict[str, Any]

was_reset: WeakSet[Any] = WeakSet()  # environments that have been reset in this process


class TimedCalls:
    """Calls into a simulator, timed and blamed.

    Args:
        name: Of the simulator, in errors.
        termination: What a SIGTERM raises is not blamed on the simulator.

    Attributes:
        time_s: Seconds inside the simulator.
        num_steps: Steps that it finished.
    """

    def __init__(self, name: str, termination: Termination) -> None:
        self.time_s, self.num_steps = 0.0, 0
        self.blame = Blame(name, termination)
        self._termination = termination
        self._state: NDArray[np.float64] | None = None  # since the last call, if it was read

    def stop_clock(self) -> None:
        """Stop the latest step's time limit, if it has one."""

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call into the simulator; its state is another one afterwards."""
        self._state = None
        start_s = time.perf_counter()
        try:
            with self.blame:
                return function(*args, **kwargs)
        finally:
            self.time_s += time.perf_counter() - start_s


class Simulator(TimedCalls):
    """An environment whose steps are timed, counted and turned into rows.

    Args:
        name: Of the simulator, in errors.
        env: The environment.
        termination: What a SIGTERM raises is not blamed on the simulator.
        step_timeout_s: End this process if a step takes longer; None waits for ever.
        holds: Let a SIGTERM wait once a step is finished, until it is released.
    """

    def __init__(
        self,
        name: str,
        env: AnyEnv,
        termination: Termination,
        step_timeout_s: float | None = None,
        *,
        holds: bool = False,
    ) -> None:
        super().__init__(name, termination)
        self.env, self._holds = env, holds
        self.step_timeout_s = step_timeout_s
        self.can_get, self.can_set = can_get_simulator_state(env), can_set_simulator_state(env)
        self._is_timed = False
        self._obs_shape = env.observation_space.shape  # wrappers look it up anew each time
        # both since the last reset, which may put another object in the place of what holds it
        self._read_state: Callable[[], NDArray[np.float64]] | None = None
        self._write_state: Callable[[NDArray[np.float64]], None] | None = None

    def reset(self, seed: int | None) -> NDArray[np.float32]:
        """Reset, and return the observation."""
        self._read_state = self._write_state = None
        obs, _ = self._call(self.env.reset, seed=seed)
        was_reset.add(self.env)
        return np.array(obs, np.float32)

    def state(self) -> NDArray[np.float64]:
        """Return the simulator's state."""
        if self._state is None:
            with self.blame:
                if self._read_state is None:
                    self._read_state = state_reader(self.env)
                self._state = self._read_state()
        return self._state

    def step(self, action: NDArray[Any]) -> tuple[Row, bool]:
        """Step, and return the row and whether the episode is over.

        With a time limit, follow up with :meth:`stop_clock`.
        """
        state = self.state() if self.can_get else None
        row, is_over = self._take_step(action)
        if state is not None:
            row[STATE], row[NEXT_STATE] = state, self.state()
        return row, is_over

    def step_from(self, state: NDArray[np.float64], action: NDArray[Any]) -> Row:
        """Take one step from ``state``; that an episode would be over by then means nothing.

        An environment never used before is reset: wrappers insist on it.
        """
        self._put_into(state)
        row, _ = self._take_step(action)
        row[STATE] = np.array(state, np.float64)
        if self.can_get:
            row[NEXT_STATE] = self.state()
        row[ACTION] = np.array(action)
        return row

    def _put_into(self, state: NDArray[np.float64]) -> None:
        if self._write_state is None and self.env not in was_reset:
            self.reset(seed=0)
        self._state = None
        with self.blame:
            if self._write_state is None:
                self._write_state = state_writer(self.env)
            self._write_state(state)

    def _take_step(self, action: NDArray[Any]) -> tuple[Row, bool]:
        """Step; the row lacks the states."""
        self._start_clock()
        # the action is copied: a request stays as it is
        answer = self._call(self.env.step, action.copy())
        if self._holds:
            self._termination.hold()
        self.num_steps += 1
        with self.blame:
            obs, reward, terminated, truncated, info = answer
            row = _row(obs, reward, terminated, info)
            check_shape("observation", row[OBS], self._obs_shape)
            is_over = bool(terminated or truncated)
        return row, is_over

    def _start_clock(self) -> None:
        """End the process if the step hangs, wherever it does: no signal reaches foreign code."""
        if self.step_timeout_s is not None:
            faulthandler.dump_traceback_later(self.step_timeout_s, exit=True)
            self._is_timed = True

    def stop_clock(self) -> None:
        """Stop the step's time limit; may take milliseconds, as it waits for a thread to end."""
        if self._is_timed:
            faulthandler.cancel_dump_traceback_later()
            self._is_timed = False


class Blame:
    """Says of whatever is raised within that this simulator raised it.

    A class, as a generator costs more than a step of a fast simulator.
    """

    def __init__(self, name: str, termination: Termination) -> None:
        self._name, self._termination = name, termination

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None and error is self._termination.raised:
            return
        if isinstance(error, Exception | SystemExit):
            what = kind_and_message(error)
            raise SlowSimulatorError(f"the {self._name} simulator raised {what}") from error


def check_shape(name: str, value: NDArray[Any], shape: tuple[int, ...] | None) -> None:
    """Refuse what has another shape than the simulator promised."""
    if shape is not None and value.shape != shape:
        raise ValueError(f"the {name} must have shape {shape}, got {value.shape}")


def check_like(row: Row, other: Row) -> None:
    """Refuse a row that does not fit below those before it."""
    for name in _ARRAYS:
        if name in row and name in other and row[name].shape != other[name].shape:
            raise ValueError(
                f"the {name} must have shape {other[name].shape}, got {row[name].shape}"
            )


def mark_valid(columns: Columns, *, is_measured: bool = False) -> Columns:
    """Mark rows with a number that is not finite as invalid, those of no measurement included.

    Args:
        columns: Of one simulator.
        is_measured: The other one measured: rows without any measurement are invalid as well.
    """
    if is_measured and MEASUREMENT not in columns:
        columns = columns | {VALID: np.zeros_like(columns[VALID])}
    results = [columns[name] for name in (OBS, REWARD, MEASUREMENT) if name in columns]
    is_finite = [np.isfinite(column.reshape(len(column), -1)).all(axis=1) for column in results]
    return columns | {VALID: np.logical_and.reduce([columns[VALID], *is_finite])}


def _row(obs: Any, reward: Any, terminated: Any, info: dict[str, Any]) -> Row:
    row: Row = {
        OBS: np.array(obs, np.float32),
        REWARD: np.float32(
            reward if type(reward) is float else np.asarray(reward, np.float32).item()
        ),
        TERMINATED: bool(terminated),
        VALID: bool(info.get("valid", True)),
    }
    if MEASUREMENT in info:
        row[MEASUREMENT] = np.array(info[MEASUREMENT], np.float64).reshape(-1)
    return row
