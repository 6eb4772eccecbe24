"""A native vector environment as replays see it: what :mod:`simulator` is to one environment."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

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
from rllib_offset.measurements import measured_columns, told_validity, which_tell
from rllib_offset.pair import AnyVectorEnv
from rllib_offset.replay.global_rng import own_generators_only
from rllib_offset.replay.simulator import Row, TimedCalls, check_shape, was_reset
from rllib_offset.replay.termination import Termination
from rllib_offset.simulator_state import (
    can_get_simulator_states,
    get_simulator_states,
    set_simulator_states,
)

__all__ = ["SimulatorLanes", "row_of"]

_IS_MEASURED = "is_measured"  # column: whether a lane had a measurement


class SimulatorLanes(TimedCalls):
    """Lanes that are stepped together, timed, counted, and blamed if they fail; ``N`` lanes.

    Lanes that nobody needs repeat what a needed one does.

    Args:
        env: Resets lanes only when told to.
        termination: A SIGTERM waits once a step is finished, until it is released.
    """

    def __init__(self, env: AnyVectorEnv, termination: Termination) -> None:
        super().__init__("slow", termination)
        self._env = env
        self._obs_shape = env.observation_space.shape
        self._measurement_shape: tuple[int, ...] | None = None  # of the first one
        self.num_envs = env.num_envs
        self.can_get = can_get_simulator_states(env)
        self.num_calls = 0  # of `step`

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Start an episode on each of the first lanes, one per seed.

        Raises:
            ValueError: If the simulator draws from a global generator.
        """
        seeds = [*seeds, *[seeds[0]] * (self.num_envs - len(seeds))]
        with own_generators_only():
            self._call(self._env.reset, seed=seeds, options={"reset_mask": self._all()})
        was_reset.add(self._env)

    def step(self, actions: NDArray[Any], num_running: int) -> tuple[Columns, NDArray[np.bool_]]:
        """Step all lanes, and return a row of each, and whether its episode is over.

        Args:
            actions: ``(N, ...)``.
            num_running: Of how many lanes the rows mean something.

        Raises:
            ValueError: If the simulator draws from a global generator in its first step.
        """
        before = {STATE: self._read_states()} if self.can_get else {}
        with own_generators_only() if self.num_calls == 0 else nullcontext():
            answer = self._call(self._env.step, actions)
        self._termination.hold()
        self.num_calls, self.num_steps = self.num_calls + 1, self.num_steps + num_running
        with self.blame:
            obs, rewards, terminated, truncated, infos = answer
            columns = _columns(obs, rewards, terminated, infos)
            is_over = columns[TERMINATED] | np.asarray(truncated, bool)
            self._check_shapes(columns, is_over)
        if self.can_get:
            columns |= before | {NEXT_STATE: self._read_states()}
        return columns, is_over

    def rows_from(self, states: NDArray[np.float64], actions: NDArray[Any]) -> list[Row]:
        """Take one step from each of at most ``N`` states, ``(n, S)``, by actions ``(n, ...)``.

        That a time limit has run out meanwhile means nothing.
        """
        if self._env not in was_reset:  # wrappers insist on it
            self.reset([0])
        num_rows = len(states)
        index = np.arange(self.num_envs) % num_rows
        with self.blame:
            set_simulator_states(self._env, states[index], self._all())
        self._state = None
        columns, _ = self.step(actions[index], num_rows)
        columns |= {STATE: np.array(states[index], np.float64), ACTION: actions[index]}
        return [row_of({n: c[i] for n, c in columns.items()}) for i in range(num_rows)]

    def _all(self) -> NDArray[np.bool_]:
        return np.ones(self.num_envs, bool)

    def _read_states(self) -> NDArray[np.float64]:
        if self._state is None:
            with self.blame:
                self._state = np.array(get_simulator_states(self._env), np.float64)
        return self._state

    def _check_shapes(self, columns: Columns, is_over: NDArray[np.bool_]) -> None:
        check_shape("observations", columns[OBS], self._obs_shape)
        for name, column in ((REWARD, columns[REWARD]), ("ends", is_over), (VALID, columns[VALID])):
            check_shape(name, column, (self.num_envs,))
        if MEASUREMENT in columns:
            check_shape(MEASUREMENT, columns[MEASUREMENT], self._measurement_shape)
            self._measurement_shape = columns[MEASUREMENT].shape


def row_of(columns: Columns) -> Row:
    """Return rows as one environment gives them: without a measurement where none was made."""
    is_measured = columns.pop(_IS_MEASURED)
    if not np.any(is_measured):
        columns.pop(MEASUREMENT, None)
    return columns


def _columns(obs: Any, rewards: Any, terminated: Any, infos: dict[str, Any]) -> Columns:
    """Return a step of all lanes in the types of a single row."""
    columns: Columns = {
        OBS: np.array(obs, np.float32),
        REWARD: np.array(rewards, np.float32),
        TERMINATED: np.array(terminated, bool),
        VALID: np.ones(len(obs), bool),
        _IS_MEASURED: which_tell(infos, MEASUREMENT, len(obs)),
        **told_validity(infos, len(obs)),
    }
    measured = measured_columns(infos, len(obs), None)
    if MEASUREMENT in measured:
        columns[MEASUREMENT] = np.array(measured[MEASUREMENT], np.float64)
        columns[MEASUREMENT][~columns[_IS_MEASURED]] = np.nan
    return columns
