"""Simulators with faults, injected by files that all processes see."""

import os
import random
import sys
import time
from pathlib import Path

import numpy as np

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
        if fault == "exception":
            raise ArithmeticError("the mesh is tangled")
        if fault == "crash":
            os.kill(os.getpid(), 9)
        if fault == "exit":
            sys.exit(3)
        if fault == "hang":
            time.sleep(600)
        obs, reward, *rest = super().step(action)
        if fault == "nan":
            reward = float("nan")
        return (obs[:1] if fault == "shape" else obs), reward, *rest

    def _take_fault(self):
        rate, at_step = self.config.get("rate", 0.0), self.config.get("at_step")
        if self.count != at_step and random.SystemRandom().random() >= rate:
            return None
        for path in sorted(Path(self.config["faults"]).iterdir()):
            try:
                path.unlink()
            except FileNotFoundError:
                continue  # another process was faster
            return path.name.partition("-")[0]
        return None


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
