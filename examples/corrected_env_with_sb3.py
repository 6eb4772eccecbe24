"""Can I use what was learned outside of RLlib, e.g. with Stable-Baselines3?

Yes: `CorrectedEnv` is an ordinary Gymnasium environment, fast + offset, and needs no Ray.
Needs `pip install stable-baselines3`.
"""

import tempfile
from pathlib import Path

import gymnasium as gym
import ray
from stable_baselines3 import A2C

from rllib_offset import CorrectedEnv, OffsetA2CConfig

FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"


def learn_the_offset(folder: Path, iterations: int) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    config = (
        OffsetA2CConfig()
        .environment(FAST)
        .slow_simulator(env=SLOW, num_replay_workers=1)
        .labels(level="sample", initial=50, per_iteration=1)
        .debugging(seed=0)
    )
    algo = config.build_algo()
    for _ in range(iterations):
        algo.train()
    algo.save_to_path(folder)
    algo.stop()


def main(folder: Path, iterations: int = 5, steps: int = 20_000) -> float:
    """Train an agent of Stable-Baselines3 on fast + offset; return its return in the slow one."""
    learn_the_offset(folder, iterations)
    agent = A2C("MlpPolicy", CorrectedEnv.from_checkpoint(folder), n_steps=100, seed=0)
    agent.learn(steps)
    slow = gym.make(SLOW)
    obs, _ = slow.reset(seed=1)
    total, ended = 0.0, False
    while not ended:
        action, _ = agent.predict(obs, deterministic=True)
        obs, reward, terminated, truncated, _ = slow.step(action)
        total, ended = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(f"return of the SB3 agent in the slow simulator: {main(Path(folder)):.1f}")
