"""I need an op-amp that meets these specs after layout: how do I get one in few slow simulations?

Train once (a few minutes, 300 layout simulations at most); then every request costs one, or up
to three where a design fails.
Needs ngspice: `apt-get install libngspice0`.
"""

import sys
import tempfile
from pathlib import Path

import ray
import yaml

import rllib_offset
from rllib_offset.config_keys import translate_keys
from rllib_offset.proposals import Proposal, propose

TUNED = Path(__file__).parents[1] / "tuned_configs" / "opamp-offset-ppo.yaml"
REQUEST = {"gain": 230.0, "bandwidth": 70e6, "phase_margin": 60.0, "current": 180e-6}


def main(iterations: int = 50, settings: dict[str, object] | None = None) -> list[Proposal]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    rllib_offset.register()
    (experiment,) = yaml.safe_load(TUNED.read_text()).values()
    config = {**experiment["config"], "env": experiment["env"], "evaluation_interval": None}
    algorithm = rllib_offset.OffsetPPO(config=translate_keys(config | (settings or {})))

    # 1. The agent learns on hand equations; rounds of layout simulations tell it how wrong they are
    for iteration in range(1, iterations + 1):
        result = algorithm.train()
        error = result["offset"].get("fresh_rmse", float("nan"))
        if error == error:  # a round of labels: was the predictor right where the agent went?
            bought = result["slow"]["num_env_steps_lifetime"]
            print(
                f"iteration {iteration}: {bought:.0f} labels, error on the fresh ones {error:.3f}"
            )

    # 2. A request: the agent plays in fast + offset for free, then one layout simulation verifies
    with tempfile.TemporaryDirectory() as folder:
        algorithm.save_to_path(folder)
        proposals = propose(folder, env_config={"target": REQUEST}, retries=2)
    algorithm.stop()
    return proposals


if __name__ == "__main__":
    print(*main(*map(int, sys.argv[1:])), sep="\n")
