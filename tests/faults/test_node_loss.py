"""A node of the cluster goes away in the middle of an iteration, and training goes on."""

import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.trainings import NUM_ITERATIONS, STRIKES_AT, num_finished, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def cluster():
    """A head and two more nodes, each with room for two replay workers."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()  # that of the tests before
    node = {"num_cpus": 2, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(2):
        nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def node_of_a_worker(cluster, algorithm):
    """A node with replay workers, but without the coordinator, which counts what is replaced."""
    stats = algorithm.replay.stats()
    workers = {parent_of(pid) for pid in stats["worker_pids"]} - {
        parent_of(stats["coordinator_pid"])
    }
    return next(
        node
        for node in cluster.worker_nodes
        if workers & {info.process.pid for info in node.all_processes["raylet"]}
    )


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_training_goes_on_without_a_node(cluster, tmp_path):
    import ray

    def remove(algorithm):
        lost, before = node_of_a_worker(cluster, algorithm), num_finished(tmp_path)

        def act():
            while num_finished(tmp_path) == before:
                threading.Event().wait(0.002)
            cluster.remove_node(lost, allow_graceful=False)

        threading.Thread(target=act, daemon=True).start()

    outcome = train(
        tmp_path, faults={STRIKES_AT: remove}, num_env_runners=0, num_cpus_per_replay_worker=1
    )
    end_s = time.monotonic() + 60  # the training may have ended before Ray notices
    while (alive := sum(node["Alive"] for node in ray.nodes())) > 2 and time.monotonic() < end_s:
        time.sleep(0.5)
    print(f"\n{alive} nodes left\n{json.dumps(asdict(outcome))}", file=sys.stderr)
    if folder := os.environ.get("FAULT_RESULTS"):
        Path(folder, "node-removed.json").write_text(json.dumps(asdict(outcome)))
    assert alive == 2
    assert outcome.replaced >= 1
    assert outcome.bought - outcome.wasted == NUM_ITERATIONS * 8 + 50
    assert (outcome.bought_twice, outcome.lost, outcome.imbalance) == (0, 0, 0)
    assert outcome.bought == outcome.stored
    assert 0 <= outcome.lost_results <= 2  # in the hands of its two workers
