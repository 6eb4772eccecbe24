import subprocess
import sys
import time
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import rllib_offset.envs
from rllib_offset.envs.point_mass import PointMassEnv, PointMassModel, PointMassVectorEnv
from rllib_offset.envs.point_mass import start_of_seed as start_of
from rllib_offset.envs.scores import (
    EVALUATION_STARTS,
    normalised_score,
    optimal_return,
    random_return,
)

IDS = [env_id for env_id in rllib_offset.envs.ENV_IDS if "PointMass" in env_id]
every_id = pytest.mark.parametrize("env_id", IDS)

actions_of_episodes = arrays(
    np.float32, (20, 3, 2), elements=st.floats(-1.5, 1.5, width=32, allow_subnormal=False)
)


def env_and_actions(env_id, num_steps=10, **kwargs):
    rng = np.random.default_rng(0)
    return gym.make(env_id, **kwargs), rng.uniform(-1, 1, (num_steps, 2)).astype(np.float32)


@every_id
def test_every_id_passes_gymnasiums_checker(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id).unwrapped)


@every_id
def test_an_episode_is_truncated_after_100_steps(env_id):
    env, actions = env_and_actions(env_id, num_steps=100)
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in actions]
    assert ends == [(False, False)] * 99 + [(False, True)]


@every_id
@settings(max_examples=20, deadline=None)
@given(actions=actions_of_episodes)
def test_the_vector_env_equals_the_scalar_env_bit_for_bit(env_id, actions):
    lanes = gym.make_vec(env_id, num_envs=3)
    observations, _ = lanes.reset(seed=[5, 6, 7])
    envs = [gym.make(env_id).unwrapped for _ in range(3)]
    starts = [env.reset(seed=seed)[0] for env, seed in zip(envs, (5, 6, 7), strict=True)]
    assert np.array_equal(observations, starts)
    for step_actions in actions:
        observations, rewards, _, _, _ = lanes.step(step_actions)
        steps = [env.step(action) for env, action in zip(envs, step_actions, strict=True)]
        assert np.array_equal(observations, [step[0] for step in steps])
        assert np.array_equal(rewards, [step[1] for step in steps])
    states = [env.get_simulator_state() for env in envs]
    assert np.array_equal(lanes.get_simulator_state(), states)


@every_id
@settings(max_examples=20, deadline=None)
@given(actions=actions_of_episodes)
def test_observations_lie_in_the_space_and_hold_the_reward(env_id, actions):
    lanes = gym.make_vec(env_id, num_envs=3)
    assert lanes.reset(seed=1)[0] in lanes.observation_space
    for step_actions in actions:
        observations, rewards, _, _, _ = lanes.step(step_actions)
        assert observations in lanes.observation_space
        assert np.array_equal(observations[:, 2], np.float32(rewards))


@every_id
def test_going_on_from_a_saved_state_gives_the_same_steps(env_id):
    env, actions = env_and_actions(env_id)
    env.reset(seed=3)
    env.step(actions[0])
    state = env.unwrapped.get_simulator_state()
    first = [env.step(action) for action in actions[1:]]
    env.unwrapped.set_simulator_state(state)
    assert np.array_equal(env.unwrapped.get_simulator_state(), state)
    second = [env.step(action) for action in actions[1:]]
    for (obs, reward, *_), (obs_again, reward_again, *_) in zip(first, second, strict=True):
        assert np.array_equal(obs, obs_again)
        assert reward == reward_again


@given(state=arrays(np.float64, 2, elements=st.floats(-1.0, 1.0)))
def test_a_state_survives_the_round_trip_bit_for_bit(state):
    env = PointMassEnv()
    env.set_simulator_state(state)
    assert env.get_simulator_state().tobytes() == state.tobytes()
    assert state in env.simulator_state_space


def test_a_simulator_state_is_a_copy():
    env = PointMassEnv()
    env.reset(seed=0)
    env.get_simulator_state()[:] = 0.5
    assert not np.array_equal(env.get_simulator_state(), [0.5, 0.5])


@pytest.mark.parametrize("state", [(0.0,), (0.0, np.nan), ((0.0, 0.0),)])
def test_a_state_that_is_no_position_is_refused(state):
    with pytest.raises(ValueError, match="positions must be finite and of shape"):
        PointMassEnv().set_simulator_state(state)


def test_fast_and_slow_start_in_the_same_place_for_the_same_seed():
    starts = [gym.make(env_id).reset(seed=11)[0][:2] for env_id in IDS]
    assert np.array_equal(starts, np.tile(np.float32(start_of(11)), (len(IDS), 1)))


def test_a_start_in_one_process_equals_that_in_another():
    code = (
        "from rllib_offset.envs.point_mass import start_of_seed\n"
        "print(start_of_seed(7).tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == start_of(7).tobytes().hex()


def test_an_episode_starts_where_the_options_say():
    env = gym.make("rllib_offset/PointMass-v0")
    observation, _ = env.reset(options={"start": (0.4, 0.3)})
    assert observation.tolist() == np.float32([0.4, 0.3, 0.0]).tolist()


def test_later_resets_without_a_seed_draw_on_as_the_scalar_env_does():
    env, lanes = PointMassEnv(), PointMassVectorEnv(num_envs=1)
    for seed in (4, None, None):
        assert np.array_equal(lanes.reset(seed=[seed])[0][0], env.reset(seed=seed)[0])


@pytest.mark.parametrize("config", [{"threshold": 0.5}, {"sigma": 0.3}])
def test_a_reset_does_not_change_the_reward_map(config):
    env = PointMassEnv(**config)
    rewards = []
    for seed in (1, 2, None):
        env.reset(seed=seed, options={"start": (-0.3, 0.2)})
        rewards.append(env.step(np.zeros(2, np.float32))[1])
    assert len(set(rewards)) == 1


def test_the_vector_env_names_its_autoreset_mode():
    lanes = gym.make_vec("rllib_offset/PointMass-v0", num_envs=2)
    assert isinstance(lanes, PointMassVectorEnv)
    assert lanes.metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_only_masked_lanes_are_reset():
    lanes = PointMassVectorEnv(num_envs=3, max_episode_steps=2)
    before, _ = lanes.reset(seed=0)
    for _ in range(2):
        before, _, _, truncations, _ = lanes.step(np.ones((3, 2), np.float32))
    assert truncations.all()
    mask = np.array([False, True, False])
    after, _ = lanes.reset(seed=[None, 9, None], options={"reset_mask": mask})
    assert np.array_equal(after[~mask], before[~mask])
    assert np.array_equal(after[1, :2], np.float32(start_of(9)))
    truncations = lanes.step(np.zeros((3, 2), np.float32))[3]
    assert truncations.tolist() == [True, False, True]


def test_a_finished_lane_does_not_disturb_the_others():
    short, long = (PointMassVectorEnv(num_envs=2, max_episode_steps=n) for n in (3, 100))
    short.reset(seed=0), long.reset(seed=0)
    push = np.full((2, 2), 0.3, np.float32)
    for _ in range(6):
        assert np.array_equal(short.step(push)[0], long.step(push)[0])


def test_observations_returned_earlier_do_not_change_later():
    lanes = PointMassVectorEnv(num_envs=2)
    first, _ = lanes.reset(seed=0)
    copy = first.copy()
    lanes.step(np.ones((2, 2), np.float32))
    lanes.reset(seed=1)
    assert np.array_equal(first, copy)


def test_lane_states_are_set_under_a_mask():
    lanes = PointMassVectorEnv(num_envs=2)
    lanes.reset(seed=0)
    before = lanes.get_simulator_state()
    lanes.set_simulator_state([[np.nan, 0.0], [0.25, -0.5]], mask=[False, True])
    assert np.array_equal(lanes.get_simulator_state(), [before[0], [0.25, -0.5]])


@pytest.mark.parametrize("mask", [np.array([1, 0]), np.array([True])])
def test_a_mask_of_another_kind_is_refused(mask):
    with pytest.raises(ValueError, match="a mask must be bool of shape"):
        PointMassVectorEnv(num_envs=2).reset(seed=0, options={"reset_mask": mask})


def test_one_seed_too_few_is_refused():
    with pytest.raises(ValueError, match="one entry per lane"):
        PointMassVectorEnv(num_envs=3).reset(seed=[1, 2])


def test_a_slow_simulator_costs_its_time_per_step_and_lane():
    env, lanes = PointMassEnv(step_cost_s=0.01), PointMassVectorEnv(num_envs=3, step_cost_s=0.01)
    env.reset(seed=0), lanes.reset(seed=0)
    begin = time.perf_counter()
    env.step(np.zeros(2, np.float32))
    scalar = time.perf_counter()
    lanes.step(np.zeros((3, 2), np.float32))
    assert scalar - begin >= 0.01
    assert time.perf_counter() - scalar >= 0.03


def test_a_push_moves_by_a_tenth_and_stops_at_the_wall():
    moved = PointMassModel().move(np.array([[0.0, 0.0], [0.95, -0.95]]), [[1, -5], [1, -1]])
    assert moved == pytest.approx(np.array([[0.1, -0.1], [1.0, -1.0]]))


def test_drift_turns_scales_and_shifts_a_push():
    model = PointMassModel(rotation_deg=90.0, gain=0.5, drift=(0.02, -0.01))
    assert model.move(np.zeros(2), [1.0, 0.0]) == pytest.approx([0.02, 0.04])


def test_the_rugged_pair_shares_its_fine_structure():
    slow, fast = (
        gym.make(f"rllib_offset/{name}-v0").unwrapped.model.reward_map
        for name in ("RuggedPointMass", "RewardOffsetRuggedPointMass")
    )
    plain, shifted = (
        gym.make(f"rllib_offset/{name}-v0").unwrapped.model.reward_map
        for name in ("PointMass", "RewardOffsetPointMass")
    )
    points = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    assert slow(points) - fast(points) == pytest.approx(plain(points) - shifted(points))
    assert np.std(slow(points) - plain(points)) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"step_cost_s": -1.0}, ValueError, "`step_cost_s` must be"),
        ({"shift": (1.0,)}, ValueError, "`shift` must be two finite numbers"),
        ({"gain": np.inf}, ValueError, "must be finite"),
        ({"mix": 2.0}, ValueError, "`mix` must be"),
        ({"tarqet": (0, 0)}, TypeError, "tarqet"),
    ],
)
def test_wrong_arguments_are_refused(config, error, message):
    for env_class in (PointMassEnv, PointMassVectorEnv):
        with pytest.raises(error, match=message):
            env_class(**config)


def test_lists_from_a_config_file_serve_as_points():
    env = PointMassEnv(shift=[-0.8, -0.7], target=[0.1, 0.2])
    assert env.model.reward_map(np.array([-0.7, -0.5])) == pytest.approx(0.0)


def test_importing_the_environments_loads_no_heavy_library():
    code = (
        "import sys, rllib_offset.envs, rllib_offset.envs.point_mass, rllib_offset.envs.pendulum\n"
        "print({'ray', 'torch', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == "set()"


# Scores


def test_the_fixed_starts_have_the_known_returns():
    assert optimal_return(EVALUATION_STARTS).mean() == pytest.approx(-3.327, abs=5e-4)
    assert random_return(EVALUATION_STARTS).mean() == pytest.approx(-88.16, abs=5e-3)


def test_full_speed_on_each_axis_earns_the_optimal_return():
    lanes = PointMassVectorEnv(num_envs=64)
    lanes.reset(options={"start": EVALUATION_STARTS})
    returns = np.zeros(64)
    for _ in range(100):
        gap = np.array([0.4, 0.3]) - lanes.get_simulator_state()
        rewards = lanes.step(gap / 0.1)[1]
        returns += rewards
    assert returns == pytest.approx(optimal_return(EVALUATION_STARTS), abs=1e-9)
    assert normalised_score(returns) == pytest.approx(1.0)


@given(
    start=arrays(np.float64, 2, elements=st.floats(-1.0, 1.0)),
    actions=arrays(np.float64, (100, 2), elements=st.floats(-1.0, 1.0)),
)
def test_no_episode_beats_the_optimal_return(start, actions):
    model, position, total = PointMassModel(), start, 0.0
    for action in actions:
        position = model.move(position, action)
        total += model.reward_map(position)
    assert total <= optimal_return(start) + 1e-9


def test_a_random_agent_scores_zero():
    assert normalised_score(random_return(EVALUATION_STARTS)) == pytest.approx(0.0)


# Pictures


def test_render_draws_the_path_over_the_map():
    env, actions = env_and_actions("rllib_offset/SparsePointMass-v0", render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    for action in actions:
        env.step(action)
    after = env.render()
    assert before.shape == after.shape == (400, 400, 3)
    assert after.dtype == np.uint8
    assert not np.array_equal(before, after)


def test_the_vector_env_renders_each_lane_as_the_scalar_env_does():
    env, actions = env_and_actions("rllib_offset/PointMass-v0", render_mode="rgb_array")
    lanes = gym.make_vec("rllib_offset/PointMass-v0", num_envs=2, render_mode="rgb_array")
    env.reset(seed=6), lanes.reset(seed=[5, 5])
    lanes.step(np.ones((2, 2), np.float32))
    lanes.reset(seed=[5, 6], options={"reset_mask": np.array([False, True])})
    for action in actions:
        env.step(action), lanes.step(np.tile(action, (2, 1)))
    assert np.array_equal(lanes.render()[1], env.render())


def test_without_a_render_mode_there_is_no_picture():
    assert PointMassEnv().render() is None
    assert PointMassVectorEnv().render() is None
