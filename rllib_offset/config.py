"""Configuration sections that the offset correction adds to an RLlib algorithm.

``OffsetConfigMixin`` goes before the base algorithm's own config class.  Rules are checked in
``validate()``, before any actor starts.
"""

from collections.abc import Sequence
from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.annotations import override

from rllib_offset.a2c import CheckedKeysMixin, check_episodes_are_complete
from rllib_offset.callbacks import OffsetCallback
from rllib_offset.correction import INPUTS, TARGETS
from rllib_offset.env_runner import OffsetEnvRunner, registered_env
from rllib_offset.estimator import OffsetEstimator, probe_layout
from rllib_offset.fidelity import LabelSchedule, ReplayFraction
from rllib_offset.pair import EnvPair, EnvSpec
from rllib_offset.predictor import OffsetTrainer

__all__ = ["LABEL_LEVELS", "OffsetConfigMixin"]

LABEL_LEVELS = ("auto", "trajectory", "sample")

_UNSUPPORTED = {
    "DQN": "learns from a replay buffer",  # SAC among its descendants
    "DreamerV3": "learns from a replay buffer",
    "IMPALA": "samples asynchronously",  # APPO among its descendants
    "MARWIL": "learns from recorded episodes",
}


class OffsetConfigMixin(CheckedKeysMixin, AlgorithmConfig):
    """The sections ``.slow_simulator()``, ``.offset()`` and ``.labels()``.

    The fast simulator is the algorithm's own environment, ``.environment(...)``.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.env_runner_cls = OffsetEnvRunner
        self.callbacks_class = OffsetCallback
        self.batch_mode = "complete_episodes"  # a replay starts where its episode starts
        self.rollout_fragment_length = "auto"
        self.num_env_runners = 0
        self.sample_timeout_s = None  # an empty batch is worse than a long wait
        self.evaluation_sample_timeout_s = 7 * 24 * 3600.0
        self.evaluation_duration = 64
        self.evaluation_config = {"explore": False}
        self.correct = True
        # slow simulator
        self.slow_env: EnvSpec | None = None
        self.slow_env_config: dict[str, Any] = {}
        self.num_replay_workers = 1
        self.num_cpus_per_replay_worker = 1.0
        self.step_timeout_s: float | None = None
        self.max_replay_retries = 2
        self.wait_for_cpus = False
        # offset
        self.offset_inputs: tuple[str, ...] = ("obs",)
        self.offset_targets: tuple[str, ...] = ("obs", "reward")
        self.offset_ensemble_size = 5
        self.offset_hiddens: tuple[int, ...] = (64, 64)
        self.offset_lr = 3e-3
        self.offset_minibatch_size = 128
        self.offset_initial_steps = 600
        self.offset_steps_per_iteration = 20
        self.offset_holdout_fraction = 0.1
        self.offset_max_labels = 1_000_000
        self.offset_clip_rewards = True
        self.offset_pessimism = 0.0
        # labels
        self.label_level = "trajectory"
        self.replay_fraction = 1.0
        self.max_replay_lag: int | None = 0

    def slow_simulator(
        self,
        *,
        env: EnvSpec = NotProvided,
        env_config: dict[str, Any] = NotProvided,
        num_replay_workers: int = NotProvided,
        num_cpus_per_replay_worker: float = NotProvided,
        step_timeout_s: float | None = NotProvided,
        max_replay_retries: int = NotProvided,
        wait_for_cpus: bool = NotProvided,
    ) -> Self:
        """Set how the slow simulator is reached.

        Args:
            env: Gymnasium id (``"module:Id"`` imports the module first), dotted class path, name
                given to ``ray.tune.register_env``, or class.
            env_config: Keyword arguments of the slow environment.
            num_replay_workers: Ray actors that replay in parallel, the paper's ``n``; 0 replays in
                the driver process (Algorithm 1 of the paper).
            num_cpus_per_replay_worker: Logical CPUs that each reserves.
            step_timeout_s: Longest time, in seconds, that one slow step may take before its worker
                is killed and replaced; ``None`` waits for ever.
            max_replay_retries: How often a failed replay is tried again before it is given up as
                lost.
            wait_for_cpus: Wait for CPUs that the cluster does not have yet (it may grow) in place
                of refusing to start.
        """
        return self._set(
            slow_env=env,
            slow_env_config=env_config,
            num_replay_workers=num_replay_workers,
            num_cpus_per_replay_worker=num_cpus_per_replay_worker,
            step_timeout_s=step_timeout_s,
            max_replay_retries=max_replay_retries,
            wait_for_cpus=wait_for_cpus,
        )

    def offset(
        self,
        *,
        inputs: Sequence[str] = NotProvided,
        targets: Sequence[str] = NotProvided,
        ensemble_size: int = NotProvided,
        hiddens: Sequence[int] = NotProvided,
        lr: float = NotProvided,
        minibatch_size: int = NotProvided,
        initial_steps: int = NotProvided,
        steps_per_iteration: int = NotProvided,
        holdout_fraction: float = NotProvided,
        max_labels: int = NotProvided,
        clip_rewards: bool = NotProvided,
        pessimism: float = NotProvided,
    ) -> Self:
        """Set what the offset predictor reads, what it corrects, and how it is trained.

        Args:
            inputs: Any of ``"obs"`` (the observation that a step reached, the paper's ``o_f``),
                ``"prev_obs"``, ``"action"``, ``"state"``, ``"time"``.
            targets: ``("obs", "reward")``, or ``("obs",)`` for Algorithm 1 exactly as printed.
            ensemble_size: Members of the ensemble; 1 is the paper's single predictor.
            hiddens: Widths of the hidden layers.
            lr: Learning rate of AdamW.
            minibatch_size: Labels per gradient step.
            initial_steps: Gradient steps of the first fit.
            steps_per_iteration: Gradient steps of every later fit.
            holdout_fraction: Share of the labels kept out of the fit, to measure its error.
            max_labels: Labels kept; beyond it the oldest are dropped.
            clip_rewards: Whether corrected rewards are clipped to the slow rewards observed.
            pessimism: Standard deviations of the ensemble subtracted from a corrected reward.
        """
        return self._set(
            offset_inputs=_tuple(inputs),
            offset_targets=_tuple(targets),
            offset_ensemble_size=ensemble_size,
            offset_hiddens=_tuple(hiddens),
            offset_lr=lr,
            offset_minibatch_size=minibatch_size,
            offset_initial_steps=initial_steps,
            offset_steps_per_iteration=steps_per_iteration,
            offset_holdout_fraction=holdout_fraction,
            offset_max_labels=max_labels,
            offset_clip_rewards=clip_rewards,
            offset_pessimism=pessimism,
        )

    def labels(
        self,
        *,
        level: str = NotProvided,
        replay_fraction: float = NotProvided,
        max_replay_lag: int | None = NotProvided,
    ) -> Self:
        """Set which labels are bought from the slow simulator.

        Args:
            level: ``"trajectory"`` replays whole episodes.
            replay_fraction: Share of the trajectories to replay after the first batch, which is
                replayed whole; 1 is Algorithm 2 of the paper.
            max_replay_lag: Iterations that labels may be late: 0 waits for this iteration's labels
                before the fit, ``k`` for those of ``k`` iterations ago, ``None`` never waits.
        """
        return self._set(
            label_level=level, replay_fraction=replay_fraction, max_replay_lag=max_replay_lag
        )

    def _set(self, **fields: Any) -> Self:
        for name, value in fields.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @override(AlgorithmConfig)
    def callbacks(self, callbacks_class: Any = NotProvided, **kwargs: Any) -> Self:
        """Add callbacks; ours stays beside the user's."""
        if callbacks_class is not NotProvided:
            callbacks_class = _beside_ours(callbacks_class)
        updated: Self = super().callbacks(callbacks_class, **kwargs)
        return updated

    @override(AlgorithmConfig)
    def get_evaluation_config_object(self) -> AlgorithmConfig | None:
        """Evaluate in the slow simulator, unless the user names another environment."""
        config = super().get_evaluation_config_object()
        if config is not None and "env" not in (self.evaluation_config or {}):
            config.env = self.slow_env
            config.env_config = dict(self.slow_env_config)
            config.correct = False
        return config

    def pair(self) -> EnvPair:
        """Return the two simulators."""
        assert self.slow_env is not None  # checked by `validate`
        return EnvPair(
            fast=registered_env(self.env),
            slow=registered_env(self.slow_env),
            fast_config=dict(self.env_config),
            slow_config=dict(self.slow_env_config),
        )

    def label_schedule(self) -> LabelSchedule:
        """Return the schedule that decides what is labelled."""
        return ReplayFraction(self.replay_fraction)

    def offset_estimator(self, pair: EnvPair) -> OffsetEstimator:
        """Return an estimator for the pair, with nothing learned yet."""
        layout, slow_obs_space = probe_layout(pair, self.offset_inputs, self.offset_targets)
        trainer = OffsetTrainer(
            layout.input_dim,
            layout.output_dim,
            ensemble_size=self.offset_ensemble_size,
            hiddens=self.offset_hiddens,
            lr=self.offset_lr,
            minibatch_size=self.offset_minibatch_size,
            initial_steps=self.offset_initial_steps,
            steps_per_iteration=self.offset_steps_per_iteration,
            capacity=self.offset_max_labels,
            holdout_fraction=self.offset_holdout_fraction,
            seed=self.seed or 0,
        )
        return OffsetEstimator(
            layout,
            trainer,
            slow_obs_space,
            clip_rewards=self.offset_clip_rewards,
            pessimism=self.offset_pessimism,
        )

    @override(AlgorithmConfig)
    def validate(self) -> None:
        super().validate()
        self._validate_base_algorithm()
        check_episodes_are_complete(self)
        self._validate_slow_simulator()
        self._validate_offset()
        self._validate_labels()

    def _validate_base_algorithm(self) -> None:
        ancestors = {cls.__name__ for cls in self.algo_class.__mro__}
        for name, reason in _UNSUPPORTED.items():
            if name in ancestors:
                self._value_error(
                    f"the offset correction serves synchronous on-policy algorithms (A2C, PPO); "
                    f"{self.algo_class.__name__} {reason}, which would mix corrections of many ages"
                )

    def _validate_slow_simulator(self) -> None:
        if self.slow_env is None:
            self._value_error("no slow simulator; call `.slow_simulator(env=...)`")
        if self.num_replay_workers < 0:
            self._value_error(f"`num_replay_workers` must be >= 0, got {self.num_replay_workers}")
        if self.num_cpus_per_replay_worker < 0:
            self._value_error(
                f"`num_cpus_per_replay_worker` must be >= 0, got {self.num_cpus_per_replay_worker}"
            )
        if self.step_timeout_s is not None and self.step_timeout_s <= 0:
            self._value_error(
                f"`step_timeout_s` must be > 0, or None for no limit; got {self.step_timeout_s}"
            )
        if self.max_replay_retries < 0:
            self._value_error(f"`max_replay_retries` must be >= 0, got {self.max_replay_retries}")

    def _validate_offset(self) -> None:
        for field, known in (("offset_inputs", INPUTS), ("offset_targets", TARGETS)):
            names = _tuple(getattr(self, field))
            setattr(self, field, names)
            unknown = [name for name in names if name not in known]
            if unknown or not names:
                self._value_error(
                    f"`{field}` takes one or more of {list(known)}, got {list(names)}"
                )
        at_least_one = (
            "offset_ensemble_size",
            "offset_minibatch_size",
            "offset_initial_steps",
            "offset_steps_per_iteration",
            "offset_max_labels",
        )
        for field in at_least_one:
            if getattr(self, field) < 1:
                self._value_error(f"`{field}` must be >= 1, got {getattr(self, field)}")
        if not 0 <= self.offset_holdout_fraction < 1:
            self._value_error(
                "`offset_holdout_fraction` must be within [0, 1), "
                f"got {self.offset_holdout_fraction}"
            )

    def _validate_labels(self) -> None:
        if self.label_level not in LABEL_LEVELS:
            self._value_error(
                f"`label_level` must be one of {list(LABEL_LEVELS)}, got {self.label_level!r}"
            )
        if not 0 <= self.replay_fraction <= 1:
            self._value_error(
                f"`replay_fraction` must be within [0, 1], got {self.replay_fraction}"
            )
        if self.max_replay_lag is not None and self.max_replay_lag < 0:
            self._value_error(
                f"`max_replay_lag` must be >= 0, or None to never wait; got {self.max_replay_lag}"
            )


def _tuple(value: Any) -> Any:
    return value if value is NotProvided else tuple(value)


def _beside_ours(given: Any) -> list[type[RLlibCallback]]:
    classes = list(given) if isinstance(given, list | tuple) else [given]
    if any(isinstance(cls, type) and issubclass(cls, OffsetCallback) for cls in classes):
        return classes
    return [OffsetCallback, *classes]
