"""A long run with faults at random: everything accounted for, nothing left behind."""

import gc
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rllib_offset.columns import VALID
from rllib_offset.ledger import Ledger
from rllib_offset.pair import EnvPair
from rllib_offset.replay.client import SlowReplay
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.store import LabelStore, StoreLocation
from rllib_offset.store_report import verify

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("ray_cluster"),
]

NUM_STEPS = int(os.environ.get("SOAK_STEPS", "100000"))
FAULTS = ("exception", "crash", "hang", "nan", "shape", "exit")
SHARE_OF_CALLS = 0.02


def requests(version, num_episodes=14, num_chunks=19):
    """About 2,000 steps in 33 calls."""
    rng = np.random.default_rng(version)
    for i in range(num_episodes):
        actions = rng.uniform(-1, 1, (100, 2)).astype(np.float32)
        fast = {"obs": rng.normal(size=(100, 2)).astype(np.float32)}
        yield ReplayRequest((version, i), "trajectory", actions, seed=version * 100 + i, fast=fast)
    for i in range(num_chunks):
        states = np.stack([rng.uniform(-1, 1, 32), np.arange(32.0)], axis=1)
        actions = rng.uniform(-1, 1, (32, 2)).astype(np.float32)
        fast = {"obs": rng.normal(size=(32, 2)).astype(np.float32)}
        yield ReplayRequest((version, 1000 + i), "steps", actions, states=states, fast=fast)


def memory_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024  # without Ray's shared memory


def started(pid):
    """When a process started, in clock ticks; None if there is none: ids are used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return None if fields[0] == "Z" else fields[19]


def test_everything_is_accounted_for(tmp_path):
    faults = tmp_path / "faults"
    faults.mkdir()
    versions = -(-NUM_STEPS // 2008)
    num_faults = round(SHARE_OF_CALLS * 33 * versions)
    for i in range(num_faults):
        (faults / f"{FAULTS[i % 6]}-{np.random.default_rng(i).integers(1e9)}").touch()
    location = StoreLocation(str(tmp_path / "labels"), "0f")
    config = {"faults": str(faults), "rate": 2.0 * num_faults / NUM_STEPS, "length": 1000}
    pair = EnvPair("tests.envs.StatefulEnv", "tests.faults.simulators.MoodyEnv", {}, config)
    client = SlowReplay(
        pair,
        num_workers=8,
        num_cpus_per_worker=0.25,
        labels=location,
        step_timeout_s=5.0,
        max_replays_per_worker=100,
    )
    ledger, num_valid, processes, start_s = Ledger(), 0, set(), time.monotonic()
    memory, shared = [], set(os.listdir("/dev/shm"))
    for version in range(versions):
        client.submit(list(requests(version)))
        results = client.gather(version)
        ledger.enter(results)
        num_valid += sum(int(r.slow[VALID].sum()) for r in results if r.slow is not None)
        assert ledger.imbalance(num_valid) == 0
        stats = client.stats()
        seen = (*stats["worker_pids"], stats["coordinator_pid"])
        processes |= {(pid, started(pid)) for pid in seen if started(pid)}
        gc.collect()
        coordinator = stats["coordinator_pid"]
        memory.append((memory_mb(os.getpid()), memory_mb(coordinator)))
    seconds = time.monotonic() - start_s
    client.shutdown()
    report = verify(LabelStore(location))
    end_s = time.monotonic() + 30
    while (left := [p for p in processes if started(p[0]) == p[1]]) and time.monotonic() < end_s:
        time.sleep(0.5)
    files = sorted(p.name for p in Path(location.path).rglob("*") if p.is_file())
    rubbish = [n for n in files if not n.endswith(".parquet") and n != "pair.json"]
    print(
        f"\n{ledger}\n{report}\n{num_faults} faults, {len(list(faults.iterdir()))} not struck, "
        f"{stats['num_retries']} retries, {stats['num_workers_replaced']} workers replaced, "
        f"{stats['num_workers_recycled']} recycled, "
        f"{len(processes)} processes, {len(files)} files, "
        f"{seconds:.0f} s\nmemory (MB) {memory[:: max(versions // 10, 1)]}",
        file=sys.stderr,
    )
    asked = versions * 2008
    assert (left, rubbish, report.abandoned, report.damaged) == ([], [], [], {})
    assert (ledger.num_labels_lost, ledger.num_replays_lost) == (0, 0)
    assert ledger.num_env_steps - ledger.num_env_steps_wasted == asked
    assert report.num_bought_twice == 0
    assert 0 <= ledger.num_env_steps - report.num_rows <= num_faults / 6 + 1  # unusable answers
    assert set(os.listdir("/dev/shm")) <= shared
    driver, coordinator = np.subtract(memory[-1], memory[versions // 5])
    assert driver < 5
    assert coordinator < 10  # MB: the index takes 60 bytes a label, merges want room
