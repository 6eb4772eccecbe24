import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rllib_offset.columns import MEASUREMENT, TIME
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.fingerprint import label_location
from rllib_offset.pair import EnvPair
from rllib_offset.replay.coordinator import ReplayCoordinator
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.worker import ReplayWorker, replay
from tests import envs

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PAIR = EnvPair("tests.envs.StatefulEnv", "tests.envs.StatefulEnv", {}, {"gain": 0.5})


def faulty_pair(tmp_path, **config):
    flag = tmp_path / "flag"
    flag.touch()
    slow_config = {"flag": str(flag), "at_step": 2, "gain": 0.5} | config
    return EnvPair("tests.envs.StatefulEnv", "tests.envs.FaultyEnv", {}, slow_config)


def trajectory(*key, length=5):
    actions = np.random.default_rng(key).uniform(-1, 1, (length, 2)).astype(np.float32)
    return ReplayRequest(key, "trajectory", actions, seed=key[-1], fast={TIME: np.arange(length)})


def steps(*key, counts):
    actions = np.random.default_rng(key).uniform(-1, 1, (len(counts), 2)).astype(np.float32)
    states = np.stack([np.arange(len(counts), dtype=float), np.array(counts, float)], axis=1)
    rows = {TIME: np.arange(len(counts))}
    return ReplayRequest(key, "steps", actions, states=states, fast=rows)


def assert_as_by_hand(results, requests):
    env = envs.StatefulEnv({"gain": 0.5})
    assert [result.request.key for result in results] == [request.key for request in requests]
    for result, request in zip(results, requests, strict=True):
        expected = replay(request, env).slow
        assert result.slow.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(result.slow[name], expected[name])


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def wait_until(holds, timeout_s=20.0):
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(0.05)


class Client:
    """Blocking calls of a coordinator."""

    def __init__(self, *args, strategy=None, **options):
        import ray

        actor = ray.remote(ReplayCoordinator).options(num_cpus=0, scheduling_strategy=strategy)
        self.actor = actor.remote(*args, **options)

    def __getattr__(self, name):
        import ray

        return lambda *args: ray.get(getattr(self.actor, name).remote(*args), timeout=60)


@pytest.fixture
def coordinate():
    import ray

    clients = []

    def start(*args, **options):
        clients.append(Client(*args, **options))
        return clients[-1]

    yield start
    for client in clients:
        try:
            client.shutdown()
            ray.kill(client.actor)
        except ray.exceptions.RayActorError:
            pass


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_are_those_of_a_serial_replay_in_key_order(coordinate, num_workers):
    client = coordinate(PAIR, num_workers, num_cpus_per_worker=0.5)
    requests = [trajectory(1, 0), trajectory(1, 1), steps(1, 2, counts=[0, 4]), trajectory(2, 0)]
    assert client.submit(requests[::-1]) == 4
    assert_as_by_hand(client.gather(1), requests[:3])
    assert_as_by_hand(client.gather(2), requests[3:])
    assert client.gather(2) == []
    stats = client.stats()
    assert (stats["num_lost"], stats["num_retries"], stats["num_queued"]) == (0, 0, 0)
    assert len(stats["worker_pids"]) == num_workers
    assert 0 < stats["utilization"] <= 1
    assert client.stats()["busy_s"] == 0


def test_the_lowest_key_is_served_first_and_gather_without_bound_waits_for_nothing(coordinate):
    slow_config = {"step_cost_s": 0.1}
    client = coordinate(
        EnvPair("tests.envs.StatefulEnv", "tests.envs.SleepyEnv", {}, slow_config), 1
    )
    client.submit([trajectory(5, 0), trajectory(3, 0), trajectory(4, 0)])
    assert [result.request.key for result in client.gather(3)] == [(3, 0)]
    assert client.gather(None) == []
    assert [request.key for request in client.outstanding()] == [(4, 0), (5, 0)]
    wait_until(lambda: client.stats()["num_queued"] == 0)
    assert [result.request.key for result in client.gather(4)] == [(4, 0)]


def test_a_request_sent_twice_is_served_once(coordinate):
    client = coordinate(PAIR, 1)
    assert client.submit([trajectory(1, 0), trajectory(1, 1)]) == 2
    assert client.submit([trajectory(1, 1), trajectory(1, 2)]) == 1
    assert len(client.gather(1)) == 3


def test_without_workers_the_driver_takes_the_requests(coordinate):
    client = coordinate(PAIR, 0)
    client.submit([trajectory(2, 0), trajectory(1, 0)])
    assert [request.key for request in client.outstanding()] == [(1, 0), (2, 0)]
    with pytest.raises(ValueError, match="call `take\\(\\)`"):
        client.gather(1)
    assert [request.key for request in client.take()] == [(1, 0), (2, 0)]
    assert client.outstanding() == client.gather(2) == []


@pytest.mark.parametrize(
    ("how", "limit_s"),
    [
        pytest.param("raise", None, id="raise"),
        pytest.param("exit", None, id="exit"),
        pytest.param("hang", 0.1, id="hang"),
    ],
)
def test_a_failure_that_passes_changes_only_the_counts(coordinate, tmp_path, how, limit_s):
    client = coordinate(faulty_pair(tmp_path, how=how, once=True), 1, step_timeout_s=limit_s)
    requests = [trajectory(1, 0), steps(1, 1, counts=[0, 2])]
    client.submit(requests)
    assert_as_by_hand(client.gather(1), requests)
    stats = client.stats()
    assert (stats["num_retries"], stats["num_lost"]) == (1, 0)


def test_a_failure_that_stays_costs_its_rows_only(coordinate, tmp_path):
    client = coordinate(faulty_pair(tmp_path, how="raise"), 1, max_retries=1)
    client.submit([trajectory(1, 0), trajectory(1, 1, length=2), steps(1, 2, counts=[0, 2, 7])])
    prefix, whole, single = client.gather(1)
    assert prefix.index.tolist() == [0, 1]
    assert "seed 0, step 2" in prefix.error
    assert prefix.num_steps == 4  # both attempts were paid for
    assert whole.error is None
    assert single.index.tolist() == single.fast[TIME].tolist() == [0, 2]
    assert "state [1.0, 2.0]" in single.error
    assert_as_by_hand([whole], [trajectory(1, 1, length=2)])
    stats = client.stats()
    assert (stats["num_retries"], stats["num_lost"]) == (2, 2)


def test_a_step_that_kills_the_process_costs_no_other_step(coordinate, tmp_path):
    client = coordinate(faulty_pair(tmp_path, how="exit"), 1, max_retries=1)
    client.submit([steps(1, 0, counts=[0, 2, 7]), trajectory(1, 1)])
    single, lost = client.gather(1)
    assert single.index.tolist() == [0, 2]
    assert "the process died" in single.error
    assert (lost.slow, lost.fast, lost.num_steps) == (None, {}, 0)
    assert client.stats()["num_lost"] == 2


class LateDeaths:
    """Workers that die between their last row and their answer."""

    num_workers = 0

    def __init__(self, pair, num_workers, options):
        self.worker, self.num_replays = ReplayWorker(pair, options.labels), 0

    async def until_ready(self, slot):
        pass

    async def replay(self, slot, request, run):
        self.num_replays += 1
        self.worker.replay(request, run, "p")
        return None, "p", "the process died"


def test_what_a_worker_finished_before_it_died_is_not_bought_again(tmp_path, monkeypatch):
    monkeypatch.setattr("rllib_offset.replay.coordinator.WorkerPool", LateDeaths)
    labels = label_location(PAIR, str(tmp_path))
    coordinator = ReplayCoordinator(PAIR, 0, labels=labels, recovers=True)
    result = asyncio.run(coordinator._replay(0, trajectory(1, 0)))
    assert_as_by_hand([result], [trajectory(1, 0)])
    assert (result.num_steps, result.num_wasted, result.error) == (5, 0, None)
    assert coordinator._workers.num_replays == 1


def test_a_step_that_two_requests_ask_for_at_once_is_bought_once(coordinate, tmp_path):
    pair = EnvPair(PAIR.fast, "tests.envs.SleepyEnv", {}, {"step_cost_s": 0.3})
    labels = label_location(pair, str(tmp_path))
    client = coordinate(pair, 2, num_cpus_per_worker=0.5, labels=labels)
    one, two = steps(1, 0, counts=[0, 1]), steps(1, 1, counts=[0, 1])
    two = replace(two, actions=one.actions)
    client.submit([one, two])
    results = client.gather(1)
    assert sorted((r.num_steps, r.num_reused) for r in results) == [(0, 2), (2, 0)]
    np.testing.assert_array_equal(results[0].slow["obs"], results[1].slow["obs"])


def test_starting_up_does_not_count_against_the_time_limit(coordinate):
    client = coordinate(PAIR, 1, step_timeout_s=0.02)  # a worker needs longer to start
    client.submit([trajectory(1, 0)])
    assert client.gather(1)[0].error is None
    assert client.stats()["num_retries"] == 0


def test_a_worker_killed_from_outside_is_replaced(coordinate):
    client = coordinate(PAIR, 1)
    client.submit([trajectory(1, 0)])
    client.gather(1)
    (pid,) = client.stats()["worker_pids"]
    os.kill(pid, signal.SIGKILL)
    client.submit([trajectory(2, 0)])
    assert_as_by_hand(client.gather(2), [trajectory(2, 0)])
    assert client.stats()["worker_pids"] != [pid]


def test_a_slow_simulator_that_cannot_be_made_fails_gather(coordinate):
    client = coordinate(
        EnvPair("tests.envs.StatefulEnv", "tests.envs.UnmakeableEnv"), 1, max_retries=0
    )
    client.submit([trajectory(1, 0)])
    with pytest.raises(SlowSimulatorError, match="worker 0 cannot start: OSError: no licence"):
        client.gather(1)


def test_a_request_that_the_pair_cannot_serve_fails_gather(coordinate):
    client = coordinate(EnvPair("tests.envs.CountingEnv", "tests.envs.CountingEnv"), 1)
    client.submit([steps(1, 0, counts=[0])])
    with pytest.raises(SlowSimulatorError, match="single steps need a slow simulator with"):
        client.gather(1)


def test_every_worker_has_its_own_bundle(coordinate):
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.placement_group([{"CPU": 1}] * 3)
    inside = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    pair = EnvPair("tests.envs.StatefulEnv", "tests.envs.BundleEnv")
    client = coordinate(pair, 2, first_bundle=1, strategy=inside)
    client.submit([trajectory(1, i, length=1) for i in range(20)])
    bundles = {int(result.slow[MEASUREMENT][0, 0]) for result in client.gather(1)}
    wait_until(lambda: len(client.stats()["worker_pids"]) == 2)  # both could be placed
    ray.util.remove_placement_group(group)
    assert bundles <= {1, 2}


def test_nothing_is_left_after_a_shutdown(coordinate, tmp_path):
    client = coordinate(faulty_pair(tmp_path, how="raise", child=True), 2, num_cpus_per_worker=0.5)
    client.submit([trajectory(1, i, length=1) for i in range(4)])
    client.gather(1)
    wait_until(lambda: len(client.stats()["worker_pids"]) == 2)
    pids = client.stats()["worker_pids"]
    child = int((tmp_path / "flag.child").read_text())
    assert all(is_alive(pid) for pid in (*pids, child))
    client.shutdown()
    wait_until(lambda: not any(is_alive(pid) for pid in (*pids, child)))


def test_nothing_is_left_after_the_coordinator_was_killed(coordinate, tmp_path):
    import ray

    client = coordinate(faulty_pair(tmp_path, how="hang", child=True), 1)
    client.submit([trajectory(1, 0)])
    wait_until(lambda: client.stats()["busy_s"] > 0)
    (pid,) = client.stats()["worker_pids"]
    child = int((tmp_path / "flag.child").read_text())
    ray.kill(client.actor)
    wait_until(lambda: not is_alive(pid))
    wait_until(lambda: not is_alive(child))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"num_workers": -1}, "num_workers=-1", id="workers"),
        pytest.param({"num_workers": 0, "max_retries": -1}, "max_retries=-1", id="retries"),
        pytest.param({"num_workers": 0, "step_timeout_s": 0.0}, "positive or None", id="limit"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ReplayCoordinator(PAIR, **options)
