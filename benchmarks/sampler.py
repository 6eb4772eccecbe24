"""Environment steps per second of the sampler, against RLlib's own runner and a bare loop.

Both bare loops call policy, environment and, where there is one, predictor once per tick on all
lanes; nothing is recorded, no episode is built, no seed is set, nobody asks how far the members of
the predictor agree. The policy of the *torch loop* is a plain torch network in inference mode, as
one would write it. The *limit* makes the sampler's own calls, which are cheaper. Everything runs on
one torch thread. Ratios compare rounds that alternate.

Command: python benchmarks/sampler.py [--rounds 5] [--lanes 1 8 32 128 512]
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from measuring import FAST, SLOW, Spread, keep, machine, rounds_of, start_ray
from pairs import LimitedPointMass
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from torch import nn
from torch.distributions import Normal

from rllib_offset import OffsetA2CConfig
from rllib_offset.correction import OffsetCorrection
from rllib_offset.env_runner import OffsetBroadcast, OffsetEnvRunner
from rllib_offset.numpy_predictor import NumpyPredictor
from rllib_offset.pair import EnvSpec, make_vector_env
from rllib_offset.pair_facts import probe_pair
from rllib_offset.policy import SamplingPolicy

EPISODE = 100
STEPS = 4_000  # per round and sampler, at least one episode on every lane
OURS, LIMIT, TORCH_LOOP, STOCK = "ours", "limit", "torch loop", "stock"


def fitted_correction() -> OffsetCorrection:
    """An ensemble of five networks, fitted to what the two simulators differ by."""
    config = pair_config(FAST, 1)
    estimator = config.offset_estimator(probe_pair(config.pair()), residual=False)
    obs = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32)
    estimator.trainer.add(obs, np.concatenate([obs * 0, obs[:, :1]], axis=1))
    estimator.trainer.fit()
    return estimator.correction()


def pair_config(env: EnvSpec, lanes: int) -> OffsetA2CConfig:
    config = OffsetA2CConfig().environment(env).slow_simulator(env=SLOW, num_replay_workers=0)
    config.env_runners(num_envs_per_env_runner=lanes).debugging(seed=0)
    config.validate()
    return config


def ours(env: EnvSpec, lanes: int, correction: OffsetCorrection | None) -> Callable[[], Any]:
    runner = OffsetEnvRunner(config=pair_config(env, lanes), worker_index=0, num_workers=0)
    if correction is not None:
        runner.set_offset(OffsetBroadcast(version=0, correction=correction))
    return partial(runner.sample, num_timesteps=_ticks(lanes) * lanes)


def stock(env: EnvSpec, lanes: int) -> Callable[[], Any]:
    config = PPOConfig().environment(env)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=lanes)
    config.rl_module(model_config={"fcnet_hiddens": [64, 64], "vf_share_layers": False})
    config.validate()
    runner = SingleAgentEnvRunner(config=config, worker_index=0, num_workers=0)
    return partial(runner.sample, num_timesteps=_ticks(lanes) * lanes)


def own_policy(env: EnvSpec, lanes: int) -> Callable[[Any], Any]:
    """The sampler's own way from observations to actions."""
    runner = OffsetEnvRunner(config=pair_config(env, lanes), worker_index=0, num_workers=0)
    policy = SamplingPolicy(runner.module).for_rows(lanes)
    return lambda obs: policy.act(obs, explore=True)[0]


def torch_policy() -> Callable[[Any], Any]:
    """The same network, written down in torch."""
    actor = nn.Sequential(
        nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)
    )

    @torch.inference_mode()
    def act(obs: Any) -> Any:
        mean, log_std = actor(torch.from_numpy(obs)).chunk(2, dim=-1)
        return Normal(mean, log_std.exp(), validate_args=False).sample().numpy()

    return act


def bare_loop(
    env: EnvSpec, lanes: int, act: Callable[[Any], Any], predictor: NumpyPredictor | None
) -> Callable[[], None]:
    envs = make_vector_env(env, {}, lanes)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED

    def loop() -> None:
        for tick in range(_ticks(lanes)):
            if tick % EPISODE == 0:
                obs, _ = envs.reset(seed=tick)
            obs, *_ = envs.step(act(obs))
            if predictor is not None:
                obs = obs + predictor(obs)[:, :3]

    return loop


def _ticks(lanes: int) -> int:
    """Ticks of a round: whole episodes."""
    return EPISODE * max(1, round(STEPS / (EPISODE * lanes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 8, 32, 128, 512])
    options = parser.parse_args()
    start_ray(num_cpus=1)
    torch.set_num_threads(1)
    correction = fitted_correction()
    print(f"{machine()}; steps per second\n")
    print(
        f"{'environment':<12}{'predictor':<11}{'lanes':>5}"
        + "".join(f"{name:>12}" for name in (OURS, LIMIT, TORCH_LOOP, STOCK))
        + f"{'of the limit':>24}{'of the torch loop':>24}{'x stock':>24}"
    )
    figures = []
    for kind, env in (("native", FAST), ("scalar", LimitedPointMass)):
        for lanes in options.lanes:
            for used in (None, correction):
                speeds = _speeds(env, lanes, used, options.rounds)
                of_limit, of_torch, times_stock = (
                    Spread.of_ratios(speeds[OURS], speeds[peer])
                    for peer in (LIMIT, TORCH_LOOP, STOCK)
                )
                medians = "".join(f"{Spread.of(speeds[n]).median:>12,.0f}" for n in speeds)
                print(
                    f"{kind:<12}{'with' if used else 'without':<11}{lanes:>5}{medians}"
                    f"{of_limit:>24.2f}{of_torch:>24.2f}{times_stock:>24.1f}",
                    flush=True,
                )
                figures.append({"env": kind, "predictor": used is not None, "lanes": lanes})
                figures[-1] |= {name: Spread.of(speed).median for name, speed in speeds.items()}
    keep("sampler", figures)


def _speeds(
    env: EnvSpec, lanes: int, correction: OffsetCorrection | None, rounds: int
) -> dict[str, list[float]]:
    predictor = None if correction is None else correction.predictor
    quick = None if predictor is None else predictor.for_rows(lanes)
    samplers = {
        OURS: ours(env, lanes, correction),
        LIMIT: bare_loop(env, lanes, own_policy(env, lanes), quick),
        TORCH_LOOP: bare_loop(env, lanes, torch_policy(), predictor),
        STOCK: stock(env, lanes),
    }
    rounds_of(samplers, 1)
    steps = _ticks(lanes) * lanes
    return {name: [steps / s for s in spent] for name, spent in rounds_of(samplers, rounds).items()}


if __name__ == "__main__":
    main()
