import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rllib_offset.pair import make_env
from rllib_offset.simulator_state import (
    StateRange,
    can_get_simulator_state,
    can_set_simulator_state,
    get_simulator_state,
    set_simulator_state,
    simulator_state_space,
    state_divergence,
)
from tests.envs import CountingEnv, ReadableEnv, StatefulEnv, WritableEnv

CLASSIC_CONTROL = [
    "Acrobot-v1",
    "CartPole-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
]
MUJOCO = ["Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "Pusher-v5", "Reacher-v5"]


def assert_steps_can_be_repeated(env, steps):
    env.reset(seed=1)
    env.action_space.seed(1)
    seen = []
    for _ in range(steps):
        state, action = get_simulator_state(env), env.action_space.sample()
        seen.append((state, action, env.step(action)))
        if seen[-1][-1][2]:
            break
    env.reset(seed=2)
    for state, action, (obs, reward, terminated, *_) in reversed(seen):
        set_simulator_state(env, state)
        np.testing.assert_array_equal(get_simulator_state(env), state)
        again = env.step(action)
        np.testing.assert_array_equal(again[0], obs)
        assert again[1:3] == (reward, terminated)


@pytest.mark.parametrize("env_id", CLASSIC_CONTROL)
def test_a_step_from_a_stored_state_is_bitwise_the_step_of_the_episode(env_id):
    assert_steps_can_be_repeated(gym.make(env_id, disable_env_checker=True), steps=30)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("env_id", MUJOCO)
def test_mujoco_steps_can_be_repeated_bitwise(env_id):
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio")
    assert_steps_can_be_repeated(gym.make(env_id, disable_env_checker=True), steps=20)


@pytest.mark.parametrize("env_id", CLASSIC_CONTROL)
def test_the_state_space_contains_the_start(env_id):
    env = gym.make(env_id)
    env.reset(seed=3)
    assert simulator_state_space(env).contains(get_simulator_state(env))


def test_a_terminated_cart_pole_can_be_set_back():
    env = gym.make("CartPole-v1", disable_env_checker=True)
    env.reset(seed=1)
    start = get_simulator_state(env)
    while not env.step(1)[2]:
        pass
    set_simulator_state(env, start)
    assert not env.step(1)[2]


def test_a_state_is_a_copy():
    env = gym.make("Pendulum-v1", disable_env_checker=True)
    env.reset(seed=1)
    state = get_simulator_state(env)
    set_simulator_state(env, state)
    state[:] = 9.0
    assert not np.any(get_simulator_state(env) == 9.0)


def test_a_state_goes_through_wrappers():
    env = make_env("tests.envs.DictObservationEnv")
    env.reset(seed=1)
    set_simulator_state(env, [0.25, 3])
    assert get_simulator_state(env).tolist() == [0.25, 3.0]


@pytest.mark.parametrize(
    ("env", "can_get", "can_set"),
    [
        pytest.param(CountingEnv(), False, False, id="neither"),
        pytest.param(ReadableEnv(), True, False, id="read"),
        pytest.param(WritableEnv(), False, True, id="write"),
        pytest.param(StatefulEnv(), True, True, id="both"),
    ],
)
def test_each_direction_is_told_apart(env, can_get, can_set):
    assert (can_get_simulator_state(env), can_set_simulator_state(env)) == (can_get, can_set)


def test_an_environment_without_state_is_refused_with_the_fix():
    with pytest.raises(ValueError, match="CountingEnv offers no state; add `get_simulator_state"):
        get_simulator_state(CountingEnv())
    with pytest.raises(ValueError, match="CountingEnv cannot be set; add `set_simulator_state"):
        set_simulator_state(CountingEnv(), [0.0])
    assert simulator_state_space(CountingEnv()) is None


def test_a_state_of_the_wrong_width_is_refused():
    env = gym.make("Pendulum-v1")
    with pytest.raises(ValueError, match="PendulumEnv has 2 values, got 3"):
        set_simulator_state(env, np.zeros(3))


def test_a_simulator_never_reset_has_no_state():
    with pytest.raises(ValueError, match=r"call `env.reset\(\)` first"):
        get_simulator_state(gym.make("CartPole-v1"))


@pytest.mark.parametrize(
    ("differs_by", "divergence"),
    [pytest.param(1e-12, 5e-10, id="rounding"), pytest.param(0.5, 1.0, id="otherwise")],
)
def test_what_never_moves_diverges_by_more_than_rounding_only(differs_by, divergence):
    slow, fast = np.array([[1.0, 2.0 + differs_by]]), np.array([[1.0, 2.0]])
    seen = StateRange()
    seen.see(np.concatenate([slow, fast]))
    assert state_divergence(slow, fast, seen.width) == pytest.approx(divergence, rel=1e-3)


def test_the_range_of_a_state_is_that_of_all_states_seen_or_of_its_bounds():
    space = spaces.Box(np.array([0.0, -np.inf]), np.array([8.0, np.inf]), dtype=np.float64)
    seen = StateRange(space)
    for state in ([1.0, 3.0], [np.nan, 9.0], [2.0, -1.0], [1.5, 0.0]):
        seen.see(np.array([state]))
    assert seen.width.tolist() == [8.0, 4.0]
