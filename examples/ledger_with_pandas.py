"""What did the slow simulator cost, iteration by iteration?

Every row of Tune's results carries the ledger: slow steps bought for labels and for evaluation,
those lost, invalid or reused, and the seconds inside the simulator.
"""

import tempfile
from pathlib import Path

import pandas as pd
import ray
from ray import tune

from rllib_offset import OffsetA2C

CONFIG = {
    "env": "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0",
    "slow_env": "rllib_offset.envs:rllib_offset/PointMass-v0",
    "num_replay_workers": 1,
    "label_level": "sample",
    "initial_labels": 50,
    "labels_per_iteration": 2,
    "evaluation_interval": 2,
    "evaluation_duration": 4,
}
COLUMNS = {
    "training_iteration": "iteration",
    "slow.num_env_steps_lifetime": "labels",
    "slow.num_eval_env_steps_lifetime": "evaluation",
    "slow.sim_time_s_lifetime": "slow seconds",
    "env_runners.episode_return_mean": "return",
}


def main(folder: Path, iterations: int = 4) -> pd.DataFrame:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    tune.run(
        OffsetA2C,
        name="ledger",
        config=CONFIG,
        stop={"training_iteration": iterations},
        storage_path=str(folder),
        verbose=0,
    )
    (path,) = folder.glob("ledger/*/result.json")
    rows = pd.json_normalize(pd.read_json(path, lines=True).to_dict("records"))
    return rows[list(COLUMNS)].rename(columns=COLUMNS).set_index("iteration")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(main(Path(folder)).round(2).to_string())
