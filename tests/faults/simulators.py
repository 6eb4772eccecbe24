"""Simulators with faults, injected by files that all processes see."""

import os
import random
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np

from rllib_offset.pair import make_env
from tests.envs import StatefulEnv


class MoodyEnv(StatefulEnv):
    """Fails as often as there are files in the folder `faults`, each named for its fault.

    A fault strikes as step `at_step` of an episode begins, or with probability `rate` at any step,
    and takes its file away: ``exception-1``, ``crash-1``, ``hang-1``, ``nan-1``, ``shape-1``,
    ``exit-1``.  Each step takes `step_cost_s`.
    """

    def step(self, action):
        time.sleep(self.config.get("step_cost_s", 0.0))
        fault = self._take_fault()
        strike(fault)
        obs, reward, *rest = super().step(action)
        if fault == "nan":
            reward = float("nan")
        return (obs[:1] if fault == "shape" else obs), reward, *rest

    def _take_fault(self):
        rate, at_step = self.config.get("rate", 0.0), self.config.get("at_step")
        if self.count != at_step and random.SystemRandom().random() >= rate:
            return None
        return take_fault(self.config["faults"])


def take_fault(folder):
    """Take a file away from the folder of faults, and return the fault that it is named for."""
    for path in sorted(Path(folder).iterdir()):
        try:
            path.unlink()
        except FileNotFoundError:
            continue  # another process was faster
        return path.name.partition("-")[0]
    return None


def strike(fault):
    """Do what cannot be undone."""
    if fault == "exception":
        raise ArithmeticError("the mesh is tangled")
    if fault == "crash":
        os.kill(os.getpid(), 9)
    if fault == "exit":
        sys.exit(3)
    if fault == "hang":
        time.sleep(600)


class MoodyPointMass(gym.Wrapper):
    """PointMass as a slow simulator with faults, and a witness of every step that it finished.

    Config: `faults`, a folder as above, each file of which strikes the next step; `witness`, a
    folder in which each process writes a byte per finished step; `step_cost_s`; `leak_mb` that each
    step leaves behind in memory.
    """

    def __init__(self, config):
        super().__init__(make_env("rllib_offset.envs:rllib_offset/PointMass-v0"))
        self.config, self.hoard = config, []

    def step(self, action):
        time.sleep(self.config.get("step_cost_s", 0.0))
        fault = take_fault(self.config["faults"])
        strike(fault)
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.hoard.append(bytearray(int(self.config.get("leak_mb", 0) * 2**20)))
        with (Path(self.config["witness"]) / str(os.getpid())).open("ab") as file:
            file.write(b".")
        if fault == "nan":
            reward = float("nan")
        obs = obs[:1] if fault == "shape" else obs
        return obs, reward, terminated or fault == "end", truncated, info


class CountedEnv(StatefulEnv):
    """Measures how many processes are within a step, by the files in the folder `busy`."""

    def step(self, action):
        mark = Path(self.config["busy"]) / str(os.getpid())
        mark.touch()
        time.sleep(self.config["step_cost_s"])
        self.num_busy = len(list(Path(self.config["busy"]).iterdir()))
        mark.unlink(missing_ok=True)
        return super().step(action)

    def _info(self):
        return {"measurement": np.array([float(self.num_busy)])}
