"""Can I use what was learned outside of RLlib, e.g. with Stable-Baselines3?

Yes: `CorrectedEnv` is an ordinary Gymnasium environment, fast + offset, and needs no Ray.
Needs `pip install stable-baselines3`.
"""

import tempfile
from pathlib import Path

import gymnasium as gym
import ray
from stable_baselines3 import PPO

from rllib_offset import CorrectedEnv, OffsetA2CConfig

FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"


def learn_the_offset(folder: Path, iterations: int) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    config = (
        OffsetA2CConfig()
        .environment(FAST)
        .slow_simulator(env=SLOW, num_replay_workers=1)
        .labels(level="sample", initial=200, per_iteration=2)
        .debugging(seed=0)
    )
    algo = config.build_algo()
    for _ in range(iterations):
        algo.train()
    algo.save_to_path(folder)
    algo.stop()


def mean_return(agent: PPO, env: gym.Env, episodes: int = 20) -> float:
    total = 0.0
    for seed in range(episodes):
        (obs, _), ended = env.reset(seed=seed), False
        while not ended:
            action, _ = agent.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
    return total / episodes


def main(folder: Path, iterations: int = 5, steps: int = 12_000) -> tuple[float, float]:
    learn_the_offset(folder, iterations)
    env = CorrectedEnv.from_checkpoint(folder)
    agent = PPO(
        "MlpPolicy", env, n_steps=200, batch_size=50, gamma=0.95, learning_rate=1e-3, seed=0
    )
    agent.learn(steps)
    return mean_return(agent, env), mean_return(agent, gym.make(SLOW))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        promise, truth = main(Path(folder))
    print(f"return of the SB3 agent: {promise:.1f} in fast + offset, in slow {truth:.1f}")
