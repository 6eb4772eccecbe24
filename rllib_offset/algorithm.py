"""The proposal of the paper as RLlib algorithms, and the mixin that makes them.

``OffsetMixin.training_step`` is Algorithm 2; everything it calls lives one floor down.
"""

import logging
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, TIMERS
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.registry import register_trainable

from rllib_offset import metrics
from rllib_offset.a2c import A2C, A2CConfig, AlgorithmMixin, check_cpus
from rllib_offset.batch_time_log import Mark, log_batch_time
from rllib_offset.config import OffsetConfigMixin
from rllib_offset.dynamics import DynamicsWatch
from rllib_offset.env_runner import OffsetBroadcast
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.estimator import OffsetEstimator
from rllib_offset.fidelity import LabelSchedule
from rllib_offset.fingerprint import label_location
from rllib_offset.initial_labels import INITIAL_VERSION, initial_requests
from rllib_offset.learner import ResumablePPOTorchLearner
from rllib_offset.ledger import Ledger
from rllib_offset.offset_state import OffsetStateMixin, label_store_of, run_name
from rllib_offset.pair import EnvPair
from rllib_offset.pair_facts import PairFacts, probe_pair
from rllib_offset.predictor import torch_threads
from rllib_offset.quick_stats import QUICK_STATS
from rllib_offset.ray_version import check_ray_version
from rllib_offset.replay.client import SlowReplay
from rllib_offset.replay.requests import ReplayResult, steps_per_call, valid_rows
from rllib_offset.replay.resync import resynchronised
from rllib_offset.slow_evaluation import SlowEvaluationMixin, has_env
from rllib_offset.timing import Level

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
check_ray_version()


class OffsetMixin(SlowEvaluationMixin, OffsetStateMixin, AlgorithmMixin, Algorithm):
    """Correct a synchronous on-policy RLlib algorithm by a learned offset.

    Goes before the algorithm's class: ``class OffsetPPO(OffsetMixin, PPO)``.  The base algorithm's
    ``training_step``, Learner and connectors stay as they are; its environment runners sample
    fast + offset and ask for slow replays while they do.
    """

    eval_env_runner_group: EnvRunnerGroup | None
    pair: EnvPair
    facts: PairFacts
    label_level: Level
    ledger: Ledger
    estimator: OffsetEstimator
    dynamics: DynamicsWatch
    schedule: LabelSchedule
    replay: SlowReplay
    version: int  # counts the broadcasts
    _has_warned_of_exploitation = False
    _has_warned_of_divergence = False

    @override(Algorithm)
    def setup(self, config: Any) -> None:
        if ray.util.get_current_placement_group() is None:
            check_cpus(self._cpus_of_actors(), self.config)
        self.pair = self.config.pair()
        self.facts = probe_pair(self.pair)
        self.label_level = self.config.resolved_label_level(self.facts)
        self.schedule = self.config.label_schedule(self.label_level)
        if not self.schedule.plan(1).probes:
            logger.warning(
                "nothing is labelled after the first labels, so nothing checks the predictor where "
                "the agent goes; set `labels_per_iteration` or `replay_fraction` above 0"
            )
        self.ledger = Ledger()
        self.dynamics = DynamicsWatch(
            self.facts.state_space, max_labels=self.config.offset_max_labels
        )
        self.version = 0
        self.start_estimator(residual=self.config.offset_dynamics == "different")
        self.replay = self._start_replay()
        super().setup(config)
        self.broadcast_offset()

    @override(Algorithm)
    def training_step(self) -> None:
        if self.version == 0:
            self.buy_initial_labels()
        begin = Mark.of(self)
        with torch_threads(max(1, int(self.config.num_cpus_for_main_process))):
            super().training_step()  # collect corrected trajectories, update theta
        labels = self._decide_on_dynamics(self.gather_labels())
        self.fit_offset(labels)  # update phi
        self.version += 1
        self.broadcast_offset()
        log_batch_time(self, begin)

    def buy_initial_labels(self) -> None:
        """Label well-spread states before training, and decide on the mode if that is open."""
        self._learn_what_is_known()
        if self.label_level == "sample":
            labels = self._spread_labels(self.config.initial_labels, INITIAL_VERSION)
            self.fit_offset(self._decide_on_dynamics(labels))
            self.broadcast_offset()

    def _learn_what_is_known(self) -> None:
        """Start from the labels that other runs have left in a shared store."""
        if self.config.label_store is None:
            return
        known = self.replay.known_labels(except_run=self.replay.run)
        known = [k for k in known if k.request.kind != "steps" or self.estimator.can_take(k)]
        known = self.estimator.fresh(known)
        self.ledger.enter(known)
        self.fit_offset(self._decide_on_dynamics(known))

    def _spread_labels(self, wanted: int, version: int) -> list[ReplayResult]:
        """Buy single steps from well-spread states, and wait for them."""
        num_labels = self._affordable(wanted)
        if not num_labels:
            return []
        requests = initial_requests(
            self.pair,
            self.facts,
            num_labels,
            version=version,
            seed=(self.config.seed or 0) + version + 1,
            steps_per_request=steps_per_call(num_labels, self.config.num_replay_workers),
            follow_episodes=self.estimator.layout.reads_history,
        )
        self.replay.submit(requests)
        return self.gather_labels(up_to=version)

    def _after_sampling(self) -> None:
        """Have the slow replays that are due sent here while the policy is updated.

        A2C calls it; RLlib's PPO has no such place, and its updates outlast a round trip anyway.
        """
        lag = self.config.max_replay_lag
        if lag is not None:
            self.replay.ask(self.version - lag, self._take_acknowledgements())

    def _take_acknowledgements(self) -> list[ray.ObjectRef[int]]:
        """Return what the runner of this process, if it samples, has not waited for."""
        if not has_env(self.env_runner):
            return []
        acknowledgements: list[ray.ObjectRef[int]] = self.env_runner.take_acknowledgements()
        return acknowledgements

    def gather_labels(self, up_to: int | None = None) -> list[ReplayResult]:
        """Collect the slow replays that are due, in key order, and enter them into the ledger."""
        lag = self.config.max_replay_lag
        if up_to is None and lag is not None:
            up_to = self.version - lag
        with self.metrics.log_time((metrics.SLOW, metrics.REPLAY_WAIT_S), reduce="mean", window=1):
            ray.get(self._take_acknowledgements())
            labels = self.estimator.fresh(self._gather_or_save(up_to))
        self.ledger.enter(labels)
        for result in labels:
            if result.error is not None:
                self._warn_of_lost_replay(result)
        return labels

    def _gather_or_save(self, up_to: int | None) -> list[ReplayResult]:
        try:
            return self.replay.gather(up_to)
        except SlowSimulatorError as error:
            raise SlowSimulatorError(self._saved_after(str(error))) from error

    def fit_offset(self, labels: list[ReplayResult]) -> None:
        """Fit the predictor to the labels, and tell the schedule how wrong it was on them."""
        errors = self.estimator.add(labels)
        refits = self.schedule.plan(self.version).refits
        refits |= self.schedule.fits_what_arrives and len(errors) > 0
        misses = self.estimator.latest_misses
        is_moved = self.schedule.observe(
            misses if self.schedule.reads_own_units else errors, self.estimator.latest_are_inside
        )
        if is_moved:
            logger.warning("the slow simulator has moved: older labels are dropped, others bought")
            self.estimator.drop_stale(len(errors))
            burst = self._spread_labels(self.schedule.burst_labels, self.version)
            self.estimator.add(burst)
            if self.dynamics.hand_over():  # stale as well
                self.dynamics.keep([*labels, *burst])
            refits = True
        values: dict[str, float] = {
            metrics.IS_FROZEN: float(self.schedule.is_frozen),
            metrics.VERSION: self.version + 1,
            metrics.DIVERGENCE: self.dynamics.latest,
        }
        if np.isfinite(errors).any():
            values[metrics.FRESH_ERROR] = float(np.nanmean(errors))
            values[metrics.FRESH_RMSE] = float(np.sqrt(np.nanmean(np.square(misses))))
        if self.estimator.has_labels and refits:
            timer = (TIMERS, metrics.OFFSET_FIT_TIMER)
            with self.metrics.log_time(timer, reduce="mean", window=1):
                fit = self.estimator.fit(anew=is_moved)
            values |= {
                metrics.LOSS: fit.loss,
                metrics.HOLDOUT_MAE: fit.holdout_mae,
                metrics.ENSEMBLE_STD: fit.ensemble_std,
                metrics.COVERAGE: fit.coverage,
                metrics.NUM_LABELS: fit.num_labels,
            }
        values[metrics.EXPLOITATION] = self._watch_for_exploitation()
        known = {name: value for name, value in values.items() if np.isfinite(value)}
        self.metrics.log_dict(known, key=metrics.OFFSET, window=1)

    @override(OffsetStateMixin)
    def broadcast_offset(self, remote_worker_ids: list[int] | None = None) -> None:
        """Send the correction and the label plan to the environment runners, in one object."""
        plan = self.schedule.plan(self.version)
        config, residual = self.config, self.estimator.layout.resynchronises
        num_labels = self._affordable(plan.num_step_labels)
        candidates = config.candidates_per_label or (
            20 if config.label_choice == "uncertain" else 2
        )
        broadcast = OffsetBroadcast(
            version=self.version,
            correction=self.estimator.correction(),
            coordinator=self.replay.coordinator,
            replay_fraction=plan.replay_fraction,
            num_step_labels=num_labels,
            choice=config.label_choice,
            candidates_per_label=candidates,
            steps_per_request=steps_per_call(num_labels, config.num_replay_workers),
            held_labels=self.estimator.held_labels if num_labels else None,
            max_slow_steps=self._affordable(None),
            request_kind="resync" if residual else "trajectory",
            records_states=self.facts.state_dim > 0
            and (self.label_level == "trajectory" or config.label_choice == "ends"),
        )
        timer = (TIMERS, metrics.OFFSET_BROADCAST_TIMER)
        with self.metrics.log_time(timer, reduce="mean", window=1):
            if remote_worker_ids is None and has_env(self.env_runner):
                self.env_runner.set_offset(broadcast)
            if self.env_runner_group.num_remote_workers():
                reference = ray.put(broadcast)
                self.env_runner_group.foreach_env_runner(
                    lambda runner: runner.set_offset(ray.get(reference)),
                    remote_worker_ids=remote_worker_ids,
                    local_env_runner=False,
                )

    @override(OffsetStateMixin)
    def start_estimator(self, *, residual: bool) -> None:
        """Begin with an estimator that has learned nothing yet, for one of the two modes."""
        self.estimator = self.config.offset_estimator(self.facts, residual=residual)

    def _decide_on_dynamics(self, labels: list[ReplayResult]) -> list[ReplayResult]:
        """Switch to the one-step residual if the labels show that the dynamics differ.

        From then on every label is one of single steps, whenever and by whomever it was bought.
        Single steps bought before are read anew; trajectories, of which none is kept, count as
        wasted.
        """
        divergence, config = self.dynamics.look_at(labels), self.config
        if self.estimator.layout.resynchronises:
            return self._as_single_steps(labels)
        if config.offset_dynamics != "auto":
            return labels
        can_follow = self.facts.level >= 2 and config.leaves_room_for_the_residual
        if not divergence > config.offset_dynamics_tolerance:
            if can_follow:
                self.dynamics.keep(labels)
            return labels
        if not can_follow:
            self._warn_of_divergence(divergence)
            return labels
        logger.info("the dynamics differ (divergence %.2g): one-step residual mode", divergence)
        num_before = self.estimator.trainer.buffer.num_added
        self.start_estimator(residual=True)
        earlier = list(filter(self.estimator.can_take, self.dynamics.hand_over()))
        num_kept = sum(int(valid_rows(label).sum()) for label in earlier)
        self.ledger.num_env_steps_wasted += num_before - num_kept
        return [*earlier, *self._as_single_steps(labels)]

    def _as_single_steps(self, labels: list[ReplayResult]) -> list[ReplayResult]:
        if all(label.request.kind != "trajectory" for label in labels):
            return labels
        fast_env = self.pair.make_fast()
        labels = [resynchronised(label, fast_env) for label in labels]
        fast_env.close()  # type: ignore[no-untyped-call]
        return labels

    def _watch_for_exploitation(self) -> float:
        """Warn where the agent is free to exploit a predictor that gets no labels."""
        plan = self.schedule.plan(self.version + 1)
        outside = self.metrics.peek((ENV_RUNNER_RESULTS, metrics.OUTSIDE_FRACTION), default=0.0)
        is_unchecked = not plan.probes or self._affordable(1) == 0
        is_exploiting = is_unchecked and outside > self.config.exploitation_threshold
        if is_exploiting and not self._has_warned_of_exploitation:
            logger.warning(
                "%.0f %% of the corrections are outside of the labelled region and nothing is "
                "labelled there: the agent may be exploiting the predictor; raise "
                "`labels_per_iteration`, `replay_fraction` or `max_slow_steps`",
                100 * outside,
            )
            self._has_warned_of_exploitation = True
        return float(is_exploiting)

    def _affordable(self, wanted: int | None) -> Any:
        """Return how many of ``wanted`` slow steps the budget has left; ``None`` for all."""
        limit = self.config.max_slow_steps
        if limit is None:
            return wanted
        is_late = self.config.max_replay_lag != 0
        due = sum(len(request) for request in self.replay.outstanding()) if is_late else 0
        left = max(0, limit - self.ledger.num_env_steps - due)
        return left if wanted is None else min(wanted, left)

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if restored and env_runner_group is self.env_runner_group:
            self.broadcast_offset(restored)
        return restored

    # --- resources ---

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        request = super().default_resource_request(config)
        resolved = cls.get_default_config().update_from_dict(config)
        workers = [{"CPU": resolved.num_cpus_per_replay_worker}] * resolved.num_replay_workers
        bundles = [*request.bundles, *workers]  # last: env-runner bundles are found by position
        check_cpus(sum(bundle.get("CPU", 0) for bundle in bundles), resolved)
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
        store = label_store_of(self)
        return SlowReplay(
            self.pair,
            num_workers=config.num_replay_workers,
            num_cpus_per_worker=config.num_cpus_per_replay_worker,
            step_timeout_s=config.step_timeout_s,
            max_retries=config.max_replay_retries,
            first_bundle=None if group is None else group.bundle_count - config.num_replay_workers,
            labels=None if store is None else label_location(self.pair, store),
            is_shared=config.label_store is not None,
            run=run_name(self.trial_id),
            max_replays_per_worker=config.max_replays_per_worker,
            max_failure_rate=config.max_failure_rate,
            max_concurrent_replays=config.max_concurrent_replays,
            num_envs_per_worker=config.num_envs_per_replay_worker,
            licence=str(config.slow_env),
        )

    def _warn_of_divergence(self, divergence: float) -> None:
        if not self._has_warned_of_divergence:
            logger.warning(
                "the same actions lead the two simulators apart (divergence %.2g), which an offset "
                "per observation cannot correct; for the one-step residual add "
                "`get_simulator_state` and `set_simulator_state` to both environments (level 2), "
                "and leave `offset_targets` out or name `state` among them",
                divergence,
            )
            self._has_warned_of_divergence = True

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
    """Configuration of :class:`OffsetPPO`.

    Other defaults than RLlib's PPO: batches of 1000 steps from 10 environments, 10 epochs in
    minibatches of 250, ``lr=1e-3``, ``gamma`` and ``lambda_`` 0.95, ``clip_param=0.2``,
    ``grad_clip=0.5``.
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or OffsetPPO)
        self.stats_cls_lookup = QUICK_STATS
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
