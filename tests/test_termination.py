"""SIGTERM amid a replay costs no step that finished, and is no fault of the simulator."""

import math
import signal
import sys
import threading

import pytest

from rllib_offset.pair import EnvPair
from rllib_offset.replay.known import KnownLabels, LabelWriter
from rllib_offset.replay.termination import Termination
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


class Calls(list):
    """The calls of the process's own handler."""

    def handle(self, number, frame):
        self.append(number)
        raise Leave(1)


@pytest.fixture
def leaves():
    """The process has a handler, as Ray's workers do; counts the calls."""
    calls = Calls()
    before = signal.signal(signal.SIGTERM, calls.handle)
    yield calls
    assert signal.getsignal(signal.SIGTERM) == calls.handle
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


def strike_at(monkeypatch, place):
    """Have a SIGTERM come whenever rows are about to be kept, always in one of the two ways."""
    original = getattr(LabelWriter, place)

    def struck(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        original(*args, **kwargs)

    monkeypatch.setattr(LabelWriter, place, struck)
    monkeypatch.setattr(LabelWriter, "is_noted", lambda self, _: place == "note")
    monkeypatch.setattr(LabelWriter, "is_due", lambda self, _: place == "write")


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("place", ["note", "write"])
def test_a_row_on_its_way_to_disk_arrives_first(
    tmp_path, leaves, make_worker, monkeypatch, kind, place
):
    worker = make_worker()
    strike_at(monkeypatch, place)
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


def test_rows_that_were_not_worth_a_note_are_noted_then(tmp_path, leaves, make_worker, monkeypatch):
    monkeypatch.setattr(LabelWriter, "is_noted", lambda _, seconds: seconds == math.inf)
    worker = make_worker(at_step=3)
    with pytest.raises(Leave):
        worker.replay(ASKED["steps"], "a", "p")
    assert bought(tmp_path, ASKED["steps"]) == 3


def test_where_no_note_can_be_taken_they_are_written(tmp_path, leaves, make_worker, monkeypatch):
    monkeypatch.setattr(LabelWriter, "is_noted", lambda *_: False)
    worker = make_worker(at_step=3)
    with pytest.raises(Leave):
        worker.replay(ASKED["steps"], "a", "p")
    assert bought(tmp_path, ASKED["steps"]) == 3


def test_a_handler_that_lets_the_process_go_on_is_called_once(tmp_path, make_worker):
    calls, worker = [], make_worker(at_step=3)
    before = signal.signal(signal.SIGTERM, lambda *_: calls.append(worker._slow.num_finished))
    try:
        result = worker.replay(ASKED["trajectory"], "a", "p")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.error is None
    assert calls == [3]
    assert bought(tmp_path, ASKED["trajectory"]) == 5


def test_a_simulator_that_exits_by_itself_is_still_to_blame(make_worker):
    worker = make_worker()

    def step(_):
        signal.raise_signal(signal.SIGTERM)  # the handler of this process makes little of it
        sys.exit(3)

    worker._slow.step = step
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        result = worker.replay(ASKED["trajectory"], "a", "p")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "the slow simulator raised SystemExit: 3" in result.error


def test_a_simulator_may_put_in_a_handler_of_its_own_and_take_it_away_later(leaves, make_worker):
    worker, saved, calls = make_worker(), [], []
    own = lambda *_: calls.append("own")  # noqa: E731

    def step(action):
        if not saved:
            saved.append(signal.signal(signal.SIGTERM, own))
        return StatefulEnv.step(worker._slow, action)

    worker._slow.step = step
    worker.replay(ASKED["trajectory"], "a", "p")
    assert signal.getsignal(signal.SIGTERM) is own
    signal.signal(signal.SIGTERM, saved[0])
    with pytest.raises(Leave):
        signal.raise_signal(signal.SIGTERM)
    worker.replay(ASKED["trajectory"], "a", "p")  # stands before what stood there
    with pytest.raises(Leave):
        signal.raise_signal(signal.SIGTERM)
    assert (calls, len(leaves)) == ([], 2)
    signal.signal(signal.SIGTERM, leaves.handle)


def test_a_forked_child_ends_at_once():
    calls = []
    termination = Termination(lambda *_: calls.append(1))
    termination.hold()
    termination(signal.SIGTERM, None)
    assert calls == []
    termination._pid += 1  # as a child sees it
    termination(signal.SIGTERM, None)
    assert calls == [1]


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
