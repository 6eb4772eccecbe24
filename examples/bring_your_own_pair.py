"""What must my two simulators offer, and what do I get for it?

Level 0: the same seed starts both alike.  Level 1: the slow one can be put into a state of the
fast one, so that single steps can be bought.  Level 2: the fast one can be put into a state too.
"""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from rllib_offset import EnvPair


class Tank(gym.Env[Any, Any]):
    """Keep a leaking tank at level 1; the slow simulator knows how fast it leaks."""

    observation_space = gym.spaces.Box(0.0, 3.0, (1,), np.float32)
    action_space = gym.spaces.Box(0.0, 0.2, (1,), np.float32)
    leak: ClassVar[float] = 0.05

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.level, self.time = 0.0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.level, self.time = float(self.np_random.uniform(0, 2)), 0
        return np.array([self.level], np.float32), {}

    def step(self, action: Any) -> Any:
        self.level = float(np.clip(self.level + action[0] - self.leak * self.level, 0.0, 3.0))
        self.time += 1
        obs = np.array([self.level], np.float32)
        return obs, -abs(self.level - 1.0), False, self.time >= 50, {}


class SlowTank(Tank):
    leak = 0.08  # in reality a solver that takes minutes


class ReadableTank(Tank):
    def get_simulator_state(self) -> Any:
        return np.array([self.level])


class SettableSlowTank(SlowTank, ReadableTank):
    def set_simulator_state(self, state: Any) -> None:
        self.level = float(state[0])


class SettableTank(ReadableTank):
    def set_simulator_state(self, state: Any) -> None:
        self.level = float(state[0])


PAIRS = ((Tank, SlowTank), (ReadableTank, SettableSlowTank), (SettableTank, SettableSlowTank))

if __name__ == "__main__":
    for fast, slow in PAIRS:
        print(f"\n{fast.__name__} with {slow.__name__}\n{EnvPair(fast, slow).check()}")
