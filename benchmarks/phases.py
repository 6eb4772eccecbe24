"""Where an iteration's time goes: seconds per part of training, taken inside the driver."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_offset.a2c import A2C
from rllib_offset.env_runner import OffsetEnvRunner
from rllib_offset.envs.point_mass import PointMassVectorEnv
from rllib_offset.estimator import OffsetEstimator
from rllib_offset.replay.client import SlowReplay
from rllib_offset.replay.worker import ReplayWorker

__all__ = ["FAST_STEPS", "FIT", "PARTS", "SAMPLING", "SLOW_STEPS", "UPDATE", "WAIT", "clocked"]

FAST_STEPS, SAMPLING, UPDATE = "fast simulator", "sampling", "policy update"
WAIT, SLOW_STEPS = "replay and waiting for it", "slow simulator in process"
FIT = "predictor: fit"

# What is called within another part is taken off that part.
PARTS: dict[str, list[tuple[type, str]]] = {
    FAST_STEPS: [(PointMassVectorEnv, "step"), (PointMassVectorEnv, "reset")],
    SAMPLING: [(OffsetEnvRunner, "sample")],
    UPDATE: [(LearnerGroup, "update")],
    "weights to the sampler": [(EnvRunnerGroup, "sync_weights"), (A2C, "_sync_weights")],
    WAIT: [(SlowReplay, "ask"), (SlowReplay, "gather")],
    SLOW_STEPS: [(ReplayWorker, "replay"), (ReplayWorker, "replay_side_by_side")],
    "predictor: labels": [(OffsetEstimator, "add")],
    FIT: [(OffsetEstimator, "fit")],
    "everything else": [(Algorithm, "train")],
}


class Clock:
    """Self time of parts: a part's seconds without those of the parts it calls."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner_s = [0.0]

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its self time counted for ``part``."""

        @wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            self._inner_s.append(0.0)
            start_s = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                total_s = time.perf_counter() - start_s
                self.seconds[part] += total_s - self._inner_s.pop()
                self._inner_s[-1] += total_s

        return measured


@contextmanager
def clocked() -> Iterator[Clock]:
    """Clock every part while the block runs."""
    clock, originals = Clock(), []
    for part, methods in PARTS.items():
        for owner, name in methods:
            originals.append((owner, name, getattr(owner, name)))
            setattr(owner, name, clock.timed(part, getattr(owner, name)))
    try:
        yield clock
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)
