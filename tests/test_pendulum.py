import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import rllib_offset.envs
from rllib_offset.envs.pendulum import DampedPendulumEnv

IDS = [env_id for env_id in rllib_offset.envs.ENV_IDS if "Pendulum" in env_id]
every_id = pytest.mark.parametrize("env_id", IDS)

angles = st.floats(-np.pi, np.pi)
velocities = st.floats(-8.0, 8.0)
torques = st.floats(-3.0, 3.0, width=32)


@every_id
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized:UserWarning")  # Gymnasium's torque
def test_every_id_passes_gymnasiums_checker(env_id):
    check_env(gym.make(env_id).unwrapped, skip_render_check=True)  # needs pygame


@every_id
def test_an_episode_is_truncated_after_200_steps(env_id):
    env = gym.make(env_id)
    env.reset(seed=0)
    ends = [env.step(np.ones(1, np.float32))[2:4] for _ in range(200)]
    assert ends == [(False, False)] * 199 + [(False, True)]


@given(theta=angles, theta_dot=velocities, torque=torques)
def test_the_fast_pendulum_takes_the_same_steps_as_gymnasiums(theta, theta_dot, torque):
    ours, theirs = DampedPendulumEnv(), gym.make("Pendulum-v1").unwrapped
    theirs.reset(seed=0)
    ours.set_simulator_state([theta, theta_dot])
    theirs.state = np.array([theta, theta_dot])
    action = np.array([torque], np.float32)
    our_step, their_step = ours.step(action), theirs.step(action)
    assert np.array_equal(our_step[0], their_step[0])
    assert our_step[1] == their_step[1]
    assert np.array_equal(ours.get_simulator_state(), theirs.state)


@given(theta=angles, theta_dot=velocities, torque=torques)
def test_a_whole_turn_changes_nothing_but_rounding(theta, theta_dot, torque):
    env, turned = DampedPendulumEnv(), DampedPendulumEnv()
    env.set_simulator_state([theta, theta_dot])
    turned.set_simulator_state([theta + 2 * np.pi, theta_dot])
    action = np.array([torque], np.float32)
    assert turned.step(action)[0] == pytest.approx(env.step(action)[0], abs=1e-5)
    assert turned.get_simulator_state() in turned.simulator_state_space


@every_id
def test_going_on_from_a_saved_state_gives_the_same_steps(env_id):
    env = gym.make(env_id)
    env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-2, 2, (60, 1)).astype(np.float32)
    for action in actions[:30]:
        env.step(action)
    state = env.unwrapped.get_simulator_state()
    first = [env.step(action) for action in actions[30:]]
    env.unwrapped.set_simulator_state(state)
    assert np.array_equal(env.unwrapped.get_simulator_state(), state)
    second = [env.step(action) for action in actions[30:]]
    for (obs, reward, *_), (obs_again, reward_again, *_) in zip(first, second, strict=True):
        assert np.array_equal(obs, obs_again)
        assert reward == reward_again


@every_id
def test_a_spinning_pendulum_stays_in_its_state_space(env_id):
    env = gym.make(env_id).unwrapped
    env.reset(seed=0)
    env.set_simulator_state([0.0, 8.0])
    for _ in range(100):
        observation, *_ = env.step(np.array([2.0], np.float32))
        assert env.get_simulator_state() in env.simulator_state_space
        assert observation in env.observation_space


@given(theta=angles, theta_dot=velocities, torque=torques)
def test_the_residual_of_one_step_is_small_wherever_it_starts(theta, theta_dot, torque):
    fast, slow = DampedPendulumEnv(), DampedPendulumEnv(mass=1.15, damping=0.1)
    for env in (fast, slow):
        env.set_simulator_state([theta, theta_dot])
        env.step(np.array([torque], np.float32))
    residual = slow.get_simulator_state() - fast.get_simulator_state()
    assert np.all(np.abs(residual) <= [0.01, 0.2])


def test_both_start_in_the_same_state_and_drift_apart():
    fast, slow = (gym.make(env_id).unwrapped for env_id in IDS)
    assert np.array_equal(fast.reset(seed=1)[0], slow.reset(seed=1)[0])
    for _ in range(20):
        fast.step(np.ones(1, np.float32)), slow.step(np.ones(1, np.float32))
    assert not np.allclose(fast.get_simulator_state(), slow.get_simulator_state(), atol=1e-3)


def test_damping_takes_energy_from_a_free_pendulum():
    free, damped = DampedPendulumEnv(g=0.0), DampedPendulumEnv(g=0.0, damping=0.1)
    for env in (free, damped):
        env.set_simulator_state([0.0, 4.0])
        env.step(np.zeros(1, np.float32))
    assert free.get_simulator_state()[1] == 4.0
    assert damped.get_simulator_state()[1] == pytest.approx(4.0 - 3 * 0.1 * 4.0 * 0.05)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="`mass` must be > 0"):
        DampedPendulumEnv(mass=0.0)
    with pytest.raises(ValueError, match="two finite numbers"):
        DampedPendulumEnv().set_simulator_state([np.nan, 0.0])
