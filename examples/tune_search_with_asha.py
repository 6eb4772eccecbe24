"""How do I search for good settings without paying for bad trials to the end?

ASHA stops the worse half of the trials early.  What it compares is the return in fast + offset
while training, which costs no slow steps.
"""

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rllib_offset import OffsetA2C

CONFIG = {
    "env": "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0",
    "slow_env": "rllib_offset.envs:rllib_offset/PointMass-v0",
    "num_replay_workers": 0,  # a trial fits on one CPU: two run side by side
    "label_level": "sample",
    "lr": tune.loguniform(3e-4, 1e-2),
    "entropy_coeff": tune.choice([0.0, 0.01]),
}


def main(trials: int = 4, iterations: int = 8) -> tune.ResultGrid:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    tuner = tune.Tuner(
        OffsetA2C,
        param_space=CONFIG,
        tune_config=tune.TuneConfig(
            metric="env_runners/episode_return_mean",
            mode="max",
            num_samples=trials,
            scheduler=ASHAScheduler(max_t=iterations, grace_period=2, reduction_factor=2),
        ),
        run_config=tune.RunConfig(name="asha", stop={"training_iteration": iterations}, verbose=0),
    )
    return tuner.fit()


if __name__ == "__main__":
    results = main()
    for result in results:
        print(f"lr {result.config['lr']:.4f}: {result.metrics['training_iteration']} iterations")
    best = results.get_best_result()
    print("best:", {name: best.config[name] for name in ("lr", "entropy_coeff")})
