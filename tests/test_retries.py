"""Failures of the slow simulator: counted, told, and put together again."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_offset.columns import slice_columns
from rllib_offset.ledger import Ledger
from rllib_offset.pair import EnvPair
from rllib_offset.replay.requests import merge_results, missing_rows
from rllib_offset.replay.retries import FailureWatch
from rllib_offset.replay.worker import ReplayWorker, replay
from tests import envs
from tests.test_store import steps, trajectory


def test_too_many_failures_stop_the_replays_in_one_line():
    watch = FailureWatch(0.25)
    good = replay(steps(1, 0, numbers=range(30)), envs.StatefulEnv())
    watch.observe(good)
    assert watch.failure() is None
    lost = replace(good, slow=None, fast={}, index=np.arange(0), error="no licence", num_steps=0)
    watch.observe(lost)
    assert "30 of the last 60 slow labels failed" in str(watch.failure())
    assert "no licence; mend the simulator and resume" in str(watch.failure())
    with pytest.raises(ValueError, match=r"within \[0, 1\], got 2"):
        FailureWatch(2)


def test_a_simulator_that_failed_twice_in_a_row_is_built_anew():
    broken = []

    class BreaksForGood(envs.StatefulEnv):
        """Raises for ever after its first failure, as one does that lost its process."""

        def __init__(self, config=None):
            super().__init__(config)
            broken.append(len(broken) == 0)

        def step(self, action):
            if broken[-1]:
                raise BrokenPipeError("the simulator is gone")
            return super().step(action)

    worker = ReplayWorker(EnvPair(envs.StatefulEnv, BreaksForGood))
    errors = [worker.replay(trajectory(1, i)).error is None for i in range(3)]
    assert errors == [False, False, True]


def test_a_simulator_that_cannot_be_built_anew_costs_an_attempt_and_not_the_run():
    built = []

    class NotNow(envs.StatefulEnv):
        """There is no licence for the second and the third of its kind; the first one fails."""

        def __init__(self, config=None):
            super().__init__(config)
            built.append(self)
            if len(built) in (2, 3):
                raise OSError("no licence just now")

        def step(self, action):
            if len(built) == 1:
                raise BrokenPipeError("the simulator is gone")
            return super().step(action)

    worker = ReplayWorker(EnvPair(envs.StatefulEnv, NotNow))
    errors = [worker.replay(trajectory(1, i)).error for i in range(5)]
    assert ["no licence just now" in (error or "") for error in errors] == [0, 0, 1, 1, 0]
    assert errors[4] is None
    assert "seed" in errors[3]


class Wrong(envs.StatefulEnv):
    """Its third step answers `answer`."""

    def step(self, action):
        result = super().step(action)
        return self.config["answer"](*result) if self.count == 3 else result


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(
            lambda o, r, *rest: (o[:1], r, *rest), r"shape \(2,\), got \(1,\)", id="short-obs"
        ),
        pytest.param(lambda o, r, *rest: (o, [r, r], *rest), "raised ValueError", id="two-rewards"),
        pytest.param(lambda o, r, *rest: (None, r, *rest), "got", id="no-obs"),
        pytest.param(lambda *a: None, "raised TypeError", id="no-answer"),
        pytest.param(lambda *a: exit(3), "raised SystemExit: 3", id="exit"),
    ],
)
def test_an_answer_of_the_wrong_form_is_a_failure_of_its_row(answer, message):
    result = replay(trajectory(1, 0), Wrong({"answer": answer}))
    assert result.index.tolist() == [0, 1]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(result.error)


@given(numbers=st.lists(st.integers(0, 5), min_size=1, max_size=6), failing=st.integers(-1, 6))
@settings(max_examples=30, deadline=None)
def test_merged_answers_keep_the_books(numbers, failing):
    request = steps(1, 0, numbers=numbers)
    result = replay(request, envs.StatefulEnv())
    kept = np.array([i for i in range(len(numbers)) if i != failing], dtype=int)
    first = replace(
        result,
        slow=slice_columns(result.slow, kept) if len(kept) else None,
        fast=slice_columns(result.fast, kept) if len(kept) else {},
        index=kept,
        num_steps=len(kept),
        error=None if len(kept) == len(numbers) else "failed",
    )
    rows = missing_rows(first)
    if len(rows):
        first = merge_results(first, replay(request.rows(rows), envs.StatefulEnv()), rows)
    ledger = Ledger()
    ledger.enter([first])
    assert ledger.imbalance(len(numbers)) == 0
    assert (first.error, first.num_wasted, first.num_missing) == (None, 0, 0)
