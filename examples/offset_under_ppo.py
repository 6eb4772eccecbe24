"""Does the correction work under PPO, and what does it cost there?

The same mixin goes before RLlib's own PPO.  PPO learns more from a batch than A2C, so it needs
fewer iterations and buys fewer slow steps.
"""

import ray

from rllib_offset import OffsetPPOConfig

FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"


def main(iterations: int = 20) -> tuple[float, float]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    config = (
        OffsetPPOConfig()
        .environment(FAST)
        .slow_simulator(env=SLOW, num_replay_workers=1)
        .labels(level="sample", initial=50, per_iteration=1)
        .training(lr=1e-3, num_epochs=10, minibatch_size=250)
        .debugging(seed=0)
    )
    algo = config.build_algo()
    for _ in range(iterations):
        result = algo.train()
    score = algo.evaluate()["normalised_score"]
    algo.stop()
    return score, result["slow"]["num_env_steps_lifetime"]


if __name__ == "__main__":
    score, slow_steps = main()
    print(f"score in the slow simulator {score:.2f} (1 is optimal) for {slow_steps:.0f} slow steps")
