"""The machine went down in the middle of a run: what is lost?

Nothing that was bought before the last checkpoint: the agent, the correction and its labels all go
on where they were.  With a label store, which every run under Tune has, nothing that was finished.
On the command line: `--checkpoint-freq 10`, and `--resume` after the crash.
"""

import tempfile
from pathlib import Path

import ray

from rllib_offset import OffsetA2C, OffsetA2CConfig

CONFIG = (
    OffsetA2CConfig()
    .environment("rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0")
    .slow_simulator(env="rllib_offset.envs:rllib_offset/PointMass-v0", num_replay_workers=1)
    .labels(level="sample", initial=50, per_iteration=1)
    .debugging(seed=0)
)


def main(folder: Path) -> tuple[float, float]:
    """Return what the third iteration reported: without a crash, and resumed after one."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    algo = CONFIG.build_algo()
    for _ in range(2):
        algo.train()
    algo.save_to_path(folder)
    expected = algo.train()  # never saved: this is what the crash costs
    algo.stop()

    resumed = OffsetA2C.from_checkpoint(folder)
    result = resumed.train()
    resumed.stop()
    assert result["slow"]["num_env_steps_lifetime"] == expected["slow"]["num_env_steps_lifetime"]
    path = ("env_runners", "episode_return_mean")
    return expected[path[0]][path[1]], result[path[0]][path[1]]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        without, after = main(Path(folder))
    print(f"iteration 3 without a crash {without:.3f}, resumed after one {after:.3f}")
