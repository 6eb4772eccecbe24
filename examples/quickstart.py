"""How do I train an agent on a fast simulator so that it is good in the slow one?

The fast simulator rewards the wrong place.  A correction is learned from single slow steps, and
the agent trains on fast + correction.
"""

import ray

from rllib_offset import OffsetA2CConfig

FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"


def main(iterations: int = 20) -> dict[str, float]:
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
        result = algo.train()
    truth = algo.evaluate()  # in the slow simulator
    algo.stop()
    return {
        "return in the slow simulator": truth["env_runners"]["episode_return_mean"],
        "score (0 random, 1 optimal)": truth["normalised_score"],
        "slow steps bought": result["slow"]["num_env_steps_lifetime"],
        "steps trained on": result["num_env_steps_sampled_lifetime"],
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:<30} {value:,.2f}")
