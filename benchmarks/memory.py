"""Does the driver's memory stay small, and does it stay flat?

Prints by how much the driver grows with a million labels of 15 floats, and resident memory along
many iterations of a tiny setting (labels trickle in, a replay worker answers).

Command: python benchmarks/memory.py [--iterations 10000] [--labels 1000000]
"""

import argparse
import gc
import time

import numpy as np
from gymnasium import spaces
from measuring import FAST, SLOW, keep, resident_mib, start_ray

from rllib_offset import OffsetA2CConfig
from rllib_offset.columns import ACTION, OBS, REWARD, STATE, VALID
from rllib_offset.correction import OffsetLayout
from rllib_offset.estimator import OffsetEstimator
from rllib_offset.offset_trainer import OffsetTrainer
from rllib_offset.replay.requests import ReplayRequest, ReplayResult

OBS_DIM = 7  # inputs: 7 observations; targets: the same and the reward: 15 floats per label
CHUNK = 10_000
WARM_UP = 500


def answer(number: int, rng: np.random.Generator) -> ReplayResult:
    """Return a chunk of single steps as a replay worker returns it."""
    fast = {
        OBS: rng.normal(size=(CHUNK, OBS_DIM)).astype(np.float32),
        REWARD: rng.normal(size=CHUNK).astype(np.float32),
        STATE: rng.normal(size=(CHUNK, OBS_DIM)),
        ACTION: rng.normal(size=(CHUNK, 2)).astype(np.float32),
    }
    slow = {OBS: fast[OBS] + 1, REWARD: fast[REWARD] + 1, VALID: np.ones(CHUNK, bool)}
    request = ReplayRequest((number,), "steps", fast[ACTION], states=fast[STATE], fast=fast)
    return ReplayResult(request, slow, fast, 0.0, CHUNK, None, np.arange(CHUNK))


def growth_with_labels_mib(num_labels: int) -> float:
    """Resident MiB that a driver gains by learning from so many single steps."""
    layout = OffsetLayout((OBS,), (OBS, REWARD), OBS_DIM, spaces.Box(-1, 1, (2,)))
    trainer = OffsetTrainer(layout.input_dim, layout.output_dim, capacity=num_labels)
    estimator = OffsetEstimator(layout, trainer, spaces.Box(-9, 9, (OBS_DIM,)))
    rng = np.random.default_rng(0)
    estimator.add([answer(-1, rng)])
    estimator.fit()
    before = resident_mib()
    for number in range(num_labels // CHUNK):
        estimator.add([answer(number, rng)])
    estimator.fit()
    estimator.correction()
    gc.collect()
    return resident_mib() - before


def memory_along(iterations: int) -> list[tuple[int, float, float]]:
    """Return (iteration, MiB of the driver, MiB of the replay coordinator), a hundred times."""
    config = (
        OffsetA2CConfig()
        .environment(FAST, env_config={"max_episode_steps": 10})
        .slow_simulator(env=SLOW, env_config={"max_episode_steps": 10}, num_replay_workers=1)
        .labels(level="sample", initial=20, per_iteration=0.2)
        .env_runners(num_envs_per_env_runner=2)
        .training(train_batch_size_per_learner=20)
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    rows, start_s = [], time.monotonic()
    for iteration in range(1, iterations + 1):
        algorithm.train()
        if iteration % max(1, iterations // 100) == 0:
            coordinator = algorithm.replay.stats()["coordinator_pid"]
            rows.append((iteration, resident_mib(), resident_mib(coordinator)))
            spent_s = time.monotonic() - start_s
            print(f"{iteration:>7} {rows[-1][1]:8.1f} {rows[-1][2]:8.1f} MiB {spent_s:6.0f} s")
    algorithm.stop()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    options = parser.parse_args()
    grown = growth_with_labels_mib(options.labels)
    print(f"{options.labels:,} labels of 15 floats: {grown:.0f} MiB", flush=True)
    start_ray(num_cpus=2)
    rows = memory_along(options.iterations)
    settled = [row for row in rows if row[0] >= WARM_UP] or rows[-1:]
    for column, name in ((1, "driver"), (2, "coordinator")):
        first, last = settled[0][column], settled[-1][column]
        most = max(row[column] for row in settled)
        print(
            f"{name}: {first:.0f} MiB at iteration {settled[0][0]}, {last:.0f} at the end "
            f"({last / first - 1:+.1%}), at most {most:.0f} ({most / first - 1:+.1%})"
        )
    keep("memory", {"labels_mib": grown, "rows": rows})


if __name__ == "__main__":
    main()
