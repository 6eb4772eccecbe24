"""The algorithms end to end, at sizes of a few seconds, and the identities they must keep."""

import hashlib
import re
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.appo import APPO
from ray.rllib.algorithms.dqn import DQN
from ray.rllib.algorithms.impala import IMPALA
from ray.rllib.algorithms.sac import SAC
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_offset import A2CConfig, OffsetA2CConfig, OffsetMixin, OffsetPPOConfig
from rllib_offset.batch_time import BatchTime
from rllib_offset.config import OffsetConfigMixin
from rllib_offset.env_runner import OffsetEnvRunner
from rllib_offset.errors import SlowSimulatorError
from tests.envs import FaultyEnv, StatefulEnv

pytestmark = pytest.mark.ray

SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"
FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SHORT = {"max_episode_steps": 20}


def small(config: Any, *, fast: str = FAST, slow: str = SLOW, workers: int = 0) -> Any:
    config.environment(fast, env_config=SHORT).debugging(seed=3)
    config.training(train_batch_size_per_learner=200)
    config.evaluation(evaluation_duration=10)
    if isinstance(config, A2CConfig | OffsetPPOConfig) and hasattr(config, "slow_simulator"):
        config.slow_simulator(env=slow, env_config=SHORT, num_replay_workers=workers)
        config.slow_simulator(num_cpus_per_replay_worker=0.25)
        config.offset(initial_steps=20, steps_per_iteration=4, ensemble_size=2)
        config.labels(level="trajectory", replay_fraction=1)
    if isinstance(config, OffsetPPOConfig):
        config.training(minibatch_size=50, num_epochs=2)
    return config


def fingerprint(algorithm: Any) -> str:
    digest = hashlib.sha256()
    weights = algorithm.learner_group.get_weights()["default_policy"]
    for name in sorted(weights):
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    if hasattr(algorithm, "estimator"):
        predictor = algorithm.estimator.trainer.numpy_predictor()
        for array in (*predictor.weights, *predictor.biases):
            digest.update(array.tobytes())
    return digest.hexdigest()


def trained(config: Any, iterations: int = 3) -> str:
    algorithm = config.build_algo()
    try:
        for _ in range(iterations):
            algorithm.train()
        return fingerprint(algorithm)
    finally:
        algorithm.stop()


@pytest.fixture(autouse=True)
def _cluster(ray_cluster: None) -> None:
    pass


def test_every_result_holds_the_configuration():
    algorithm = small(OffsetA2CConfig()).build_algo()
    try:
        first, second = algorithm.train()["config"], algorithm.train()["config"]
        assert first == second
        assert first.keys() == algorithm.config.to_dict().keys()
        assert first["num_replay_workers"] == algorithm.config.num_replay_workers
        first.clear()  # as a callback may
        assert algorithm.train()["config"] == second
    finally:
        algorithm.stop()


@pytest.mark.parametrize("make_config", [OffsetA2CConfig, OffsetPPOConfig])
def test_results_are_bit_identical_for_any_number_of_replay_workers(make_config):
    runs = [trained(small(make_config(), workers=workers), 5) for workers in (0, 1, 4)]
    assert runs[0] == runs[1] == runs[2]


def test_one_seed_gives_the_same_results_again_and_another_seed_does_not():
    first, again = (trained(small(OffsetA2CConfig())) for _ in range(2))
    other = trained(small(OffsetA2CConfig()).debugging(seed=4))
    assert first == again != other


@pytest.mark.parametrize("level", ["sample", "trajectory"])
def test_several_updates_per_report_are_those_of_as_many_reports(level, monkeypatch):
    sampled = []

    def noted(**measured):
        sampled.append((measured["env_steps"], measured["slow_steps"]))
        return BatchTime(**measured)

    monkeypatch.setattr("rllib_offset.batch_time_log.BatchTime", noted)

    def result_of(updates, reports):
        config = small(OffsetA2CConfig()).labels(level=level, initial=10, per_iteration=2)
        config.reporting(min_sample_timesteps_per_iteration=updates * 200)
        algorithm = config.build_algo()
        try:
            results = [algorithm.train() for _ in range(reports)]
            return fingerprint(algorithm), results[-1]
        finally:
            algorithm.stop()

    (apart, last), (together, only) = result_of(1, 3), result_of(3, 1)
    assert apart == together
    for result in (last, only):
        assert result["num_env_steps_sampled_lifetime"] == 600
        assert result["slow"]["num_env_steps_lifetime"] == {"sample": 16, "trajectory": 600}[level]
    assert sampled[:3] == sampled[3:]  # not added up since the last report
    assert [env_steps for env_steps, _ in sampled] == [200] * 6


def test_equal_simulators_leave_offset_a2c_equal_to_a2c():
    plain = small(A2CConfig(), fast=SLOW).build_algo()
    offset = small(OffsetA2CConfig(), fast=SLOW).offset(clip_rewards=False).build_algo()
    for _ in range(4):
        plain.train()
        offset.train()
    weights = [a.learner_group.get_weights()["default_policy"] for a in (plain, offset)]
    predictor = offset.estimator.trainer.numpy_predictor()
    plain.stop()
    offset.stop()
    assert not predictor(np.random.default_rng(0).normal(size=(50, 3))).any()
    for name, values in weights[0].items():
        np.testing.assert_array_equal(values, weights[1][name])


@pytest.mark.parametrize("make_config", [A2CConfig, OffsetA2CConfig, OffsetPPOConfig])
def test_saved_and_resumed_equals_uninterrupted(make_config, tmp_path):
    uninterrupted = trained(small(make_config()), 4)
    algorithm = small(make_config()).build_algo()
    algorithm.train()
    algorithm.train()
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    ledger = getattr(algorithm, "ledger", None)
    algorithm.stop()
    np.random.seed(99)  # noqa: NPY002 (a resumed run starts from other global states)
    torch.manual_seed(99)
    resumed = small(make_config()).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    assert getattr(resumed, "ledger", None) == ledger
    resumed.train()
    resumed.train()
    try:
        assert fingerprint(resumed) == uninterrupted
    finally:
        resumed.stop()


@pytest.mark.parametrize(
    ("make_config", "num_env_runners"), [(A2CConfig, 0), (OffsetA2CConfig, 2), (OffsetPPOConfig, 0)]
)
def test_a_checkpoint_goes_on_in_the_algorithm_that_wrote_it(
    make_config, num_env_runners, tmp_path
):
    config = small(make_config())
    config.env_runners(num_env_runners=num_env_runners, num_cpus_per_env_runner=0.25)
    if hasattr(config, "num_replay_workers"):
        config.slow_simulator(num_replay_workers=1, num_cpus_per_replay_worker=0.25)
    algorithm = config.build_algo()
    algorithm.train()
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    ends: dict[int, list[Any]] = {1: [], 2: []}
    for iterations in (2, 1, 2, 1):
        for _ in range(iterations):
            algorithm.train()
        ends[iterations].append(fingerprint(algorithm))
        algorithm.restore_from_path(str(tmp_path / "checkpoint"))
    algorithm.stop()
    for first, second in ends.values():
        assert first == second


def test_a_checkpoint_goes_on_with_other_numbers_of_runners_and_replay_workers(tmp_path):
    algorithm = small(OffsetA2CConfig()).build_algo()
    algorithm.train()
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    saved = fingerprint(algorithm)
    algorithm.stop()
    config = small(OffsetA2CConfig(), workers=1)
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=5, num_cpus_per_env_runner=0.25)
    resumed = config.build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    restored = fingerprint(resumed)
    versions = resumed.env_runner_group.foreach_env_runner(
        lambda runner: runner.offset.version, local_env_runner=False
    )
    result = resumed.train()
    resumed.stop()
    assert restored == saved
    assert versions == [1, 1]
    assert result["training_iteration"] == 2
    assert result["slow"]["num_env_steps_lifetime"] == result["offset"]["num_labels"] == 400


@pytest.mark.parametrize(
    ("kind", "action"), [("dict", "box"), ("dict", "discrete"), ("tuple", "multi_discrete")]
)
def test_structured_observations_and_every_kind_of_action_train(kind, action):
    config = small(OffsetA2CConfig()).environment(
        "tests.envs.DictObservationEnv", env_config={"action": action, "kind": kind}
    )
    env_config = {"action": action, "kind": kind, "bonus": 0.5}
    config.slow_simulator(env="tests.envs.DictObservationEnv", env_config=env_config)
    algorithm = config.training(train_batch_size_per_learner=100).build_algo()
    result = algorithm.train()
    ledger = algorithm.ledger
    algorithm.stop()
    assert result["slow"]["num_env_steps_lifetime"] == result["offset"]["num_labels"] == 100
    assert ledger.num_invalid == ledger.num_replays_lost == 0
    assert result["env_runners"]["num_env_steps_sampled"] == 100


def test_labels_that_may_be_late_are_never_waited_for():
    config = small(OffsetA2CConfig(), workers=1).labels(max_replay_lag=None)
    config.slow_simulator(env_config={**SHORT, "step_cost_s": 1.0})  # 200 s for a batch
    algorithm = config.build_algo()
    start_s = time.monotonic()
    results = [algorithm.train() for _ in range(2)]
    outstanding = sum(len(request) for request in algorithm.replay.outstanding())
    algorithm.stop()
    assert time.monotonic() - start_s < 200
    assert outstanding + results[-1]["slow"]["num_env_steps_lifetime"] == 400


def test_every_trajectory_is_replayed_and_counted():
    algorithm = small(OffsetA2CConfig(), workers=1).build_algo()
    results = [algorithm.train() for _ in range(3)]
    algorithm.stop()
    assert [r["slow"]["num_env_steps_lifetime"] for r in results] == [200, 400, 600]
    assert results[-1]["offset"]["num_labels"] == 600


def test_after_the_first_batch_only_a_fraction_is_replayed():
    algorithm = small(OffsetA2CConfig()).labels(replay_fraction=0.1).build_algo()
    results = [algorithm.train() for _ in range(3)]
    algorithm.stop()
    assert [r["slow"]["num_env_steps_lifetime"] for r in results] == [200, 220, 240]


def test_printed_form_corrects_observations_and_keeps_fast_rewards():
    algorithm = small(OffsetA2CConfig()).offset(targets=("obs",)).build_algo()
    algorithm.train()
    episodes = algorithm.env_runner.sample()
    algorithm.stop()
    for episode in episodes:
        fast = episode.custom_data["fast_rewards"]
        np.testing.assert_array_equal(episode.get_rewards(), fast)
        assert not np.allclose(episode.get_observations()[1:, 2], fast)


def test_evaluation_without_settings_runs_in_the_slow_simulator():
    algorithm = small(OffsetA2CConfig()).build_algo()
    algorithm.train()
    results = algorithm.evaluate()
    ledger = algorithm.ledger
    seeds = list(range(10_000, 10_010))
    promise = np.mean(algorithm.env_runner.corrected_returns(seeds))
    algorithm.stop()
    assert ledger.num_eval_env_steps == 200
    assert ledger.num_env_steps == 200
    assert results["corrected_episode_return_mean"] == pytest.approx(promise)
    truth = results["env_runners"]["episode_return_mean"]
    assert results["fidelity_gap"] == pytest.approx(promise - truth, abs=1e-4)


@pytest.mark.parametrize(
    ("evaluation", "slow_steps"),
    [
        pytest.param({}, 10 * 20, id="slow"),
        pytest.param({"env_config": {"max_episode_steps": 7}}, 10 * 7, id="slow-otherwise"),
        pytest.param({"env": FAST}, 0, id="not-slow"),
    ],
)
def test_an_evaluation_of_ones_own_is_respected_and_booked_for_what_it_costs(
    evaluation, slow_steps
):
    config = small(OffsetA2CConfig()).slow_simulator(env_config={**SHORT, "step_cost_s": 1e-6})
    config.evaluation(evaluation_config={"explore": False, **evaluation})
    algorithm = config.build_algo()
    algorithm.evaluate()
    seen, ledger = algorithm.evaluation_config, algorithm.ledger
    algorithm.stop()
    assert ledger.num_eval_env_steps == slow_steps
    assert seen.env == evaluation.get("env", SLOW)
    assert ("step_cost_s" in seen.env_config) is (seen.env == SLOW)


def test_evaluation_returns_are_those_of_the_slow_simulator_on_fixed_seeds():
    algorithm = small(OffsetA2CConfig(), fast=SLOW).build_algo()
    first, second = algorithm.evaluate(), algorithm.evaluate()
    algorithm.stop()
    assert first["fidelity_gap"] == pytest.approx(0, abs=1e-4)
    assert (
        first["env_runners"]["episode_return_mean"] == second["env_runners"]["episode_return_mean"]
    )


@pytest.mark.parametrize("moment", [4, "reset"])
@pytest.mark.parametrize("is_once", [True, False])
def test_a_slow_simulator_that_fails_in_an_evaluation_is_tried_again(is_once, moment, tmp_path):
    flag = tmp_path / "flag"
    fault = {"flag": str(flag), "at_step": moment, "how": "raise", "once": is_once}
    config = small(OffsetA2CConfig()).environment(StatefulEnv, env_config={})
    config.slow_simulator(env=FaultyEnv, env_config=fault).labels(level="sample", initial=5)
    algorithm = config.build_algo()
    algorithm.train()
    algorithm.evaluate()
    flag.touch()
    if is_once:
        assert algorithm.evaluate()["env_runners"]["num_episodes"] == 10
        lost = 0 if moment == "reset" else 4 * config.num_envs_per_env_runner
        assert algorithm.ledger.num_eval_env_steps == 100 + lost + 100
        algorithm.stop()
        return
    line = "the slow simulator raised ArithmeticError: the mesh is tangled "
    where = {4: r"in an evaluation \(seed 10000, step 4\)", "reset": "when it was built anew .*"}
    with pytest.raises(SlowSimulatorError, match=f"{line}{where[moment]}; tried 3 times") as told:
        algorithm.evaluate()
    num_labels = len(algorithm.estimator.trainer.buffer)
    algorithm.stop()
    flag.unlink()
    resumed = config.copy(copy_frozen=False).build_algo()
    saved = re.search(r"--restore (\S+) goes on", str(told.value))
    assert saved is not None
    resumed.restore_from_path(saved[1])
    assert len(resumed.estimator.trainer.buffer) == num_labels > 0
    resumed.stop()


class _Mine(RLlibCallback):
    def on_episode_end(self, *, episode: Any, **kwargs: Any) -> None:
        episode.custom_data["seen_by_user"] = True


def test_callbacks_of_the_user_run_beside_ours():
    algorithm = small(OffsetA2CConfig()).callbacks(_Mine).build_algo()
    result = algorithm.train()
    episodes = algorithm.env_runner.sample()
    algorithm.stop()
    assert result["slow"]["num_env_steps_lifetime"] == 200
    assert all(episode.custom_data["seen_by_user"] for episode in episodes)


def test_remote_runners_and_a_remote_learner_buy_and_learn_the_same_amount():
    config = small(OffsetA2CConfig(), workers=1)
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=5, num_cpus_per_env_runner=0.25)
    config.learners(num_learners=1, num_cpus_per_learner=0.25)
    algorithm = config.build_algo()
    results = [algorithm.train() for _ in range(2)]
    evaluation = algorithm.evaluate()
    algorithm.stop()
    assert results[-1]["slow"]["num_env_steps_lifetime"] == 400
    assert results[-1]["env_runners"]["num_env_steps_sampled_lifetime"] == 400
    assert np.isfinite(evaluation["fidelity_gap"])


def test_a_restarted_env_runner_gets_the_correction_back():
    config = small(OffsetA2CConfig())
    config.env_runners(num_env_runners=1, num_cpus_per_env_runner=0.25)
    config.fault_tolerance(restart_failed_env_runners=True)
    algorithm = config.build_algo()
    algorithm.train()
    group = algorithm.env_runner_group
    group.foreach_env_runner(lambda runner: __import__("os")._exit(1), local_env_runner=False)
    while True:
        algorithm.train()
        versions = group.foreach_env_runner(
            lambda runner: runner.offset.version if isinstance(runner, OffsetEnvRunner) else None,
            local_env_runner=False,
        )
        if versions:
            break
    version = algorithm.version
    algorithm.stop()
    assert versions == [version]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda c: c.slow_simulator(env=None), "slow_simulator", id="no-slow-env"),
        pytest.param(
            lambda c: c.slow_simulator(num_replay_workers=-1), "num_replay_workers", id="workers"
        ),
        pytest.param(lambda c: c.labels(replay_fraction=1.5), "replay_fraction", id="fraction"),
        pytest.param(lambda c: c.labels(level="steps"), "label_level", id="level"),
        pytest.param(lambda c: c.offset(targets=("r",)), "offset_targets", id="targets"),
        pytest.param(
            lambda c: c.env_runners(batch_mode="truncate_episodes"), "batch_mode", id="batch-mode"
        ),
    ],
)
def test_misuse_is_refused_before_any_actor_starts(change, message):
    config = small(OffsetA2CConfig())
    with pytest.raises(ValueError, match=message):
        change(config).validate()


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (DQN, "learns from a replay buffer"),
        (SAC, "learns from a replay buffer"),
        (IMPALA, "samples asynchronously"),
        (APPO, "samples asynchronously"),
    ],
)
def test_an_algorithm_that_would_mix_old_corrections_is_refused_with_the_reason(base, reason):
    class Corrected(OffsetMixin, base):
        pass

    class CorrectedConfig(OffsetConfigMixin, type(base.get_default_config())):
        pass

    config = CorrectedConfig(algo_class=Corrected).environment(FAST).slow_simulator(env=SLOW)
    with pytest.raises(ValueError, match=f"Corrected {reason}") as caught:
        config.validate()
    assert "synchronous on-policy algorithms" in str(caught.value)


def test_misspelt_keys_of_a_dict_name_the_nearest_valid_key():
    with pytest.raises(ValueError, match="num_replay_workers"):
        OffsetA2CConfig().update_from_dict({"num_replay_worker": 3})


def test_more_workers_than_cpus_is_one_clear_line():
    config = small(OffsetA2CConfig(), workers=1000).slow_simulator(num_cpus_per_replay_worker=1)
    with pytest.raises(ValueError, match="1000 replay workers"):
        config.build_algo()


def test_a_training_that_the_slow_simulator_ends_says_where_it_goes_on():
    def fail(up_to):
        raise SlowSimulatorError("the mesh is tangled")

    training = SimpleNamespace(
        replay=SimpleNamespace(gather=fail), logdir="/trial", save_to_path=lambda path: path
    )
    training._saved_after = partial(OffsetMixin._saved_after, training)
    expected = "tangled; --restore /trial/checkpoint_of_failure goes on from there"
    with pytest.raises(SlowSimulatorError, match=expected):
        OffsetMixin._gather_or_save(training, None)
