"""Environments that only the benchmarks need."""

import time
from typing import Any

import numpy as np

from rllib_offset.envs.point_mass import EPISODE_STEPS, TARGET, PointMassEnv, PointMassModel

MOVED_TARGET = (0.1, 0.5)


class LimitedPointMass(PointMassEnv):
    """``PointMassEnv`` made from a config, with its time limit built in."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__(**(config or {}))
        self._num_steps = 0

    def reset(self, **kwargs: Any) -> Any:
        """Start an episode."""
        self._num_steps = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Push the point."""
        self._num_steps += 1
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, self._num_steps >= EPISODE_STEPS, info


class BusyPointMass(PointMassEnv):
    """A simulator that computes: each step keeps its core busy for ``busy_s`` seconds."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(**{name: value for name, value in config.items() if name != "busy_s"})
        self._busy_s = float(config["busy_s"])

    def step(self, action: Any) -> Any:
        """Push the point, and burn CPU time (not wall time: a core that is shared takes longer)."""
        end_s = time.thread_time() + self._busy_s
        result = super().step(action)
        while time.thread_time() < end_s:
            pass
        return result


class BlindPointMass(LimitedPointMass):
    """A fast simulator that knows the dynamics and nothing of the reward: a pure surrogate's."""

    def _reward(self) -> Any:
        return np.float64(0.0)


class MovingPointMass(LimitedPointMass):
    """A slow simulator whose target moves, in all environments of a process at once."""

    has_moved = False

    def reset(self, **kwargs: Any) -> Any:
        """Start an episode, wherever the target is now."""
        self._follow()
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Push the point, wherever the target is now."""
        self._follow()
        return super().step(action)

    def _follow(self) -> None:
        target = MOVED_TARGET if MovingPointMass.has_moved else TARGET
        if self.model.target != target:
            self.model = PointMassModel(target=target)
