import json
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from rllib_offset.pair import EnvPair, LaneVectorEnv, make_env, make_vector_env
from rllib_offset.pair_facts import probe_pair
from tests import envs

POINT_MASS = "rllib_offset.envs:rllib_offset/PointMass-v0"


def pair(fast=envs.StatefulEnv, slow=envs.StatefulEnv, fast_config=None, slow_config=None):
    return EnvPair(fast, slow, fast_config or {}, slow_config or {})


def claim(report, name):
    return next(claim for claim in report.claims if claim.name == name)


# --- making environments ---


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("CartPole-v1", id="id"),
        pytest.param(POINT_MASS, id="module-and-id"),
        pytest.param("tests.envs.CountingEnv", id="class-path"),
        pytest.param(envs.CountingEnv, id="class"),
        pytest.param(lambda config: envs.CountingEnv(config), id="function"),
        pytest.param(envs.DictObservationEnv, id="dict-observation"),
        pytest.param("Taxi-v3", id="discrete-observation"),
    ],
)
def test_every_way_to_name_an_environment_gives_flat_float32_observations(spec):
    env = make_env(spec)
    space = env.observation_space
    assert isinstance(space, spaces.Box)
    assert (space.dtype, len(space.shape)) == (np.float32, 1)
    obs, _ = env.reset(seed=1)
    assert space.contains(obs)
    assert space.contains(env.step(env.action_space.sample())[0])


def test_an_id_takes_its_config_as_arguments_and_a_class_as_a_dict():
    class Context(dict):  # as RLlib's EnvContext
        worker_index = 3

    assert make_env("Pendulum-v1", Context(g=1.5)).unwrapped.g == 1.5
    assert make_env(envs.CountingEnv, Context(length=3)).config["length"] == 3


def test_flattening_keeps_order_and_values():
    env = make_env(envs.DictObservationEnv)
    obs, _ = env.reset(seed=1)
    assert obs[:4].tolist() == [1, 0, 0, 0]  # the count, one-hot
    assert obs[4:8].tolist() == [1, 0, 0, 1]
    assert obs[8] == np.float32(env.unwrapped.position)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("CartPol-v1", "'CartPol-v1'; did you mean 'CartPole-v1'?", id="misspelt-id"),
        pytest.param("Pendulum-v0", "did you mean 'Pendulum-v1'?", id="old-version"),
        pytest.param("no id at all", "registered as 'no id at all'", id="no-id"),
        pytest.param(
            POINT_MASS.replace("Mass", "Mas"),
            "did you mean 'rllib_offset/PointMass-v0'?",
            id="misspelt-id-of-a-module",
        ),
        pytest.param("no_module:Some-v0", "needs the module 'no_module'", id="no-module"),
        pytest.param("tests.nowhere.Env", "needs the module 'tests.nowhere'", id="no-file"),
        pytest.param("tests.envs.CountngEnv", "did you mean 'CountingEnv'?", id="no-class"),
        pytest.param("tests.envs.not_callable", "must be a subclass of gymnasium.Env", id="text"),
        pytest.param("tests.envs.make_counting_env", "must be a subclass", id="function"),
        pytest.param(
            "subprocess.Popen", "must be a subclass of gymnasium.Env, got type", id="other"
        ),
        pytest.param(3, "an id, a dotted class path or a callable, got 3", id="no-string"),
        pytest.param(dict, "must make a gymnasium.Env, got dict", id="no-env"),
        pytest.param(envs.TextActionEnv, "Box, Discrete or MultiDiscrete, got Text", id="actions"),
    ],
)
def test_what_cannot_be_made_is_explained_on_one_line(spec, message):
    with pytest.raises(ValueError, match=r".") as error:
        make_env(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# --- lanes ---


@pytest.mark.parametrize("spec", ["CartPole-v1", "Pendulum-v1", POINT_MASS, envs.StatefulEnv])
def test_a_lane_gives_what_the_single_environment_gives(spec):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lanes, single = make_vector_env(spec, {}, num_envs=3), make_env(spec)
    assert lanes.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    obs, _ = lanes.reset(seed=[5, 6, 7], options={"reset_mask": np.ones(3, bool)})
    np.testing.assert_array_equal(obs[1], single.reset(seed=6)[0])
    lanes.action_space.seed(1)
    for _ in range(5):
        actions = lanes.action_space.sample()
        obs, rewards, *_ = lanes.step(actions)
        expected_obs, expected_reward, *_ = single.step(actions[1])
        np.testing.assert_array_equal(obs[1], expected_obs)
        assert rewards[1] == pytest.approx(expected_reward, rel=1e-6)


def test_the_native_form_is_used_only_if_it_leaves_resets_to_us():
    assert not isinstance(make_vector_env(POINT_MASS, {}, 2), LaneVectorEnv)
    assert isinstance(make_vector_env("CartPole-v1", {}, 2), LaneVectorEnv)


def test_a_lane_that_has_ended_rests_until_it_is_reset():
    lanes = make_vector_env(envs.StatefulEnv, {"length": 3}, num_envs=2)
    lanes.reset(seed=[1, 2])
    actions = np.ones((2, 2), np.float32)
    lanes.step(actions)
    lanes.reset(seed=[3, 4], options={"reset_mask": np.array([True, False])})
    for _ in range(2):
        obs, rewards, _, truncated, _ = lanes.step(actions)
    assert truncated.tolist() == [False, True]
    after, rewards, _, truncated, _ = lanes.step(actions)
    np.testing.assert_array_equal(after[1], obs[1])
    assert rewards[1] == 0
    assert truncated.tolist() == [True, True]


def test_less_than_one_lane_is_refused():
    with pytest.raises(ValueError, match="`num_envs` must be >= 1, got 0"):
        make_vector_env("CartPole-v1", {}, 0)


# --- checking a pair ---


def test_a_pair_of_equals_is_level_2_without_divergence():
    report = pair(slow_config={"bonus": 1.0}).check(steps=12)
    assert (report.level, report.dynamics, report.divergence) == (2, "same", 0.0)
    assert report.problems == ()
    assert not report.has_outcome
    assert all(claim.holds for claim in report.claims)
    assert 12 <= report.slow_steps <= 2 * 12 + 4


@pytest.mark.parametrize(
    ("fast", "slow", "level", "missing"),
    [
        pytest.param(envs.CountingEnv, envs.CountingEnv, 0, "the slow environment", id="0"),
        pytest.param(envs.CountingEnv, envs.WritableEnv, 0, "the fast environment", id="0-fast"),
        pytest.param(envs.ReadableEnv, envs.WritableEnv, 1, "the fast environment", id="1"),
        pytest.param(envs.StatefulEnv, envs.WritableEnv, 1, "the slow environment", id="1-slow"),
        pytest.param(envs.StatefulEnv, envs.StatefulEnv, 2, None, id="2"),
    ],
)
def test_the_level_is_what_both_sides_offer(fast, slow, level, missing):
    report = pair(fast, slow).check(steps=5)
    assert report.level == level == probe_pair(pair(fast, slow)).level
    assert f"level {level}: " in str(report)
    if missing is None:
        assert report.missing == ()
    else:
        assert f"for level {level + 1}: {missing}" in str(report)


@pytest.mark.parametrize("action", envs.ACTION_SPACES)
def test_every_kind_of_action_can_be_checked(action):
    report = pair(fast_config={"action": action}, slow_config={"action": action}).check(steps=4)
    assert report.level == 2


def test_a_fast_simulator_that_never_ends_an_episode_is_reported(monkeypatch):
    monkeypatch.setattr("rllib_offset.pair_check._ENDLESS_STEPS", 500)
    report = pair(fast_config={"length": 10**9}).check(steps=5)
    assert claim(report, "fast episodes").holds is False
    assert "`max_episode_steps`" in claim(report, "fast episodes").text
    assert not any(claim.name == "fast episodes" for claim in pair().check(steps=5).claims)


def test_other_dynamics_show_as_divergence():
    report = pair(slow_config={"gain": 0.5}).check(steps=10)
    assert report.dynamics == "different"
    assert report.divergence > 0.01
    assert claim(report, "dynamics").holds is False


def test_without_states_differing_observations_leave_the_dynamics_open():
    report = pair(envs.CountingEnv, envs.CountingEnv, {}, {"gain": 0.5}).check(steps=10)
    assert report.dynamics == "unknown"
    assert report.divergence > 0.01


def test_episodes_of_one_step_are_compared_too():
    config = {"length": 1}
    report = pair(fast_config=config, slow_config=config | {"gain": 0.5}).check(steps=6)
    assert report.dynamics == "different"
    assert report.level == 2


def test_other_spaces_are_a_problem_that_names_both():
    report = pair(slow_config={"action": "discrete"}).check(steps=3)
    assert report.level == 0
    (problem,) = report.problems
    assert (
        "same `action_space`, got fast Box(-1.0, 1.0, (2,), float32), slow Discrete(3)" in problem
    )


def test_another_start_is_a_problem_that_names_the_components():
    report = pair(slow=envs.ShiftedStartEnv).check(steps=3)
    (problem,) = report.problems
    assert "state[0]" in problem
    assert "self.np_random" in problem


def test_first_observations_that_differ_are_no_problem_as_the_reward_may_be_in_them():
    report = pair(envs.RewardObservingEnv, envs.RewardObservingEnv, {"bonus": 1.0}).check(steps=3)
    assert report.problems == ()
    start = claim(report, "start")
    assert start.holds is None
    assert "obs[1]" in start.text


@pytest.mark.parametrize("env", [envs.NoisyEnv, envs.GlobalRandomEnv])
def test_a_noisy_slow_simulator_is_noticed(env):
    report = pair(slow=env).check(steps=4)
    assert claim(report, "slow is deterministic").holds is False
    assert claim(report, "fast is deterministic").holds is True
    assert claim(report, "slow state").holds is None
    assert report.problems == ()


def test_a_state_that_leaves_something_out_is_noticed():
    report = pair(slow=envs.ForgetfulEnv).check(steps=6)
    slow_state = claim(report, "slow state")
    assert slow_state.holds is False
    assert "reward" in slow_state.text
    assert report.level == 0


def test_an_outcome_that_reproduces_the_steps_is_accepted():
    report = pair(envs.OutcomeEnv, envs.OutcomeEnv, {}, {"gain": 0.5}).check(steps=12)
    assert report.has_outcome
    assert claim(report, "slow outcome").holds is True


def test_an_outcome_that_lies_is_noticed():
    report = pair(envs.OutcomeEnv, envs.OutcomeEnv, {"lies": 0.1}).check(steps=4)
    assert not report.has_outcome
    text = claim(report, "fast outcome").text
    found = re.fullmatch(
        r"`outcome` does not reproduce reward of step 0: reward was (.*), got (.*)", text
    )
    assert float(found[2]) == pytest.approx(float(found[1]) + 0.1, abs=1e-5)


class OldReset(envs.StatefulEnv):
    def reset(self, **given):
        return super().reset(**given)[0]


class OldFlattenedReset(OldReset):
    def __init__(self, config=None):
        super().__init__(config)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2, 1), np.float64)

    def _obs(self):
        return super()._obs().reshape(2, 1)

    def reset(self, **given):
        super().reset(**given)
        return [self._obs()]


class OldStep(envs.StatefulEnv):
    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class DictState(envs.StatefulEnv):
    def get_simulator_state(self):
        return {"position": self.position}


class NotFiniteState(envs.StatefulEnv):
    def get_simulator_state(self):
        return np.array([np.nan, self.count])


class WithoutConfig(envs.StatefulEnv):
    def __init__(self):
        super().__init__()


class WithoutSpaces(gym.Env):
    def __init__(self, config=None):
        pass


@pytest.mark.parametrize("side", ["fast", "slow"])
@pytest.mark.parametrize(
    ("env", "message"),
    [
        (OldReset, "of the {} environment raised TypeError: it must return (obs, info)"),
        (OldFlattenedReset, "of the {} environment raised ValueError: not enough values"),
        (OldStep, "`step` must return (obs, reward, terminated, truncated, info)"),
        (OldStep, "the {} simulator raised"),
        (DictState, "`get_simulator_state()`, which must return numbers, of the {} env"),
        (NotFiniteState, "the {} environment starts with a simulator state that is not finite"),
        (WithoutConfig, "the {} environment cannot be made"),
        (WithoutConfig, "`def __init__(self, config=None)`"),
        (WithoutSpaces, "the {} environment cannot be made"),
        (WithoutSpaces, "set `observation_space` and `action_space`"),
    ],
)
def test_a_mistake_in_a_class_is_told_of_the_simulator_that_has_it(env, message, side):
    report = pair(**{side: env}).check(steps=4)
    assert message.format(side) in report.problems[0]


class NarrowSpace(envs.StatefulEnv):
    def __init__(self, config=None):
        super().__init__(config)
        self.observation_space = gym.spaces.Box(-100.0, 3.0, (2,), np.float32)


def test_observations_outside_of_their_space_are_noticed():
    report = pair(slow=NarrowSpace).check(steps=6)
    assert claim(report, "fast space").holds is True
    found = claim(report, "slow space")
    assert found.holds is False
    assert "obs[1] is 4 in step 3, outside of its `observation_space`, [-100, 3]" in found.text


def test_an_environment_that_cannot_be_made_is_a_problem():
    report = pair(slow=envs.UnmakeableEnv).check()
    assert report.problems == ("the slow environment cannot be made: OSError: no licence",)


def test_an_environment_that_raises_is_a_problem_with_what_reproduces_it(tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    config = {"flag": str(flag), "at_step": 2, "how": "raise"}
    report = pair(slow=envs.FaultyEnv, slow_config=config).check(seed=7, steps=5)
    (problem,) = report.problems
    assert "slow simulator raised ArithmeticError: the mesh is tangled" in problem
    assert "seed 7, step 2" in problem


def test_a_report_is_json():
    report = pair(slow=envs.ShiftedStartEnv).check(steps=3)
    read = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert read["problems"] == list(report.problems)


def test_gymnasium_environments_need_nothing():
    report = EnvPair("Pendulum-v1", "Pendulum-v1", slow_config={"g": 5.0}).check(steps=10)
    assert (report.level, report.dynamics) == (2, "different")


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="`steps` must be >= 1, got 0"):
        pair().check(steps=0)


def test_the_step_checker_of_gymnasium_is_left_out():
    env = make_env("CartPole-v1")
    while isinstance(env, gym.Wrapper):
        assert not isinstance(env, gym.wrappers.common.PassiveEnvChecker)
        env = env.env


class FirstStepsSilentEnv(envs.OutcomeEnv):
    def _info(self):
        return {} if self.count <= 3 else super()._info()


def test_a_fast_simulator_that_is_silent_at_first_still_measures():
    assert probe_pair(pair(FirstStepsSilentEnv, envs.OutcomeEnv)).measurement_dim == 1


def test_a_fast_simulator_that_is_always_silent_measures_nothing():
    always = {"invalid_above": -np.inf, "is_silent": True}
    assert probe_pair(pair(envs.OutcomeEnv, envs.OutcomeEnv, always)).measurement_dim == 0
