"""Few slow steps: single-step labels, budgets, the choice of the mode, stopping and starting."""

import logging

import numpy as np
import pytest
from gymnasium import spaces

from rllib_offset import CorrectedEnv, OffsetA2CConfig, OffsetPPOConfig
from rllib_offset.columns import ACTION, NEXT_STATE, OBS, STATE
from rllib_offset.correction import OffsetLayout
from rllib_offset.envs.point_mass import PointMassEnv
from rllib_offset.initial_labels import initial_requests
from rllib_offset.offset_trainer import OffsetTrainer
from rllib_offset.pair import EnvPair
from rllib_offset.pair_facts import probe_pair
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.resync import resynchronised
from rllib_offset.replay.rows import identities
from rllib_offset.replay.worker import replay
from tests.envs import (
    CountingEnv,
    DriftingEnv,
    FailureTellingEnv,
    OutcomeEnv,
    ReadableEnv,
    StatefulEnv,
    WritableEnv,
)
from tests.opamp import needs_library

IDS = "rllib_offset.envs:rllib_offset/{}-v0"
SLOW, FAST = IDS.format("PointMass"), IDS.format("RewardOffsetPointMass")
SHORT = {"max_episode_steps": 20}


class GridEnv(StatefulEnv):
    """Starts at 0 and moves in whole steps: few states, visited again and again."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = 0.0
        return self._obs(), {}


def small(fast=FAST, slow=SLOW, *, config=SHORT, cls=OffsetA2CConfig, **labels):
    built = cls().environment(fast, env_config=config).debugging(seed=3)
    built.slow_simulator(env=slow, env_config=config, num_replay_workers=0)
    built.training(train_batch_size_per_learner=200)
    built.evaluation(evaluation_duration=5)
    if cls is OffsetPPOConfig:
        built.training(minibatch_size=50, num_epochs=2)
    built.offset(initial_steps=30, steps_per_iteration=4, ensemble_size=3)
    return built.labels(**{"initial": 16, "per_iteration": 3, **labels})


def bought(algorithm, iterations):
    return [algorithm.train()["slow"]["num_env_steps_lifetime"] for _ in range(iterations)]


# --- before training ---


def test_initial_states_and_actions_are_spread_over_the_whole_space():
    pair = EnvPair(FAST, SLOW)
    facts = probe_pair(pair)
    requests = initial_requests(pair, facts, 50, seed=0, steps_per_request=20)
    states = np.concatenate([request.states for request in requests])
    actions = np.concatenate([request.actions for request in requests])
    assert [len(request) for request in requests] == [20, 20, 10]
    for points in (states, actions):
        quadrants = {tuple(point > 0) for point in points}
        assert len(quadrants) == 4
        assert facts.state_space.low[0] <= points.min() < -0.9
        assert 0.9 < points.max() <= facts.state_space.high[0]


def test_without_a_state_box_initial_states_are_those_of_fast_rollouts():
    pair = EnvPair(ReadableEnv, WritableEnv)
    facts = probe_pair(pair)
    assert facts.level == 1
    (request,) = initial_requests(pair, facts, 10, seed=0, steps_per_request=100)
    slow = replay(request, StatefulEnv()).slow
    np.testing.assert_allclose(slow[OBS], request.fast[OBS])
    np.testing.assert_array_equal(slow[NEXT_STATE], request.fast[NEXT_STATE])


@pytest.mark.parametrize("is_silent", [False, True])
def test_initial_labels_cope_with_a_fast_simulator_that_fails_now_and_then(is_silent):
    limits = {"invalid_above": 0.7, "is_silent": is_silent}
    pair = EnvPair(FailureTellingEnv, FailureTellingEnv, limits)
    (request,) = initial_requests(pair, probe_pair(pair), 40, seed=0, steps_per_request=100)
    assert len(request) == 40
    is_far = request.fast["measurement"][:, 0] > 0.7
    assert is_far.any() != is_silent
    np.testing.assert_array_equal(request.fast.get("valid", np.ones(40)), ~is_far)


@pytest.mark.parametrize(
    ("box", "lowest", "highest"), [((5.0, np.inf), 5.0, 7.0), ((-np.inf, -3.0), -5.0, -3.0)]
)
def test_initial_actions_of_a_box_with_one_bound_lie_beside_it(box, lowest, highest):
    class HalfBoundedEnv(StatefulEnv):
        simulator_state_space = spaces.Box(-1.0, 1.0, (2,), np.float64)

        def __init__(self, config=None):
            super().__init__(config)
            self.action_space = spaces.Box(*box, (2,), np.float32)

    pair = EnvPair(HalfBoundedEnv, HalfBoundedEnv)
    (request,) = initial_requests(pair, probe_pair(pair), 30, seed=0, steps_per_request=100)
    assert lowest <= request.actions.min() < request.actions.max() <= highest


def test_targets_without_the_state_leave_the_dynamics_alone():
    config = OffsetA2CConfig().environment(IDS.format("DriftPointMass"))
    config.slow_simulator(env=SLOW, num_replay_workers=0).debugging(seed=0)
    config.offset(targets=("obs", "reward"))
    algorithm = config.build_algo()
    held = [algorithm.train()["offset"]["num_labels"] for _ in range(3)]
    algorithm.stop()
    assert held == [51, 52, 53]
    config = config.copy(copy_frozen=False)
    with pytest.raises(ValueError, match=r"got offset_targets=\['obs', 'reward'\]; add 'state'"):
        config.offset(dynamics="different").validate()


def test_late_trajectories_become_one_step_labels_too():
    config = OffsetA2CConfig().environment(IDS.format("DriftPointMass"))
    config.slow_simulator(env=SLOW, num_replay_workers=0).debugging(seed=0)
    config.labels(level="trajectory", replay_fraction=1.0, max_replay_lag=1)
    algorithm = config.build_algo()
    for _ in range(3):
        algorithm.train()
    _, offsets = algorithm.estimator.trainer.buffer.train()
    is_residual = algorithm.estimator.layout.resynchronises
    algorithm.stop()
    assert is_residual
    assert 0.05 < np.abs(offsets).max() < 0.3  # of one step; along a trajectory they add up


def test_a_slow_trajectory_becomes_one_step_labels_without_another_slow_step():
    drift, plain = (EnvPair(IDS.format(n), SLOW) for n in ("DriftPointMass", "PointMass"))
    actions = np.random.default_rng(0).uniform(-1, 1, (7, 2)).astype(np.float32)
    request = ReplayRequest((0,), "trajectory", actions, seed=5)
    result = replay(request, drift.make_fast())
    fast_env = plain.make_fast()
    label = resynchronised(result, fast_env)
    for i, action in enumerate(actions):
        fast_env.unwrapped.set_simulator_state(label.slow[STATE][i])
        obs, *_ = fast_env.step(action)
        np.testing.assert_array_equal(label.fast[OBS][i], obs)
    np.testing.assert_array_equal(label.fast[ACTION], actions)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_initial_states_of_a_whole_integer_box_do_not_overflow(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max

    class IntegerEnv(StatefulEnv):
        simulator_state_space = spaces.Box(low, high, (2,), dtype)

    pair = EnvPair(IntegerEnv, IntegerEnv)
    (request,) = initial_requests(pair, probe_pair(pair), 64, seed=0, steps_per_request=100)
    width = float(high) - float(low)
    assert low <= request.states.min() < low + 0.05 * width
    assert high - 0.05 * width < request.states.max() <= high


def test_a_simulator_that_never_measures_again_has_no_initial_labels():
    class OnceEnv(OutcomeEnv):
        measured = False

        def _info(self):
            is_first, OnceEnv.measured = not OnceEnv.measured, True
            return super()._info() if is_first else {}

    pair = EnvPair(OnceEnv, OnceEnv)
    assert initial_requests(pair, probe_pair(pair), 10, seed=0, steps_per_request=100) == []


class FewStatesEnv(GridEnv):
    simulator_state_space = spaces.Box(0, 1, (2,), np.int64)


@pytest.mark.parametrize("env", [FewStatesEnv, GridEnv], ids=["box", "rollouts"])
def test_no_initial_label_is_asked_for_twice_where_states_are_few(env):
    grid = {"action": "discrete", "length": 2}
    pair = EnvPair(env, env, grid, grid)
    requests = initial_requests(pair, probe_pair(pair), 50, seed=0, steps_per_request=4)
    names = [name for request in requests for name in identities(request)]
    assert len(set(names)) == len(names) <= 15
    assert [len(request) for request in requests[:-1]] == [4] * (len(requests) - 1)


class BlindPointMass(PointMassEnv):
    """Knows the dynamics and nothing of the reward: what a pure surrogate starts from."""

    def __init__(self, config=None):
        super().__init__(**(config or {}))

    def _reward(self):
        return np.float64(0.0)


def test_a_fast_simulator_that_shares_fine_structure_is_worth_five_surrogates():
    errors = {}
    for fast in (IDS.format("RewardOffsetRuggedPointMass"), BlindPointMass):
        pair = EnvPair(fast, IDS.format("RuggedPointMass"))
        facts = probe_pair(pair)
        layout = OffsetLayout(("obs",), ("reward",), facts.obs_dim, facts.action_space)
        labels = []
        for seed, number in ((0, 200), (1, 500)):
            (request,) = initial_requests(pair, facts, number, seed=seed, steps_per_request=number)
            result = replay(request, pair.make_slow(), pair.make_fast())
            labels.append((layout.features(result.fast), layout.offsets(result.slow, result.fast)))
        trainer = OffsetTrainer(layout.input_dim, 1, initial_steps=2000)
        trainer.add(*labels[0])
        trainer.fit()
        fresh_inputs, fresh_offsets = labels[1]
        errors[fast] = np.abs(trainer.numpy_predictor()(fresh_inputs) - fresh_offsets).mean()
    with_fast, without = errors.values()
    assert with_fast <= without / 5  # measured over 5 seeds: a ninth to an eighth


# --- during training ---


@pytest.fixture(scope="module")
def _cluster(ray_cluster):
    pass


needs_ray = [pytest.mark.ray, pytest.mark.usefixtures("_cluster")]


@pytest.mark.ray
@pytest.mark.usefixtures("_cluster")
class TestLedger:
    def test_sample_level_buys_exactly_what_it_says(self):
        algorithm = small().build_algo()
        assert bought(algorithm, 3) == [19, 22, 25]
        algorithm.stop()

    def test_remote_runners_share_the_labels_and_the_budget(self):
        config = small(per_iteration=5, max_slow_steps=24).slow_simulator(num_replay_workers=2)
        config.slow_simulator(num_cpus_per_replay_worker=0.25)
        config.env_runners(
            num_env_runners=2, num_envs_per_env_runner=5, num_cpus_per_env_runner=0.25
        )
        algorithm = config.build_algo()
        assert bought(algorithm, 2) == [21, 24]
        algorithm.stop()

    def test_a_budget_is_spent_exactly_and_never_exceeded_also_after_a_resume(self, tmp_path):
        config = small(per_iteration=10, max_slow_steps=40)
        algorithm = config.build_algo()
        assert bought(algorithm, 2) == [26, 36]
        algorithm.save_to_path(str(tmp_path / "checkpoint"))
        algorithm.stop()
        resumed = config.copy(copy_frozen=False).build_algo()
        resumed.restore_from_path(str(tmp_path / "checkpoint"))
        assert bought(resumed, 2) == [40, 40]
        resumed.stop()

    def test_a_budget_cuts_the_last_trajectory_short(self):
        config = small(level="trajectory", replay_fraction=1, max_slow_steps=230)
        algorithm = config.build_algo()
        assert bought(algorithm, 3) == [200, 230, 230]
        algorithm.stop()

    def test_late_labels_are_fitted_and_resumed_and_keep_to_the_budget(self, tmp_path):
        config = small(level="trajectory", replay_fraction=1, max_replay_lag=1, max_slow_steps=530)
        config.slow_simulator(num_replay_workers=1, num_cpus_per_replay_worker=0.25)
        algorithm = config.build_algo()
        assert bought(algorithm, 2) == [0, 200]
        algorithm.save_to_path(str(tmp_path / "checkpoint"))
        algorithm.stop()
        resumed = config.copy(copy_frozen=False).build_algo()
        resumed.restore_from_path(str(tmp_path / "checkpoint"))
        assert bought(resumed, 3) == [400, 530, 530]
        resumed.stop()

    def test_a_round_that_comes_late_is_fitted_as_it_comes(self):
        config = small(max_replay_lag=1, rounds={"labels": 10, "interval": 2})
        config.slow_simulator(num_replay_workers=1, num_cpus_per_replay_worker=0.25)
        algorithm = config.build_algo()
        results = [algorithm.train()["offset"] for _ in range(3)]
        algorithm.stop()
        assert [result.get("num_labels") for result in results] == [16, 16, 26]

    def test_no_label_is_bought_twice_where_states_repeat(self):
        grid = {"action": "discrete", "length": 4}
        config = small(GridEnv, GridEnv, config=grid, per_iteration=30)
        config.labels(initial=1, candidates_per_label=4)
        algorithm = config.build_algo()
        counts = bought(algorithm, 4)
        held = algorithm.estimator.held_labels
        algorithm.stop()
        assert len(np.unique(held)) == len(held) == counts[-1]
        assert counts[-1] < 4 * 30  # there are not that many different steps

    @pytest.mark.parametrize("level", ["sample", "trajectory"])
    def test_the_labels_of_a_run_with_the_same_seed_are_taken_in_once(self, level, tmp_path):
        config = small(level=level, replay_fraction=1, store=str(tmp_path))
        counts = []
        for _ in range(2):
            algorithm = config.copy(copy_frozen=False).build_algo()
            algorithm.train()
            ledger, buffer = algorithm.ledger, algorithm.estimator.trainer.buffer
            algorithm.stop()
            rows = np.concatenate([np.hstack(buffer.train()), np.hstack(buffer.holdout())])
            assert len(rows) == len(np.unique(rows, axis=0)) == buffer.num_added
            assert ledger.imbalance(buffer.num_added) == 0
            counts.append((len(rows), ledger.num_env_steps, ledger.num_env_steps_reused))
        first, second = counts
        assert first == ((19, 19, 0) if level == "sample" else (200, 200, 0))
        assert second == ((22, 3, 19) if level == "sample" else (200, 0, 200))


@pytest.mark.ray
@pytest.mark.usefixtures("_cluster")
class TestDynamics:
    @pytest.mark.parametrize(
        ("fast", "slow", "is_residual"),
        [
            ("RewardOffsetPointMass", "PointMass", False),
            ("SparsePointMass", "PointMass", False),
            ("PseudoSparsePointMass", "PointMass", False),
            ("NoisePointMass", "PointMass", False),
            ("RewardOffsetRuggedPointMass", "RuggedPointMass", False),
            ("RewardOffsetPointMass", "DriftPointMass", True),
            ("Pendulum", "DampedPendulum", True),
            pytest.param("OpAmpHand", "OpAmpSchematic", False, marks=needs_library),
            pytest.param("OpAmpSchematic", "OpAmpExtracted", False, marks=needs_library),
        ],
    )
    def test_the_mode_follows_from_the_first_labels(self, fast, slow, is_residual):
        algorithm = small(IDS.format(fast), IDS.format(slow)).build_algo()
        result = algorithm.train()
        mode = algorithm.estimator.layout.resynchronises
        algorithm.stop()
        assert mode is is_residual
        assert bool(result["offset"]["divergence"] > 1e-4) is is_residual

    def test_a_row_that_differs_by_rounding_does_not_switch_the_mode(self, monkeypatch):
        monkeypatch.setattr(DriftingEnv, "drift", 1e-12)
        algorithm = small(StatefulEnv, DriftingEnv, config={}, per_iteration=1).build_algo()
        results = [algorithm.train()["offset"] for _ in range(3)]
        mode = algorithm.estimator.layout.resynchronises
        algorithm.stop()
        assert not mode
        assert max(result["divergence"] for result in results) < 1e-9
        assert [result["num_labels"] for result in results] == [17, 18, 19]

    def test_a_late_switch_keeps_the_single_steps_bought_before(self, monkeypatch, tmp_path):
        config = small(StatefulEnv, DriftingEnv, config={})
        algorithm = config.build_algo()
        algorithm.train()
        algorithm.save_to_path(str(tmp_path / "checkpoint"))
        monkeypatch.setattr(DriftingEnv, "drift", 0.1)
        resumed = config.copy(copy_frozen=False).build_algo()
        resumed.restore_from_path(str(tmp_path / "checkpoint"))
        counts = []
        for run in (algorithm, resumed):
            result = run.train()
            buffer = run.estimator.trainer.buffer
            counts.append((result["offset"]["num_labels"], len(run.estimator.held_labels)))
            assert run.estimator.layout.resynchronises
            assert run.ledger.imbalance(buffer.num_added) == 0
            _, offsets = buffer.train()
            assert set(offsets[:, -2].round(4).tolist()) == {0.0, np.float32(0.1)}
            run.stop()
        assert counts == [(16 + 3 + 3, 16 + 3 + 3)] * 2

    @pytest.mark.parametrize("level", ["sample", "trajectory"])
    @pytest.mark.parametrize("slow", ["PointMass", "DriftPointMass"])
    def test_time_and_the_observation_before_are_known_of_every_label(self, slow, level, tmp_path):
        config = small(FAST, IDS.format(slow), level=level, store=str(tmp_path))
        algorithm = config.copy(copy_frozen=False).build_algo()
        algorithm.train()  # leaves labels without either
        algorithm.stop()
        algorithm = config.offset(inputs=("time", "prev_obs", "action")).build_algo()
        algorithm.train()
        inputs, _ = algorithm.estimator.trainer.buffer.train()
        mode = algorithm.estimator.layout.resynchronises
        algorithm.stop()
        assert mode is (slow == "DriftPointMass")
        assert set(inputs[:, 0].tolist()) <= set(range(1, 201))

    def test_replayed_trajectories_switch_the_mode_too_and_none_is_wasted(self):
        slow = IDS.format("DriftPointMass")
        algorithm = small(FAST, slow, level="trajectory", replay_fraction=0.1).build_algo()
        first, second = algorithm.train(), algorithm.train()
        layout = algorithm.estimator.layout
        algorithm.stop()
        assert layout.resynchronises
        assert (first["offset"]["num_labels"], second["offset"]["num_labels"]) == (200, 220)

    def test_a_pair_that_cannot_follow_is_told_what_to_add(self, caplog):
        config = small(ReadableEnv, StatefulEnv, config={}, level="trajectory")
        config.slow_simulator(env_config={"gain": 0.5})
        algorithm = config.build_algo()
        with caplog.at_level(logging.WARNING):
            algorithm.train()
        algorithm.stop()
        assert "set_simulator_state" in caplog.text

    def test_equal_dynamics_in_residual_mode_change_nothing(self):
        config = small(SLOW, SLOW).offset(dynamics="different", clip_rewards=False)
        algorithm = config.build_algo()
        algorithm.train()
        episodes = algorithm.env_runner.sample()
        algorithm.stop()
        for episode in episodes:
            np.testing.assert_allclose(
                episode.get_observations()[1:], episode.custom_data["fast_obs"], atol=1e-6
            )

    def test_the_residual_of_a_level_0_pair_is_refused(self):
        config = small(CountingEnv, CountingEnv, config={}).offset(dynamics="different")
        with pytest.raises(ValueError, match="level 2"):
            config.build_algo()


@pytest.mark.ray
@pytest.mark.usefixtures("_cluster")
class TestTrust:
    @pytest.mark.parametrize("ensemble_size", [5, 1])
    def test_a_policy_that_leaves_the_last_labels_behind_is_reported_as_exploiting(
        self, ensemble_size, caplog
    ):
        config = small(level="trajectory", replay_fraction=0, max_slow_steps=10)
        config.offset(ensemble_size=ensemble_size, initial_steps=200)
        algorithm = config.build_algo()
        with caplog.at_level(logging.WARNING):
            results = [algorithm.train() for _ in range(3)]
        algorithm.stop()
        assert results[-1]["slow"]["num_env_steps_lifetime"] == 10
        assert results[-1]["offset"]["exploitation"] == 1.0
        assert "exploiting" in caplog.text

    @pytest.mark.parametrize("ensemble_size", [5, 1])
    def test_labels_everywhere_are_no_cause_for_alarm_though_none_follow(
        self, ensemble_size, caplog
    ):
        config = small(initial=200, per_iteration=0).offset(ensemble_size=ensemble_size)
        config.offset(initial_steps=300)
        with caplog.at_level(logging.WARNING):
            algorithm = config.build_algo()
            results = [algorithm.train() for _ in range(3)]
        algorithm.stop()
        assert [result["offset"]["exploitation"] for result in results] == [0, 0, 0]
        assert "nothing checks the predictor" in caplog.text
        assert "exploiting" not in caplog.text

    def test_frozen_it_buys_probes_only(self):
        config = small(IDS.format("PointMass"), freeze_below=0.5)
        config.labels(freeze_options={"window": 4, "probe_interval": 2, "probe_labels": 2})
        algorithm = config.build_algo()
        results = [algorithm.train() for _ in range(5)]
        algorithm.stop()
        assert results[-1]["offset"]["is_frozen"] == 1.0
        counts = [r["slow"]["num_env_steps_lifetime"] for r in results]
        assert np.diff(counts)[-2:].tolist() in ([0, 2], [2, 0])

    def test_pessimism_is_refused_where_no_reward_is_corrected(self):
        config = small(OutcomeEnv, OutcomeEnv, config={}).offset(pessimism=1.0)
        with pytest.raises(ValueError, match=r"got 1.0 with the targets \['measurement'\]"):
            config.build_algo()

    def test_the_sample_level_is_refused_where_the_pair_lacks_it(self):
        config = small(CountingEnv, CountingEnv, config={}, level="sample")
        with pytest.raises(ValueError, match="set_simulator_state"):
            config.build_algo()


@pytest.mark.ray
@pytest.mark.usefixtures("_cluster")
def test_outcomes_follow_from_the_corrected_measurement_and_invalid_labels_are_counted():
    slow_config = {"bonus": 0.0, "gain": 2.0, "invalid_above": 1.5}
    config = small(OutcomeEnv, OutcomeEnv, config={"bonus": 0.0}).offset(dynamics="same")
    config.slow_simulator(env_config=slow_config)
    algorithm = config.build_algo()
    result = algorithm.train()
    layout = algorithm.estimator.layout
    algorithm.stop()
    assert layout.targets == ("measurement",)
    invalid = result["slow"]["num_invalid_lifetime"]
    assert invalid > 0
    assert result["offset"]["num_labels"] == result["slow"]["num_env_steps_lifetime"] - invalid


@pytest.mark.ray
@pytest.mark.usefixtures("_cluster")
@pytest.mark.parametrize("slow", ["PointMass", "DriftPointMass"])
def test_a_checkpoint_loads_without_ray_as_the_environment_that_was_trained_on(slow, tmp_path):
    algorithm = small(FAST, IDS.format(slow), cls=OffsetPPOConfig).build_algo()
    algorithm.train()
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    episode = algorithm.env_runner.sample(num_episodes=1, explore=False)[0]
    algorithm.stop()
    env = CorrectedEnv.from_checkpoint(path)
    obs, _ = env.reset(seed=episode.custom_data["seed"])
    observations, rewards = [obs], []
    for action in episode.custom_data["env_actions"]:
        obs, reward, *_ = env.step(action)
        observations.append(obs)
        rewards.append(reward)
    np.testing.assert_allclose(observations, episode.get_observations(), atol=1e-5)
    np.testing.assert_allclose(rewards, episode.get_rewards(), atol=1e-5)
