"""Keys of a configuration: which are valid, and how a file writes them and what they hold.

RLlib's ``update_from_dict`` takes any key in silence; here a misspelt one is refused, naming the
nearest.  Knows neither Ray nor files: names in, a ``ValueError`` of one line out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from difflib import SequenceMatcher
from importlib import import_module
from typing import Any, Protocol

__all__ = [
    "CHECKPOINT_KEYS",
    "EXPERIMENT_KEYS",
    "changed_settings",
    "check_config_keys",
    "check_keys",
    "check_name",
    "translate_keys",
    "valid_config_keys",
    "written_settings",
]

# Keys of one experiment in YAML: `env`, and the arguments of `ray.tune.experiment.Experiment` that
# can be written in a file.
EXPERIMENT_KEYS = frozenset(
    {
        "checkpoint_config",
        "config",
        "env",
        "export_formats",
        "log_to_file",
        "max_failures",
        "num_samples",
        "resources_per_trial",
        "restore",
        "run",
        "stop",
        "storage_path",
        "sync_config",
        "time_budget_s",
    }
)

# Fields of `ray.tune.CheckpointConfig`.
CHECKPOINT_KEYS = frozenset(
    {
        "checkpoint_at_end",
        "checkpoint_frequency",
        "checkpoint_score_attribute",
        "checkpoint_score_order",
        "num_to_keep",
    }
)

# Names that `AlgorithmConfig.to_dict` writes differently: the attribute or the method's argument
# on the left, the key of `to_dict` on the right.
_ALIASES = {
    "callbacks_class": "callbacks",
    "framework_str": "framework",
    "input_": "input",
    "lambda_": "lambda",
    "learner_class": "_learner_class",
    "learner_connector": "_learner_connector",
    "model_config": "_model_config",
    "env_to_module_connector": "_env_to_module_connector",
    "module_to_env_connector": "_module_to_env_connector",
    "num_cpus_for_driver": "num_cpus_for_main_process",
    "num_workers": "num_env_runners",
    "rl_module_spec": "_rl_module_spec",
    "train_batch_size_per_learner": "_train_batch_size_per_learner",
}

# `setattr` would fail or miss on these, so they are renamed before RLlib sees them.
_RENAMED = (
    "env_to_module_connector",
    "learner_class",
    "learner_connector",
    "model_config",
    "module_to_env_connector",
    "rl_module_spec",
)

# Settings that hold classes, which a file writes as dotted paths, and what these must be kinds of:
# a file must not call anything else.
_CLASSES = {
    "callbacks": "ray.rllib.callbacks.callbacks.RLlibCallback",
    "callbacks_class": "ray.rllib.callbacks.callbacks.RLlibCallback",
    "env_runner_cls": "ray.rllib.env.env_runner.EnvRunner",
    "_learner_class": "ray.rllib.core.learner.learner.Learner",
}

# Settings that are themselves configurations of the algorithm.
_NESTED_CONFIGS = ("evaluation_config",)


class _HasToDict(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def valid_config_keys(config: _HasToDict) -> frozenset[str]:
    """Every key that a dict given to ``config.update_from_dict`` may hold."""
    keys = {str(key) for key in config.to_dict()}
    return frozenset(keys | {alias for alias, key in _ALIASES.items() if key in keys})


def translate_keys(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` with method arguments such as ``model_config`` as RLlib stores them.

    Classes may be given as dotted paths.

    Raises:
        ValueError: If one cannot be imported, or is of another kind.

    Example:
        >>> translate_keys({"num_learners": 1, "model_config": {"fcnet_hiddens": [8]}})
        {'num_learners': 1, '_model_config': {'fcnet_hiddens': [8]}}
    """
    stored = {_ALIASES[key] if key in _RENAMED else key: value for key, value in given.items()}
    for key in stored.keys() & _CLASSES.keys():
        stored[key] = _imported(key, stored[key])
    return stored


def changed_settings(config: _HasToDict) -> dict[str, Any]:
    """What a configuration says beyond its defaults, as RLlib stores it."""
    default = type(config)().to_dict()
    return {
        key: value
        for key, value in config.to_dict().items()
        if key not in default or repr(default[key]) != repr(value)
    }


def written_settings(config: _HasToDict) -> dict[str, Any]:
    """The same as a file writes it: public names, plain values, classes as dotted paths.

    Raises:
        ValueError: If a setting is something that a file cannot hold.
    """
    public = {stored: name for name, stored in _ALIASES.items() if name in _RENAMED}
    public["_train_batch_size_per_learner"] = "train_batch_size_per_learner"
    settings = changed_settings(config)
    return {public.get(key, key): _plain(key, value) for key, value in settings.items()}


def check_config_keys(
    config_or_valid_keys: _HasToDict | Iterable[str],
    given: Mapping[str, Any],
    *,
    where: str = "config",
) -> None:
    """Raise if ``given`` holds a key that the configuration does not know.

    The inside of free-form settings (``env_config``, ``model_config``, ...) is not checked.

    Args:
        config_or_valid_keys: An ``AlgorithmConfig``, or the valid keys themselves.
        given: The keys and values to check.
        where: What to call ``given`` in the message.

    Raises:
        ValueError: One line that names each unknown key and the nearest valid one.

    Example:
        >>> check_config_keys({"lr", "gamma"}, {"gama": 0.9})
        Traceback (most recent call last):
            ...
        ValueError: unknown key 'gama' in config; the nearest valid key is 'gamma'
    """
    if isinstance(config_or_valid_keys, Iterable):
        valid = frozenset(config_or_valid_keys)
    else:
        valid = valid_config_keys(config_or_valid_keys)
    check_keys(valid, given, where=where)
    for name in _NESTED_CONFIGS:
        if isinstance(nested := given.get(name), Mapping):
            check_keys(valid, nested, where=f"{where}.{name}")


def check_keys(valid: Iterable[str], given: Iterable[Any], *, where: str) -> None:
    """Raise ``ValueError`` if a name in ``given`` is not ``valid``; ``__tune`` keys may pass."""
    valid = frozenset(valid)
    unknown = [str(key) for key in given if key not in valid and not str(key).startswith("__")]
    if not unknown:
        return
    if len(unknown) == 1:
        raise ValueError(
            f"unknown key {unknown[0]!r} in {where}; "
            f"the nearest valid key is {_nearest(unknown[0], valid)!r}"
        )
    names = ", ".join(f"{key!r} (nearest: {_nearest(key, valid)!r})" for key in unknown)
    raise ValueError(f"unknown keys in {where}: {names}")


def check_name(valid: Iterable[str], name: str, *, what: str) -> None:
    """Raise ``ValueError`` if ``name`` is not ``valid``.

    Example:
        >>> check_name({"OffsetA2C", "PPO"}, "OfsetA2C", what="algorithm")
        Traceback (most recent call last):
            ...
        ValueError: unknown algorithm 'OfsetA2C'; the nearest is 'OffsetA2C'
    """
    valid = frozenset(valid)
    if name not in valid:
        raise ValueError(f"unknown {what} {name!r}; the nearest is {_nearest(name, valid)!r}")


def _imported(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_imported(key, item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        found, base = _at(value), _at(_CLASSES[key])
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`{key}: {value}` is no class that can be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"`{key}` must name a subclass of {base.__name__}, got {value}")
    return found


def _at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _plain(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(key, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(key, asdict(value))
    raise ValueError(f"`{key}` is {value!r}, which a file cannot hold; set it in Python")


def _nearest(name: str, valid: Iterable[str]) -> str:
    """The valid name most like ``name``; private names are not proposed."""
    candidates = sorted(key for key in valid if not key.startswith("_"))
    return max(
        candidates,
        key=lambda key: SequenceMatcher(None, name.lower(), key.lower()).ratio(),
        default="",
    )
