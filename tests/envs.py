"""Tiny environments for tests: each misbehaves, or fails to, in one way only."""

import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rllib_offset.envs.point_mass import PointMassEnv, PointMassVectorEnv

ACTION_SPACES = {
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
}


class CountingEnv(gym.Env):
    """A position that adds up the actions, and a count of the steps; no access to its state.

    Config: `action` ("box", "discrete", "multi_discrete"), `length` of an episode, `gain` of the
    dynamics, `bonus` on every reward, `limit` of the position where the episode terminates.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, config=None):
        self.config = {"action": "box", "length": 10, "gain": 1.0, "bonus": 0.0, "limit": 1e9}
        self.config |= config or {}
        self.action_space = ACTION_SPACES[self.config["action"]]
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.position, self.count = 0.0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.count = float(self.np_random.uniform(-1, 1)), 0
        return self._obs(), {"seed": seed}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.position += self.config["gain"] * float(np.sum(action))
        self.count += 1
        reward = -abs(self.position) + self.config["bonus"]
        terminated = abs(self.position) > self.config["limit"]
        return self._obs(), reward, terminated, self.count >= self.config["length"], self._info()

    def _obs(self):
        return np.array([self.position, self.count], np.float32)

    def _info(self):
        return {}


class StatefulEnv(CountingEnv):
    """Its state can be read and written: level 2 of a pair."""

    def get_simulator_state(self):
        return np.array([self.position, self.count], np.float64)

    def set_simulator_state(self, state):
        self.position, self.count = float(state[0]), int(state[1])


class DriftingEnv(StatefulEnv):
    """Every step moves it by `drift` besides, which a test may change for all of its kind."""

    drift = 0.0

    def step(self, action):
        self.position += self.drift
        return super().step(action)


class ReadableEnv(CountingEnv):
    """Its state can be read only: the fast side of a level 1 pair."""

    def get_simulator_state(self):
        return np.array([self.position, self.count], np.float64)


class WritableEnv(CountingEnv):
    """Its state can be written only: the slow side of a level 1 pair."""

    def set_simulator_state(self, state):
        self.position, self.count = float(state[0]), int(state[1])


class ForgetfulEnv(StatefulEnv):
    """Its state leaves something out: the start of the episode, which the reward depends on."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed, options=options)
        self.start = self.position
        return obs, info

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + self.start, *rest


class ShiftedStartEnv(StatefulEnv):
    """Starts elsewhere than the others."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.position += 0.5
        return self._obs(), {}


class RewardObservingEnv(CountingEnv):
    """Its observation contains the reward, so that those of a pair differ from the start."""

    def _obs(self):
        return np.array([self.position, self.config["bonus"] - abs(self.position)], np.float32)


class DictObservationEnv(StatefulEnv):
    """Observes float64 and Discrete parts, and a matrix; config `kind`: "dict" or "tuple"."""

    def __init__(self, config=None):
        super().__init__({"kind": "dict"} | (config or {}))
        parts = {
            "count": spaces.Discrete(4),
            "matrix": spaces.Box(-1, 1, (2, 2), np.float64),
            "position": spaces.Box(-np.inf, np.inf, (1,), np.float64),
        }
        self.observation_space = (
            spaces.Dict(parts) if self._is_dict else spaces.Tuple(tuple(parts.values()))
        )

    @property
    def _is_dict(self):
        return self.config["kind"] == "dict"

    def _obs(self):
        parts = {
            "count": np.int64(self.count % 4),
            "matrix": np.eye(2),
            "position": np.array([self.position]),
        }
        return parts if self._is_dict else tuple(parts.values())


class TextActionEnv(CountingEnv):
    """Its actions are of a kind that is not supported."""

    def __init__(self, config=None):
        super().__init__(config)
        self.action_space = spaces.Text(5)


class OutcomeEnv(StatefulEnv):
    """Measures `[position]`, from which everything else follows; invalid beyond `invalid_above`.

    With `lies` its `outcome` gives that much more reward than its `step`; with `is_silent=True` an
    invalid step has no measurement.
    """

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, self.position > 2.0, truncated, info

    def _info(self):
        valid = self.position <= self.config.get("invalid_above", np.inf)
        if not valid and self.config.get("is_silent", False):
            return {"valid": False}
        return {"measurement": np.array([self.position]), "valid": valid}

    def outcome(self, measurement, state, action):
        position, count = float(measurement[0]), state[1] + 1
        reward = -abs(position) + self.config["bonus"] + self.config.get("lies", 0.0)
        return np.array([position, count], np.float32), reward, position > 2.0


class FailureTellingEnv(OutcomeEnv):
    """Speaks of validity only where there is none; with `is_silent` without a measurement."""

    def _info(self):
        info = super()._info()
        return info if not info["valid"] else {"measurement": info["measurement"].tolist()}

    def outcome(self, measurement, state, action):
        assert measurement[0], "nothing was measured"
        return super().outcome(measurement, state, action)


class NoisyEnv(StatefulEnv):
    """Never does the same twice."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + np.random.default_rng().normal(), *rest


class GlobalRandomEnv(StatefulEnv):
    """Draws its noise from NumPy's global generator."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + np.random.normal(), *rest  # noqa: NPY002


class NotFiniteEnv(StatefulEnv):
    """Its third step returns a reward that is not a number."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, float("nan") if self.count == 3 else reward, *rest


class InfiniteStartEnv(StatefulEnv):
    """Its first observation is not a number."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        return np.full(2, np.nan, np.float32), {}


class ActionSpoilingEnv(StatefulEnv):
    """Writes into the action that it is given."""

    def step(self, action):
        result = super().step(action)
        action[:] = 0.0
        return result


class PrintingEnv(StatefulEnv):
    """Says what it does on standard output."""

    def step(self, action):
        print("one more step")
        return super().step(action)


class SleepyEnv(StatefulEnv):
    """A step takes `step_cost_s` seconds."""

    def step(self, action):
        time.sleep(self.config["step_cost_s"])
        return super().step(action)


class FaultyEnv(StatefulEnv):
    """Fails as its step number `at_step` (or "reset") begins, if the file `flag` exists.

    Config: `how` is "raise", "exit" (the process ends) or "hang"; with `once=True` the file is
    removed first, so that the next attempt succeeds.  With `child=True` it has a child process, as
    many simulators do, whose id is written beside the flag.
    """

    def __init__(self, config=None):
        super().__init__(config)
        if self.config.get("child"):
            code = "import time; time.sleep(600)"
            self.child = subprocess.Popen([sys.executable, "-c", code])
            Path(self.config["flag"] + ".child").write_text(str(self.child.pid))

    def reset(self, **options):
        self._fail_if_due("reset")
        return super().reset(**options)

    def step(self, action):
        self._fail_if_due(self.count)
        return super().step(action)

    def _fail_if_due(self, moment):
        flag = Path(self.config["flag"])
        if moment != self.config["at_step"] or not flag.exists():
            return
        if self.config.get("once"):
            flag.unlink()
        if self.config["how"] == "exit":
            os._exit(1)
        if self.config["how"] == "hang":
            time.sleep(600)
        raise ArithmeticError("the mesh is\ntangled")


class BundleEnv(StatefulEnv):
    """Measures the placement-group bundle that its process runs in."""

    def _info(self):
        import ray

        resources = ray._private.worker.global_worker.core_worker.resource_ids()
        indexed = [name.split("_") for name in resources if name.startswith("CPU_group_")]
        return {"measurement": np.array([float(name[2]) for name in indexed if len(name) == 4])}


class UnmakeableEnv(CountingEnv):
    """Cannot be made: the licence is missing."""

    def __init__(self, config=None):
        raise OSError("no licence")


def make_counting_env(config):
    return CountingEnv(config)


not_callable = "a string"


class BrittleLanes(PointMassVectorEnv):
    """The native form of a sound simulator: its step number `at_step` after a reset raises."""

    def __init__(self, num_envs=1, *, at_step=2, **arguments):
        super().__init__(num_envs, **arguments)
        self.at_step = at_step

    def step(self, actions):
        if self._elapsed.max() == self.at_step:
            raise MemoryError("no room for so many lanes")
        return super().step(actions)


def make_sound_env(at_step=2, **arguments):
    """The scalar form of `BrittleLanes`."""
    return PointMassEnv(**arguments)


gym.register(
    "tests/Brittle-v0",
    entry_point="tests.envs:make_sound_env",
    vector_entry_point="tests.envs:BrittleLanes",
    max_episode_steps=100,
)


class BrokenEnv(PointMassEnv):
    """Never takes a step."""

    def step(self, action):
        raise ArithmeticError("the mesh is tangled")


gym.register(
    "tests/Broken-v0",
    entry_point="tests.envs:BrokenEnv",
    vector_entry_point="tests.envs:BrittleLanes",
    max_episode_steps=100,
)
