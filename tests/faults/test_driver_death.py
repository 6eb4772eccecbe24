"""A command that is killed again and again, and resumed, ends as one that was left alone."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.commands import Command
from tests.faults.trainings import NUM_ITERATIONS, num_finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

NUM_KILLS = int(os.environ.get("NUM_KILLS", "20"))


@pytest.fixture
def folder(tmp_path):
    return Path(os.environ.get("FAULT_FOLDER", tmp_path))


@pytest.fixture
def uninterrupted(folder):
    return finish(Command(folder / "uninterrupted"))


def finish(command):
    """Let a command end; returns its last row, however often it is asked."""
    if (command.folder / "last.json").exists():
        return json.loads((command.folder / "last.json").read_text())
    if command.process is None:
        command.start()
    command.wait_for(10**9)
    assert command.process.returncode == 0, command.log()
    last = command.results()[-1]
    (command.folder / "last.json").write_text(json.dumps(last))
    return last


def books(command, row):
    """What must not depend on how often a run was interrupted, and what may."""
    report, slow = command.report(), row["slow"]
    return {
        "iterations": row["training_iteration"],
        "score": row["evaluation"]["normalised_score"],
        "bought": slow["num_env_steps_lifetime"],
        "reused": slow["num_env_steps_reused_lifetime"],
        "wasted": slow["num_env_steps_wasted_lifetime"],
        "lost": slow["num_labels_lost_lifetime"],
        "stored": report.num_rows,
        "bought_twice": report.num_bought_twice,
        "damaged": len(report.damaged),
        "finished": num_finished(command.folder),
    }


def kill_at_random(command, rng):
    """Start or resume a command, and kill it; returns how many iterations it got done."""
    before = len(command.results())
    command.start(resume=before > 0)
    if before == 0 or rng.random() < 0.8:  # else while it starts
        command.wait_for(before + int(rng.integers(1, 3)))
    time.sleep(rng.uniform(0, 3))
    assert command.process.poll() is None, command.log()
    command.signal(signal.SIGKILL)
    gone_s = time.monotonic() + 180
    while command.processes() and time.monotonic() < gone_s:
        time.sleep(0.2)
    assert command.processes() == []
    return len(command.results()) - before


def test_killed_at_random_moments_it_buys_what_it_would_have_bought(folder, uninterrupted):
    command, rng = Command(folder / "killed"), np.random.default_rng(0)
    moments = [kill_at_random(command, rng) for _ in range(NUM_KILLS)]
    command.start(resume=True)
    last = finish(command)
    expected, found = books(Command(folder / "uninterrupted"), uninterrupted), books(command, last)
    print(f"\n{moments}\n{expected}\n{found}", file=sys.stderr)
    assert found["finished"] - found["stored"] <= NUM_KILLS * 4  # in a worker's hands when it died
    assert found | {"finished": 0} == expected | {"finished": 0}
    assert found["bought"] == found["stored"] == NUM_ITERATIONS * 8 + 50
