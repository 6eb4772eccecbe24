"""The proposal of the paper as RLlib algorithms, and the mixin that makes them.

``OffsetMixin.training_step`` is Algorithm 2; everything it calls lives one floor down.
"""

import logging
import random
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    TIMERS,
)
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.registry import register_trainable

from rllib_offset import metrics
from rllib_offset.a2c import A2C, A2CConfig
from rllib_offset.config import OffsetConfigMixin
from rllib_offset.env_runner import OffsetBroadcast, evaluation_seeds
from rllib_offset.estimator import OffsetEstimator
from rllib_offset.fidelity import LabelSchedule
from rllib_offset.learner import ResumablePPOTorchLearner
from rllib_offset.ledger import Ledger
from rllib_offset.replay.client import SlowReplay
from rllib_offset.replay.requests import ReplayResult

__all__ = [
    "A2C",
    "A2CConfig",
    "OffsetA2C",
    "OffsetA2CConfig",
    "OffsetMixin",
    "OffsetPPO",
    "OffsetPPOConfig",
    "register",
]

logger = logging.getLogger(__name__)


class OffsetMixin(Algorithm):
    """Correct a synchronous on-policy RLlib algorithm by a learned offset.

    Goes before the algorithm's class: ``class OffsetPPO(OffsetMixin, PPO)``.  The base algorithm's
    ``training_step``, Learner and connectors stay as they are; its environment runners sample
    fast + offset and ask for slow replays while they do.
    """

    eval_env_runner_group: EnvRunnerGroup | None
    ledger: Ledger
    estimator: OffsetEstimator
    schedule: LabelSchedule
    replay: SlowReplay
    version: int  # counts the broadcasts

    @override(Algorithm)
    def setup(self, config: Any) -> None:
        self._pair = self.config.pair()
        if ray.util.get_current_placement_group() is None:
            _check_cpus(self._cpus_of_actors(), self.config)
        self.ledger = Ledger()
        self.version = 0
        self.schedule = self.config.label_schedule()
        self.estimator = self.config.offset_estimator(self._pair)
        self.replay = self._start_replay()
        super().setup(config)
        self.broadcast_offset()

    @override(Algorithm)
    def training_step(self) -> None:
        super().training_step()  # collect corrected trajectories, update theta; replays go on
        labels = self.gather_labels()
        self.fit_offset(labels)  # update phi
        self.version += 1
        self.broadcast_offset()

    def gather_labels(self) -> list[ReplayResult]:
        """Collect the slow replays that are due, in key order, and enter them into the ledger."""
        lag = self.config.max_replay_lag
        with self.metrics.log_time((metrics.SLOW, metrics.REPLAY_WAIT_S), reduce="mean", window=1):
            labels = self.replay.gather(None if lag is None else self.version - lag)
        self.ledger.enter(labels)
        for result in labels:
            if result.error is not None:
                self._warn_of_lost_replay(result)
        return labels

    def fit_offset(self, labels: list[ReplayResult]) -> None:
        """Fit the predictor to the labels and tell the schedule how wrong it was on them."""
        errors = self.estimator.add(labels)
        self.schedule.observe(errors, self.version)
        if not self.estimator.has_labels or not self.schedule.plan(self.version).refits:
            return
        with self.metrics.log_time((TIMERS, metrics.OFFSET_FIT_TIMER), reduce="mean", window=1):
            fit = self.estimator.fit()
        values = {
            metrics.LOSS: fit.loss,
            metrics.HOLDOUT_MAE: fit.holdout_mae,
            metrics.ENSEMBLE_STD: fit.ensemble_std,
            metrics.COVERAGE: fit.coverage,
            metrics.NUM_LABELS: fit.num_labels,
            metrics.VERSION: self.version + 1,
        }
        if len(errors) and np.isfinite(errors).any():
            values[metrics.FRESH_MAE] = float(np.nanmean(errors))
        self.metrics.log_dict(values, key=metrics.OFFSET, window=1)

    def broadcast_offset(self, remote_worker_ids: list[int] | None = None) -> None:
        """Send the correction and the label plan to the environment runners, in one object."""
        plan = self.schedule.plan(self.version)
        broadcast = OffsetBroadcast(
            version=self.version,
            correction=self.estimator.correction(),
            coordinator=self.replay.coordinator,
            replay_fraction=plan.replay_fraction,
            num_step_labels=plan.num_step_labels,
        )
        reference = ray.put(broadcast)
        with self.metrics.log_time(
            (TIMERS, metrics.OFFSET_BROADCAST_TIMER), reduce="mean", window=1
        ):
            self.env_runner_group.foreach_env_runner(
                lambda runner: runner.set_offset(ray.get(reference)),
                remote_worker_ids=remote_worker_ids,
                local_env_runner=remote_worker_ids is None and _has_env(self.env_runner),
            )

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if restored and env_runner_group is self.env_runner_group:
            self.broadcast_offset(restored)
        return restored

    # --- evaluation: the truth and the promise, on the same seeds ---

    @override(Algorithm)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Evaluate in the slow simulator, and in fast + offset on the same seeds."""
        self._ensure_slow_evaluation()
        results = dict(super().evaluate(parallel_train_future))
        truth = results.get(ENV_RUNNER_RESULTS, {})
        self.ledger.num_eval_env_steps += int(truth.get(NUM_ENV_STEPS_SAMPLED, 0))
        seeds = evaluation_seeds(self.config)
        if EPISODE_RETURN_MEAN not in truth or not seeds:
            return results
        promise = float(np.mean(self._corrected_returns(seeds)))
        results[metrics.CORRECTED_EPISODE_RETURN_MEAN] = promise
        results[metrics.FIDELITY_GAP] = promise - float(truth[EPISODE_RETURN_MEAN])
        return results

    def _ensure_slow_evaluation(self) -> None:
        """Create the slow evaluation runner, which RLlib makes only for an interval."""
        if self.eval_env_runner_group is not None:
            return
        _, env_creator = self._get_env_id_and_creator(
            self.evaluation_config.env, self.evaluation_config
        )
        self.eval_env_runner_group = EnvRunnerGroup(
            env_creator=env_creator,
            validate_env=None,
            default_policy_class=None,
            config=self.evaluation_config,
            logdir=self.logdir,
            tune_trial_id=self.trial_id,
            local_env_runner=True,
            pg_offset=self.config.num_env_runners,
        )

    def _corrected_returns(self, seeds: list[int]) -> list[float]:
        if _has_env(self.env_runner):
            returns: list[float] = self.env_runner.corrected_returns(seeds)
            return returns
        ids = self.env_runner_group.healthy_env_runner_ids()
        parts = [seeds[i :: len(ids)] for i in range(len(ids))]
        results = self.env_runner_group.foreach_env_runner(
            [lambda runner, part=part: runner.corrected_returns(part) for part in parts],
            remote_worker_ids=ids,
            local_env_runner=False,
        )
        return [value for part in results for value in part]

    # --- checkpoints ---

    @override(Algorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kw: Any) -> Any:
        state = super().get_state(components, not_components=not_components, **kw)
        if self._check_component("offset", components, not_components):
            state["offset"] = {
                "estimator": self.estimator.get_state(),
                "schedule": self.schedule.get_state(),
                "ledger": vars(self.ledger).copy(),
                "version": self.version,
                "outstanding": self.replay.outstanding(),
                "global_rng": _get_global_rng(),
            }
        return state

    @override(Algorithm)
    def set_state(self, state: Any) -> None:
        super().set_state(state)
        if "offset" in state:
            offset = state["offset"]
            self.estimator.set_state(offset["estimator"])
            self.schedule.set_state(offset["schedule"])
            self.ledger = Ledger(**offset["ledger"])
            self.version = offset["version"]
            self.replay.submit(offset["outstanding"])
            _set_global_rng(offset["global_rng"])
        self.broadcast_offset()

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        super().restore_from_path(path, *args, **kwargs)
        self.broadcast_offset()

    # --- resources ---

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        request = super().default_resource_request(config)
        resolved = cls.get_default_config().update_from_dict(config)
        workers = [{"CPU": resolved.num_cpus_per_replay_worker}] * resolved.num_replay_workers
        bundles = [*request.bundles, *workers]  # last: env-runner bundles are found by position
        _check_cpus(sum(bundle.get("CPU", 0) for bundle in bundles), resolved)
        return PlacementGroupFactory(bundles, strategy=resolved.placement_strategy)

    @override(Algorithm)
    def cleanup(self) -> None:
        if hasattr(self, "replay"):
            self.replay.shutdown()
        super().cleanup()

    def _cpus_of_actors(self) -> float:
        config = self.config
        return (
            config.num_env_runners * config.num_cpus_per_env_runner
            + config.num_replay_workers * config.num_cpus_per_replay_worker
        )

    def _start_replay(self) -> SlowReplay:
        config = self.config
        group = ray.util.get_current_placement_group()
        return SlowReplay(
            self._pair,
            num_workers=config.num_replay_workers,
            num_cpus_per_worker=config.num_cpus_per_replay_worker,
            step_timeout_s=config.step_timeout_s,
            max_retries=config.max_replay_retries,
            first_bundle=None if group is None else group.bundle_count - config.num_replay_workers,
        )

    def _warn_of_lost_replay(self, result: ReplayResult) -> None:
        logger.warning(
            "a slow replay was lost after %d retries: %s; request %s, seed %s",
            self.config.max_replay_retries,
            result.error,
            result.request.key,
            result.request.seed,
        )


class OffsetA2CConfig(OffsetConfigMixin, A2CConfig):
    """Configuration of :class:`OffsetA2C`.

    Example:
        >>> config = OffsetA2CConfig().slow_simulator(env="Pendulum-v1", num_replay_workers=4)
        >>> config.num_replay_workers
        4
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or OffsetA2C)


class OffsetA2C(OffsetMixin, A2C):
    """Advantage actor-critic on fast + offset: Algorithms 1 and 2 of the paper."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> OffsetA2CConfig:
        return OffsetA2CConfig()


class OffsetPPOConfig(OffsetConfigMixin, PPOConfig):
    """Configuration of :class:`OffsetPPO`."""

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or OffsetPPO)
        self.num_envs_per_env_runner = 10
        self.train_batch_size_per_learner = 1000
        self.minibatch_size = 250
        self.num_epochs = 10
        self.lr = 1e-3
        self.gamma = 0.95
        self.lambda_ = 0.95
        self.clip_param = 0.2
        self.grad_clip = 0.5

    @override(PPOConfig)
    def get_default_learner_class(self) -> type[ResumablePPOTorchLearner]:
        return ResumablePPOTorchLearner


class OffsetPPO(OffsetMixin, PPO):
    """RLlib's PPO, unchanged, on fast + offset."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> OffsetPPOConfig:
        return OffsetPPOConfig()


def register() -> None:
    """Make the algorithms known to Tune by name, and the environments to Gymnasium by id."""
    import rllib_offset.envs  # noqa: F401

    for algorithm in (A2C, OffsetA2C, OffsetPPO):
        register_trainable(algorithm.__name__, algorithm)


def _has_env(runner: Any) -> bool:
    return runner is not None and runner.env is not None


def _check_cpus(wanted: float, config: Any) -> None:
    """Refuse more CPUs than the cluster has: Ray would wait for them without a word."""
    if config.wait_for_cpus or not ray.is_initialized():
        return
    available = ray.cluster_resources().get("CPU", 0.0)
    if wanted > available:
        raise ValueError(
            f"the trial needs {wanted:g} CPUs ({config.num_replay_workers} replay workers among "
            f"them) and the cluster has {available:g}; lower `num_replay_workers`, "
            "`num_cpus_per_replay_worker` or `num_env_runners`, or start Ray with more CPUs"
        )


def _get_global_rng() -> dict[str, Any]:
    """State of the global generators; PPO, for one, shuffles with NumPy's."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (RLlib draws from it)
        "torch": torch.get_rng_state(),
    }


def _set_global_rng(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
