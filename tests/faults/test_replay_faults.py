"""Faults in the middle of replays: nothing that finished is lost, nothing is bought twice."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from rllib_offset.columns import MEASUREMENT, OBS, REWARD, VALID
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.ledger import Ledger
from rllib_offset.pair import EnvPair
from rllib_offset.replay.client import SlowReplay
from rllib_offset.replay.known import KnownLabels
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.worker import ReplayWorker, replay
from rllib_offset.store import LabelStore, StoreLocation
from rllib_offset.store_report import verify
from tests.envs import StatefulEnv
from tests.faults.disks import FullDisk

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NUM_STEPS = 4 * 5 + 6  # of the requests below


@pytest.fixture
def faults(tmp_path):
    folder = tmp_path / "faults"
    folder.mkdir()
    return folder


@pytest.fixture
def start():
    started = []

    def start_replay(*args, **options):
        started.append(SlowReplay(*args, num_cpus_per_worker=0.25, **options))
        return started[-1]

    yield start_replay
    for slow_replay in started:
        slow_replay.shutdown()


def pair(faults, **config):
    slow_config = {"faults": str(faults), "gain": 0.5} | config
    return EnvPair("tests.envs.StatefulEnv", "tests.faults.simulators.MoodyEnv", {}, slow_config)


def requests(version=1, num=4):
    rng = np.random.default_rng(version)

    def draw(length):
        return rng.uniform(-1, 1, (length, 2)).astype(np.float32)

    episodes = [ReplayRequest((version, i), "trajectory", draw(5), seed=i) for i in range(num)]
    states = np.stack([rng.uniform(-1, 1, 6), np.arange(6.0)], axis=1)
    single = ReplayRequest(
        (version, 99), "steps", draw(6), states=states, fast={"row": np.arange(6)}
    )
    return [*episodes, single]


def books_of(results, location):
    """Enter answers into a ledger and see that it is balanced; returns it with the store's."""
    ledger = Ledger()
    ledger.enter(results)
    valid = sum(int(r.slow[VALID].sum()) for r in results if r.slow is not None)
    assert ledger.imbalance(valid) == 0
    report = verify(LabelStore(location))
    assert report.num_bought_twice == 0
    return ledger, report


def assert_as_without_faults(results, asked):
    assert [result.request.key for result in results] == [request.key for request in asked]
    for result, request in zip(results, asked, strict=True):
        expected = replay(request, StatefulEnv({"gain": 0.5})).slow
        for name in (OBS, REWARD):
            np.testing.assert_array_equal(result.slow[name], expected[name])


def wait_until(holds, timeout_s=30.0):
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(0.05)


slow = pytest.mark.slow  # all of the same kind: starting actors is what takes the time


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=slow)])
@pytest.mark.parametrize("fault", ["exception", "shape", "exit"])
def test_a_fault_that_passes_loses_nothing(start, location, faults, fault, num_workers):
    check_that_nothing_is_lost(start, location, faults, fault, num_workers)


@pytest.mark.parametrize("fault", ["crash", pytest.param("hang", marks=slow)])
def test_a_process_that_dies_or_hangs_loses_nothing(start, location, faults, fault):
    check_that_nothing_is_lost(start, location, faults, fault, num_workers=2)


def check_that_nothing_is_lost(start, location, faults, fault, num_workers):
    (faults / f"{fault}-1").touch()
    client = start(
        pair(faults, at_step=2), num_workers=num_workers, labels=location, step_timeout_s=1.0
    )
    client.submit(requests())
    results = client.gather(1)
    assert_as_without_faults(results, requests())
    ledger, report = books_of(results, location)
    assert not list(faults.iterdir())
    assert client.stats()["num_retries"] == 1
    assert (ledger.num_replays_lost, ledger.num_labels_lost, ledger.num_invalid) == (0, 0, 0)
    unusable = fault == "shape"  # a step that was paid for, and gave nothing to keep
    assert ledger.num_env_steps == report.num_rows + unusable
    assert ledger.num_env_steps == NUM_STEPS + ledger.num_env_steps_wasted


@pytest.mark.slow
def test_a_result_that_is_no_number_is_invalid_and_counted(start, location, faults):
    (faults / "nan-1").touch()
    client = start(pair(faults, at_step=2), num_workers=1, labels=location)
    client.submit(requests())
    results = client.gather(1)
    ledger, report = books_of(results, location)
    assert (ledger.num_env_steps, ledger.num_invalid, report.num_invalid) == (NUM_STEPS, 1, 1)


@pytest.mark.slow
def test_a_fault_that_stays_is_lost_once_noted_and_can_be_replayed_alone(start, location, faults):
    for i in range(40):
        (faults / f"exception-{i:02d}").touch()
    client = start(pair(faults, at_step=2), num_workers=1, labels=location, max_retries=1)
    client.submit(requests(num=1))
    results = client.gather(1)
    ledger, report = books_of(results, location)
    assert (ledger.num_replays_lost, ledger.num_labels_lost) == (2, 3 + 1)
    assert ledger.num_env_steps == report.num_rows == 2 * 2 + 5
    failures = KnownLabels(location, is_read_only=True).failures()
    assert len(failures) == 2
    for result in results:
        assert any(name in result.error for name in failures)
        assert "the mesh is tangled" in result.error


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(start, location, faults):
    client = start(pair(faults, step_cost_s=0.05), num_workers=2, labels=location)
    client.submit(requests())
    wait_until(lambda: len(LabelStore(location).segment_names()) > 0)
    os.kill(client.stats()["worker_pids"][0], signal.SIGKILL)
    results = client.gather(1)
    assert_as_without_faults(results, requests())
    ledger, report = books_of(results, location)
    assert ledger.num_env_steps == report.num_rows


@pytest.mark.parametrize(
    ("how", "num_workers"),
    [
        pytest.param("process", 2, id="process-2"),
        pytest.param("actor", 2, id="actor-2", marks=slow),
        pytest.param("process", 0, id="process-0", marks=slow),
        pytest.param("actor", 0, id="actor-0", marks=slow),
    ],
)
def test_a_killed_coordinator_comes_back_with_what_was_asked(
    start, location, faults, how, num_workers
):
    import ray

    client = start(pair(faults, step_cost_s=0.02), num_workers=num_workers, labels=location)
    client.submit(requests(0))
    first = client.gather(0)
    client.submit([*requests(1), *requests(2)])
    if num_workers:
        store = LabelStore(location)
        wait_until(lambda: len(store.segment_names()) >= 7)
    if how == "process":
        os.kill(client.stats()["coordinator_pid"], signal.SIGKILL)
    else:
        ray.kill(client.coordinator)
    if num_workers:
        second, third = client.gather(1), client.gather(2)
    else:
        both = client.gather(2)
        second, third = both[:5], both[5:]
    assert_as_without_faults(second + third, requests(1) + requests(2))
    ledger, report = books_of(first + second + third, location)
    assert ledger.num_env_steps == report.num_rows
    assert ledger.num_env_steps - ledger.num_env_steps_wasted == 3 * NUM_STEPS
    assert client.outstanding() == []


def test_a_driver_that_died_before_it_gathered_finds_what_was_bought(location, faults):
    asked = [*requests(1), *requests(2)]
    victim = SlowReplay(
        pair(faults, step_cost_s=0.02),
        num_workers=2,
        num_cpus_per_worker=0.25,
        labels=location,
        run="a",
    )
    victim.submit(asked)
    wait_until(lambda: len(LabelStore(location).segment_names()) >= 5)
    victim.shutdown()  # nothing was gathered
    before = verify(LabelStore(location)).num_rows
    resumed = SlowReplay(
        pair(faults), num_workers=1, num_cpus_per_worker=0.25, labels=location, run="a"
    )
    resumed.submit(asked)
    results = resumed.gather(2)
    resumed.shutdown()
    assert_as_without_faults(results, asked)
    ledger, report = books_of(results, location)
    assert ledger.num_env_steps_reused == 0
    assert ledger.num_env_steps == report.num_rows >= before
    assert ledger.num_env_steps - ledger.num_env_steps_wasted == 2 * NUM_STEPS


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=slow)])
def test_a_worker_that_outlived_its_driver_is_waited_for(start, location, faults, num_workers):
    import ray

    two, asked = pair(faults, step_cost_s=0.2), requests(num=1)
    LabelStore(location)  # as its driver had made it
    orphan = ray.remote(ReplayWorker).options(num_cpus=0.25).remote(two, location)
    ray.get(orphan.ready.remote())
    answer = orphan.replay.remote(asked[0], "a", "p")
    wait_until(lambda: KnownLabels(location).is_being_bought(asked[0]))
    client = start(two, num_workers=num_workers, labels=location, run="a")
    client.submit(asked)
    results = client.gather(1)
    assert_as_without_faults(results, asked)
    ledger, report = books_of(results, location)
    assert ledger.num_env_steps == report.num_rows == 5 + 6
    assert results[0].purchase == ray.get(answer).purchase == "p"


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=slow)])
def test_a_later_run_reuses_everything_for_free(start, location, faults, num_workers):
    for run in "ab":
        client = start(pair(faults), num_workers=num_workers, labels=location, run=run)
        client.submit(requests())
        results = client.gather(1)
        ledger, report = books_of(results, location)
        assert_as_without_faults(results, requests())
    assert report.num_rows == NUM_STEPS
    assert (ledger.num_env_steps, ledger.num_env_steps_reused) == (0, NUM_STEPS)
    assert ledger.sim_time_s == 0
    assert client.stats()["num_reused"] == NUM_STEPS


@pytest.mark.slow
def test_only_what_a_damaged_segment_held_is_bought_again(start, location, faults):
    first = start(pair(faults), num_workers=1, labels=location, run="a")
    first.submit(requests())
    first.gather(1)
    path = Path(LabelStore(location).folder) / LabelStore(location).segment_names()[0]
    path.write_bytes(path.read_bytes()[:-100])
    second = start(pair(faults), num_workers=1, labels=location, run="b")
    second.submit(requests())
    results = second.gather(1)
    assert_as_without_faults(results, requests())
    ledger, report = books_of(results, location)
    assert list(report.damaged) == [path.name]
    assert ledger.num_env_steps_reused + ledger.num_env_steps == NUM_STEPS
    assert 0 < ledger.num_env_steps <= 6


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=slow)])
def test_a_full_disk_holds_up_nothing_and_is_made_up_for(
    start, tmp_path, faults, num_workers, caplog
):
    full = tmp_path / "full"
    location = StoreLocation(str(tmp_path / "labels"), "0f", filesystem=FullDisk(full))
    client = start(pair(faults), num_workers=num_workers, labels=location)
    full.touch()
    client.submit(requests())
    results = client.gather(1)
    assert_as_without_faults(results, requests())
    assert client.stats()["num_unstored"] == NUM_STEPS
    assert "slow results are not on disk" in caplog.text
    full.unlink()
    client.submit(requests(2))
    results += client.gather(2)
    assert client.stats()["num_unstored"] == 0
    ledger, report = books_of(results, location)
    assert report.num_rows == ledger.num_env_steps == 2 * NUM_STEPS
    assert report.abandoned == []


def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(faults):
    with pytest.raises(ValueError, match="folder that can be written, got '/proc/labels'"):
        SlowReplay(pair(faults), num_workers=1, labels=StoreLocation("/proc/labels", "0f"))


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=slow)])
def test_too_many_failures_stop_the_run_and_lose_nothing(start, location, faults, num_workers):
    for i in range(60):
        (faults / f"exception-{i:02d}").touch()
    client = start(
        pair(faults, at_step=2),
        num_workers=num_workers,
        labels=location,
        max_retries=0,
        max_failure_rate=0.2,
    )
    client.submit(requests(num=12))
    allowed = r"^\d+ of the last 10 .* more than `max_failure_rate` \(0.2\) allows.*$"
    with pytest.raises(SlowSimulatorError, match=allowed) as error:
        client.gather(1)
    assert "\n" not in str(error.value)
    assert len(client.outstanding()) == 13
    assert verify(LabelStore(location)).num_rows >= 10 * 2


@pytest.mark.slow
def test_a_worker_is_replaced_after_so_many_replays(start, location, faults):
    client = start(pair(faults), num_workers=1, labels=location, max_replays_per_worker=2)
    client.submit(requests())
    assert_as_without_faults(client.gather(1), requests())
    wait_until(lambda: client.stats()["num_workers_recycled"] == 2)
    assert client.stats()["num_workers_replaced"] == 0


def counted_pair(tmp_path, **config):
    busy = tmp_path / "busy"
    busy.mkdir(exist_ok=True)
    config |= {"busy": str(busy)}
    return EnvPair("tests.envs.StatefulEnv", "tests.faults.simulators.CountedEnv", {}, config)


@pytest.mark.slow
def test_licences_limit_the_replays_of_all_trials_together(start, tmp_path):
    licensed = {"max_concurrent_replays": 1, "licence": str(tmp_path)}
    two = counted_pair(tmp_path, step_cost_s=0.01)
    clients = [start(two, num_workers=2, **licensed), start(two, num_workers=1, **licensed)]
    for client in clients:
        client.submit(requests(num=3)[:3])
    results = [result for client in clients for result in client.gather(1)]
    assert {float(value) for r in results for value in r.slow[MEASUREMENT][:, 0]} == {1.0}


def test_of_two_trials_that_want_a_label_at_once_one_waits_and_reuses_it(start, location, tmp_path):
    two = counted_pair(tmp_path, step_cost_s=0.05)
    clients = [start(two, num_workers=1, labels=location, is_shared=True, run=run) for run in "ab"]
    for client in clients:
        client.submit(requests(num=2))
    results = [result for client in clients for result in client.gather(1)]
    ledger, report = books_of(results, location)
    assert report.num_rows == ledger.num_env_steps == ledger.num_env_steps_reused == 16
