"""A driver that is killed again and again, and resumed, ends as one that was left alone."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.faults.commands import Command
from tests.faults.trainings import NUM_ITERATIONS, Outcome, num_finished, outcome, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

NUM_KILLS = int(os.environ.get("NUM_KILLS", "20"))
CHECKPOINT_EVERY = 2  # iterations


@pytest.fixture(scope="module")
def address():
    """Of a cluster that outlives its drivers."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False}
    )
    yield cluster.address
    cluster.shutdown()


def drive(address, folder):
    """Train from the latest checkpoint on, and write down the outcome."""
    import ray

    from rllib_offset import OffsetPPO

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    changes = {"label_store": f"{folder}/labels", "num_env_runners": 0, "num_replay_workers": 2}
    changes["lr"] = 1e-3  # a schedule's first value is rounded otherwise in a checkpoint
    algorithm = OffsetPPO(config=settings(folder, **changes))
    if checkpoints := sorted(folder.glob("checkpoint_*")):
        algorithm.restore_from_path(str(checkpoints[-1]))
    else:
        save(algorithm, folder)  # on whose account labels are bought
    while algorithm.iteration < NUM_ITERATIONS:
        result = algorithm.train()
        with (folder / "progress").open("a") as file:
            file.write(f"{algorithm.iteration}\n")
        if algorithm.iteration % CHECKPOINT_EVERY == 0:
            save(algorithm, folder)
    found = outcome(algorithm, folder, result, 0.0)
    (folder / "outcome.json").write_text(json.dumps(asdict(found)))
    algorithm.stop()


def save(algorithm, folder):
    """Write a checkpoint that is there whole or not at all."""
    part = folder / "part"
    shutil.rmtree(part, ignore_errors=True)
    algorithm.save_to_path(str(part))
    part.rename(folder / f"checkpoint_{algorithm.iteration:03}")


class Driver:
    """A process that trains; it is forked, as the imports take longer than the training."""

    context = multiprocessing.get_context("forkserver")  # without this process's threads

    def __init__(self, address, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.context.set_forkserver_preload([__name__, "rllib_offset.algorithm"])
        self.process = self.context.Process(target=drive, args=(address, folder))
        self.process.start()

    def iteration(self):
        """The last one that was finished; after a kill some are repeated."""
        path = self.folder / "progress"
        return int(path.read_text().split()[-1]) if path.exists() else 0

    def wait_for(self, iteration):
        while self.iteration() < iteration and self.process.is_alive():
            time.sleep(0.02)


def finished(address, folder):
    """Drive to the end."""
    driver = Driver(address, folder)
    driver.process.join()
    assert driver.process.exitcode == 0
    return Outcome(**json.loads((folder / "outcome.json").read_text()))


def kill(address, folder, iteration, delay_s):
    """Drive, and kill so long after an iteration; returns how far it had come."""
    driver = Driver(address, folder)
    driver.wait_for(iteration)
    time.sleep(delay_s)
    assert driver.process.is_alive(), "it ended before it was killed"
    os.kill(driver.process.pid, signal.SIGKILL)
    driver.process.join()
    return driver.iteration()


def test_killed_at_random_moments_it_buys_what_it_would_have_bought(address, tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "killed"
    moments = np.sort(rng.integers(0, NUM_ITERATIONS - 4, NUM_KILLS))
    killed = [kill(address, folder, moment, rng.uniform(0, 1)) for moment in moments]
    found = finished(address, folder)
    expected = finished(address, tmp_path / "uninterrupted")
    print(f"\nkilled in iterations {killed}\n{expected}\n{found}", file=sys.stderr)
    assert (found.bought, found.score) == (expected.bought, expected.score)
    assert (found.bought_twice, found.lost, found.imbalance, found.damaged) == (0, 0, 0, 0)
    assert found.stored == found.bought
    assert 0 <= found.lost_results <= NUM_KILLS  # in a worker's hands as it was killed too


def test_a_command_is_resumed_after_a_kill_and_after_ctrl_c(tmp_path):
    command = Command(tmp_path / "x")
    # Ray's own agents take minutes to notice that their cluster was killed
    for number, exit_code, ends in ((signal.SIGKILL, -9, "ReplayWorker"), (signal.SIGINT, 130, "")):
        before = len(command.results())
        command.start(resume=before > 0)
        command.wait_for(before + 5)
        assert command.signal(number) == exit_code
        end_s = time.monotonic() + 60
        while command.processes(ends) and time.monotonic() < end_s:
            time.sleep(0.2)
        assert command.processes(ends) == []
    command.start(resume=True)
    command.wait_for(10**9)
    assert command.process.returncode == 0, command.log()
    last, report = command.results()[-1], command.report()
    bought = last["slow"]["num_env_steps_lifetime"]
    assert last["training_iteration"] == NUM_ITERATIONS
    assert bought == report.num_rows == NUM_ITERATIONS * 8 + 50
    assert report.num_bought_twice == 0
    assert 0 <= num_finished(Path(tmp_path / "x")) - bought <= 4
