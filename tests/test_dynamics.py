import numpy as np
import pytest

from rllib_offset.columns import ACTION, NEXT_STATE, OBS, REWARD, STATE, VALID
from rllib_offset.dynamics import DynamicsWatch
from rllib_offset.replay.requests import ReplayRequest, ReplayResult, nothing


def answer(number, *, index=(0,), drift=0.0):
    """Rows ``index`` of three single steps from the states 10 x number and following."""
    index = np.array(index)
    states = 10.0 * number + np.arange(3.0)[:, None]
    request = ReplayRequest((number, 0), "steps", states.astype(np.float32), states=states)
    fast = {STATE: states[index], ACTION: request.actions[index], NEXT_STATE: states[index] + 1}
    fast |= {OBS: states[index], REWARD: states[index, 0]}
    slow = fast | {NEXT_STATE: fast[NEXT_STATE] + drift, VALID: np.ones(len(index), bool)}
    return ReplayResult(request, slow, fast, 0.1, len(index), None, index)


def states_of(kept):
    return np.concatenate([part.slow[STATE][:, 0] for part in kept]).tolist()


def test_many_small_answers_are_kept_as_few_large_ones_in_their_order():
    watch = DynamicsWatch(None, max_labels=1000)
    watch.keep([answer(0, index=[0, 2])])
    for number in range(1, 100):
        watch.keep([answer(number, index=[1]), nothing(answer(number).request, "lost")])
    again = DynamicsWatch(None, max_labels=1000)
    again.set_state(watch.get_state())
    for kept in (watch.hand_over(), again.hand_over()):
        assert states_of(kept) == [0.0, 2.0, *(10.0 * number + 1 for number in range(1, 100))]
        assert len(kept) <= 7
        for part in kept:
            asked = part.request
            np.testing.assert_array_equal(asked.states[part.index], part.slow[STATE])
            np.testing.assert_array_equal(asked.actions[part.index], part.fast[ACTION])
    assert watch.hand_over() == []


def test_the_oldest_are_dropped_where_enough_came_after_them():
    watch = DynamicsWatch(None, max_labels=20)
    watch.keep([answer(number) for number in range(100)])
    kept = states_of(watch.hand_over())
    assert 20 <= len(kept) <= 60
    assert kept == [10.0 * number for number in range(100)][-len(kept) :]


@pytest.mark.parametrize(("drift", "expected"), [(0.0, 0.0), (1.0, 1.0 / 22.0)])
def test_divergence_is_in_units_of_all_states_seen(drift, expected):
    watch = DynamicsWatch(None)
    watch.look_at([answer(0), answer(2)])  # 0 to 21
    found = watch.look_at([answer(2, drift=drift)])  # to 22
    assert found == pytest.approx(expected)
    assert np.isnan(watch.look_at([]))
