"""My slow simulator is a program, called for every step: how do I connect it?

The environment writes the state to the program's standard input and reads the result.  A call that
hangs is cut off after `step_timeout_s`, and its replay is tried again on another worker.
"""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import ray

from rllib_offset import OffsetA2CConfig
from rllib_offset.envs.point_mass import PointMassEnv

PROGRAM = """
import json, math, sys
x, y = json.load(sys.stdin)
json.dump({"reward": -math.hypot(x - 0.4, y - 0.3)}, sys.stdout)
"""


class ExternalPointMass(PointMassEnv):
    """PointMass, whose reward a program computes."""

    def step(self, action: Any) -> Any:
        obs, _, terminated, truncated, info = super().step(action)
        position = [float(value) for value in obs[:2]]
        answer = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps(position),
            capture_output=True,
            text=True,
            check=True,
        )
        reward = json.loads(answer.stdout)["reward"]
        return np.array([*position, reward], np.float32), reward, terminated, truncated, info


def main(iterations: int = 3) -> dict[str, Any]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    config = (
        OffsetA2CConfig()
        .environment("rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0")
        .slow_simulator(env=lambda _: ExternalPointMass(), num_replay_workers=1, step_timeout_s=30)
        .labels(level="sample", initial=50, per_iteration=1)
    )
    algo = config.build_algo()
    for _ in range(iterations):
        result = algo.train()
    algo.stop()
    return result["slow"]


if __name__ == "__main__":
    slow = main()
    print(f"{slow['num_env_steps_lifetime']:.0f} slow steps: {slow['sim_time_s_lifetime']:.1f} s")
