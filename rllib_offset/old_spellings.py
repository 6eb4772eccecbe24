"""What older Ray versions called things, and what they are called now.

Knows neither Ray nor files: a mapping in; a mapping and one note per translated key out.  What has
no successor is refused with a ``ValueError`` of one line that names what to use.
"""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "translate_config",
    "translate_experiment",
    "translate_metric",
    "translate_options",
    "translate_score",
    "translate_stop",
]

Notes = list[str]

_CONFIG_NAMES = {
    "custom_resources_per_worker": "custom_resources_per_env_runner",
    "entropy_coeff_schedule": "entropy_coeff",
    "evaluation_num_episodes": "evaluation_duration",
    "evaluation_num_workers": "evaluation_num_env_runners",
    "ignore_worker_failures": "ignore_env_runner_failures",
    "lr_schedule": "lr",
    "max_num_worker_restarts": "max_num_env_runner_restarts",
    "metrics_smoothing_episodes": "metrics_num_episodes_for_smoothing",
    "min_iter_time_s": "min_time_s_per_iteration",
    "min_sample_timesteps_per_reporting": "min_sample_timesteps_per_iteration",
    "min_time_s_per_reporting": "min_time_s_per_iteration",
    "min_train_timesteps_per_reporting": "min_train_timesteps_per_iteration",
    "num_cpus_for_driver": "num_cpus_for_main_process",
    "num_cpus_for_local_worker": "num_cpus_for_main_process",
    "num_cpus_per_learner_worker": "num_cpus_per_learner",
    "num_cpus_per_worker": "num_cpus_per_env_runner",
    "num_envs_per_worker": "num_envs_per_env_runner",
    "num_gpus_per_learner_worker": "num_gpus_per_learner",
    "num_gpus_per_worker": "num_gpus_per_env_runner",
    "num_learner_workers": "num_learners",
    "num_rollout_workers": "num_env_runners",
    "num_sgd_iter": "num_epochs",
    "num_workers": "num_env_runners",
    "recreate_failed_env_runners": "restart_failed_env_runners",
    "recreate_failed_workers": "restart_failed_env_runners",
    "sgd_minibatch_size": "minibatch_size",
    "timesteps_per_iteration": "min_sample_timesteps_per_iteration",
}

_MODEL_NAMES = {
    "post_fcnet_activation": "head_fcnet_activation",
    "post_fcnet_hiddens": "head_fcnet_hiddens",
}

# Left out with a note: Ray 2.60 has one API stack and one framework.
_OF_THE_OLD_STACK = frozenset(
    {
        "_enable_learner_api",
        "_enable_new_api_stack",
        "_enable_rl_module_api",
        "create_env_on_driver",
        "eager_tracing",
        "enable_connectors",
        "enable_env_runner_and_connector_v2",
        "enable_rl_module_and_learner",
        "simple_optimizer",
    }
)

_REFUSED_CONFIG = {
    "buffer_size": "use `replay_buffer_config: {capacity: ...}`",
    "custom_model": "write an RLModule and give it as `rl_module_spec` in a .py file",
    "custom_model_config": "write an RLModule and give it as `rl_module_spec` in a .py file",
    "exploration_config": "use `epsilon` (DQN) or `entropy_coeff` (A2C, PPO)",
    "horizon": "use `env_config: {max_episode_steps: ...}`",
    "learning_starts": "use `num_steps_sampled_before_learning_starts`",
    "multiagent": "use a .py file with `config.multi_agent(...)`",
    "no_done_at_end": "leave it out: a time limit already truncates and does not terminate",
    "prioritized_replay": "use `replay_buffer_config: {type: PrioritizedEpisodeReplayBuffer}`",
    "soft_horizon": "leave it out: a time limit already truncates and does not terminate",
}

_METRIC_NAMES = {
    "agent_timesteps_total": "num_env_steps_sampled_lifetime",
    "episode_len_mean": "env_runners/episode_len_mean",
    "episode_reward_max": "env_runners/episode_return_max",
    "episode_reward_mean": "env_runners/episode_return_mean",
    "episode_reward_min": "env_runners/episode_return_min",
    "episodes_this_iter": "env_runners/num_episodes",
    "episodes_total": "env_runners/num_episodes_lifetime",
    "num_agent_steps_sampled": "num_env_steps_sampled_lifetime",
    "num_env_steps_sampled": "num_env_steps_sampled_lifetime",
    "timesteps_total": "num_env_steps_sampled_lifetime",
}

_CHECKPOINT_NAMES = {
    "checkpoint_at_end": "checkpoint_at_end",
    "checkpoint_freq": "checkpoint_frequency",
    "checkpoint_score_attr": "checkpoint_score_attribute",
    "keep_checkpoints_num": "num_to_keep",
}

_EXPERIMENT_NAMES = {
    "local_dir": "storage_path",
    "repeat": "num_samples",
    "upload_dir": "storage_path",
}

_RESOURCES = (
    "set `num_env_runners`, `num_cpus_per_env_runner`, `num_learners` or `num_replay_workers` in "
    "`config`; the trial's resources follow from them"
)
_REFUSED_EXPERIMENT = {
    "queue_trials": "leave it out: trials always queue",
    "resources_per_trial": _RESOURCES,
    "trial_resources": _RESOURCES,
}

# Options of the old command that are left out with a note, by how many values follow them.
_IDLE_OPTIONS = {"--eager-tracing": 0, "--framework": 1, "--no-ray-ui": 0, "--ray-ui": 0}

_REFUSED_OPTIONS = {
    "--monitor": "use --render PATH",
    "--ray-num-nodes": "start Ray on each machine, or several on one, and give --ray-address auto",
    "--ray-object-store-memory": "start Ray with it, and give --ray-address auto",
    "--resources-per-trial": _RESOURCES,
    "--save-info": "use --out PATH, which writes every step",
    "--track-progress": "leave it out: each episode is printed when it ends",
    "--use-shelve": "use --out PATH, which writes every step",
    "--video-dir": "use --render PATH",
}


def translate_options(words: Sequence[str]) -> tuple[list[str], Notes]:
    """Leave out what the old command took and nothing needs any more.

    Example:
        >>> translate_options(["--framework", "torch", "--algo", "PPO"])
        (['--algo', 'PPO'], ['--framework is left out: there is only torch'])
    """
    kept: list[str] = []
    notes: Notes = []
    rest = iter(words)
    for word in rest:
        name, separator, value = word.partition("=")
        if name in _REFUSED_OPTIONS:
            raise ValueError(f"{name} is gone: {_REFUSED_OPTIONS[name]}")
        if name not in _IDLE_OPTIONS:
            kept.append(word)
            continue
        if _IDLE_OPTIONS[name] and not separator:
            value = next(rest, "")
        if name == "--framework" and value != "torch":
            raise ValueError(f"--framework {value} is gone: leave it out, there is only torch")
        reason = "there is only torch" if name == "--framework" else "it has no meaning any more"
        notes.append(f"{name} is left out: {reason}")
    return kept, notes


def translate_experiment(spec: Mapping[str, Any]) -> tuple[dict[str, Any], Notes]:
    """Translate the keys of one experiment of a file, those of its sections included.

    Example:
        >>> translate_experiment({"run": "PPO", "checkpoint_freq": 5})[0]
        {'run': 'PPO', 'checkpoint_config': {'checkpoint_frequency': 5}}
    """
    result, notes = _renamed(spec, _EXPERIMENT_NAMES, _REFUSED_EXPERIMENT)
    for old, new in _CHECKPOINT_NAMES.items():
        if old in result:
            value = result.pop(old)
            section = result["checkpoint_config"] = dict(result.get("checkpoint_config") or {})
            if section.setdefault(new, value) != value:
                raise ValueError(f"both `{old}` and `checkpoint_config: {{{new}: ...}}` are given")
            notes.append(f"`{old}` is now `checkpoint_config: {{{new}: ...}}`")
    for key, translate in (("config", translate_config), ("stop", translate_stop)):
        if isinstance(result.get(key), Mapping):
            result[key], more = translate(result[key])
            notes += more
    scored = result.get("checkpoint_config")
    if isinstance(scored, Mapping) and scored.get("checkpoint_score_attribute"):
        score, more = translate_score(scored["checkpoint_score_attribute"])
        result["checkpoint_config"] = {**scored, **score}
        notes += more
    return result, notes


def translate_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], Notes]:
    """Translate the keys of an algorithm's settings.

    Example:
        >>> translate_config({"num_workers": 2, "framework": "torch"})[0]
        {'num_env_runners': 2}
    """
    result, notes = _renamed(config, _CONFIG_NAMES, _REFUSED_CONFIG)
    for key in sorted(_OF_THE_OLD_STACK & result.keys()):
        del result[key]
        notes.append(f"`{key}` is left out: the new API stack is the only one here")
    for translate in (_translate_framework, _translate_gpus, _translate_model, _translate_batch):
        notes += translate(result)
    nested = result.get("evaluation_config")
    if isinstance(nested, Mapping):
        result["evaluation_config"], more = translate_config(nested)
        notes += more
    return result, notes


def translate_stop(stop: Mapping[str, Any]) -> tuple[dict[str, Any], Notes]:
    """Translate stopping criteria; nested ones are written with slashes, as Tune wants them.

    Example:
        >>> translate_stop({"env_runners": {"episode_return_mean": 5}, "timesteps_total": 9})[0]
        {'env_runners/episode_return_mean': 5, 'num_env_steps_sampled_lifetime': 9}
    """
    result: dict[str, Any] = {}
    notes: Notes = []
    for key, value in _flattened(stop):
        name, more = translate_metric(key)
        _put(result, key, name, value)
        notes += more
    return result, notes


def translate_metric(name: str) -> tuple[str, Notes]:
    """Translate the name of a metric.

    Example:
        >>> translate_metric("evaluation/episode_reward_mean")[0]
        'evaluation/env_runners/episode_return_mean'
    """
    *parents, last = name.split("/")
    if last not in _METRIC_NAMES:
        return name, []
    new = _METRIC_NAMES[last]
    if "evaluation" in parents and new.startswith("env_runners/"):
        new = f"evaluation/{new}"
    return (name, []) if new == name else (new, [f"`{name}` is now `{new}`"])


def translate_score(attribute: str) -> tuple[dict[str, str], Notes]:
    """Translate what checkpoints are ranked by; ``min-X`` ranks the lowest X first.

    Example:
        >>> translate_score("min-loss")[0]
        {'checkpoint_score_attribute': 'loss', 'checkpoint_score_order': 'min'}
    """
    name, notes = translate_metric(attribute.removeprefix("min-"))
    score = {"checkpoint_score_attribute": name}
    if attribute.startswith("min-"):
        score["checkpoint_score_order"] = "min"
    return score, notes


def _renamed(
    given: Mapping[str, Any], names: Mapping[str, str], refused: Mapping[str, str]
) -> tuple[dict[str, Any], Notes]:
    result: dict[str, Any] = {}
    notes: Notes = []
    for key, value in given.items():
        if key in refused:
            raise ValueError(f"`{key}` is gone: {refused[key]}")
        new = names.get(key, key)
        _put(result, key, new, value)
        if new != key:
            notes.append(f"`{key}` is now `{new}`")
    return result, notes


def _put(result: dict[str, Any], old: str, new: str, value: Any) -> None:
    if new in result:
        raise ValueError(f"`{old}` and another key both mean `{new}`; keep one of them")
    result[new] = value


def _translate_framework(config: dict[str, Any]) -> Notes:
    if "framework" not in config:
        return []
    framework = config.pop("framework")
    if framework != "torch":
        raise ValueError(f"`framework: {framework}` is gone: leave it out, there is only torch")
    return ["`framework` is left out: there is only torch"]


def _translate_gpus(config: dict[str, Any]) -> Notes:
    if "num_gpus" not in config:
        return []
    gpus = config.pop("num_gpus")
    if not gpus:
        return ["`num_gpus` is left out: it is now `num_gpus_per_learner`, 0 by default"]
    if not isinstance(gpus, int | float) or gpus > 1:
        raise ValueError(
            f"`num_gpus: {gpus}` is gone: use `num_learners: {gpus}` with `num_gpus_per_learner: 1`"
        )
    _put(config, "num_gpus", "num_gpus_per_learner", gpus)
    return ["`num_gpus` is now `num_gpus_per_learner`"]


def _translate_model(config: dict[str, Any]) -> Notes:
    notes: Notes = []
    if "model" in config:
        model = config.pop("model") or {}
        if isinstance(model, Mapping):
            model, notes = _renamed(model, _MODEL_NAMES, _REFUSED_CONFIG)
        _put(config, "model", "model_config", model)
        notes.insert(0, "`model` is now `model_config`")
    if "vf_share_layers" in config:
        shares = config.pop("vf_share_layers")
        config["model_config"] = {**config.get("model_config", {}), "vf_share_layers": shares}
        notes.append("`vf_share_layers` is now `model_config: {vf_share_layers: ...}`")
    return notes


def _translate_batch(config: dict[str, Any]) -> Notes:
    if "train_batch_size" not in config:
        return []
    size = config.pop("train_batch_size")
    learners = config.get("num_learners", 0)
    if isinstance(learners, int) and learners > 1:
        if not isinstance(size, int):
            raise ValueError(
                f"`train_batch_size` cannot be divided over {learners} learners; "
                "use `train_batch_size_per_learner`"
            )
        size //= learners
    _put(config, "train_batch_size", "train_batch_size_per_learner", size)
    return ["`train_batch_size` is now `train_batch_size_per_learner`"]


def _flattened(nested: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in nested.items():
        name = f"{prefix}{key}"
        items += _flattened(value, f"{name}/") if isinstance(value, Mapping) else [(name, value)]
    return items
