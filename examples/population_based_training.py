"""How do I let settings change while training?

Population based training copies the better agent, its correction and its labels included, over the
worse one, and changes the learning rate a little.
"""

import ray
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from rllib_offset import OffsetA2C

CONFIG = {
    "env": "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0",
    "slow_env": "rllib_offset.envs:rllib_offset/PointMass-v0",
    "num_replay_workers": 0,
    "label_level": "sample",
    "lr": tune.loguniform(1e-4, 1e-2),
}


def main(population: int = 2, iterations: int = 8) -> tune.ResultGrid:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    scheduler = PopulationBasedTraining(
        perturbation_interval=4,
        hyperparam_mutations={"lr": tune.loguniform(1e-4, 1e-2)},
    )
    tuner = tune.Tuner(
        OffsetA2C,
        param_space=CONFIG,
        tune_config=tune.TuneConfig(
            metric="env_runners/episode_return_mean",
            mode="max",
            num_samples=population,
            scheduler=scheduler,
        ),
        run_config=tune.RunConfig(name="pbt", stop={"training_iteration": iterations}, verbose=0),
    )
    return tuner.fit()


if __name__ == "__main__":
    for result in main():
        slow_steps = result.metrics["slow"]["num_env_steps_lifetime"]
        print(f"lr {result.config['lr']:.4f}, {slow_steps:.0f} slow steps")
