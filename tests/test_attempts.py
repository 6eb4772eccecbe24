"""Attempts of processes that died, or that outlived those who asked for them."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rllib_offset.columns import OBS, slice_columns
from rllib_offset.replay.known import KnownLabels, LabelWriter
from rllib_offset.replay.rows import identities
from rllib_offset.replay.worker import replay
from rllib_offset.store import StoreLocation
from rllib_offset.store_report import verify
from tests.envs import StatefulEnv
from tests.test_store import assert_same_answer, steps, trajectory

ROOT = Path(__file__).parents[1]
BUYER = """
import sys
from tests.test_attempts import buy
buy(*sys.argv[1:])
"""
ASKED = {
    "trajectory": trajectory(1, 0),
    "resync": trajectory(1, 0, kind="resync"),
    "steps": steps(1, 0, numbers=range(5)),
}


def buy(folder, kind):
    """Buy five slow steps of 20 ms in this process; as the fourth begins, a fault strikes."""
    from rllib_offset.pair import EnvPair
    from rllib_offset.replay.worker import ReplayWorker

    config = {"faults": f"{folder}/faults", "at_step": 3, "step_cost_s": 0.02}
    pair = EnvPair("tests.envs.StatefulEnv", "tests.faults.simulators.MoodyEnv", {}, config)
    ReplayWorker(pair, location_in(folder)).replay(ASKED[kind], "a", "p")


def location_in(folder):
    return StoreLocation(f"{folder}/labels", "0f")


@pytest.fixture
def start(tmp_path):
    started = []

    def start_buyer(kind, fault):
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        (tmp_path / "faults").mkdir()
        (tmp_path / "faults" / f"{fault}-1").touch()
        words = [sys.executable, "-c", BUYER, str(tmp_path), kind]
        started.append(subprocess.Popen(words, env=os.environ | {"PYTHONPATH": path}))
        return started[-1]

    yield start_buyer
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ASKED)
def test_every_step_that_finished_before_its_process_died_is_in_the_store(tmp_path, start, kind):
    start(kind, "crash").wait(timeout=60)
    labels, asked = KnownLabels(location_in(tmp_path)), ASKED[kind]
    assert not labels.is_being_bought(asked)
    labels.store.refresh()
    found, whole = labels.lookup(asked, run="a"), replay(asked, StatefulEnv(), StatefulEnv())
    assert (found.num_steps, found.index.tolist()) == (3, [0, 1, 2])
    for name in (OBS, "state"):
        np.testing.assert_array_equal(found.slow[name], whole.slow[name][:3])
    assert found.sim_time_s > 3 * 0.02
    assert_same_answer(labels.bought(asked, "p"), found)
    assert list(Path(labels.store.folder, "attempts").iterdir()) == []
    assert verify(labels.store).num_rows == 3


def test_what_a_living_process_buys_is_waited_for(tmp_path, start):
    process = start("steps", "hang")
    labels = KnownLabels(location_in(tmp_path))
    end_s = time.monotonic() + 60
    while (tmp_path / "faults" / "hang-1").exists():
        assert time.monotonic() < end_s
        time.sleep(0.01)
    assert labels.is_being_bought(steps(7, 7, numbers=[9, 4]))
    assert not labels.is_being_bought(steps(7, 7, numbers=[9]))
    assert not labels.is_being_bought(trajectory(1, 0))
    process.kill()
    process.wait()
    assert not labels.is_being_bought(ASKED["steps"])
    labels.store.refresh()
    assert labels.lookup(ASKED["steps"], run="a").num_steps == 3


def test_an_attempt_that_was_cut_short_in_a_row_keeps_the_rows_before(tmp_path):
    labels, asked = KnownLabels(location_in(tmp_path)), trajectory(1, 0)
    whole = replay(asked, StatefulEnv())
    writer = LabelWriter(labels, run="a", purchase="p")
    with writer.attempting(asked):
        for i in range(5):
            row = slice(i, i + 1)
            slow, fast = slice_columns(whole.slow, row), slice_columns(whole.fast, row)
            part = replace(whole, index=whole.index[row], slow=slow, fast=fast)
            writer.note(part, 0.1, is_end=i == 4)
        path = Path(labels.store.folder, "attempts", "p.rows")
        data = path.read_bytes()
    path.write_bytes(data[:-20])
    assert not labels.is_being_bought(asked)
    labels.store.refresh()
    assert labels.lookup(asked, run="a").num_steps == 4


def test_an_attempt_without_a_row_leaves_nothing(tmp_path):
    labels = KnownLabels(location_in(tmp_path))
    writer = LabelWriter(labels, run="a", purchase="p")
    with pytest.raises(ValueError, match="no such pair"), writer.attempting(trajectory(1, 0)):
        raise ValueError("no such pair")
    assert not labels.is_being_bought(trajectory(1, 0))
    assert list(Path(labels.store.folder, "attempts").iterdir()) == []
    assert verify(labels.store).num_rows == 0


def test_a_disk_that_takes_no_claims_holds_up_nothing(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    labels = KnownLabels(location_in(tmp_path))
    for key in (0, 1):
        writer = LabelWriter(labels, run="a", purchase=str(key))
        replay(trajectory(1, key), StatefulEnv(), None, writer)
    assert caplog.text.count("no locks available") == 1
    assert list(Path(labels.store.folder, "attempts").iterdir()) == []
    assert verify(labels.store).num_rows == 10


def test_a_folder_of_another_machine_is_told_nothing(tmp_path):
    here = KnownLabels(location_in(tmp_path))
    elsewhere = KnownLabels(replace(location_in(tmp_path), store_id="of another machine"))
    with LabelWriter(elsewhere, run="a", purchase="p").attempting(trajectory(1, 0)):
        assert not here.is_being_bought(trajectory(1, 0))


def test_only_a_lock_that_another_holds_is_held(tmp_path, monkeypatch, caplog):
    labels, asked = KnownLabels(location_in(tmp_path)), trajectory(1, 0)
    plain = fcntl.flock

    def as_on_nfs(file, operation):  # there a lock needs a file that can be written
        if not file.writable():
            raise OSError(errno.EBADF, "bad file descriptor")
        plain(file, operation)

    monkeypatch.setattr("fcntl.flock", as_on_nfs)
    with LabelWriter(labels, run="a", purchase="p").attempting(asked):
        assert labels.is_being_bought(asked)
        assert labels.attempts.is_held("p")
    path = Path(labels.store.folder, "attempts", "q.rows")
    path.write_text(json.dumps({"run": "a", "identities": identities(asked)}))  # of a dead process
    assert not labels.is_being_bought(asked)
    assert not path.exists()

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    path.write_text("{}")
    for _ in range(2):
        assert not labels.is_being_bought(asked)
        assert not labels.attempts.is_held("q")
    assert caplog.text.count("no locks available") == 1
