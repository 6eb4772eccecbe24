"""How long an iteration took, and how long section 3.4 of the paper says that it takes."""

from typing import Any

import numpy as np
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    TIMERS,
)

from rllib_offset import metrics
from rllib_offset.batch_time import BatchTime
from rllib_offset.ledger import Ledger

__all__ = ["log_batch_time"]


def log_batch_time(algorithm: Any, batch_s: float, before: Ledger) -> None:
    """Log measured and predicted time of an iteration, and how busy the workers were.

    Args:
        algorithm: The algorithm that trains.
        batch_s: Seconds that the iteration took, evaluation left out.
        before: The ledger as it was when the iteration began.
    """

    def logged(*key: str) -> float:
        return float(np.nan_to_num(algorithm.metrics.peek(key, default=0.0)))

    env_steps = int(logged(ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED))
    if not env_steps:
        return  # every runner was down
    batch = BatchTime(
        batch_s=batch_s,
        sampling_s=logged(ENV_RUNNER_RESULTS, metrics.SAMPLING_TIME_S),
        wait_s=logged(metrics.SLOW, metrics.REPLAY_WAIT_S),
        fit_s=logged(TIMERS, metrics.OFFSET_FIT_TIMER)
        + logged(TIMERS, metrics.OFFSET_BROADCAST_TIMER),
        env_steps=env_steps,
        trajectory_steps=logged(ENV_RUNNER_RESULTS, EPISODE_LEN_MEAN),
        slow_steps=algorithm.ledger.num_env_steps - before.num_env_steps,
        slow_s=algorithm.ledger.sim_time_s - before.sim_time_s,
        workers=algorithm.config.num_replay_workers,
        level=algorithm.label_level,
        max_replay_lag=algorithm.config.max_replay_lag,
    )
    values = {
        (TIMERS, metrics.BATCH_TIME_S): batch_s,
        (TIMERS, metrics.PREDICTED_BATCH_TIME_S): batch.predicted_s,
        (metrics.SLOW, metrics.UTILIZATION): batch.utilization,
    }
    for key, value in values.items():
        algorithm.metrics.log_value(key, value, window=1)
