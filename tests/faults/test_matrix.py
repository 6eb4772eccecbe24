"""Every fault in the middle of a whole training with four workers; the table of reliability.md.

``FAULT_RESULTS=build/faults pytest -m slow tests/faults/test_matrix.py`` keeps each training's
outcome, goes on where it stopped, and prints the table.
"""

import json
import os
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import rllib_offset.algorithm
from rllib_offset.store import LabelStore
from tests.faults.disks import FullDisk
from tests.faults.trainings import STRIKES_AT, Outcome, interval_of_one_more, num_finished, train

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("ray_cluster"),
]

NUM_SEEDS = 5
NUM_FAULTS = 3  # of a kind in one training
TRAJECTORIES = {"label_level": "trajectory", "simulator": {"step_cost_s": 0.01}}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = Path(os.environ.get("FAULT_RESULTS", tmp_path_factory.mktemp("faults"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    print(f"\n{table(folder)}", file=sys.stderr)


@pytest.fixture
def trained(results, tmp_path):
    """Train, unless it was done before; ``name`` names the outcome."""

    def run(name, seed=0, faults=None, folder=tmp_path, **changes):
        path = results / f"{name}.json"
        if not path.exists():
            outcome = train(folder / name, seed, faults, **changes)
            path.write_text(json.dumps(asdict(outcome)))
        return Outcome(**json.loads(path.read_text()))

    return run


def level_of(changes):
    return changes.get("label_level", "sample")


def check(outcome, trained, **changes):
    """What must hold after every fault."""
    level = level_of(changes)
    free = [trained(f"without-{level}-{seed}", seed, **changes) for seed in range(NUM_SEEDS)]
    mean, half = interval_of_one_more([run.score for run in free])
    assert abs(outcome.score - mean) <= half
    assert (outcome.imbalance, outcome.bought_twice, outcome.lost) == (0, 0, 0)
    return free[0]


def put_faults(folder, kind, level):
    """One in each of some iterations; a trajectory is struck in its middle."""

    def put():
        (folder / "faults" / f"{kind}-1").touch()

    def inject(_):
        put() if level == "sample" else amid_replays(folder, put)

    return {STRIKES_AT + i: inject for i in range(NUM_FAULTS)}


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        *((kind, "sample") for kind in ("exception", "crash", "hang", "nan", "shape", "exit")),
        *((kind, "trajectory") for kind in ("end", "crash", "hang")),
    ],
)
def test_a_fault_of_the_simulator(trained, tmp_path, kind, level):
    changes = TRAJECTORIES if level == "trajectory" else {}
    name = f"{kind}-{level}"
    outcome = trained(name, faults=put_faults(tmp_path / name, kind, level), **changes)
    free = check(outcome, trained, **changes)
    assert outcome.finished == outcome.bought
    assert outcome.bought - outcome.wasted == free.bought or kind == "end"
    assert (outcome.wasted > 0) == (kind == "shape" or (level == "trajectory" and kind != "end"))
    assert outcome.invalid == (NUM_FAULTS if kind == "nan" else 0)
    assert (outcome.retries > 0) == (kind not in ("nan", "end"))
    if kind not in ("nan", "end"):  # the same labels come in the end
        assert outcome.score == free.score


def test_memory_that_grows(trained):
    outcome = trained("memory", simulator={"leak_mb": 2}, max_replays_per_worker=5)
    free = check(outcome, trained)
    assert outcome.recycled >= 10
    assert (outcome.bought, outcome.score) == (free.bought, free.score)


def amid_replays(folder, act):
    """Act in the middle of a step, after the simulators have finished another one."""
    before = num_finished(folder)

    def wait():
        while num_finished(folder) == before:
            threading.Event().wait(0.002)
        threading.Event().wait(0.03)
        act()

    threading.Thread(target=wait, daemon=True).start()


def kill_a_worker(folder, algorithm):
    pid = algorithm.replay.stats()["worker_pids"][0]
    amid_replays(folder, lambda: os.kill(pid, 9))


def kill_the_coordinator(folder, algorithm):
    pid = algorithm.replay.stats()["coordinator_pid"]
    amid_replays(folder, lambda: os.kill(pid, 9))


def kill_the_env_runner(_, algorithm):
    (pid,) = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: os.getpid(), local_env_runner=False
    )
    threading.Timer(0.05, lambda: os.kill(pid, 9)).start()  # while it samples


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("worker-killed", kill_a_worker),
        ("coordinator-killed", kill_the_coordinator),
        ("env-runner-killed", kill_the_env_runner),
    ],
)
def test_a_process_that_is_killed(trained, tmp_path, name, act):
    def strike(algorithm):
        act(tmp_path / name, algorithm)

    outcome = trained(name, faults={STRIKES_AT: strike, STRIKES_AT + 5: strike})
    free = check(outcome, trained)
    assert outcome.finished == outcome.bought == outcome.stored
    if name != "env-runner-killed":  # which samples anew, so that other states are labelled
        assert (outcome.bought, outcome.score) == (free.bought, free.score)


@pytest.mark.parametrize(("name", "code"), [("disk-full", 28), ("disk-read-only", 30)])
def test_a_disk_that_takes_nothing(trained, tmp_path, monkeypatch, name, code):
    flag = tmp_path / "flag"
    locate = rllib_offset.algorithm.label_location

    def located(pair, store):
        return replace(locate(pair, store), filesystem=FullDisk(flag, code))

    monkeypatch.setattr(rllib_offset.algorithm, "label_location", located)
    faults = {STRIKES_AT: lambda _: flag.touch(), STRIKES_AT + 5: lambda _: flag.unlink()}
    outcome = trained(name, faults=faults)
    free = check(outcome, trained)
    assert outcome.finished == outcome.bought == outcome.stored
    assert (outcome.bought, outcome.score) == (free.bought, free.score)


def test_segments_that_are_spoilt(trained, tmp_path):
    def spoil(algorithm):
        store = LabelStore(algorithm.replay._options.labels)
        first, second = [Path(store.folder, name) for name in store.segment_names()[:2]]
        first.write_bytes(first.read_bytes()[:-100])
        second.write_bytes(second.read_bytes().replace(b"PAR1", b"PAR2"))
        os.kill(algorithm.replay.stats()["coordinator_pid"], 9)  # its successor reads them anew

    outcome = trained("segments-spoilt", faults={STRIKES_AT: spoil})
    free = check(outcome, trained)
    assert outcome.damaged == 2
    assert outcome.finished == outcome.bought
    assert (outcome.bought, outcome.score) == (free.bought, free.score)


def table(folder):
    """The table of reliability.md, from the outcomes in a folder."""
    runs = {p.stem: Outcome(**json.loads(p.read_text())) for p in sorted(folder.glob("*.json"))}
    lines = [
        "| fault | score | steps | wasted | invalid | lost | bought twice | retries | workers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for level in ("sample", "trajectory"):
        free = [run for name, run in runs.items() if name.startswith(f"without-{level}-")]
        if len(free) == NUM_SEEDS:
            mean, half = interval_of_one_more([run.score for run in free])
            lines.append(_line(f"none, {level} level", free[0], f"{mean:.4f} ± {half:.4f}"))
    faults = {name: run for name, run in runs.items() if not name.startswith("without-")}
    lines += [_line(name, run, f"{run.score:.4f}") for name, run in faults.items()]
    return "\n".join(lines)


def _line(name, run, score):
    lost = run.lost + run.lost_results
    return (
        f"| {name} | {score} | {run.bought} | {run.wasted} | {run.invalid} | {lost} | "
        f"{run.bought_twice} | {run.retries} | {run.replaced + run.recycled} |"
    )
