"""How long an update took, and how long section 3.4 of the paper says that it takes."""

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Self

from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MEAN,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)

from rllib_offset import metrics
from rllib_offset.batch_time import BatchTime
from rllib_offset.ledger import Ledger

__all__ = ["Mark", "log_batch_time"]


@dataclass(frozen=True)
class Mark:
    """Where an algorithm stood when an update began; an iteration may have several.

    Args:
        at_s: The clock, ``time.perf_counter()``.
        ledger: What had been bought.
        env_steps: Steps sampled in the life of the algorithm.
    """

    at_s: float
    ledger: Ledger
    env_steps: int

    @classmethod
    def of(cls, algorithm: Any) -> Self:
        """Look at an algorithm."""
        key = ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
        env_steps = int(_known(algorithm.metrics.peek(key, default=0)))
        return cls(time.perf_counter(), replace(algorithm.ledger), env_steps)


def log_batch_time(algorithm: Any, begin: Mark) -> None:
    """Log measured and predicted time of an update, and how busy the workers were.

    Args:
        algorithm: The algorithm that trains.
        begin: Where it stood when the update began.
    """
    end = Mark.of(algorithm)
    env_steps = end.env_steps - begin.env_steps
    if not env_steps:
        return  # every runner was down

    def logged(*key: str) -> float:
        return _known(algorithm.metrics.peek(key, default=0.0))

    batch = BatchTime(
        batch_s=end.at_s - begin.at_s,
        sampling_s=logged(ENV_RUNNER_RESULTS, metrics.SAMPLING_TIME_S),
        wait_s=logged(metrics.SLOW, metrics.REPLAY_WAIT_S),
        fit_s=logged(TIMERS, metrics.OFFSET_FIT_TIMER)
        + logged(TIMERS, metrics.OFFSET_BROADCAST_TIMER),
        env_steps=env_steps,
        trajectory_steps=logged(ENV_RUNNER_RESULTS, EPISODE_LEN_MEAN),
        slow_steps=end.ledger.num_env_steps - begin.ledger.num_env_steps,
        slow_s=end.ledger.sim_time_s - begin.ledger.sim_time_s,
        workers=algorithm.config.num_replay_workers,
        level=algorithm.label_level,
        max_replay_lag=algorithm.config.max_replay_lag,
    )
    values = {
        (TIMERS, metrics.BATCH_TIME_S): batch.batch_s,
        (TIMERS, metrics.PREDICTED_BATCH_TIME_S): batch.predicted_s,
        (metrics.SLOW, metrics.UTILIZATION): batch.utilization,
    }
    for key, value in values.items():
        algorithm.metrics.log_value(key, value, window=1)


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else float(value)
