import numpy as np

from rllib_offset.replay.journal import RequestJournal
from rllib_offset.replay.known import KnownLabels
from tests.test_store import steps, trajectory


def test_requests_are_noted_until_their_answers_have_arrived(location):
    journal = RequestJournal(KnownLabels(location), "a")
    requests = [trajectory(1, 0), steps(1, 1, numbers=[1]), trajectory(1, 2, kind="resync")]
    journal.note(requests)
    journal.forget([(1, 1), (7, 7)])
    again = RequestJournal(KnownLabels(location), "a").recover()
    assert [request.key for request in again] == [(1, 0), (1, 2)]
    for request, original in zip(again, requests[::2], strict=True):
        np.testing.assert_array_equal(request.actions, original.actions)
        assert request.seed == original.seed
        assert request.fast.keys() == original.fast.keys()
    assert RequestJournal(KnownLabels(location), "b").recover() == []
    journal.clear()
    assert journal.recover() == []


def test_the_account_is_noted_until_everything_is_struck_out(location):
    journal = RequestJournal(KnownLabels(location), "a")
    assert journal.noted_run() is None
    journal.note_run("saved")
    again = RequestJournal(KnownLabels(location), "a")
    assert (again.noted_run(), again.recover()) == ("saved", [])
    assert RequestJournal(KnownLabels(location), "b").noted_run() is None
    again.clear()
    assert journal.noted_run() is None


def test_requests_that_are_noted_together_share_a_file(location):
    labels = KnownLabels(location)
    journal = RequestJournal(labels, "a")
    journal.note([trajectory(1, number) for number in range(3)])
    assert len(labels.store.named("queue-a")) == 1
    journal.forget([(1, 1)])
    again = RequestJournal(labels, "a")
    assert [request.key for request in again.recover()] == [(1, 0), (1, 2)]
    again.forget([(1, 0), (1, 2)])
    assert labels.store.named("queue-a") == []
