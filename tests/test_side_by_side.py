"""What is replayed side by side answers as each would alone, and fails without the others."""

import signal

import numpy as np
import pytest

from rllib_offset.columns import TIME
from rllib_offset.fingerprint import label_location
from rllib_offset.pair import EnvPair, make_env, make_vector_env
from rllib_offset.replay.known import KnownLabels, LabelWriter
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.side_by_side import replay_side_by_side
from rllib_offset.replay.worker import ReplayWorker, replay
from tests import envs
from tests.test_termination import Calls, Leave, strike_at

FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"
PAIR = EnvPair(FAST, SLOW)


def trajectory(number, length=6):
    rng = np.random.default_rng(number)
    actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
    fast = {TIME: np.arange(length)}
    return ReplayRequest((1, number), "trajectory", actions, seed=number, fast=fast)


def lanes(env_class, number=4, **config):
    made = make_vector_env(lambda given: env_class(given), config, number)
    made.reset(seed=list(range(number)))
    return made


def assert_as_alone(results, env):
    for result in results:
        alone = replay(result.request, env)
        assert (result.error, result.num_steps) == (None, alone.num_steps)
        assert result.sim_time_s > 0
        np.testing.assert_array_equal(result.index, alone.index)
        np.testing.assert_array_equal(result.fast[TIME], alone.fast[TIME])
        assert set(alone.slow) == set(result.slow)
        for name, column in result.slow.items():
            assert column.dtype == alone.slow[name].dtype
            np.testing.assert_array_equal(column, alone.slow[name], err_msg=name)


@pytest.mark.parametrize("length", [1, 6, 150])
def test_a_native_vector_form_answers_as_one_environment(length):
    requests = [trajectory(k, length=max(1, length - k)) for k in range(4)]
    results = replay_side_by_side(requests, make_vector_env(SLOW, {}, 5))
    assert [result.request for result in results] == requests
    assert_as_alone(results, make_env(SLOW))


def test_each_trajectory_stops_where_its_episode_ends():
    config = {"limit": 1.0, "length": 5}
    requests = [trajectory(k) for k in range(4)]
    results = replay_side_by_side(requests, lanes(envs.CountingEnv, **config))
    assert_as_alone(results, envs.CountingEnv(config))
    assert len({len(result.index) for result in results}) > 1


@pytest.mark.parametrize("is_silent", [False, True])
def test_measurements_and_their_validity_are_those_of_one_environment(is_silent):
    config = {"invalid_above": 0.0, "is_silent": is_silent}
    results = replay_side_by_side(
        [trajectory(k) for k in range(4)], lanes(envs.OutcomeEnv, **config)
    )
    assert_as_alone(results, envs.OutcomeEnv(config))


def test_a_lane_that_measures_nothing_is_as_valid_as_alone():
    class LateEnv(envs.StatefulEnv):
        def _info(self):
            return {"measurement": np.array([self.position])} if self.count == 5 else {}

    requests = [trajectory(0, length=3), trajectory(1, length=6)]
    results = replay_side_by_side(requests, lanes(LateEnv))
    assert_as_alone(results, LateEnv())
    assert results[0].slow["valid"].all()
    assert results[1].slow["valid"].tolist() == [False] * 4 + [True, False]


def single_steps(number, *, brings_fast):
    rng = np.random.default_rng(number)
    actions = rng.uniform(-1, 1, (number, 2)).astype(np.float32)
    fast = {TIME: np.arange(number)} if brings_fast else {}
    states = rng.uniform(-1, 1, (number, 2))
    return ReplayRequest((2, number), "steps", actions, states=states, fast=fast)


def assert_same(result, alone):
    np.testing.assert_array_equal(result.index, alone.index)
    for side, expected in ((result.slow, alone.slow), (result.fast, alone.fast)):
        assert side.keys() == expected.keys()
        for name, column in side.items():
            assert column.dtype == expected[name].dtype
            np.testing.assert_array_equal(column, expected[name], err_msg=name)


@pytest.mark.parametrize("brings_fast", [True, False])
@pytest.mark.parametrize("number", [2, 4, 11])
def test_single_steps_are_those_of_one_environment(number, brings_fast):
    request = single_steps(number, brings_fast=brings_fast)
    worker = ReplayWorker(PAIR, num_envs=4)
    (result,) = worker.replay_side_by_side([request], "run", ["a"])
    assert (result.error, result.num_steps) == (None, number)
    assert_same(result, worker.replay(request))


# --- failures ---


def test_rows_before_an_exception_are_kept_and_what_had_ended_is_complete(tmp_path):
    (tmp_path / "flag").touch()
    faulty = lanes(envs.FaultyEnv, flag=str(tmp_path / "flag"), at_step=3, how="raise")
    requests = [trajectory(0, length=3), trajectory(1, length=5), trajectory(2, length=9)]
    results = replay_side_by_side(requests, faulty)
    assert [result.index.tolist() for result in results] == [[0, 1, 2]] * 3
    assert [result.num_steps for result in results] == [3, 3, 3]
    assert results[0].error is None
    for result in results[1:]:
        seed = result.request.seed
        assert "slow simulator raised ArithmeticError: the mesh is tangled" in result.error
        assert f"seed {seed}, step 3, beside other trajectories; replay (1, {seed})" in result.error


def test_a_simulator_that_cannot_be_reset_returns_nothing():
    broken = lanes(envs.StatefulEnv)
    broken.envs[1].reset = None
    for result in replay_side_by_side([trajectory(0), trajectory(1)], broken):
        assert (result.slow, result.num_steps) == (None, 0)
        assert "step 0" in result.error


@pytest.mark.parametrize("place", [1, 2, 3])
def test_numbers_of_another_shape_are_the_simulators_fault(place):
    wrong = make_vector_env(SLOW, {}, 2)
    step = wrong.step

    def with_a_column(actions):
        answer = list(step(actions))
        answer[place] = answer[place].reshape(-1, 1)
        return answer

    wrong.step = with_a_column
    (result,) = replay_side_by_side([trajectory(0)], wrong)
    assert "must have shape (2,), got" in result.error


def test_observations_of_another_shape_are_the_simulators_fault():
    wrong = make_vector_env(SLOW, {}, 2)
    wrong.observation_space = make_vector_env(SLOW, {}, 3).observation_space
    (result,) = replay_side_by_side([trajectory(0)], wrong)
    assert "observations must have shape (3, 3), got (2, 3)" in result.error
    assert (result.slow, result.num_steps) == (None, 1)  # it was bought all the same


def test_a_simulator_that_draws_from_a_global_generator_is_refused():
    with pytest.raises(ValueError, match=r"draws from `random` or `np.random`.*worker=1"):
        replay_side_by_side([trajectory(0), trajectory(1)], lanes(envs.GlobalRandomEnv))
    request = single_steps(3, brings_fast=True)
    with pytest.raises(ValueError, match=r"draws from `random` or `np.random`.*worker=1"):
        replay(request, envs.GlobalRandomEnv(), lanes=lanes(envs.GlobalRandomEnv))


def test_single_steps_that_fail_together_cost_no_others():
    brittle = EnvPair(FAST, "tests.envs:tests/Brittle-v0")  # its third call for four raises
    (result,) = ReplayWorker(brittle, num_envs=4).replay_side_by_side(
        [single_steps(14, brings_fast=True)], "run", ["a"]
    )
    assert result.index.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert result.num_steps == 8
    assert "slow simulator raised MemoryError: no room for so many lanes" in result.error
    assert "14 single steps, step 8" in result.error


def test_a_step_that_the_fast_simulator_cannot_take_is_not_bought(tmp_path):
    (tmp_path / "flag").touch()
    config = {"flag": str(tmp_path / "flag"), "at_step": 3, "how": "raise"}
    request = single_steps(6, brings_fast=False)
    request.states[:, 1] = [0, 3, 0, 0, 3, 0]  # count of steps
    result = replay(
        request, envs.StatefulEnv(), envs.FaultyEnv(config), lanes=lanes(envs.StatefulEnv, 2)
    )
    assert result.index.tolist() == [0, 2, 3, 5]
    assert result.num_steps == 4
    assert "fast simulator raised ArithmeticError" in result.error


# --- what is on disk ---


@pytest.fixture
def location(tmp_path):
    return label_location(PAIR, str(tmp_path / "labels"))


def test_every_row_is_in_the_store_under_its_own_attempt(location):
    worker = ReplayWorker(PAIR, location, num_envs=3)
    requests = [trajectory(k, length=4 + k) for k in range(3)]
    results = worker.replay_side_by_side(requests, "run", ["a", "b", "c"])
    known = KnownLabels(location)
    for request, result in zip(requests, results, strict=True):
        found = known.lookup_latest(request, "run")
        assert (found.num_steps, found.error) == (len(request), None)
        assert found.purchase == result.purchase
        for name, column in result.slow.items():
            np.testing.assert_array_equal(column, found.slow[name])
    worker.close()


def test_every_single_step_is_in_the_store(location):
    worker = ReplayWorker(PAIR, location, num_envs=3)
    request = single_steps(8, brings_fast=False)
    (result,) = worker.replay_side_by_side([request], "run", ["a"])
    found = KnownLabels(location).lookup_latest(request, "run")
    assert (found.num_steps, found.error) == (8, None)
    assert_same(found, result)


def test_what_is_refused_is_not_in_the_store(location):
    known = KnownLabels(location)
    for env_class in (envs.GlobalRandomEnv, GlobalStartEnv):
        writers = [LabelWriter(known, run="run", purchase=name) for name in "ab"]
        requests = [trajectory(0), trajectory(1)]
        with pytest.raises(ValueError, match="draws from"):
            replay_side_by_side(requests, lanes(env_class), writers)
        assert not known.is_being_bought(requests[0])  # takes in what attempts have left
        assert [known.lookup_latest(request, "run") for request in requests] == [None, None]


class GlobalStartEnv(envs.StatefulEnv):
    """Draws where it starts from NumPy's global generator."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.position = np.random.normal()  # noqa: NPY002
        return self._obs(), {}


def test_a_row_is_on_disk_before_the_next_step_of_a_slow_simulator(location):
    known, seen = KnownLabels(location), []

    class Watched(envs.SleepyEnv):
        def step(self, action):
            files = list((known.store.local_folder / "attempts").iterdir())
            seen.append(sum(file.stat().st_size for file in files))
            return super().step(action)

    writers = [LabelWriter(known, run="run", purchase=name) for name in "ab"]
    requests = [trajectory(0, length=3), trajectory(1, length=3)]
    replay_side_by_side(requests, lanes(Watched, 2, step_cost_s=0.02), writers)
    assert seen[0] < seen[2] < seen[4]
    assert all(known.lookup_latest(request, "run").num_steps == 3 for request in requests)


# --- SIGTERM ---


@pytest.fixture
def terminated(location):
    """Replay ``kind`` side by side, a SIGTERM coming at a place; return how many rows are kept."""

    def replayed(kind, strike):
        worker = ReplayWorker(PAIR, location, num_envs=3)
        requests = [trajectory(k) for k in range(3)]
        if kind == "steps":
            requests = [single_steps(8, brings_fast=True)]
        worker.ready()
        strike(worker)
        before = signal.signal(signal.SIGTERM, Calls().handle)
        try:
            with pytest.raises(Leave):
                worker.replay_side_by_side(requests, "run", ["a", "b", "c"][: len(requests)])
        finally:
            signal.signal(signal.SIGTERM, before)
        known = KnownLabels(location)
        assert not any(known.is_being_bought(request) for request in requests)
        found = [known.lookup_latest(request, "run") for request in requests]
        return sum(result.num_steps for result in found if result is not None)

    return replayed


@pytest.mark.parametrize("kind", ["trajectory", "steps"])
def test_a_signal_ends_a_call_at_once_and_keeps_the_rows_of_those_before(terminated, kind):
    def strike_in_the_second_call(worker):
        step, calls = worker._lanes.step, []

        def struck(actions):
            calls.append(actions)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGTERM)
            return step(actions)

        worker._lanes.step = struck

    assert terminated(kind, strike_in_the_second_call) == 3


@pytest.mark.parametrize("kind", ["trajectory", "steps"])
@pytest.mark.parametrize("place", ["note", "write"])
def test_rows_on_their_way_to_disk_arrive_first(terminated, monkeypatch, kind, place):
    assert terminated(kind, lambda _: strike_at(monkeypatch, place)) == 3
