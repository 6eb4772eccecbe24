"""Advantage actor-critic on RLlib's new API stack: the baseline, and the base of ``OffsetA2C``."""

from pathlib import Path
from typing import Any, Self

import ray
import yaml
from ray import cloudpickle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core import (
    ALL_MODULES,
    COMPONENT_LEARNER,
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
)
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.trainable import Trainable

from rllib_offset.callbacks import ScoreCallback, beside
from rllib_offset.config_keys import check_config_keys, translate_keys, written_settings
from rllib_offset.env_runner import OffsetEnvRunner
from rllib_offset.figure_callback import save_agent_view
from rllib_offset.learner import A2CTorchLearner
from rllib_offset.predictor import torch_threads
from rllib_offset.quick_logger import QuickLoggerMixin
from rllib_offset.quick_stats import QUICK_STATS
from rllib_offset.setting_rules import RULES, check_model, check_settings

__all__ = ["A2C", "A2CConfig", "AlgorithmMixin", "CheckedKeysMixin"]


_LOG_STD_LIMIT = 1.5  # without it, 1 of 20 seeds strays on PointMass


class CheckedKeysMixin(AlgorithmConfig):
    """Configuration that refuses what RLlib keeps in silence, and goes to YAML and back."""

    @override(AlgorithmConfig)
    def validate(self) -> None:
        check_settings({name: getattr(self, name) for name in RULES if hasattr(self, name)})
        check_model(self)
        super().validate()

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> Self:
        check_config_keys(self, config_dict)
        check_settings(config_dict)
        updated: Self = super().update_from_dict(translate_keys(config_dict))
        return updated

    def to_yaml(self) -> str:
        """Return what differs from the defaults: the ``config`` of a file for ``rllib train``.

        Raises:
            ValueError: If a setting is something that only Python can hold, such as a function.
        """
        return yaml.safe_dump(written_settings(self), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Build a configuration from settings written as YAML.

        Raises:
            ValueError: If it is no mapping, or holds a key that does not exist.

        Example:
            >>> A2CConfig.from_yaml("{env: CartPole-v1, lr: 0.001}").lr
            0.001
        """
        settings = yaml.safe_load(text)
        if not isinstance(settings, dict):
            raise ValueError(f"settings must be a mapping such as '{{lr: 0.001}}', got {text!r}")
        return cls().update_from_dict(settings)


class A2CConfig(CheckedKeysMixin, AlgorithmConfig):
    """Configuration of :class:`A2C`.

    Defaults are those of the paper's experiment: batches of 1000 steps from 10 environments side by
    side.  Besides, the spread of normalised actions is bounded (``log_std_clip_param``).  With
    ``wait_for_cpus`` it waits for CPUs that a growing cluster does not have yet.

    Example:
        >>> config = A2CConfig().environment("CartPole-v1").training(lr=1e-3, lambda_=0.9)
        >>> config.lambda_
        0.9
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or A2C)
        self.env_runner_cls = OffsetEnvRunner
        self.callbacks_class = ScoreCallback
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 10
        self.batch_mode = "complete_episodes"
        self.rollout_fragment_length = "auto"
        self.train_batch_size_per_learner = 1000
        self.lr = 3e-3
        self.gamma = 0.95
        self.grad_clip = 0.5
        self.lambda_ = 0.95
        self.vf_loss_coeff = 0.5
        self.entropy_coeff: float | list[list[float]] = 0.0
        self.correct = True
        self.figure_interval: int | None = None
        self.wait_for_cpus = False
        self.stats_cls_lookup = QUICK_STATS
        self.sample_timeout_s = None  # an empty batch is worse than a long wait
        self.evaluation_sample_timeout_s = 7 * 24 * 3600.0
        self.evaluation_duration = 64
        self.evaluation_config = {"explore": False}

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        lambda_: float = NotProvided,
        vf_loss_coeff: float = NotProvided,
        entropy_coeff: float | list[list[float]] = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set the training parameters.

        Args:
            lambda_: Decay of the generalized advantage estimator.
            vf_loss_coeff: Weight of the value loss.
            entropy_coeff: Weight of the entropy bonus, or a schedule ``[[step, value], ...]``.
            **kwargs: RLlib's own, e.g. ``lr``, ``gamma``, ``grad_clip``.
        """
        super().training(**kwargs)
        if lambda_ is not NotProvided:
            self.lambda_ = lambda_
        if vf_loss_coeff is not NotProvided:
            self.vf_loss_coeff = vf_loss_coeff
        if entropy_coeff is not NotProvided:
            self.entropy_coeff = entropy_coeff
        return self

    @override(AlgorithmConfig)
    def callbacks(self, callbacks_class: Any = NotProvided, **kwargs: Any) -> Self:
        """Add callbacks; ours stays beside the user's."""
        if callbacks_class is not NotProvided:
            callbacks_class = beside(ScoreCallback, callbacks_class)
        updated: Self = super().callbacks(callbacks_class, **kwargs)
        return updated

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=DefaultPPOTorchRLModule)

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> type[A2CTorchLearner]:
        return A2CTorchLearner

    @property
    @override(AlgorithmConfig)
    def _model_config_auto_includes(self) -> dict[str, Any]:
        defaults = DefaultModelConfig(fcnet_hiddens=[64, 64], vf_share_layers=False)
        is_bounded = self.normalize_actions  # else a spread may have any unit
        return super()._model_config_auto_includes | {
            "fcnet_hiddens": defaults.fcnet_hiddens,
            "vf_share_layers": defaults.vf_share_layers,
            "log_std_clip_param": _LOG_STD_LIMIT if is_bounded else defaults.log_std_clip_param,
        }

    @override(AlgorithmConfig)
    def validate(self) -> None:
        super().validate()
        check_episodes_are_complete(self)


def check_episodes_are_complete(config: AlgorithmConfig) -> None:
    """Refuse settings that :class:`~rllib_offset.env_runner.SeededEnvRunner` cannot honour."""
    if not issubclass(config.env_runner_cls, OffsetEnvRunner):
        return
    if config.batch_mode != "complete_episodes" and not config.in_evaluation:
        config._value_error(
            f"`batch_mode` must be 'complete_episodes' (a replay starts where its episode starts), "
            f"got {config.batch_mode!r}; leave it out"
        )
    for field in ("_env_to_module_connector", "_module_to_env_connector"):
        if getattr(config, field, None) is not None:
            config._value_error(
                f"`{field.strip('_')}` is not applied by {config.env_runner_cls.__name__}; "
                "wrap the environment instead (gymnasium.wrappers), in both simulators"
            )


def _forget_weights(runner: Any) -> None:
    runner._weights_seq_no = 0  # RLlib's runners take no weights of a lower number than theirs
    runner._sampled_version = None


class AlgorithmMixin(QuickLoggerMixin, Algorithm):
    """What the algorithms of this package share: their checkpoints, and how results are told.

    A checkpoint holds what there is to see of the agent besides.
    """

    _told_config: tuple[Any, dict[str, Any]] | None = None  # and what results say of it

    @override(Algorithm)
    def get_auto_filled_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Fill in what Tune wants of every result; RLlib copies the configuration for each."""
        filled: dict[str, Any] = Trainable.get_auto_filled_metrics(self, *args, **kwargs)
        if self._told_config is None or self._told_config[0] is not self.config:
            self._told_config = self.config, self.config.to_dict()
        return {**filled, "config": dict(self._told_config[1])}

    @override(Algorithm)
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        super().save_checkpoint(checkpoint_dir)
        save_agent_view(self, checkpoint_dir)

    @override(Algorithm)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Save with the name of the class: an actor's own is a copy, saved with all its methods."""
        saved: str = super().save_to_path(path, **kwargs)
        file = Path(saved) / self.CLASS_AND_CTOR_ARGS_FILE_NAME
        if file.is_file():  # not in a bucket
            named = getattr(type(self), "__ray_actor_class__", type(self))
            content = {"class": named, "ctor_args_and_kwargs": self.get_ctor_args_and_kwargs()}
            file.write_bytes(cloudpickle.dumps(content))
        return saved

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restore; what samples goes on with the weights restored, even where its own are newer."""
        if kwargs.get("component") is None:
            for group in (self.env_runner_group, self.eval_env_runner_group):
                if group is not None:
                    group.foreach_env_runner(_forget_weights, local_env_runner=True)
        super().restore_from_path(path, *args, **kwargs)


class A2C(AlgorithmMixin, Algorithm):
    """Synchronous advantage actor-critic: one gradient step per batch of fresh episodes."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> A2CConfig:
        return A2CConfig()

    @override(Algorithm)
    def setup(self, config: Any) -> None:
        num_runners = self.config.num_env_runners
        if num_runners and ray.util.get_current_placement_group() is None:
            check_cpus(num_runners * self.config.num_cpus_per_env_runner, self.config)
        super().setup(config)

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        request = super().default_resource_request(config)
        resolved = cls.get_default_config().update_from_dict(config)
        check_cpus(sum(bundle.get("CPU", 0) for bundle in request.bundles), resolved)
        return request

    @override(Algorithm)
    def training_step(self) -> None:
        # as many threads as reserved CPUs: sums, and so results, depend on the number of threads
        with torch_threads(max(1, int(self.config.num_cpus_for_main_process))):
            self._sample_and_update()

    def _sample_and_update(self) -> None:
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            episodes, results = synchronous_parallel_sample(
                worker_set=self.env_runner_group,
                max_env_steps=self.config.total_train_batch_size,
                sample_timeout_s=self.config.sample_timeout_s,
                _uses_new_env_runners=True,
                _return_metrics=True,
            )
            if not episodes:
                return
            self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        self._after_sampling()
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            lifetime = (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
            learner_results = self.learner_group.update(
                episodes=episodes,
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(lifetime)},
            )
            self.metrics.aggregate(learner_results, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._sync_weights(set(learner_results[0]) - {ALL_MODULES})

    def _after_sampling(self) -> None:
        """Set off what can go on beside the update."""

    def _sync_weights(self, modules: set[str]) -> None:
        """Give the runners the new weights; one of this process takes them from the Learner's."""
        if self.env_runner_group.num_remote_workers():
            self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group,
                policies=modules,
                inference_only=True,
            )
        elif self.learner_group.is_local and modules == {DEFAULT_MODULE_ID}:
            learner = self.learner_group._learner
            self.env_runner.take_weights(learner.module[DEFAULT_MODULE_ID], learner._weights_seq_no)
        else:
            paths = [f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}/{name}" for name in modules]
            state = self.learner_group.get_state(components=paths, inference_only=True)
            self.env_runner.set_state(state[COMPONENT_LEARNER])


def check_cpus(wanted: float, config: Any) -> None:
    """Refuse more CPUs than the cluster has: Ray would wait for them without a word.

    Raises:
        ValueError: If the cluster is smaller, unless ``config.wait_for_cpus``.
    """
    if config.wait_for_cpus or not ray.is_initialized():
        return
    available = ray.cluster_resources().get("CPU", 0.0)
    if wanted <= available:
        return
    num_replay_workers = getattr(config, "num_replay_workers", 0)
    replay_workers = f"{num_replay_workers} replay workers" if num_replay_workers else ""
    runners = f"{config.num_env_runners} env runners" if config.num_env_runners else ""
    actors = ", ".join(filter(None, (replay_workers, runners))) or "the driver"
    raise ValueError(
        f"the trial needs {wanted:g} CPUs ({actors}) and the cluster has {available:g}; ask for "
        "fewer, or for a fraction of a CPU each (`num_cpus_per_env_runner`, "
        "`num_cpus_per_replay_worker`), or start Ray with more CPUs"
    )
