"""Environment steps per second of whole trainings, against Stable-Baselines3 A2C and RLlib's PPO.

All train on PointMass, batches of 1000 steps from 10 environments side by side, networks of two
layers of 64. Rounds alternate: every trainer trains for a few batches, then the next one, so that
a slow moment of the machine hits all of them. Prints steps per second, the ratio to each peer, and
where an iteration's time goes. RLlib reports after every batch, unless told otherwise; what trains
a whole round per report is compared with RLlib's PPO doing the same (Stable-Baselines3 always
trains a whole round in one call and never reports: by itself it does so after 100 batches).

Commands:
    python benchmarks/throughput.py [--rounds 7] [--batches 10]
    python benchmarks/throughput.py --rounds 100 --only single  # against SB3 alone
Needs: pip install 'rllib-offset[sb3]'
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from measuring import FAST, SLOW, Spread, keep, machine, rounds_of, start_ray
from phases import PARTS, clocked
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3.common.vec_env import DummyVecEnv

from rllib_offset import A2CConfig, OffsetA2CConfig

BATCH, LANES = 1000, 10
_WARM_UP = 5  # batches
SB3, PPO = "Stable-Baselines3 A2C", "RLlib PPO, one epoch"
ONE_REPORT = ", one report"  # per round


def trainers(batches: int, only: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """Each trains so many batches when called; those whose names hold one of ``only``, and SB3."""
    each: dict[str, Callable[[], Algorithm]] = {
        PPO: rllib_ppo,
        "A2C": a2c,
        "A2C, a batch sampled once for all": lambda: without_sampling(a2c(lr=1e-9)),
        "OffsetA2C, single steps": partial(offset, "sample", 1),
        "OffsetA2C, in process, one by one": partial(offset, "trajectory", 0),
        "OffsetA2C, in process, side by side": partial(offset, "trajectory", 0, lanes=LANES),
        "OffsetA2C, trajectories by 2 workers": partial(offset, "trajectory", 2),
    }
    together: dict[str, Callable[[], Algorithm]] = {
        PPO: partial(rllib_ppo, batches),
        "OffsetA2C, single steps": partial(offset, "sample", 1, batches=batches),
        "OffsetA2C, side by side": partial(offset, "trajectory", 0, lanes=LANES, batches=batches),
    }
    made = {
        **{name: lambda build=build: _several(build(), batches) for name, build in each.items()},
        **{f"{k}{ONE_REPORT}": lambda build=build: build().train for k, build in together.items()},
    }
    wanted = {name: make() for name, make in made.items() if any(part in name for part in only)}
    return {SB3: sb3_a2c(batches), **wanted}


def _several(algorithm: Algorithm, batches: int) -> Callable[[], Any]:
    return partial(_repeat, algorithm.train, batches)


def _repeat(train: Callable[[], Any], batches: int) -> None:
    for _ in range(batches):
        train()


def sb3_a2c(batches: int) -> Callable[[], Any]:
    """A2C with batches of the same size, several in one call; its defaults otherwise."""
    envs = DummyVecEnv([lambda: gym.make(SLOW)] * LANES)
    model = SB3A2C("MlpPolicy", envs, n_steps=BATCH // LANES, device="cpu", seed=0)
    return lambda: model.learn(batches * BATCH, reset_num_timesteps=False)


def rllib_ppo(batches: int = 1) -> Algorithm:
    """PPO with RLlib's own runner and one pass over the batch."""
    config = PPOConfig().environment(SLOW).debugging(seed=0)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=LANES)
    config.training(train_batch_size_per_learner=BATCH, num_epochs=1, minibatch_size=BATCH)
    config.rl_module(model_config={"fcnet_hiddens": [64, 64], "vf_share_layers": False})
    return config.reporting(min_sample_timesteps_per_iteration=batches * BATCH).build_algo()


def a2c(**training: Any) -> Algorithm:
    """Our sampler and learner alone, on the slow simulator."""
    config = A2CConfig().environment(SLOW).debugging(seed=0).training(**training)
    return config.build_algo()


def without_sampling(algorithm: Algorithm) -> Algorithm:
    """What RLlib asks for by itself: one batch is trained on again and again."""
    runner = algorithm.env_runner
    episodes, figures = runner.sample(), runner.get_metrics()
    runner.sample, runner.get_metrics = (lambda **_: episodes), (lambda: figures)
    return algorithm


def offset(level: str, workers: int, *, lanes: int = 1, batches: int = 1) -> Algorithm:
    """The whole pipeline: labels trickle in (single steps), or every trajectory is replayed.

    Args:
        level: Of the labels.
        workers: Replay processes; 0 replays in the driver's.
        lanes: Trajectories replayed side by side.
        batches: Trained per report.
    """
    config = OffsetA2CConfig().environment(FAST).debugging(seed=0)
    config.slow_simulator(env=SLOW, num_replay_workers=workers, num_envs_per_replay_worker=lanes)
    config.labels(level=level, initial=50, per_iteration=1, replay_fraction=1.0)
    return config.reporting(min_sample_timesteps_per_iteration=batches * BATCH).build_algo()


def breakdown_ms(algorithm: Algorithm, batches: int) -> dict[str, float]:
    """Milliseconds per iteration and part, after a few iterations to warm up."""
    for _ in range(_WARM_UP):
        algorithm.train()
    with clocked() as clock:
        for _ in range(batches):
            algorithm.train()
    return {part: 1e3 * clock.seconds[part] / batches for part in PARTS}


def compare(rounds: int, batches: int, only: Sequence[str]) -> dict[str, list[float]]:
    """Steps per second of each trainer, round by round."""
    trained = trainers(batches, only)
    rounds_of(trained, 1)  # the first fit and the first batches warm up
    times = rounds_of(trained, rounds)
    return {name: [BATCH * batches / s for s in spent] for name, spent in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the trainers' names")
    options = parser.parse_args()
    start_ray(num_cpus=8)
    torch.set_num_threads(1)  # for the peers; on networks of this size two are slower
    print(machine())
    speeds = compare(options.rounds, options.batches, options.only)
    print(f"{'':<38}{'steps/s':>9}{'x SB3 A2C':>24}{'x RLlib PPO':>24}")
    for name, speed in speeds.items():
        ppo = f"{PPO}{ONE_REPORT}" if name.endswith(ONE_REPORT) else PPO
        ratios = [Spread.of_ratios(speed, speeds[peer]) for peer in (SB3, ppo) if peer in speeds]
        shown = "".join(f"{ratio:>24.2f}" for ratio in ratios)
        print(f"{name:<38}{Spread.of(speed).median:>9,.0f}{shown}")
    if options.only != [""]:
        return
    parts = {
        "single steps": breakdown_ms(offset("sample", workers=1), 5 * options.batches),
        "one by one": breakdown_ms(offset("trajectory", workers=0), options.batches),
        "side by side": breakdown_ms(offset("trajectory", 0, lanes=LANES), options.batches),
        "2 workers": breakdown_ms(offset("trajectory", workers=2), options.batches),
    }
    print(f"\n{'milliseconds per iteration':<38}" + "".join(f"{name:>15}" for name in parts))
    for part in PARTS:
        print(f"{part:<38}" + "".join(f"{table[part]:>15.2f}" for table in parts.values()))
    sums = {name: sum(table.values()) for name, table in parts.items()}
    print(f"{'sum':<38}" + "".join(f"{value:>15.2f}" for value in sums.values()))
    spreads = {name: asdict(Spread.of(speed)) for name, speed in speeds.items()}
    keep("throughput", {"steps_per_s": spreads, "breakdown_ms": parts})


if __name__ == "__main__":
    main()
