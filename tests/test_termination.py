"""SIGTERM amid a replay costs no step that finished, and is no fault of the simulator."""

import signal
import sys
import threading

import pytest

from rllib_offset.pair import EnvPair
from rllib_offset.replay.known import KnownLabels, LabelWriter
from rllib_offset.replay.worker import ReplayWorker
from rllib_offset.store import StoreLocation
from tests.envs import StatefulEnv
from tests.test_store import steps, trajectory

ASKED = {"trajectory": trajectory(1, 0), "steps": steps(1, 0, numbers=range(5))}


class TerminatedEnv(StatefulEnv):
    """Receives a SIGTERM within step `at_step`, counted from 0; keeps what it finished."""

    num_finished = num_begun = 0

    def step(self, action):
        self.num_begun += 1
        if self.num_begun == self.config.get("at_step", -1) + 1:
            signal.raise_signal(signal.SIGTERM)
        answer = super().step(action)
        self.num_finished += 1
        return answer


class Leave(SystemExit):
    """Raised by the process's own handler."""


@pytest.fixture
def leaves():
    """The process has a handler, as Ray's workers do; counts the calls."""
    calls = []

    def handle(number, frame):
        calls.append(number)
        raise Leave(1)

    before = signal.signal(signal.SIGTERM, handle)
    yield calls
    assert signal.getsignal(signal.SIGTERM) is handle
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def make_worker(tmp_path):
    def make(**slow_config):
        pair = EnvPair("tests.envs.StatefulEnv", TerminatedEnv, {}, slow_config)
        worker = ReplayWorker(pair, StoreLocation(f"{tmp_path}/labels", "0f"))
        worker.ready()
        return worker

    return make


def bought(tmp_path, request):
    """What a process that comes afterwards finds of it."""
    labels = KnownLabels(StoreLocation(f"{tmp_path}/labels", "0f"))
    assert not labels.is_being_bought(request)
    labels.store.refresh()
    found = labels.lookup(request, run="a")
    return 0 if found is None else found.num_steps


@pytest.mark.parametrize("kind", ASKED)
def test_it_ends_a_step_at_once(tmp_path, leaves, make_worker, kind):
    worker = make_worker(at_step=3)
    with pytest.raises(Leave):
        worker.replay(ASKED[kind], "a", "p")
    assert worker._slow.num_begun == 4
    assert bought(tmp_path, ASKED[kind]) == worker._slow.num_finished == 3
    assert len(leaves) == 1


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("place", ["note", "write"])
def test_a_row_on_its_way_to_disk_arrives_first(
    tmp_path, leaves, make_worker, monkeypatch, kind, place
):
    worker, original = make_worker(), getattr(LabelWriter, place)

    def struck(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        original(*args, **kwargs)

    monkeypatch.setattr(LabelWriter, place, struck)
    monkeypatch.setattr(LabelWriter, "is_noted", lambda self, _: place == "note")
    monkeypatch.setattr(LabelWriter, "is_due", lambda self, _: place == "write")
    with pytest.raises(Leave):
        worker.replay(ASKED[kind], "a", "p")
    assert bought(tmp_path, ASKED[kind]) == worker._slow.num_finished == 1
    assert len(leaves) == 1


def test_after_the_last_row_it_waits_for_the_store(tmp_path, leaves, make_worker, monkeypatch):
    worker, append = make_worker(), KnownLabels.append

    def struck(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        append(*args, **kwargs)

    monkeypatch.setattr(KnownLabels, "append", struck)
    monkeypatch.setattr(LabelWriter, "is_noted", lambda *_: False)
    with pytest.raises(Leave):
        worker.replay(ASKED["steps"], "a", "p")
    assert bought(tmp_path, ASKED["steps"]) == 5
    assert len(leaves) == 1


def test_a_simulator_that_exits_by_itself_is_still_to_blame(leaves, make_worker):
    worker = make_worker()
    worker._slow.step = lambda _: sys.exit(3)
    result = worker.replay(ASKED["trajectory"], "a", "p")
    assert "the slow simulator raised SystemExit: 3" in result.error
    assert leaves == []


def test_in_another_thread_signals_are_left_alone(leaves, make_worker):
    errors, worker = [], make_worker()

    def run():
        try:
            worker.replay(ASKED["trajectory"], "a", "p")
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []
    assert worker._slow.num_finished == 5


def test_without_a_handler_the_system_ends_the_process(make_worker):
    seen, worker = [], make_worker()
    worker._slow.step = lambda action: (
        seen.append(signal.getsignal(signal.SIGTERM)) or StatefulEnv.step(worker._slow, action)
    )
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        worker.replay(ASKED["trajectory"], "a", "p")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert set(seen) == {signal.SIG_DFL}
