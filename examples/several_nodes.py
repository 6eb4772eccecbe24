"""How do slow simulators use more than one machine?

Ray places replay workers wherever CPUs are free; nothing changes but the address of the cluster
(`rllib train ... --ray-address auto`).  Here two nodes are started on one machine.
"""

import ray
from ray.cluster_utils import Cluster

from rllib_offset import OffsetA2CConfig

FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"


def main(iterations: int = 2) -> tuple[int, float]:
    """Return how many nodes took part, and the slow steps that were bought."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        config = (
            OffsetA2CConfig()
            .environment(FAST)
            .slow_simulator(env=SLOW, num_replay_workers=3)  # more than one node has CPUs for
            .labels(level="trajectory", replay_fraction=1.0)
            .training(train_batch_size_per_learner=300)
        )
        algo = config.build_algo()
        for _ in range(iterations):
            result = algo.train()
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        algo.stop()
        return len(nodes), result["slow"]["num_env_steps_lifetime"]
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    nodes, slow_steps = main()
    print(f"{slow_steps:.0f} slow steps on {nodes} nodes")
