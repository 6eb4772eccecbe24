"""What a pair makes of a raw measurement, in batches and step by step."""

import gymnasium as gym
import numpy as np
import pytest

from rllib_offset.columns import ACTION, MEASUREMENT, OBS, REWARD, STATE, TERMINATED, VALID
from rllib_offset.corrected_env import CorrectedEnv
from rllib_offset.correction import OffsetCorrection, OffsetLayout, default_layout
from rllib_offset.measurements import MeasurementReader, measured_columns
from rllib_offset.numpy_predictor import NumpyPredictor
from rllib_offset.pair import EnvPair, LaneVectorEnv, make_env, make_vector_env
from rllib_offset.pair_facts import probe_pair
from tests import envs

HAND = "rllib_offset.envs:rllib_offset/OpAmpHand-v0"


def constant(width, offset):
    return NumpyPredictor(
        [np.zeros((1, width, len(offset)), np.float32)],
        [np.zeros((1, 1, len(offset)), np.float32)],
        input_mean=np.zeros(width, np.float32),
        input_std=np.ones(width, np.float32),
        output_mean=np.array(offset, np.float32),
        output_scale=np.ones(len(offset), np.float32),
    )


def played(lanes):
    """Step lanes once, at random: the vector environment, its columns and what it returned."""
    env = make_vector_env(HAND, num_envs=lanes)
    env.reset(seed=0)
    env.action_space.seed(0)
    state, action = env.get_simulator_state(), env.action_space.sample()
    obs, reward, terminated, _, infos = env.step(action)
    columns = {STATE: state, ACTION: action, OBS: obs, REWARD: reward, TERMINATED: terminated}
    return env, columns | {MEASUREMENT: infos["measurement"], VALID: infos["valid"]}


def layout_of(facts):
    inputs, targets = default_layout(facts, residual=False)
    return OffsetLayout(
        inputs,
        targets,
        facts.obs_dim,
        facts.action_space,
        state_dim=facts.state_dim,
        measurement_dim=facts.measurement_dim,
        predictor_inputs_dim=facts.predictor_inputs_dim,
        measures_resets=facts.measures_resets,
    )


@pytest.fixture(scope="module")
def facts():
    return probe_pair(EnvPair(HAND, HAND))


def test_a_native_vector_environment_is_asked_once_for_all_lanes():
    env, columns = played(5)
    in_batches, one_by_one = MeasurementReader.of(env), MeasurementReader.of(make_env(HAND))
    assert (in_batches.takes_batches, one_by_one.takes_batches) == (True, False)
    np.testing.assert_array_equal(in_batches.inputs(columns), one_by_one.inputs(columns))
    several, each = in_batches.outcomes(columns), one_by_one.outcomes(columns)
    for name in (OBS, REWARD, TERMINATED):
        np.testing.assert_array_equal(several[name], each[name])
        np.testing.assert_allclose(several[name], columns[name], rtol=1e-6)


def test_a_pair_that_says_what_its_offset_depends_on_is_taken_at_its_word(facts):
    assert default_layout(facts, residual=False) == (("predictor_inputs",), ("measurement",))
    assert (facts.predictor_inputs_dim, facts.measures_resets) == (18, True)
    assert layout_of(facts).input_dim == 18


def test_a_pair_without_such_a_function_is_read_by_state_and_measurement():
    silent = probe_pair(EnvPair(envs.OutcomeEnv, envs.OutcomeEnv))
    assert default_layout(silent, residual=False)[0] == ("next_state", "measurement")
    assert not silent.measures_resets  # its `outcome` counts a step where there was none


def test_labels_are_the_same_where_what_the_offset_depends_on_is(facts):
    env, columns = played(2)
    other = dict(columns)
    other[STATE] = columns[STATE].copy()
    other[STATE][:, -1] += 3.0  # later in the episode, the same design
    names = [
        layout_of(facts).identity(each, MeasurementReader.of(env)) for each in (columns, other)
    ]
    np.testing.assert_array_equal(names[0], names[1])


def test_a_corrected_reset_shows_the_corrected_measurement(facts):
    env = make_env(HAND)
    offset = [0.1, 0.0, 0.0, -0.2]
    corrected = CorrectedEnv(
        make_env(HAND), OffsetCorrection(layout_of(facts), constant(18, offset))
    )
    _, info = env.reset(seed=3)
    obs, _ = corrected.reset(seed=3)
    state = env.unwrapped.get_simulator_state()
    expected = env.unwrapped.task.observe(info["measurement"] + offset, state)
    np.testing.assert_allclose(obs, expected, atol=1e-6)


def test_what_the_fast_simulator_calls_invalid_is_not_corrected(facts):
    env, columns = played(3)
    columns[VALID] = np.array([True, False, True])
    correction = OffsetCorrection(layout_of(facts), constant(18, [0.5] * 4))
    seen = correction.steps(columns, MeasurementReader.of(env))
    moved = seen[MEASUREMENT] - columns[MEASUREMENT]
    np.testing.assert_allclose(moved, [[0.5] * 4, [0.0] * 4, [0.5] * 4], atol=1e-6)


@pytest.mark.parametrize("is_valid", [True, False])
def test_a_corrected_environment_leaves_an_invalid_step_alone(is_valid):
    class Failing(envs.CountingEnv):
        def _info(self):
            return {} if is_valid else {"valid": False}

    layout = OffsetLayout(("obs",), ("obs", "reward"), 2, envs.ACTION_SPACES["box"])
    corrected = CorrectedEnv(Failing(), OffsetCorrection(layout, constant(2, [1.0, 0.0, 10.0])))
    plain = Failing()
    for env in (corrected, plain):
        env.reset(seed=3)
    action = np.zeros(2, np.float32)
    moved = corrected.step(action)[0] - plain.step(action)[0]
    np.testing.assert_allclose(moved, [is_valid, 0.0], atol=1e-6)
    gained = corrected.step(action)[1] - plain.step(action)[1]
    assert gained == pytest.approx(10.0 * is_valid, abs=1e-6)


@pytest.mark.parametrize("as_lists", [False, True])
def test_lanes_that_measure_nothing_are_invalid_and_those_that_say_nothing_valid(as_lists):
    env = LaneVectorEnv([lambda: gym.make("CartPole-v1")] * 4)
    infos: dict = {}
    rows = [[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0]]
    for lane, row in enumerate(rows):
        info = {} if row is None else {MEASUREMENT: row if as_lists else np.array(row)}
        infos = env._add_info(infos, info | ({VALID: False} if lane == 3 else {}), lane)
    columns = measured_columns(infos, 4, None)
    expected = np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    np.testing.assert_array_equal(columns[MEASUREMENT], expected)
    assert columns[VALID].tolist() == [True, False, True, False]
    assert measured_columns({MEASUREMENT: [None], f"_{MEASUREMENT}": [False]}, 1, None) == {}
    nothing = measured_columns({}, 4, expected[3])
    np.testing.assert_array_equal(nothing[MEASUREMENT], [expected[3]] * 4)
    assert not nothing[VALID].any()
    assert measured_columns({}, 4, None) == {}
