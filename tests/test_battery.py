"""The cell: a second real pair, on the interfaces of the first."""

import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rllib_offset.envs.battery import cell, environment
from rllib_offset.envs.battery.cell import FAILED_SPECS, HIGH, LOW, START, Cell, Discharge
from rllib_offset.envs.battery.environment import CellEnv
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.pair import EnvPair
from rllib_offset.replay.requests import ReplayRequest, valid_rows
from rllib_offset.replay.worker import replay
from tests.battery import needs_pybamm

SPM, DFN = (f"rllib_offset.envs:rllib_offset/Cell{model}-v0" for model in ("SPM", "DFN"))
STAY, SHRINK, GROW = 3, 0, 6  # of an action


class FakeCell:
    """Energy falls with the pores; the solver fails where the negative electrode has few."""

    def __init__(self, *_):
        self.asked = []

    def evaluate(self, design):
        self.asked.append(design)
        if design[0] < 35:
            return Discharge(FAILED_SPECS, "the solver failed")
        return Discharge(np.array([20.0 - design[0] / 10, 3.5]))


@pytest.fixture
def env(monkeypatch):
    monkeypatch.setattr(environment, "open_cell", FakeCell)
    return CellEnv()


def test_an_action_moves_the_sizes_within_their_bounds(env):
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.array([GROW, STAY, GROW]))
    sizes = env.get_simulator_state()[:3]
    assert sizes.tolist() == [HIGH[0], START[1], HIGH[2]]
    assert env.name_design(env.get_simulator_state())["salt"] == HIGH[2]


def test_the_outcome_of_the_own_measurement_is_the_step_itself_alone_and_in_a_batch(env):
    env.reset(seed=1)
    env.action_space.seed(1)
    rows = []
    for _ in range(8):
        state, action = env.get_simulator_state(), env.action_space.sample()
        obs, reward, terminated, _, info = env.step(action)
        again = env.outcome(info["measurement"], state, action)
        assert np.array_equal(obs, again[0])
        assert (reward, terminated) == again[1:]
        rows.append((info["measurement"], state, action, obs, reward))
    *arguments, observations, rewards = (np.stack(part) for part in zip(*rows, strict=True))
    batch = env.outcome(*arguments)
    assert np.array_equal(batch[0], observations)
    assert np.array_equal(batch[1], rewards)


def test_a_design_passes_where_both_specs_do(env):
    state = np.array([*START, 13.0, 3.3, 0.0])
    for specs, passes in (((13.1, 3.31), True), ((13.1, 3.29), False), ((12.9, 3.31), False)):
        _, reward, terminated = env.outcome(np.array(specs) / [2.0, 0.05], state, None)
        assert terminated == passes
        assert (reward == 10.0) == passes


def test_the_predictor_is_told_neither_target_nor_time(env):
    measurement = np.array([7.0, 68.0])
    states = np.array([[*START, 13.0, 3.3, 0.0], [*START, 14.0, 3.2, 5.0]])
    inputs = env.predictor_inputs(np.stack([measurement] * 2), states, np.full((2, 3), STAY))
    assert inputs.shape == (2, 5)
    assert np.array_equal(inputs[0], inputs[1])


def test_a_design_that_fails_is_one_invalid_label(env):
    states = np.tile([*START, 13.0, 3.3, 0.0], (2, 1))
    actions = np.array([[SHRINK, STAY, STAY], [GROW, STAY, STAY]])
    result = replay(ReplayRequest((0,), "steps", actions, states=states), env, CellEnv())
    assert (result.num_steps, result.error) == (2, None)
    assert valid_rows(result).tolist() == [False, True]
    assert np.isfinite(result.slow["measurement"]).all()


@pytest.mark.parametrize("state", [np.zeros(5), np.full(6, np.nan), [40, 40, 8, -1.0, 3.3, 0.0]])
def test_a_state_that_cannot_be_is_refused(env, state):
    with pytest.raises(ValueError, match="must be"):
        env.set_simulator_state(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pass_threshold": 0.1}, "pass_threshold"),
        ({"target": {"energy": 13.0}}, "needs energy, voltage"),
        ({"target": (13.0, -1.0)}, "two numbers above 0"),
    ],
)
def test_an_argument_out_of_range_is_refused(env, arguments, message):
    with pytest.raises(ValueError, match=message):
        CellEnv(**arguments)


def test_a_missing_pybamm_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybamm", None)
    with pytest.raises(SlowSimulatorError, match=r"pip install 'rllib-offset\[battery\]'`$"):
        Cell("SPM")


def test_a_model_or_a_current_that_is_none_is_refused():
    with pytest.raises(ValueError, match="SPM or DFN"):
        Cell("P2D")
    with pytest.raises(ValueError, match="must be > 0"):
        Cell("SPM", current_a=0.0)


# With PyBaMM


@needs_pybamm
def test_the_fast_id_passes_gymnasiums_checker():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(SPM, disable_env_checker=True).unwrapped)


@needs_pybamm
def test_the_models_form_a_pair_of_level_two():
    report = EnvPair(SPM, DFN).check(steps=4)
    assert report.problems == ()
    assert (report.level, report.dynamics, report.has_outcome) == (2, "same", True)


@needs_pybamm
def test_closing_the_pores_pays_in_the_single_particle_model_alone():
    closed = np.array([15, 15, START[2]])
    gains = [
        cell.open_cell(model, 10.0).evaluate(closed).specs[0]
        - cell.open_cell(model, 10.0).evaluate(START).specs[0]
        for model in ("SPM", "DFN")
    ]
    assert gains[0] > 0.0 > gains[1]


@needs_pybamm
def test_a_design_that_the_solver_cannot_discharge_is_invalid_and_the_next_one_valid():
    dfn = cell.open_cell("DFN", 10.0)
    failed = dfn.evaluate(LOW)
    assert not failed.is_valid
    assert np.array_equal(failed.specs, FAILED_SPECS)
    assert "\n" not in failed.failure
    assert dfn.evaluate(START).is_valid


@needs_pybamm
@pytest.mark.parametrize("design", [[3, 40, 8], [40.5, 40, 8], [40, 40]])
def test_a_design_that_cannot_be_built_is_refused(design):
    with pytest.raises(ValueError, match="a design"):
        cell.open_cell("SPM", 10.0).evaluate(design)
