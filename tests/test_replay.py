import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_offset.columns import (
    ACTION,
    MEASUREMENT,
    NEXT_STATE,
    OBS,
    PREV_OBS,
    REWARD,
    STATE,
    TERMINATED,
    TIME,
    VALID,
)
from rllib_offset.pair import EnvPair, make_env
from rllib_offset.replay.global_rng import preserved_global_rng
from rllib_offset.replay.requests import ReplayRequest, merge_results, missing_rows, steps_per_call
from rllib_offset.replay.worker import ReplayWorker, replay
from tests import envs


def actions(length, kind="box"):
    space = envs.ACTION_SPACES[kind]
    space.seed(3)
    return np.stack([space.sample() for _ in range(length)])


def trajectory(length=5, kind="trajectory", action="box", **more):
    return ReplayRequest((1, 2), kind, actions(length, action), seed=4, **more)


def steps(states, **more):
    return ReplayRequest((1, 2), "steps", actions(len(states)), states=np.array(states), **more)


def assert_same_columns(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture
def faulty(tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    return envs.FaultyEnv({"flag": str(flag), "at_step": 2, "how": "raise"})


# --- trajectories ---


@pytest.mark.parametrize("action", envs.ACTION_SPACES)
def test_a_trajectory_is_what_stepping_by_hand_gives(action):
    config = {"action": action}
    request, env = trajectory(action=action), envs.StatefulEnv(config)
    result = replay(request, envs.StatefulEnv(config))
    env.reset(seed=4)
    by_hand = [env.step(a) for a in request.actions]
    np.testing.assert_array_equal(result.slow[OBS], [step[0] for step in by_hand])
    np.testing.assert_allclose(result.slow[REWARD], [step[1] for step in by_hand], rtol=1e-6)
    assert result.slow[VALID].all()
    assert not result.slow[TERMINATED].any()
    assert (result.num_steps, result.error) == (5, None)
    assert result.index.tolist() == [0, 1, 2, 3, 4]
    assert {column.dtype for column in result.slow.values()} == {
        np.dtype(kind) for kind in (np.float32, np.float64, bool)
    }


def test_a_trajectory_has_states_where_the_simulator_gives_them():
    with_states = replay(trajectory(), envs.ReadableEnv()).slow
    np.testing.assert_array_equal(with_states[STATE][1:], with_states[NEXT_STATE][:-1])
    assert with_states[STATE].dtype == np.float64
    assert STATE not in replay(trajectory(), envs.CountingEnv()).slow


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"length": 3}, id="truncated"),
        pytest.param({"limit": 0.0}, id="terminated"),
    ],
)
def test_a_trajectory_stops_where_the_slow_episode_ends_and_the_fast_columns_with_it(config):
    fast = {TIME: np.arange(5.0)}
    result = replay(trajectory(fast=fast), envs.StatefulEnv(config))
    length = len(result.slow[OBS])
    assert length == result.num_steps < 5
    assert result.fast[TIME].tolist() == list(range(length))
    assert result.error is None


def test_rows_before_an_exception_are_kept(faulty):
    result = replay(trajectory(fast={TIME: np.arange(5)}), faulty)
    assert result.index.tolist() == [0, 1]
    assert len(result.fast[TIME]) == len(result.slow[OBS]) == result.num_steps == 2
    assert "slow simulator raised ArithmeticError: the mesh is tangled" in result.error
    assert "seed 4, step 2;" in result.error
    assert "\n" not in result.error


def test_without_a_finished_row_there_is_no_result(faulty):
    faulty.config["at_step"] = 0
    result = replay(trajectory(), faulty)
    assert (result.slow, result.num_steps) == (None, 0)
    assert "step 0" in result.error


def test_a_state_that_cannot_be_read_is_blamed_once():
    class Opaque(envs.StatefulEnv):
        def get_simulator_state(self):
            if self.count == 2:
                raise ArithmeticError("the mesh is tangled")
            return super().get_simulator_state()

    causes = []
    result = replay(trajectory(), Opaque(), on_error=lambda error: causes.append(error.__cause__))
    assert result.error.count("raised") == 1
    assert [type(cause) for cause in causes] == [ArithmeticError]
    assert (result.num_steps, result.index.tolist()) == (2, [0])


def test_what_is_not_finite_is_invalid():
    slow = replay(trajectory(), envs.NotFiniteEnv()).slow
    assert slow[VALID].tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("is_silent", [False, True])
def test_an_invalid_result_is_marked_and_a_missing_measurement_is_nan(is_silent):
    env = envs.OutcomeEnv({"invalid_above": 0.0, "is_silent": is_silent})
    slow = replay(steps([[-5.0, 0], [5.0, 0]]), env, envs.StatefulEnv()).slow
    assert slow[VALID].tolist() == [True, False]
    assert slow[MEASUREMENT].shape == (2, 1)
    assert np.isnan(slow[MEASUREMENT][1, 0]) == is_silent


@pytest.mark.parametrize("number", [1, 2])
def test_a_row_without_a_measurement_beside_one_that_has_it_is_invalid_also_alone(number):
    silent = envs.ReadableEnv  # tells neither a measurement nor that its step is invalid
    fast = {MEASUREMENT: np.zeros((number, 1))}
    assert not replay(trajectory(number, fast=fast), silent()).slow[VALID].any()
    assert replay(trajectory(number), silent()).slow[VALID].all()
    request = steps([[0.0, 0]] * number)
    stepped = replay(request, envs.StatefulEnv(), envs.OutcomeEnv())
    assert not stepped.slow[VALID].any()
    assert stepped.fast[VALID].all()


def test_a_simulator_that_writes_into_its_action_does_not_change_the_request():
    request = trajectory()
    request.actions.flags.writeable = False  # as Ray hands arrays over
    before = request.actions.copy()
    assert replay(request, envs.ActionSpoilingEnv()).error is None
    np.testing.assert_array_equal(request.actions, before)


# --- single steps ---


def test_single_steps_are_those_of_the_trajectory_in_any_order():
    whole = replay(trajectory(8), envs.StatefulEnv())
    order = np.array([6, 0, 3])
    request = ReplayRequest(
        (0,), "steps", whole.request.actions[order], states=whole.slow[STATE][order]
    )
    apart = replay(request, envs.StatefulEnv(), envs.StatefulEnv({"bonus": 1.0}))
    for name in (OBS, REWARD, NEXT_STATE):
        np.testing.assert_array_equal(apart.slow[name], whole.slow[name][order])
    np.testing.assert_allclose(apart.fast[REWARD], apart.slow[REWARD] + 1.0, rtol=1e-5)
    assert {OBS, REWARD, ACTION, STATE, TERMINATED} <= apart.fast.keys()
    assert PREV_OBS not in apart.fast


def test_given_fast_columns_are_carried_through_and_not_computed():
    fast = {OBS: np.full((2, 2), 7.0, np.float32)}
    result = replay(steps([[0.0, 0], [1.0, 0]], fast=fast), envs.StatefulEnv())
    assert_same_columns(result.fast, fast)


def test_a_single_step_asks_for_the_state_once_where_it_has_led():
    class Watched(envs.StatefulEnv):
        num_read = 0

        def get_simulator_state(self):
            self.num_read += 1
            return super().get_simulator_state()

    env = Watched()
    result = replay(steps([[0.0, 0], [1.0, 0]], fast={OBS: np.zeros((2, 2), np.float32)}), env)
    assert env.num_read == 2
    np.testing.assert_array_equal(result.slow[STATE], [[0.0, 0], [1.0, 0]])
    np.testing.assert_array_equal(result.slow[NEXT_STATE][:, 1], [1, 1])


def test_a_time_limit_means_nothing_to_single_steps():
    env = make_env("Pendulum-v1", {"max_episode_steps": 2})
    request = ReplayRequest(
        (0,),
        "steps",
        np.zeros((6, 1), np.float32),
        states=np.zeros((6, 2)),
        fast={"a": np.zeros(6)},
    )
    result = replay(request, env)
    assert len(result.slow[OBS]) == 6
    assert not result.slow[TERMINATED].any()


def test_one_failing_step_costs_no_other(faulty):
    request = steps([[0.0, 0], [1.0, 2], [2.0, 5]], fast={TIME: np.arange(3)})
    result = replay(request, faulty)
    assert result.index.tolist() == [0, 2]
    assert result.fast[TIME].tolist() == [0, 2]
    assert (result.num_steps, missing_rows(result).tolist()) == (2, [1])
    assert "state [1.0, 2.0], action [" in result.error


def test_the_retried_rows_take_their_places(faulty, tmp_path):
    request = steps([[0.0, 0], [1.0, 2], [2.0, 5]], fast={TIME: np.arange(3)})
    unharmed = replay(request, envs.StatefulEnv())
    first = replay(request, faulty)
    (tmp_path / "flag").unlink()
    rows = missing_rows(first)
    merged = merge_results(first, replay(request.rows(rows), faulty), rows)
    assert_same_columns(merged.slow, unharmed.slow)
    assert_same_columns(merged.fast, unharmed.fast)
    assert (merged.error, merged.num_steps) == (None, 3)
    assert merged.index.tolist() == [0, 1, 2]


def test_rows_without_a_measurement_join_those_that_have_one():
    env = envs.OutcomeEnv({"invalid_above": 0.0, "is_silent": True})
    request = steps([[-5.0, 0], [5.0, 0]], fast={TIME: np.arange(2)})
    parts = [replay(request.rows(np.array([i])), env) for i in (0, 1)]
    empty = replay(request, envs.FaultyEnv({"flag": "/", "at_step": 0, "how": "raise"}))
    assert empty.slow is None
    merged = merge_results(empty, parts[1], np.array([1]))
    merged = merge_results(merged, parts[0], np.array([0]))
    assert np.isnan(merged.slow[MEASUREMENT][:, 0]).tolist() == [False, True]


def test_a_longer_prefix_of_a_trajectory_wins_and_all_steps_are_counted(faulty):
    request = trajectory()
    short = replay(request, faulty)
    faulty.config["at_step"] = 4
    longer = replay(request, faulty)
    merged = merge_results(longer, short, missing_rows(longer))
    assert len(merged.slow[OBS]) == 4
    assert merged.num_steps == 6
    assert merged.error == short.error


# --- resynchronised replays ---


def test_a_resync_steps_the_fast_simulator_from_every_slow_state():
    request = trajectory(6, "resync")
    slow, fast = envs.StatefulEnv({"gain": 0.5}), envs.StatefulEnv({"bonus": 1.0})
    result = replay(request, slow, fast)
    alone = replay(trajectory(6), envs.StatefulEnv({"gain": 0.5}))
    assert_same_columns(result.slow, alone.slow)
    np.testing.assert_array_equal(result.fast[STATE], result.slow[STATE])
    np.testing.assert_array_equal(result.fast[PREV_OBS][1:], result.slow[OBS][:-1])
    assert result.fast[TIME].tolist() == [1, 2, 3, 4, 5, 6]
    moved = 0.5 * request.actions.sum(axis=1)
    residual = result.slow[NEXT_STATE] - result.fast[NEXT_STATE]
    np.testing.assert_allclose(residual[:, 0], -moved, atol=1e-6)
    assert {ACTION, OBS, REWARD, TERMINATED} <= result.fast.keys()


def test_equal_simulators_have_no_residual():
    result = replay(trajectory(6, "resync"), envs.StatefulEnv(), envs.StatefulEnv())
    for name in (OBS, REWARD, NEXT_STATE, TERMINATED):
        np.testing.assert_array_equal(result.fast[name], result.slow[name])


# --- what a request needs ---


@pytest.mark.parametrize(
    ("request_", "slow", "fast", "message"),
    [
        pytest.param(steps([[0, 0]]), "ReadableEnv", "StatefulEnv", "slow simulator", id="steps"),
        pytest.param(steps([[0, 0]]), "StatefulEnv", "ReadableEnv", "fast columns", id="no-fast"),
        pytest.param(trajectory(2, "resync"), "WritableEnv", "StatefulEnv", "slow", id="resync"),
        pytest.param(trajectory(2, "resync"), "StatefulEnv", "ReadableEnv", "fast", id="resync-f"),
    ],
)
def test_a_pair_that_lacks_what_a_replay_needs_is_refused(request_, slow, fast, message):
    with pytest.raises(ValueError, match=message):
        replay(request_, getattr(envs, slow)(), getattr(envs, fast)())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"kind": "rollout"}, "got 'rollout'", id="kind"),
        pytest.param({"seed": None}, "pass `seed`", id="seed"),
        pytest.param({"kind": "steps"}, "pass `states`", id="states"),
        pytest.param({"actions": np.zeros((0, 2))}, "at least one action", id="empty"),
        pytest.param({"fast": {OBS: np.zeros(4)}}, "'obs' must have 5 rows, got 4", id="length"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(change, message):
    valid = {"key": (0,), "kind": "trajectory", "actions": actions(5), "seed": 1}
    with pytest.raises(ValueError, match=message):
        ReplayRequest(**valid | change)


# --- purity ---


@settings(max_examples=20, deadline=None)
@given(kinds=st.lists(st.sampled_from(["trajectory", "steps", "resync"]), max_size=4))
def test_what_was_replayed_before_changes_nothing(kinds):
    requests = {
        "trajectory": trajectory(),
        "steps": steps([[0.5, 1], [1.0, 2]]),
        "resync": trajectory(4, "resync"),
    }
    used = envs.GlobalRandomEnv(), envs.StatefulEnv()
    for kind in kinds:
        replay(requests[kind], *used)
    for request in requests.values():
        fresh = replay(request, envs.GlobalRandomEnv(), envs.StatefulEnv())
        again = replay(request, *used)
        assert_same_columns(again.slow, fresh.slow)
        assert_same_columns(again.fast, fresh.fast)


def test_a_replay_leaves_the_global_generators_alone():
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    replay(trajectory(), envs.GlobalRandomEnv())
    with preserved_global_rng():
        random.random()
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002


def test_a_worker_answers_as_the_function_does():
    worker = ReplayWorker(EnvPair(envs.StatefulEnv, envs.StatefulEnv, {}, {"bonus": 1.0}))
    assert worker.ready()
    result = worker.replay(trajectory())
    assert_same_columns(result.slow, replay(trajectory(), envs.StatefulEnv({"bonus": 1.0})).slow)
    assert result.sim_time_s > 0
    worker.close()


def test_time_is_that_of_the_slow_simulator_alone():
    result = replay(trajectory(3), envs.SleepyEnv({"step_cost_s": 0.02}))
    assert 0.06 <= result.sim_time_s < 0.5


@pytest.mark.parametrize(
    ("modules", "banned"),
    [
        ("simulator_state pair pair_check replay.requests replay.worker", {"ray", "torch"}),
        ("replay.coordinator", {"torch", "ray.rllib", "ray.tune"}),
    ],
)
def test_what_a_worker_imports_is_light(modules, banned):
    imports = ", ".join(f"rllib_offset.{module}" for module in modules.split())
    code = f"import sys, {imports}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not banned & set(loaded)


@given(steps=st.integers(0, 5000), workers=st.integers(0, 64))
def test_single_steps_are_shared_out_in_calls_of_equal_length(steps, workers):
    size, each = steps_per_call(steps, workers), max(1, math.ceil(steps / max(1, workers)))
    rounds = math.ceil(each / 256)
    assert 1 <= size <= 256
    assert each <= rounds * size < each + rounds  # no worker waits while another has a call left
