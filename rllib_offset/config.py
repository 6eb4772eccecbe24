"""Configuration sections that the offset correction adds to an RLlib algorithm.

``OffsetConfigMixin`` goes before the base algorithm's own config class.  Rules are checked in
``validate()``, before any actor starts.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.utils.annotations import override

from rllib_offset.a2c import CheckedKeysMixin, check_episodes_are_complete
from rllib_offset.callbacks import OffsetCallback, beside
from rllib_offset.columns import PREDICTOR_INPUTS, REWARD, STATE
from rllib_offset.config_keys import check_keys
from rllib_offset.correction import OffsetLayout, default_layout
from rllib_offset.env_runner import OffsetEnvRunner
from rllib_offset.estimator import OffsetEstimator
from rllib_offset.fidelity import (
    FreezeBelow,
    LabelRounds,
    LabelSchedule,
    ReplayFraction,
    StepTrickle,
)
from rllib_offset.folder_checks import absolute_folder
from rllib_offset.measurements import NO_READER, MeasurementReader
from rllib_offset.offset_trainer import OffsetTrainer
from rllib_offset.pair import EnvPair, EnvSpec
from rllib_offset.pair_facts import PairFacts
from rllib_offset.replay.options import check_lanes
from rllib_offset.seeded_env_runner import registered_env
from rllib_offset.timing import Level

__all__ = ["OffsetConfigMixin"]

Dynamics = Literal["auto", "same", "different"]
LabelChoice = Literal["uniform", "uncertain", "ends"]
LabelLevel = Literal["auto", "trajectory", "sample"]

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
        self.figure_interval: int | None = None
        # slow simulator
        self.slow_env: EnvSpec | None = None
        self.slow_env_config: dict[str, Any] = {}
        self.num_replay_workers = 1
        self.num_cpus_per_replay_worker = 1.0
        self.step_timeout_s: float | None = None
        self.max_replay_retries = 2
        self.wait_for_cpus = False
        self.max_replays_per_worker: int | None = None
        self.max_failure_rate = 0.5
        self.max_concurrent_replays: int | None = None
        self.num_envs_per_replay_worker = 1
        # offset
        self.offset_inputs: tuple[str, ...] | None = None
        self.offset_targets: tuple[str, ...] | None = None
        self.offset_dynamics = "auto"
        self.offset_dynamics_tolerance = 1e-4
        self.offset_ensemble_size = 5
        self.offset_hiddens: tuple[int, ...] = (64, 64)
        self.offset_lr = 3e-3
        self.offset_minibatch_size = 128
        self.offset_initial_steps = 600
        self.offset_steps_per_iteration: int | None = None
        self.offset_holdout_fraction = 0.1
        self.offset_max_labels = 1_000_000
        self.offset_clip_rewards = True
        self.offset_pessimism = 0.0
        # labels
        self.label_level = "auto"
        self.label_store: str | None = None
        self.initial_labels = 50
        self.labels_per_iteration = 1.0
        self.replay_fraction = 0.1
        self.max_replay_lag: int | None = 0
        self.label_choice = "uniform"
        self.candidates_per_label: int | None = None
        self.freeze_below: float | None = None
        self.freeze_options: dict[str, Any] = {}
        self.label_rounds: dict[str, Any] | None = None
        self.max_slow_steps: int | None = None
        self.exploitation_threshold = 0.25

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
        max_replays_per_worker: int | None = NotProvided,
        max_failure_rate: float = NotProvided,
        max_concurrent_replays: int | None = NotProvided,
        num_envs_per_replay_worker: int = NotProvided,
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
            max_replays_per_worker: Requests after which a worker is replaced, against simulators
                whose memory grows; ``None`` never.
            max_failure_rate: Share of the last 100 labels that may fail before the run stops; 1
                never stops.
            max_concurrent_replays: Replays at a time of all trials on the cluster, for licensed
                simulators; ``None`` for no limit.
            num_envs_per_replay_worker: Trajectories, or single steps, replayed side by side with
                one call for all, for a slow simulator that is parallel by itself: in its native
                vector form (``vector_entry_point``), whose lanes must answer as one alone would.
                Needs ``num_replay_workers=0``.
        """
        return self._set(
            slow_env=env,
            slow_env_config=env_config,
            num_replay_workers=num_replay_workers,
            num_cpus_per_replay_worker=num_cpus_per_replay_worker,
            step_timeout_s=step_timeout_s,
            max_replay_retries=max_replay_retries,
            wait_for_cpus=wait_for_cpus,
            max_replays_per_worker=max_replays_per_worker,
            max_failure_rate=max_failure_rate,
            max_concurrent_replays=max_concurrent_replays,
            num_envs_per_replay_worker=num_envs_per_replay_worker,
        )

    def offset(
        self,
        *,
        inputs: Sequence[str] | None = NotProvided,
        targets: Sequence[str] | None = NotProvided,
        dynamics: Dynamics = NotProvided,
        dynamics_tolerance: float = NotProvided,
        ensemble_size: int = NotProvided,
        hiddens: Sequence[int] = NotProvided,
        lr: float = NotProvided,
        minibatch_size: int = NotProvided,
        initial_steps: int = NotProvided,
        steps_per_iteration: int | None = NotProvided,
        holdout_fraction: float = NotProvided,
        max_labels: int = NotProvided,
        clip_rewards: bool = NotProvided,
        pessimism: float = NotProvided,
    ) -> Self:
        """Set what the offset predictor reads, what it corrects, and how it is trained.

        Args:
            inputs: Any of ``"obs"`` (the observation that a step reached, the paper's ``o_f``),
                ``"prev_obs"``, ``"action"``, ``"state"``, ``"next_state"``, ``"measurement"``,
                ``"time"``, ``"predictor_inputs"`` (what the fast environment's function of that
                name returns).  ``None`` takes what the mode needs: ``("obs",)``; with a measurement
                ``("predictor_inputs",)``, or ``("next_state", "measurement")`` where there is no
                such function; for different dynamics ``("state", "action", "obs")``.
            targets: Any of ``"obs"``, ``"reward"``, ``"state"``, ``"measurement"``.  ``None`` takes
                ``("obs", "reward")``; ``("measurement",)`` for a pair with ``outcome``; for
                different dynamics ``"state"`` besides.  ``("obs",)`` is Algorithm 1 as printed.
            dynamics: ``"same"``, the paper's assumption; ``"different"``, the one-step residual:
                the fast simulator is put into the corrected state after every step; ``"auto"``
                looks at the first labels and decides.
            dynamics_tolerance: Divergence of the two simulators' states after one step, in units of
                the states' range, up to which ``"auto"`` takes the dynamics for the same.
            ensemble_size: Members of the ensemble; 1 is the paper's single predictor.
            hiddens: Widths of the hidden layers.
            lr: Learning rate of AdamW.
            minibatch_size: Labels per gradient step.
            initial_steps: Gradient steps of the first fit.
            steps_per_iteration: Gradient steps of every later fit; ``None`` takes 4 at sample level
                and 20 at trajectory level.
            holdout_fraction: Share of the labels kept out of the fit, to measure its error.
            max_labels: Labels kept; beyond it the oldest are dropped.
            clip_rewards: Whether corrected rewards are clipped to the slow rewards observed; those
                that follow from a corrected measurement are left as they are.
            pessimism: Standard deviations of the ensemble subtracted from a corrected reward;
                refused where the reward is no target.
        """
        return self._set(
            offset_inputs=_tuple(inputs),
            offset_targets=_tuple(targets),
            offset_dynamics=dynamics,
            offset_dynamics_tolerance=dynamics_tolerance,
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
        level: LabelLevel = NotProvided,
        store: str | None = NotProvided,
        initial: int = NotProvided,
        per_iteration: float = NotProvided,
        replay_fraction: float = NotProvided,
        max_replay_lag: int | None = NotProvided,
        choice: LabelChoice = NotProvided,
        candidates_per_label: int | None = NotProvided,
        freeze_below: float | None = NotProvided,
        freeze_options: dict[str, Any] = NotProvided,
        rounds: dict[str, Any] | None = NotProvided,
        max_slow_steps: int | None = NotProvided,
        exploitation_threshold: float = NotProvided,
    ) -> Self:
        """Set which labels are bought from the slow simulator.

        Args:
            level: ``"sample"`` buys single slow steps from visited states, ``"trajectory"`` replays
                whole episodes; ``"auto"`` takes ``"sample"`` wherever the pair allows it.
            store: Folder, or URI, in which every slow result is kept from the moment it is there.
                Runs and trials that name the same folder share their labels: none is bought twice,
                and a new run starts from what is known.  ``None`` keeps them in the trial's own
                folder under Tune, and nowhere otherwise.
            initial: Labels bought before training, at well-spread states; sample level.
            per_iteration: Labels bought in every iteration at states that the policy visits; 0.5
                buys one every second iteration.  Sample level.
            replay_fraction: Share of the trajectories to replay after the first batch, which is
                replayed whole; 1 is Algorithm 2 of the paper.  Trajectory level.
            max_replay_lag: Iterations that labels may be late: 0 waits for this iteration's labels
                before the fit, ``k`` for those of ``k`` iterations ago, ``None`` never waits.
            choice: Which visited steps are labelled: ``"uniform"``, or ``"uncertain"`` for those of
                the largest ensemble spread.  Steps outside of the labelled region come first.
                ``"ends"`` takes 60 % of the labels at the steps that episodes end with and the rest
                on the way there: for tasks whose answer is where an episode ends.
            candidates_per_label: Steps drawn for every label bought; ``None`` takes 2, or 20 for
                ``"uncertain"``.
            freeze_below: Error on fresh labels, in units of the offset's own spread, below which
                labelling stops and probing begins (:class:`~rllib_offset.fidelity.FreezeBelow`);
                ``None`` never stops.  Sample level.
            freeze_options: Further arguments of ``FreezeBelow``.
            rounds: Buy labels in rounds in place of a few per iteration, until the error on a
                round's fresh labels is small: arguments of
                :class:`~rllib_offset.fidelity.LabelRounds`; ``None`` buys no rounds.  Sample level.
            max_slow_steps: Limit on the slow steps asked for as labels; ``None`` for none. Retries
                come on top: a replay that fails may cost up to ``max_replay_retries`` times as many
                steps again, which count as bought before anything more is asked for.
            exploitation_threshold: Share of the corrections outside of the labelled region above
                which a run that buys no labels warns of exploitation.
        """
        return self._set(
            label_level=level,
            label_store=absolute_folder(store) if isinstance(store, str) else store,
            initial_labels=initial,
            labels_per_iteration=per_iteration,
            replay_fraction=replay_fraction,
            max_replay_lag=max_replay_lag,
            label_choice=choice,
            candidates_per_label=candidates_per_label,
            freeze_below=freeze_below,
            freeze_options=freeze_options,
            label_rounds=rounds,
            max_slow_steps=max_slow_steps,
            exploitation_threshold=exploitation_threshold,
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
            callbacks_class = beside(OffsetCallback, callbacks_class)
        updated: Self = super().callbacks(callbacks_class, **kwargs)
        return updated

    @override(AlgorithmConfig)
    def get_evaluation_config_object(self) -> AlgorithmConfig | None:
        """Evaluate in the slow simulator, unless the user names another environment.

        An ``env_config`` alone changes that of the slow simulator, as RLlib's changes its own.
        """
        config = super().get_evaluation_config_object()
        given: Any = self.evaluation_config or {}
        if config is not None and "env" not in given:
            config.env = self.slow_env
            config.env_config = {**self.slow_env_config, **given.get("env_config", {})}
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

    def resolved_label_level(self, facts: PairFacts) -> Level:
        """Return ``"sample"`` or ``"trajectory"``.

        Raises:
            ValueError: If the sample level is asked for and the pair does not offer it.
        """
        if self.label_level == "auto":
            return "sample" if facts.level >= 1 else "trajectory"
        if self.label_level == "sample" and facts.level < 1:
            raise ValueError(
                "`label_level='sample'` needs a slow simulator with `set_simulator_state` and a "
                "fast one with `get_simulator_state`, and the pair has not both; "
                "add them or use label_level='trajectory'"
            )
        return "sample" if self.label_level == "sample" else "trajectory"

    def label_schedule(self, level: str) -> LabelSchedule:
        """Return the schedule that decides what is labelled."""
        if level == "trajectory":
            return ReplayFraction(self.replay_fraction)
        if self.label_rounds is not None:
            return LabelRounds(**self.label_rounds)
        if self.freeze_below is not None:
            return FreezeBelow(self.freeze_below, **self.freeze_options)
        return StepTrickle(self.labels_per_iteration)

    @property
    def leaves_room_for_the_residual(self) -> bool:
        """Whether the targets, if named, include the state, which the residual corrects."""
        return not self.offset_targets or STATE in self.offset_targets

    def offset_layout(self, facts: PairFacts, *, residual: bool) -> OffsetLayout:
        """Return what the predictor reads and corrects, for equal or for different dynamics."""
        inputs, targets = default_layout(facts, residual=residual)
        return OffsetLayout(
            tuple(self.offset_inputs or inputs),
            tuple(self.offset_targets or targets),
            obs_dim=facts.obs_dim,
            action_space=facts.action_space,
            state_dim=facts.state_dim,
            measurement_dim=facts.measurement_dim,
            predictor_inputs_dim=facts.predictor_inputs_dim,
            measures_resets=facts.measures_resets,
        )

    def offset_estimator(self, facts: PairFacts, *, residual: bool = False) -> OffsetEstimator:
        """Return an estimator with nothing learned yet.

        Raises:
            ValueError: If the pair does not offer what the mode, or a name in the layout, needs, or
                a setting would do nothing.
        """
        if residual and facts.level < 2:
            raise ValueError(
                f"the one-step residual needs a pair of level 2, this one has level "
                f"{facts.level}; add `get_simulator_state` and `set_simulator_state` to both "
                "environments, or use offset_dynamics='same'"
            )
        layout = self.offset_layout(facts, residual=residual)
        if self.offset_pessimism and REWARD not in layout.targets:
            raise ValueError(
                f"`offset_pessimism` lowers corrected rewards, got {self.offset_pessimism} with "
                f"the targets {list(layout.targets)}; leave it out or set `offset_targets` to ones "
                "with 'reward'"
            )
        default_steps = 4 if self.resolved_label_level(facts) == "sample" else 20
        trainer = OffsetTrainer(
            layout.input_dim,
            layout.output_dim,
            ensemble_size=self.offset_ensemble_size,
            hiddens=self.offset_hiddens,
            lr=self.offset_lr,
            minibatch_size=self.offset_minibatch_size,
            initial_steps=self.offset_initial_steps,
            steps_per_iteration=self.offset_steps_per_iteration or default_steps,
            capacity=self.offset_max_labels,
            holdout_fraction=self.offset_holdout_fraction,
            seed=self.seed or 0,
        )
        return OffsetEstimator(
            layout,
            trainer,
            facts.slow_obs_space,
            clip_rewards=self.offset_clip_rewards,
            pessimism=self.offset_pessimism,
            reader=self._measurement_reader(layout),
        )

    def _measurement_reader(self, layout: OffsetLayout) -> MeasurementReader:
        if PREDICTOR_INPUTS not in layout.inputs:
            return NO_READER
        return MeasurementReader.of(self.pair().make_fast())

    @override(AlgorithmConfig)
    def validate(self) -> None:
        self._validate_base_algorithm()  # first: its settings are beside the point
        super().validate()
        check_episodes_are_complete(self)
        if self.env is None:
            self._value_error("no fast simulator; set `env`, in Python `.environment(...)`")
        if self.slow_env is None:
            self._value_error(
                "no slow simulator; set `slow_env`, in Python `.slow_simulator(env=...)`"
            )
        if self.label_store is not None:  # before Tune goes to the folder of a trial
            self.label_store = absolute_folder(self.label_store)
        check_lanes(self.num_envs_per_replay_worker, self.num_replay_workers)
        if self.evaluation_parallel_to_training:
            self._value_error(
                "the promise is measured with what samples, so an evaluation cannot go on beside "
                "training; leave `evaluation_parallel_to_training` out"
            )
        if self.offset_dynamics == "different" and not self.leaves_room_for_the_residual:
            self._value_error(
                f"the one-step residual corrects the state, got offset_targets="
                f"{list(self.offset_targets or ())}; add 'state' or leave `offset_targets` out"
            )
        if self.freeze_below is not None:
            known = {field.name for field in fields(FreezeBelow) if field.init} - {"tolerance"}
            check_keys(known, self.freeze_options, where="freeze_options")
            FreezeBelow(self.freeze_below, **self.freeze_options)
        if self.label_rounds is not None:
            if self.freeze_below is not None:
                self._value_error("`label_rounds` and `freeze_below` are two schedules; drop one")
            known = {field.name for field in fields(LabelRounds) if field.init}
            check_keys(known, self.label_rounds, where="label_rounds")
            LabelRounds(**self.label_rounds)

    def _validate_base_algorithm(self) -> None:
        ancestors = {cls.__name__ for cls in self.algo_class.__mro__}
        for name, reason in _UNSUPPORTED.items():
            if name in ancestors:
                self._value_error(
                    f"the offset correction serves synchronous on-policy algorithms (A2C, PPO); "
                    f"{self.algo_class.__name__} {reason}, which would mix corrections of many ages"
                )


def _tuple(value: Any) -> Any:
    return value if value is NotProvided or value is None else tuple(value)
