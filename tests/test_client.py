"""What was asked for early arrives once, and as it would have arrived later."""

from dataclasses import replace

import pytest

from rllib_offset.errors import SlowSimulatorError
from rllib_offset.pair import EnvPair
from rllib_offset.replay.client import SlowReplay
from rllib_offset.store import LabelStore, StoreLocation
from rllib_offset.store_report import verify
from tests.faults.disks import FullDisk
from tests.test_coordinator import PAIR, assert_as_by_hand, trajectory

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(params=[0, 1], ids=["in-process", "one-worker"])
def client(request):
    replay = SlowReplay(PAIR, num_workers=request.param, num_cpus_per_worker=0.25)
    yield replay
    replay.shutdown()


def test_what_was_asked_for_early_is_gathered_once(client):
    requests = [trajectory(1, 0), trajectory(1, 1)]
    client.ask(1, [client.coordinator.submit.remote(requests)])
    client.ask(1)  # is under way already
    assert_as_by_hand(client.gather(1), requests)
    assert client.gather(1) == []
    assert client.outstanding() == []


def test_an_iteration_that_is_repeated_gets_what_it_asked_for_as_well(client):
    client.ask(1, [client.coordinator.submit.remote([trajectory(1, 0)])])
    client.ask(1, [client.coordinator.submit.remote([trajectory(1, 1)])])
    assert_as_by_hand(client.gather(1), [trajectory(1, 0), trajectory(1, 1)])


def test_another_version_than_was_asked_for_arrives_as_well(client):
    requests = [trajectory(1, 0), trajectory(2, 0)]
    client.ask(1, [client.coordinator.submit.remote(requests)])
    assert_as_by_hand(client.gather(2), requests)


def test_later_versions_than_asked_for_are_left_for_later(client):
    client.submit([trajectory(1, 0), trajectory(2, 0)])
    assert_as_by_hand(client.gather(1), [trajectory(1, 0)])
    assert [request.key for request in client.outstanding()] == [(2, 0)]
    client.ask(2)
    assert_as_by_hand(client.gather(2), [trajectory(2, 0)])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_finished_while_the_disk_was_full_is_stored_even_if_replays_stop(
    tmp_path, num_workers
):
    (tmp_path / "flag").touch()
    labels = StoreLocation(str(tmp_path), "0f1e", filesystem=FullDisk(tmp_path / "full"))
    slow = {"flag": str(tmp_path / "flag"), "at_step": 3, "how": "raise"}
    pair = EnvPair("tests.envs.StatefulEnv", "tests.envs.FaultyEnv", {}, slow)
    client = SlowReplay(
        pair,
        num_workers=num_workers,
        num_cpus_per_worker=0.25,
        labels=labels,
        max_retries=0,
        max_failure_rate=0.01,
    )
    (tmp_path / "full").touch()
    client.submit([trajectory(1, i, length=3) for i in range(9)] + [trajectory(1, 9)])
    with pytest.raises(SlowSimulatorError, match="1 of the last 10 slow labels failed"):
        client.gather(1)
    assert client.stats()["num_unstored"] == 30
    (tmp_path / "full").unlink()
    client.shutdown()
    assert verify(LabelStore(replace(labels, filesystem=None))).num_rows == 30


def test_what_has_arrived_and_was_not_handed_out_is_outstanding(client):
    client.ask(1, [client.coordinator.submit.remote([trajectory(1, 0), trajectory(2, 0)])])
    for _ in range(2):
        assert {request.key for request in client.outstanding()} >= {(1, 0)}
    assert_as_by_hand(client.gather(1)[:1], [trajectory(1, 0)])
    assert (1, 0) not in {request.key for request in client.outstanding()}


def test_workers_keep_labels_where_the_driver_does_though_they_work_elsewhere(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    labels = StoreLocation("labels", "0f1e")
    client = SlowReplay(PAIR, num_workers=1, num_cpus_per_worker=0.25, labels=labels)
    try:
        client.submit([trajectory(1, 0)])
        (bought,) = client.gather(1)
        (known,) = client.known_labels()
    finally:
        client.shutdown()
    assert len(known.index) == bought.num_steps == 5
    assert verify(LabelStore(replace(labels, path=str(tmp_path / "labels")))).num_rows == 5


def test_a_coordinator_that_dies_meanwhile_is_asked_again(tmp_path):
    import ray

    from rllib_offset.fingerprint import label_location

    client = SlowReplay(
        PAIR, num_workers=1, num_cpus_per_worker=0.25, labels=label_location(PAIR, str(tmp_path))
    )
    try:
        client.submit([trajectory(1, 0)])
        client.ask(1)
        ray.kill(client.coordinator)
        assert_as_by_hand(client.gather(1), [trajectory(1, 0)])
        assert client.outstanding() == []
    finally:
        client.shutdown()


def test_a_coordinator_that_dies_in_a_resumed_run_loses_no_request_and_no_account(tmp_path):
    import ray

    from rllib_offset.fingerprint import label_location

    location = label_location(PAIR, str(tmp_path))
    client = SlowReplay(PAIR, num_workers=1, num_cpus_per_worker=0.25, labels=location, run="new")
    try:
        client.restore("saved", [trajectory(1, 0)])
        ray.kill(client.coordinator)
        assert_as_by_hand(client.gather(1), [trajectory(1, 0)])
        assert len(client.known_labels(except_run="new")) == 1
        assert client.known_labels(except_run="saved") == []
    finally:
        client.shutdown()
