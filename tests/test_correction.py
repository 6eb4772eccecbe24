"""The corrected simulator's arithmetic, and the same as an ordinary environment."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from rllib_offset.corrected_env import CorrectedEnv
from rllib_offset.correction import OffsetCorrection, OffsetLayout
from rllib_offset.measurements import MeasurementReader
from rllib_offset.numpy_predictor import NumpyPredictor
from rllib_offset.pair import make_env
from tests import envs
from tests.envs import ACTION_SPACES

OBS_DIM = 2


def layout(inputs=("obs",), targets=("obs", "reward"), action="box", **dims):
    return OffsetLayout(inputs, targets, OBS_DIM, ACTION_SPACES[action], **dims)


def linear_predictor(matrix, bias, members=((0.0,), (0.0,))):
    """Predict `inputs @ matrix + bias`; each member adds its own constant."""
    matrix, bias = np.asarray(matrix, np.float32), np.asarray(bias, np.float32)
    width = len(bias)
    return NumpyPredictor(
        [np.stack([matrix] * len(members))],
        [np.stack([np.broadcast_to(np.float32(m), (1, width)) for m in members])],
        input_mean=np.zeros(len(matrix), np.float32),
        input_std=np.ones(len(matrix), np.float32),
        output_mean=bias,
        output_scale=np.ones(width, np.float32),
    )


def constant_predictor(input_dim, bias, members=((0.0,), (0.0,))):
    return linear_predictor(np.zeros((input_dim, len(bias))), bias, members)


def steps(num=4, **columns):
    rng = np.random.default_rng(0)
    return {
        "prev_obs": rng.normal(size=(num, OBS_DIM)).astype(np.float32),
        "obs": rng.normal(size=(num, OBS_DIM)).astype(np.float32),
        "reward": rng.normal(size=num).astype(np.float32),
        "action": rng.uniform(-1, 1, (num, 2)).astype(np.float32),
        "time": np.arange(1, num + 1, dtype=np.float32),
        "terminated": np.zeros(num, bool),
    } | columns


# --- layout ---


@pytest.mark.parametrize(
    ("action", "actions", "expected"),
    [
        pytest.param("box", np.array([[0.5, -1.0]], np.float32), [0.5, -1.0], id="box"),
        pytest.param("discrete", np.array([2]), [0, 0, 1], id="discrete"),
        pytest.param("multi_discrete", np.array([[1, 0]]), [0, 1, 1, 0, 0], id="multi-discrete"),
    ],
)
def test_actions_become_features_as_numbers_or_one_hot(action, actions, expected):
    given = layout(("time", "action"), action=action)
    features = given.features({"action": actions, "time": np.array([7.0])})
    np.testing.assert_array_equal(features, [[7.0, *expected]])
    assert features.dtype == np.float32
    assert given.input_dim == features.shape[1]


def test_a_discrete_action_may_start_elsewhere_than_at_zero():
    shifted = OffsetLayout(("action",), ("obs",), OBS_DIM, spaces.Discrete(3, start=5))
    np.testing.assert_array_equal(shifted.features({"action": np.array([5, 7])})[1], [0, 0, 1])


def test_features_stand_in_the_order_of_the_inputs():
    columns = steps(3, state=np.arange(9.0).reshape(3, 3))
    given = layout(("state", "obs", "prev_obs", "time", "action"), state_dim=3)
    features = given.features(columns)
    assert features.shape == (3, given.input_dim) == (3, 10)
    np.testing.assert_array_equal(features[:, :3], columns["state"])
    np.testing.assert_array_equal(features[:, 3:5], columns["obs"])
    np.testing.assert_array_equal(features[:, 5:7], columns["prev_obs"])
    np.testing.assert_array_equal(features[:, 7], columns["time"])


def test_offsets_are_slow_minus_fast_in_the_order_of_the_targets():
    given = layout(targets=("reward", "obs", "state"), state_dim=1)
    fast = {"reward": np.zeros(2), "obs": np.ones((2, 2)), "next_state": np.full((2, 1), 0.1)}
    slow = {"reward": np.full(2, 3.0), "obs": np.ones((2, 2)) * 5, "next_state": np.ones((2, 1))}
    offsets = given.offsets(slow, fast)
    np.testing.assert_allclose(offsets, [[3, 4, 4, 0.9]] * 2, rtol=1e-6)
    parts = given.split(offsets)
    assert {name: part.shape for name, part in parts.items()} == {
        "reward": (2, 1),
        "obs": (2, 2),
        "state": (2, 1),
    }


def test_a_small_difference_of_large_values_is_kept():
    given = layout(targets=("reward",))
    slow, fast = {"reward": np.array([1e6 + 0.25])}, {"reward": np.array([1e6])}
    np.testing.assert_array_equal(given.offsets(slow, fast), [[0.25]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"inputs": ("observation",)}, "`inputs` takes.*'observation'", id="input"),
        pytest.param({"targets": ()}, "`targets` takes one or more", id="no-target"),
        pytest.param({"inputs": ("state",)}, "get_simulator_state", id="no-state"),
        pytest.param({"targets": ("measurement",)}, "outcome", id="no-measurement"),
    ],
)
def test_a_layout_that_the_pair_cannot_serve_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        layout(**change)


# --- correction ---


def test_without_a_predictor_nothing_changes():
    columns = steps()
    seen = OffsetCorrection(layout(), reward_range=(0.0, 0.1)).steps(columns)
    for name in ("obs", "reward", "terminated"):
        np.testing.assert_array_equal(seen[name], columns[name])


def test_a_predictor_of_zeros_changes_nothing():
    columns = steps()
    correction = OffsetCorrection(layout(), constant_predictor(2, [0.0, 0.0, 0.0]))
    seen = correction.steps(columns)
    for name in ("obs", "reward"):
        np.testing.assert_array_equal(seen[name], columns[name])
    np.testing.assert_array_equal(correction.reset_observations(columns["obs"]), columns["obs"])


def test_corrected_is_fast_plus_the_predicted_offset():
    matrix = np.array([[1.0, 0.0, 2.0], [0.0, 0.5, 0.0]])
    correction = OffsetCorrection(layout(), linear_predictor(matrix, [0.1, 0.0, -3.0]))
    columns = steps()
    obs = columns["obs"]
    seen = correction.steps(columns)
    np.testing.assert_allclose(seen["obs"][:, 0], 2 * obs[:, 0] + 0.1, rtol=1e-5)
    np.testing.assert_allclose(seen["obs"][:, 1], 1.5 * obs[:, 1], rtol=1e-5)
    np.testing.assert_allclose(
        seen["reward"], columns["reward"] + 2 * obs[:, 0] - 3, rtol=1e-5, atol=1e-6
    )
    assert seen["obs"].dtype == seen["reward"].dtype == np.float32
    np.testing.assert_array_equal(seen["terminated"], columns["terminated"])


def test_corrected_values_stay_within_what_the_slow_simulator_returns():
    correction = OffsetCorrection(
        layout(),
        constant_predictor(2, [100.0, -100.0, 100.0]),
        reward_range=(-1.0, 0.5),
        obs_low=np.array([-2.0, -3.0], np.float32),
        obs_high=np.array([2.0, np.inf], np.float32),
    )
    seen = correction.steps(steps())
    np.testing.assert_array_equal(seen["obs"], [[2.0, -3.0]] * 4)
    np.testing.assert_array_equal(seen["reward"], [0.5] * 4)
    np.testing.assert_array_equal(
        correction.reset_observations(np.zeros((1, 2), np.float32)), [[2.0, -3.0]]
    )


def test_pessimism_subtracts_the_spread_of_the_ensemble_from_the_reward_only():
    predictor = constant_predictor(2, [0.0, 0.0, 0.0], members=((-1.0,), (1.0,)))
    columns = steps()
    seen = OffsetCorrection(layout(), predictor, pessimism=2.0).steps(columns)
    np.testing.assert_allclose(seen["reward"], columns["reward"] - 2.0, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen["obs"], columns["obs"])


@pytest.mark.parametrize("inputs", [("prev_obs",), ("obs", "action"), ("action", "time")])
def test_a_reset_is_corrected_only_by_what_a_reset_knows(inputs):
    given = layout(inputs)
    correction = OffsetCorrection(given, constant_predictor(given.input_dim, [1.0, 1.0, 1.0]))
    obs = np.zeros((3, OBS_DIM), np.float32)
    np.testing.assert_array_equal(correction.reset_observations(obs), obs)


def test_the_printed_form_keeps_the_fast_reward():
    correction = OffsetCorrection(layout(targets=("obs",)), constant_predictor(2, [1.0, 2.0]))
    columns = steps()
    seen = correction.steps(columns)
    np.testing.assert_array_equal(seen["reward"], columns["reward"])
    np.testing.assert_allclose(seen["obs"], columns["obs"] + [1.0, 2.0], rtol=1e-6)


def test_corrected_measurements_decide_observation_reward_and_termination():
    env = envs.OutcomeEnv({"bonus": 1.0})
    given = layout(("time",), ("measurement",), measurement_dim=1, state_dim=2)
    correction = OffsetCorrection(given, constant_predictor(1, [0.75]))
    columns = steps(
        2, measurement=np.array([[0.5], [1.5]]), state=np.array([[0.0, 3.0], [0.0, 4.0]])
    )
    seen = correction.steps(columns, MeasurementReader.of(env))
    np.testing.assert_allclose(seen["obs"], [[1.25, 4.0], [2.25, 5.0]], rtol=1e-6)
    np.testing.assert_allclose(seen["reward"], [-0.25, -1.25], rtol=1e-6)
    np.testing.assert_array_equal(seen["terminated"], [False, True])


def test_in_residual_mode_the_next_state_is_corrected():
    given = layout(("state",), ("state",), state_dim=2)
    correction = OffsetCorrection(given, constant_predictor(2, [0.5, -0.5]))
    columns = steps(state=np.zeros((4, 2)), next_state=np.ones((4, 2)))
    np.testing.assert_allclose(correction.steps(columns)["next_state"], [[1.5, 0.5]] * 4)
    untrained = correction.without_correction().steps(columns)
    np.testing.assert_array_equal(untrained["next_state"], columns["next_state"])


# --- the corrected environment ---


def test_a_perfect_predictor_makes_the_corrected_environment_the_slow_one():
    # the slow reward has a bonus of 0.5 over the fast one
    fast = make_env(envs.CountingEnv, {"limit": 2.0})
    slow = make_env(envs.CountingEnv, {"limit": 2.0, "bonus": 0.5})
    env = CorrectedEnv(fast, OffsetCorrection(layout(), constant_predictor(2, [0.0, 0.0, 0.5])))
    for seed in range(5):
        np.testing.assert_array_equal(env.reset(seed=seed)[0], slow.reset(seed=seed)[0])
        env.action_space.seed(seed)
        is_over = False
        while not is_over:
            action = env.action_space.sample()
            corrected, expected = env.step(action), slow.step(action)
            np.testing.assert_allclose(corrected[0], expected[0], rtol=1e-6)
            assert corrected[1] == pytest.approx(expected[1], abs=1e-5)
            assert corrected[2:4] == expected[2:4]
            is_over = expected[2] or expected[3]


@pytest.mark.filterwarnings("ignore::UserWarning")  # the checker's remarks about infinite bounds
def test_the_corrected_environment_is_an_ordinary_gymnasium_environment():
    fast = make_env("Pendulum-v1")
    given = OffsetLayout(("obs", "action"), ("obs", "reward"), 3, fast.action_space)
    space = fast.observation_space
    correction = OffsetCorrection(
        given, constant_predictor(4, [0.1] * 4), obs_low=space.low, obs_high=space.high
    )
    check_env(CorrectedEnv(fast, correction), skip_render_check=True)


def test_in_residual_mode_the_fast_simulator_follows_the_corrected_state():
    fast = make_env(envs.StatefulEnv)
    given = layout(("action",), ("state",), state_dim=2)
    env = CorrectedEnv(fast, OffsetCorrection(given, constant_predictor(2, [0.25, 0.0])))
    start, _ = env.reset(seed=3)
    for _ in range(4):
        env.step(np.zeros(2, np.float32))
    assert fast.unwrapped.position == pytest.approx(start[0] + 4 * 0.25)


def test_a_corrected_measurement_ends_the_episode_of_the_corrected_environment():
    fast = make_env(envs.OutcomeEnv)
    given = layout(("time",), ("measurement",), measurement_dim=1, state_dim=2)
    env = CorrectedEnv(fast, OffsetCorrection(given, constant_predictor(1, [5.0])))
    env.reset(seed=3)
    obs, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
    assert terminated
    assert obs[0] == pytest.approx(info["measurement"][0] + 5.0)
    assert reward == pytest.approx(-abs(obs[0]))
