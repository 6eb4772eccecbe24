"""Checks an experiment against its algorithm: everything that can be known before it starts.

What is written in a file becomes what RLlib takes: samplers, connectors, stored names of settings.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import islice
from typing import Any

import typer

from rllib_offset.checkpoint_checks import check_checkpoint
from rllib_offset.config_keys import check_config_keys, check_name, translate_keys
from rllib_offset.folder_checks import absolute_folder, check_writable
from rllib_offset.ray_version import check_ray_version
from rllib_offset.stop_rules import check_stop
from rllib_offset.user_errors import UserError, one_line
from rllib_offset.value_rules import NONE, Rule, check_values, number, whole

__all__ = ["check_resources", "prepare_experiment", "with_samplers"]

_OWN_ALGORITHMS = ("A2C", "OffsetA2C", "OffsetPPO")
_MAX_CHECKED_VARIANTS = 32  # of a search, before anything starts
# What an experiment says beside its settings.
_RULES = {
    "max_failures": whole(-1),
    "num_samples": whole(1) | Rule("-1 for trials without end", lambda value: value == -1),
    "storage_path": Rule("the path of a folder", bool) | NONE,
    "time_budget_s": number(above=0) | NONE,
}
_SAMPLERS = frozenset(
    {
        "choice",
        "lograndint",
        "loguniform",
        "normal",
        "qlograndint",
        "qloguniform",
        "qrandint",
        "quniform",
        "randint",
        "randn",
        "uniform",
    }
)


def prepare_experiment(name: str, spec: dict[str, Any]) -> None:
    """Check one experiment against its algorithm, before anything starts.

    Raises:
        UserError: If the algorithm, a setting, its value or the environment is unknown or refused.
    """
    from rllib_offset.setting_rules import check_model, check_settings

    algorithm = _algorithm_class(name, spec["run"])
    try:
        check_values(spec, _RULES)
        config = translate_keys(spec["config"])
        if "label_store" in config:
            config["label_store"] = _with_absolute_folders(config["label_store"])
        spec["config"] = with_samplers(config)
    except ValueError as error:
        raise UserError(f"experiment {name!r}: {error}") from error
    _apply_observation_filter(spec["config"])
    for config in _variants(spec["config"]):
        try:
            default = algorithm.get_default_config()
            check_config_keys(default, config)
            check_settings(config)
            for key in ("env", "slow_env"):
                _check_environment(config.get(key))
            default.update_from_dict(config)
            check_model(default)
            _check_minibatch(default)
            default.validate()
            check_stop(spec.get("stop") or {}, algorithm, config, default)
            _check_simulators(default)
            _check_files(spec, algorithm, default)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"experiment {name!r}: {one_line(error)}") from error


def check_resources(
    name: str, spec: dict[str, Any], available: Mapping[str, float], *, unknown: float = 0.0
) -> None:
    """Refuse what Tune would wait for ever for: resources that the cluster does not have.

    Args:
        name: Of the experiment.
        spec: The experiment, prepared.
        available: What the cluster has, as ``ray.cluster_resources()`` tells it.
        unknown: How much there is of what is not listed.

    Raises:
        UserError: If a trial needs more.
    """
    algorithm = _algorithm_class(name, spec["run"])
    for config in _variants(spec["config"]):
        try:
            request = algorithm.default_resource_request(config)
        except ValueError as error:
            raise UserError(one_line(error)) from error
        for resource, amount in request.required_resources.items():
            found = available.get(resource, unknown)
            if amount > found and not config.get("wait_for_cpus"):
                raise UserError(
                    f"experiment {name!r} needs {amount:g} {resource}, but Ray has {found:g}; use "
                    "fewer num_env_runners or num_replay_workers, or start Ray with more "
                    "(--ray-num-cpus)"
                )


def _algorithm_class(experiment: str, run: Any) -> Any:
    try:
        check_ray_version()
    except ImportError as error:
        raise UserError(str(error)) from None
    import ray.rllib.algorithms.registry as registry
    from ray.tune.registry import get_trainable_cls

    import rllib_offset

    rllib_offset.register()
    if not isinstance(run, str):
        return run
    try:
        check_name([*_OWN_ALGORITHMS, *registry.ALGORITHMS], run, what="algorithm")
    except ValueError as error:
        raise UserError(f"experiment {experiment!r}: {error}") from None
    return get_trainable_cls(run)


def with_samplers(value: Any) -> Any:
    """Turn ``{loguniform: [1.0e-4, 1.0e-2]}`` into the sampler of Tune that has this name.

    Raises:
        UserError: If the sampler does not take these arguments.
    """
    if isinstance(value, list):
        return [with_samplers(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, arguments),) = value.items()
        if name in _SAMPLERS and isinstance(arguments, list):
            from ray import tune

            sampler = getattr(tune, name)
            try:
                return sampler(arguments) if name == "choice" else sampler(*arguments)
            except (TypeError, ValueError) as error:
                raise UserError(f"`{name}: {arguments}`: {one_line(error)}") from None
    return {key: with_samplers(item) for key, item in value.items()}


def _with_absolute_folders(value: Any) -> Any:
    """Make a folder absolute, or each of those that a search will try."""
    if isinstance(value, dict):
        return {key: _with_absolute_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_absolute_folders(item) for item in value]
    return absolute_folder(value) if isinstance(value, str) else value


def _apply_observation_filter(config: dict[str, Any]) -> None:
    """Use the connector that took the place of ``observation_filter``."""
    chosen = config.pop("observation_filter", "NoFilter")
    if chosen in ("NoFilter", None):
        return
    if chosen != "MeanStdFilter":
        raise UserError(
            f"`observation_filter: {chosen}` is gone; use MeanStdFilter or leave it out"
        )
    config["_env_to_module_connector"] = _mean_std_filter
    typer.echo("Note: `observation_filter` is now the connector MeanStdFilter", err=True)


def _mean_std_filter(*_: Any) -> Any:
    from ray.rllib.connectors.env_to_module import MeanStdFilter

    return MeanStdFilter()


def _variants(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The configurations that a search will try, the first ones of a large search."""
    from ray.tune.search.variant_generator import generate_variants

    for _, spec in islice(generate_variants({"config": config}), _MAX_CHECKED_VARIANTS):
        yield spec["config"]


def _check_simulators(config: Any) -> None:
    """Make both simulators once, and look at how they start; takes no slow step."""
    if not hasattr(config, "offset_estimator"):
        return
    from rllib_offset.pair_check import problems_at_the_start
    from rllib_offset.pair_facts import probe_pair

    pair = config.pair()
    if problems := problems_at_the_start(pair):
        raise ValueError("; ".join(problems))
    config.offset_estimator(probe_pair(pair), residual=config.offset_dynamics == "different")
    if config.num_envs_per_replay_worker > 1:
        pair.make_slow_lanes(config.num_envs_per_replay_worker).close()


def _check_minibatch(config: Any) -> None:
    """RLlib refuses it as well, but says that it is a number of chunks."""
    from ray.rllib.algorithms.ppo import PPOConfig

    size, batch = config.minibatch_size, config.train_batch_size_per_learner
    if isinstance(config, PPOConfig) and size is not None and size > batch:
        raise ValueError(
            f"`minibatch_size` must be at most `train_batch_size_per_learner`, {batch}, "
            f"got {size}; lower it or enlarge the batch"
        )


def _check_files(spec: Mapping[str, Any], algorithm: type, config: Any) -> None:
    if spec.get("storage_path") is not None:
        check_writable(str(spec["storage_path"]), "storage_path")
    if getattr(config, "label_store", None) is not None:
        check_writable(config.label_store, "label_store")
    if spec.get("restore") is not None:
        check_checkpoint(str(spec["restore"]), algorithm, config)


def _check_environment(env: object) -> None:
    """Raise ``ValueError`` if ``env`` is an id that neither Gymnasium nor Ray knows."""
    import gymnasium
    from ray.tune.registry import ENV_CREATOR, _global_registry

    if not isinstance(env, str) or _global_registry.contains(ENV_CREATOR, env):
        return
    if all(part.isidentifier() for part in env.split(".")) and "." in env:
        return  # a class path, which RLlib imports itself
    module, _, env_id = env.rpartition(":")
    try:
        if module:
            import_module(module)
        gymnasium.spec(env_id)
    except gymnasium.error.NameNotFound:
        check_name(gymnasium.registry, env_id, what="environment")
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"environment {env!r} cannot be made: {one_line(error)}") from error
