"""Which cell delivers 15 Wh at twice its nominal current, if my fast model ignores the electrolyte?

The single-particle model of PyBaMM would close every pore; 150 discharges of the full model at most
teach the agent what pores are for. Some of them fail: those labels are counted, and left out of the
fit. Needs PyBaMM: `pip install 'rllib-offset[battery]'`.
"""

import sys
import tempfile
from pathlib import Path

import ray
import yaml

import rllib_offset
from rllib_offset.config_keys import translate_keys
from rllib_offset.proposals import Proposal, propose

TUNED = Path(__file__).parents[1] / "tuned_configs" / "cell-offset-ppo.yaml"
REQUEST = {"energy": 15.0, "voltage": 3.34}


def main(iterations: int = 60, settings: dict[str, object] | None = None) -> list[Proposal]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    rllib_offset.register()
    (experiment,) = yaml.safe_load(TUNED.read_text()).values()
    config = {**experiment["config"], "env": experiment["env"], "evaluation_interval": None}
    algorithm = rllib_offset.OffsetPPO(config=translate_keys(config | (settings or {})))
    for _ in range(iterations):
        result = algorithm.train()
    slow = result["slow"]
    print(
        f"{slow['num_env_steps_lifetime']:.0f} labels, {slow['num_invalid_lifetime']:.0f} invalid"
    )
    with tempfile.TemporaryDirectory() as folder:
        algorithm.save_to_path(folder)
        proposals = propose(folder, env_config={"target": REQUEST}, retries=2)
    algorithm.stop()
    return proposals


if __name__ == "__main__":
    print(*main(*map(int, sys.argv[1:])), sep="\n")
