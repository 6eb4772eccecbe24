"""Under Tune: both ways to run it, searches, schedulers that pause, TensorBoard, and refusals.

The cluster of the tests has four CPUs.
"""

import gc
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

import rllib_offset
from rllib_offset import A2C, A2CConfig, OffsetA2C, OffsetA2CConfig
from rllib_offset.checkpoint_checks import check_checkpoint

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore"),  # Tune's own
    pytest.mark.timeout(600),  # each starts several processes
]

RETURN = "env_runners/episode_return_mean"
TINY: dict[str, Any] = {
    "env": "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0",
    "env_config": {"max_episode_steps": 20},
    "slow_env": "rllib_offset.envs:rllib_offset/PointMass-v0",
    "slow_env_config": {"max_episode_steps": 20},
    "num_replay_workers": 0,
    "label_level": "trajectory",
    "replay_fraction": 1.0,
    "offset_ensemble_size": 2,
    "offset_initial_steps": 20,
    "offset_steps_per_iteration": 4,
    "train_batch_size_per_learner": 200,
    "evaluation_duration": 5,
    "seed": 3,
}

# section 6 of the design, without what only some configurations report
IN_TENSORBOARD = (
    "at_a_glance/truth",
    "at_a_glance/promise",
    "at_a_glance/slow_steps",
    "offset/loss",
    "offset/holdout_mae",
    "offset/ensemble_std",
    "offset/coverage",
    "offset/divergence",
    "offset/is_frozen",
    "offset/version",
    "slow/num_env_steps_lifetime",
    "slow/num_eval_env_steps_lifetime",
    "slow/num_env_steps_reused_lifetime",
    "slow/num_invalid_lifetime",
    "slow/num_replays_lost_lifetime",
    "slow/sim_time_s_lifetime",
    "slow/replay_wait_s",
    "slow/utilization",
    "timers/batch_time_s",
    "timers/predicted_batch_time_s",
    "env_runners/episode_return_mean",
    "env_runners/fast_episode_return_mean",
    "evaluation/env_runners/episode_return_mean",
    "evaluation/corrected_episode_return_mean",
    "evaluation/fidelity_gap",
    "evaluation/normalised_score",
)


@pytest.fixture(autouse=True)
def _collect_what_tune_leaves_open() -> Iterator[None]:
    yield
    gc.collect()  # here, where warnings are ignored: the log files of paused trials


class Rows(tune.Callback):
    """Keeps every result of every trial."""

    def __init__(self) -> None:
        self.of: dict[str, list[dict[str, Any]]] = {}

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        self.of.setdefault(trial.trial_id, []).append(result)


def run(path: Path, run_or_experiment: Any, config: Any, **options: Any) -> tuple[Any, Rows]:
    rows = Rows()
    analysis = tune.run(
        run_or_experiment,
        config=config,
        storage_path=str(path),
        callbacks=[rows],
        verbose=0,
        **{"stop": {"training_iteration": 2}, **options},
    )
    assert all(trial.status == "TERMINATED" for trial in analysis.trials)
    return analysis, rows


def value(result: dict[str, Any], key: str) -> Any:
    for part in key.split("/"):
        result = result[part]
    return result


def scalars(trial: Any) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(trial.local_path).Reload()
    return {
        tag.removeprefix("ray/tune/"): [event.value for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_a_dict_a_grid_search_and_all_the_cpus_there_are(tmp_path):
    config = TINY | {
        "lr": tune.grid_search([1e-3, 1e-2]),
        "num_replay_workers": 1,
        "num_cpus_per_replay_worker": 3,  # with the driver's exactly the four there are
        "evaluation_interval": 2,
    }
    analysis, rows = run(tmp_path, OffsetA2C, config, stop={"training_iteration": 3})
    assert {trial.config["lr"] for trial in analysis.trials} == {1e-3, 1e-2}
    for trial in analysis.trials:
        assert [b["CPU"] for b in trial.placement_group_factory.bundles] == [1, 3]
        results = rows.of[trial.trial_id]
        assert [value(r, "slow/num_env_steps_lifetime") for r in results] == [200, 400, 600]
        assert value(results[-1], "learners/default_policy/default_optimizer_learning_rate") == (
            pytest.approx(trial.config["lr"])
        )
        shown = scalars(trial)
        for key in IN_TENSORBOARD:
            reported = [value(result, key) for result in results if _has(result, key)]
            assert np.isfinite(reported[-1:]).any(), key
            np.testing.assert_allclose(shown[key][-len(reported) :], reported, rtol=1e-5)


def _has(result: dict[str, Any], key: str) -> bool:
    try:
        return np.isscalar(value(result, key))
    except KeyError:
        return False


def test_metrics_are_those_of_the_iteration_and_no_slow_average():
    algorithm = OffsetA2CConfig().update_from_dict(TINY).build_algo()
    fits = []
    fit = algorithm.estimator.fit
    algorithm.estimator.fit = lambda **options: fits.append(fit(**options)) or fits[-1]
    results = [algorithm.train() for _ in range(3)]
    algorithm.stop()
    assert len({one.loss for one in fits}) == 3
    for result, one in zip(results, fits, strict=True):
        for name in ("loss", "holdout_mae", "ensemble_std", "num_labels"):
            assert value(result, f"offset/{name}") == pytest.approx(getattr(one, name))


def test_the_latest_evaluation_is_repeated_until_the_next():
    config = TINY | {"evaluation_interval": 4, "num_envs_per_env_runner": 5}
    algorithm = OffsetA2CConfig().update_from_dict(config).build_algo()
    evaluate, evaluated = algorithm.evaluate, []
    algorithm.evaluate = lambda **kw: evaluated.append(evaluate(**kw)) or evaluated[-1]
    results = [algorithm.train() for _ in range(8)]
    algorithm.stop()
    assert len(evaluated) == 2
    keys = ("env_runners/episode_return_mean", "corrected_episode_return_mean", "fidelity_gap")
    for key in keys:
        first, second = (value(evaluation, key) for evaluation in evaluated)
        assert np.isfinite([first, second]).all()
        repeated = [value(result, f"evaluation/{key}") for result in results[3:]]
        np.testing.assert_array_equal(repeated, [first] * 4 + [second])


def test_a_config_object_a_registered_name_a_tuner_and_asha(tmp_path):
    rllib_offset.register()
    config = OffsetA2CConfig().update_from_dict(TINY)
    config.training(lr=tune.grid_search([1e-3, 1e-2]))
    scheduler = ASHAScheduler(
        metric=RETURN, mode="max", grace_period=1, max_t=3, reduction_factor=2
    )
    rows = Rows()
    results = tune.Tuner(
        "OffsetA2C",
        param_space=config,
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(tmp_path), callbacks=[rows], verbose=0),
    ).fit()
    assert not results.errors
    assert len(results) == 2
    lengths = [len(trial) for trial in rows.of.values()]
    assert max(lengths) == 3
    for trial in rows.of.values():
        steps = [value(result, "slow/num_env_steps_lifetime") for result in trial]
        assert steps == [200 * (i + 1) for i in range(len(trial))]


def test_a_config_object_goes_to_tune_run_too(tmp_path):
    config = A2CConfig().environment(TINY["env"], env_config=TINY["env_config"])
    config.training(train_batch_size_per_learner=200)
    analysis, _ = run(tmp_path, A2C, config, stop={"training_iteration": 1})
    assert analysis.trials[0].last_result["num_env_steps_sampled_lifetime"] == 200


def test_a_checkpoint_of_a_trial_names_its_class_and_can_be_restored_anywhere(tmp_path):
    config = {name: TINY[name] for name in ("env", "env_config")}
    config |= {"train_batch_size_per_learner": 200}
    at_end = tune.CheckpointConfig(checkpoint_at_end=True)
    analysis, _ = run(
        tmp_path, A2C, config, stop={"training_iteration": 1}, checkpoint_config=at_end
    )
    folder = Path(analysis.trials[0].checkpoint.path)
    check_checkpoint(str(folder), A2C, A2CConfig().update_from_dict(config))
    content = (folder / "class_and_ctor_args.pkl").read_bytes()
    assert pickle.loads(content)["class"] is A2C
    assert b"_sample_and_update" not in content  # what is private may be renamed


def test_population_based_training_pauses_copies_and_resumes_with_true_counters(tmp_path):
    scheduler = PopulationBasedTraining(
        metric=RETURN,
        mode="max",
        time_attr="training_iteration",
        perturbation_interval=2,
        quantile_fraction=0.5,
        resample_probability=1.0,
        hyperparam_mutations={"lr": [1e-4, 1e-3]},
        require_attrs=False,
        synch=True,
    )
    config = TINY | {"lr": 3e-3, "seed": tune.grid_search([3, 4])}
    _, rows = run(
        tmp_path,
        OffsetA2C,
        config,
        scheduler=scheduler,
        stop={"training_iteration": 3},
    )
    results = [result for trial in rows.of.values() for result in trial]
    assert any(result["config"]["lr"] != 3e-3 for result in results)  # somebody was copied
    for result in results:
        # whoever's checkpoint a trial goes on from, its ledger is that of the iterations behind it
        iteration = result["training_iteration"]
        assert value(result, "slow/num_env_steps_lifetime") == 200 * iteration
        assert value(result, "offset/num_labels") == 200 * iteration
        assert value(result, "offset/version") == iteration
        assert value(result, "learners/default_policy/default_optimizer_learning_rate") == (
            pytest.approx(result["config"]["lr"])
        )


# --- refusals: one line, at once ---


def start_with_tune(path: Path, algorithm: Any, config: dict[str, Any]) -> None:
    tune.run(algorithm, config=config, storage_path=str(path), verbose=0)


def start_by_hand(path: Path, algorithm: Any, config: dict[str, Any]) -> None:
    algorithm.get_default_config().update_from_dict(config).build_algo().stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"num_replay_worker": 1}, "'num_replay_workers'", id="misspelt"),
        pytest.param({"evaluation_config": {"explor": 1}}, "'explore'", id="misspelt-inside"),
        pytest.param({"replay_fraction": 1.5}, "`replay_fraction` must be", id="value"),
        pytest.param({"num_replay_workers": 1000}, "1000 replay workers", id="replay-workers"),
        pytest.param({"num_env_runners": 1000}, "1000 env runners", id="env-runners"),
    ],
)
@pytest.mark.parametrize("start", [start_with_tune, start_by_hand], ids=["tune-run", "build-algo"])
def test_a_mistake_is_refused_in_one_line_within_seconds(tmp_path, start, change, message):
    start_s = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        start(tmp_path, OffsetA2C, TINY | change)
    assert time.monotonic() - start_s < 30
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("start", [start_with_tune, start_by_hand], ids=["tune-run", "build-algo"])
def test_the_baseline_does_not_wait_for_cpus_either(tmp_path, start):
    start_s = time.monotonic()
    with pytest.raises(ValueError, match=r"needs \d+ CPUs .* has 4"):
        start(tmp_path, A2C, {"env": TINY["env"], "num_env_runners": 1000})
    assert time.monotonic() - start_s < 30


@pytest.mark.slow
def test_an_environment_of_two_seconds_a_step_trains_without_empty_batches():
    config = OffsetA2CConfig().environment(
        "tests.envs.SleepyEnv", env_config={"length": 9, "step_cost_s": 2.0}
    )
    config.slow_simulator(
        env="tests.envs.SleepyEnv",
        env_config={"length": 9, "step_cost_s": 2.0, "bonus": 1.0},
        num_replay_workers=2,
        num_cpus_per_replay_worker=0.5,
    )
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=4, num_cpus_per_env_runner=0.5)
    config.training(train_batch_size_per_learner=72).labels(level="trajectory", replay_fraction=1.0)
    config.evaluation(evaluation_interval=1, evaluation_duration=1)
    algorithm = config.build_algo()
    start_s = time.monotonic()
    result = algorithm.train()  # 72 s of sampling: beyond RLlib's time limit of 60 s
    algorithm.stop()
    assert time.monotonic() - start_s > 60
    assert result["env_runners"]["num_env_steps_sampled"] == 72
    assert value(result, "slow/num_env_steps_lifetime") == 72
    assert value(result, "slow/num_eval_env_steps_lifetime") == 9
    assert np.isfinite(value(result, "evaluation/fidelity_gap"))
