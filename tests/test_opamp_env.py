import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import rllib_offset.envs
from rllib_offset.corrected_env import CorrectedEnv
from rllib_offset.correction import OffsetCorrection, OffsetLayout
from rllib_offset.envs.opamp.design import START
from rllib_offset.envs.opamp.environment import OpAmpEnv
from rllib_offset.envs.opamp.library_engine import LibraryEngine
from rllib_offset.envs.opamp.measurement import FAILED_SPECS, to_learned
from rllib_offset.envs.opamp.netlists import BENCH, schematic
from rllib_offset.envs.opamp.simulators import SpiceSimulator
from rllib_offset.envs.opamp.task import OpAmpTask
from rllib_offset.envs.opamp.vector_environment import OpAmpVectorEnv
from rllib_offset.pair import EnvPair, make_env, make_vector_env
from rllib_offset.replay.requests import ReplayRequest, valid_rows
from rllib_offset.replay.worker import ReplayWorker, replay
from tests.opamp import BROKEN, EXTRACTED, HAND, REDUCED, SCHEMATIC, needs_library, needs_program

every_id = pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(HAND, id="hand"),
        pytest.param(SCHEMATIC, id="schematic", marks=needs_library),
        pytest.param(EXTRACTED, id="extracted", marks=needs_library),
    ],
)
TARGET = {"gain": 230.0, "bandwidth": 6e7, "phase_margin": 60.0, "current": 2e-4}
MET = (240.0, 7e7, 65.0, 1.9e-4)


def make(env_id, **kwargs):
    return gym.make(env_id, disable_env_checker=True, **REDUCED, **kwargs)


def actions_of(env, count, seed=0):
    env.action_space.seed(seed)
    return np.stack([env.action_space.sample() for _ in range(count)])


# The ids


def test_three_ids_are_registered():
    names = {spec.rpartition(":")[2] for spec in (HAND, SCHEMATIC, EXTRACTED)}
    assert names <= set(rllib_offset.envs.ENV_IDS)


@every_id
def test_every_id_passes_gymnasiums_checker(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(env_id, render_mode="rgb_array").unwrapped)


@every_id
def test_an_episode_is_truncated_after_30_steps(env_id):
    env = make(env_id, target=TARGET | {"gain": 1e6})
    env.reset(seed=0)
    stay = np.full(7, 3)
    ends = [env.step(stay)[2:4] for _ in range(30)]
    assert ends == [(False, False)] * 29 + [(False, True)]


@every_id
def test_going_on_from_a_saved_state_gives_the_same_steps(env_id):
    env = make(env_id)
    actions = actions_of(env, 4)
    env.reset(seed=3)
    env.step(actions[0])
    state = env.unwrapped.get_simulator_state()
    assert state in env.unwrapped.simulator_state_space
    first = [env.step(action) for action in actions[1:]]
    env.unwrapped.set_simulator_state(state)
    second = [env.step(action) for action in actions[1:]]
    for (obs, reward, *_), (obs_again, reward_again, *_) in zip(first, second, strict=True):
        assert np.array_equal(obs, obs_again)
        assert reward == reward_again


@every_id
def test_the_outcome_of_the_own_measurement_is_the_step_itself(env_id):
    env = make(env_id)
    env.reset(seed=1)
    rows = []
    for action in actions_of(env, 5):
        state = env.unwrapped.get_simulator_state()
        obs, reward, terminated, _, info = env.step(action)
        again = env.unwrapped.outcome(info["measurement"], state, action)
        assert np.array_equal(obs, again[0])
        assert (reward, terminated) == again[1:]
        rows.append((info["measurement"], state, action, obs, reward))
    measurements, states, actions, observations, rewards = (
        np.stack(part) for part in zip(*rows, strict=True)
    )
    batch = env.unwrapped.outcome(measurements, states, actions)
    assert np.array_equal(batch[0], observations)
    assert np.array_equal(batch[1], rewards)


@needs_library
def test_all_fidelities_start_alike_for_the_same_seed():
    envs = [make(env_id).unwrapped for env_id in (HAND, SCHEMATIC, EXTRACTED)]
    observations = [env.reset(seed=11)[0] for env in envs]
    states = [env.get_simulator_state() for env in envs]
    assert np.array_equal(states[0], states[1])
    assert np.array_equal(states[0], states[2])
    assert len({obs[:4].tobytes() for obs in observations}) == 3
    assert len({obs[4:].tobytes() for obs in observations}) == 1


@needs_program
def test_the_subprocess_engine_serves_an_environment():
    env = make(SCHEMATIC, engine="subprocess")
    assert env.reset(seed=0)[1]["valid"]


# The vector form


@settings(max_examples=20, deadline=None)
@given(actions=arrays(np.int64, (6, 3, 7), elements=st.integers(0, 6)))
def test_the_vector_env_equals_the_scalar_env_bit_for_bit(actions):
    lanes = OpAmpVectorEnv(num_envs=3)
    observations, _ = lanes.reset(seed=[5, 6, 7])
    envs = [OpAmpEnv() for _ in range(3)]
    starts = [env.reset(seed=seed)[0] for env, seed in zip(envs, (5, 6, 7), strict=True)]
    assert np.array_equal(observations, starts)
    for step_actions in actions:
        observations, rewards, terminations, _, infos = lanes.step(step_actions)
        steps = [env.step(action) for env, action in zip(envs, step_actions, strict=True)]
        assert np.array_equal(observations, [step[0] for step in steps])
        assert np.array_equal(rewards, [step[1] for step in steps])
        assert np.array_equal(terminations, [step[2] for step in steps])
        assert np.array_equal(infos["measurement"], [step[4]["measurement"] for step in steps])
    states = [env.get_simulator_state() for env in envs]
    assert np.array_equal(lanes.get_simulator_state(), states)


def test_the_hand_equations_are_sampled_in_their_native_vector_form():
    assert isinstance(make_vector_env(HAND, {"pass_threshold": -0.02}, 4), OpAmpVectorEnv)


def test_only_masked_lanes_are_reset():
    lanes = OpAmpVectorEnv(num_envs=3, max_episode_steps=2)
    lanes.reset(seed=0)
    for _ in range(2):
        before, _, _, truncations, _ = lanes.step(np.full((3, 7), 6))
    assert truncations.all()
    mask = np.array([False, True, False])
    after, _ = lanes.reset(seed=[None, 9, None], options={"reset_mask": mask})
    assert np.array_equal(after[~mask], before[~mask])
    assert np.array_equal(after[1], OpAmpEnv().reset(seed=9)[0])
    assert lanes.step(np.full((3, 7), 3))[3].tolist() == [True, False, True]


def test_lane_states_are_set_under_a_mask():
    lanes = OpAmpVectorEnv(num_envs=2)
    lanes.reset(seed=0)
    before = lanes.get_simulator_state()
    states = np.stack([np.full(12, np.nan), before[0]])
    lanes.set_simulator_state(states, mask=[False, True])
    assert np.array_equal(lanes.get_simulator_state(), [before[0], before[0]])


def test_the_vector_form_knows_no_other_fidelity():
    with pytest.raises(ValueError, match="only the hand equations"):
        OpAmpVectorEnv(fidelity="extracted")


# The task


def outcome_of(specs, task=None, action=3, **state):
    task = task or OpAmpTask(target=TARGET)
    start = task.state_with(task.draw_state(np.random.default_rng(0)), **state)
    return task.outcome(to_learned(specs), start, np.full(7, action))


def test_a_design_that_meets_every_spec_ends_the_episode_with_ten():
    obs, reward, passed = outcome_of(MET)
    assert (reward, passed) == (10.0, True)
    assert (obs[:4] > 0).all()


@pytest.mark.parametrize("spec", range(4))
def test_one_missed_spec_costs_its_relative_shortfall(spec):
    missed = np.array(MET)
    target = list(TARGET.values())[spec]
    missed[spec] = target * (1.3 if spec == 3 else 0.7)
    obs, reward, passed = outcome_of(missed)
    expected = -abs(missed[spec] - target) / (missed[spec] + target)
    assert reward == pytest.approx(expected)
    assert not passed
    assert obs[spec] == pytest.approx(max(3 * expected, -1.0))


def test_a_threshold_forgives_a_small_shortfall():
    nearly = (0.99 * 230.0, *MET[1:])
    assert not outcome_of(nearly)[2]
    assert outcome_of(nearly, OpAmpTask(target=TARGET, pass_threshold=-0.02))[2]


@pytest.mark.parametrize("phase_margin", [-60.0, -60.1, -90.0])
def test_a_hopeless_phase_margin_costs_one(phase_margin):
    obs, reward, _ = outcome_of((*MET[:2], phase_margin, MET[3]))
    assert (obs[2], reward) == (-1.0, -1.0)


def test_a_failed_simulation_costs_more_than_any_other():
    obs, reward, passed = outcome_of(FAILED_SPECS)
    assert not passed
    assert reward < -3.5
    assert (obs[:4] == -1.0).all()


def test_an_action_adds_its_increment_within_the_bounds():
    task = OpAmpTask()
    state = task.draw_state(np.random.default_rng(0))
    up, down = (task.move(state, np.full(7, index)) for index in (6, 0))
    assert task.designs(up).tolist() == (START + 10).tolist()
    assert task.designs(down).tolist() == (START - 10).tolist()
    for _ in range(10):
        down = task.move(down, np.zeros(7, int))
    assert task.designs(down).tolist() == [2] * 6 + [1]
    assert down[-1] == 11


def test_increments_can_be_chosen():
    task = OpAmpTask(increments=[-2, 0, 2])
    assert task.action_space == gym.spaces.MultiDiscrete([3] * 7)
    state = task.draw_state(np.random.default_rng(0))
    assert task.designs(task.move(state, np.full(7, 2))).tolist() == (START + 2).tolist()


def test_targets_fill_their_range_and_fixed_ones_stay():
    task, rng = OpAmpTask(), np.random.default_rng(0)
    targets = np.array([task.targets(task.draw_state(rng)) for _ in range(300)])
    assert targets.min(axis=0) == pytest.approx([200.0, 40e6, 60.0, 100e-6], rel=0.02)
    assert targets.max(axis=0) == pytest.approx([270.0, 120e6, 60.0, 250e-6], rel=0.02)
    assert np.median(targets[:, 1]) == pytest.approx(np.sqrt(40e6 * 120e6), rel=0.05)
    fixed = OpAmpTask(target=TARGET)
    assert fixed.targets(fixed.draw_state(rng)).tolist() == list(TARGET.values())
    assert fixed.draw_state(rng) in fixed.simulator_state_space


def test_starts_can_be_random():
    task, rng = OpAmpTask(start="random"), np.random.default_rng(0)
    starts = np.array([task.designs(task.draw_state(rng)) for _ in range(400)])
    assert starts.min(axis=0) == pytest.approx([2] * 6 + [1], abs=2)
    assert starts.max(axis=0) == pytest.approx([100] * 7, abs=2)


def test_the_options_of_a_reset_choose_target_and_start():
    env = OpAmpEnv()
    start = (10, 20, 30, 40, 50, 60, 70)
    env.reset(seed=0, options={"target": TARGET, "start": start})
    assert env.get_simulator_state().tolist() == [*start, *TARGET.values(), 0.0]


def test_a_state_between_designs_is_the_nearest_design():
    env = OpAmpEnv()
    low, high = env.simulator_state_space.low, env.simulator_state_space.high
    state = low + 0.437 * (high - low)
    env.set_simulator_state(state)
    action = np.arange(7)
    obs, reward, _, _, info = env.step(action)
    again = env.outcome(info["measurement"], state, action)
    assert np.array_equal(obs, again[0])
    assert reward == again[1]


@pytest.mark.parametrize(
    "state", [np.zeros(3), np.full(12, np.nan), np.zeros(12)], ids=["short", "nan", "no-target"]
)
def test_a_state_that_cannot_be_is_refused(state):
    with pytest.raises(ValueError, match=r"states must be finite|targets must be > 0"):
        OpAmpEnv().set_simulator_state(state)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_range": {"gian": (1, 2)}}, "`target_range` knows gain"),
        ({"target_range": {"gain": (2, 1)}}, r"is \(low, high\) above 0"),
        ({"target": {"gain": 200}}, "`target` needs gain, bandwidth"),
        ({"target": (1, 2, 3)}, "`target` must be four numbers above 0"),
        ({"increments": [1, 1]}, "`increments` must be distinct"),
        ({"increments": [0.5]}, "`increments` must be whole"),
        ({"start": [1] * 7}, "a design is whole numbers"),
        ({"pass_threshold": 0.1}, "`pass_threshold` must be <= 0"),
        ({"horizon": 0}, "`horizon` must be >= 1"),
    ],
)
def test_wrong_arguments_are_refused(config, message):
    for env_class in (OpAmpEnv, OpAmpVectorEnv):
        with pytest.raises(ValueError, match=message):
            env_class(**config)


def test_a_closed_environment_says_so():
    env = OpAmpEnv()
    env.close()
    with pytest.raises(ValueError, match="closed; make another"):
        env.reset()


def test_what_an_offset_depends_on_leaves_targets_and_time_out():
    env = OpAmpEnv()
    measurement, action = to_learned(MET), np.full(7, 4)
    env.reset(seed=0)
    states = []
    for seed in (0, 1):
        env.reset(seed=seed)
        states.append(env.get_simulator_state())
    states[1][-1] = 17
    inputs = env.predictor_inputs(np.stack([measurement] * 2), np.stack(states), action)
    assert inputs.shape == (2, 18)
    assert np.array_equal(inputs[0], inputs[1])


# The pair


@needs_library
@pytest.mark.parametrize("fast", [HAND, SCHEMATIC])
def test_a_pair_is_of_level_two_and_offers_its_outcome(fast):
    report = EnvPair(fast, EXTRACTED, slow_config=REDUCED).check(steps=6)
    assert report.problems == ()
    assert (report.level, report.dynamics, report.has_outcome) == (2, "same", True)


def labels_of(slow_config):
    worker = ReplayWorker(EnvPair(HAND, EXTRACTED, slow_config=REDUCED | slow_config))
    states = np.stack([OpAmpTask().draw_state(np.random.default_rng(seed)) for seed in range(3)])
    states[1, :7] = (80, 20, 70, 12, 33, 50, 90)
    stay = np.full((3, 7), 3)
    result = worker.replay(ReplayRequest((0,), "steps", stay, states=states))
    worker.close()
    assert result.error is None
    return result, states, stay


@needs_library
def test_labels_hold_the_measurements_of_both_simulators():
    result, states, stay = labels_of({})
    assert result.slow["valid"].all()
    assert result.slow["measurement"].shape == result.fast["measurement"].shape == (3, 4)
    offsets = result.slow["measurement"] - result.fast["measurement"]
    assert 0.0 < abs(offsets).max() < 1.0
    rewards = OpAmpTask().outcome(result.slow["measurement"], states, stay)[1]
    assert result.slow["reward"] == pytest.approx(rewards, rel=1e-6)


@needs_library
def test_labels_of_failed_simulations_are_invalid_and_finite():
    result, *_ = labels_of({"deadline_s": 0.003})
    assert not result.slow["valid"].any()
    assert np.isfinite(result.slow["measurement"]).all()
    assert (result.num_steps, len(result.index)) == (3, 3)


@pytest.fixture(scope="module")
def impatient_engine():
    engine = LibraryEngine(BENCH, deadline_s=0.5)
    yield engine
    engine.close()


@needs_library
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_deck_is_one_invalid_label_and_the_next_one_is_valid(impatient_engine, name):
    def netlist(design):
        return BROKEN[name] if np.array_equal(design, START) else schematic(design)

    env = OpAmpEnv(fidelity="schematic")
    env._simulator = SpiceSimulator(netlist, impatient_engine)
    states = np.stack([OpAmpTask().draw_state(np.random.default_rng(0))] * 2)
    stay_and_grow = np.array([[3] * 7, [4] * 7])
    request = ReplayRequest((0,), "steps", stay_and_grow, states=states)
    result = replay(request, env, OpAmpEnv())
    assert (result.num_steps, result.error) == (2, None)
    assert valid_rows(result).tolist() == [False, True]


@needs_library
def test_a_failed_simulation_is_told_in_the_info():
    env = OpAmpEnv(fidelity="extracted", deadline_s=0.003)
    obs, info = env.reset(seed=0)
    assert not info["valid"]
    assert info["failure"].startswith("deadline")
    assert np.isfinite(info["measurement"]).all()
    assert obs in env.observation_space
    obs, reward, terminated, _, info = env.step(np.full(7, 4))
    assert (info["valid"], terminated) == (False, False)
    assert np.isfinite(reward)


class PerfectPredictor:
    """Knows the slow simulator: predicts its measurement less the fast one."""

    labelled = None  # as of an ensemble, whose spread says what it has not seen

    def __init__(self, fast, slow):
        self.fast, self.slow = fast.unwrapped, slow.unwrapped

    def __deepcopy__(self, memo):
        return self  # a process cannot be copied

    def members(self, features):
        design = self.fast.task.designs(self.fast.get_simulator_state())
        slow, fast = (env.simulator.evaluate(design).specs for env in (self.slow, self.fast))
        offset = to_learned(slow) - to_learned(fast)
        return offset[None, None]

    def mean_of(self, members):
        return members[0]


@needs_library
def test_a_perfect_predictor_makes_corrected_equal_slow():
    fast, slow = make_env(HAND), make_env(EXTRACTED, REDUCED)
    layout = OffsetLayout(
        ("obs",), ("measurement",), 16, fast.action_space, state_dim=12, measurement_dim=4
    )
    corrected = CorrectedEnv(fast, OffsetCorrection(layout, PerfectPredictor(fast, slow)))
    corrected.reset(seed=2), slow.reset(seed=2)
    for action in actions_of(slow, 6):
        (obs, reward, terminated, *_), truth = corrected.step(action), slow.step(action)
        assert obs == pytest.approx(truth[0], abs=1e-6)
        assert reward == pytest.approx(truth[1], abs=1e-6)
        assert terminated == truth[2]


# Pictures


@every_id
def test_render_draws_the_bode_plot_of_the_design(env_id):
    env = make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(np.full(7, 6))
    after = env.render()
    assert before.shape == after.shape == (480, 480, 3)
    assert after.dtype == np.uint8
    assert not np.array_equal(before, after)


def test_the_vector_env_renders_each_lane_as_the_scalar_env_does():
    env, lanes = OpAmpEnv(render_mode="rgb_array"), OpAmpVectorEnv(2, render_mode="rgb_array")
    env.reset(seed=6), lanes.reset(seed=[5, 6])
    env.step(np.full(7, 5)), lanes.step(np.full((2, 7), 5))
    assert np.array_equal(lanes.render()[1], env.render())


def test_without_a_render_mode_there_is_no_picture():
    assert OpAmpEnv().render() is None
    assert OpAmpVectorEnv().render() is None


def test_importing_the_environment_loads_no_heavy_library():
    code = (
        "import sys, rllib_offset.envs.opamp.environment\n"
        "import rllib_offset.envs.opamp.vector_environment\n"
        "print({'ray', 'torch', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == "set()"
