"""Experiments from YAML files, Python files and options of the command line.

An experiment is a mapping with ``run``, ``config`` and whatever else
``ray.tune.experiment.Experiment`` takes.  An option that was given wins over the file, the file
over a default.  Ray is not needed here; what needs it is in ``launch``.
"""

import re
import runpy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rllib_offset import old_spellings
from rllib_offset.config_keys import CHECKPOINT_KEYS, EXPERIMENT_KEYS, changed_settings, check_keys
from rllib_offset.user_errors import UserError, one_line

__all__ = [
    "Experiments",
    "Overrides",
    "apply_overrides",
    "experiment_of_options",
    "load_experiments",
    "parse_mapping",
]

Experiments = dict[str, dict[str, Any]]
Notes = list[str]


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Options of the command line that win over what a file says; ``None`` was not given."""

    stop: str | None = None
    config: str | None = None
    settings: tuple[str, ...] = ()
    num_samples: int | None = None
    experiment_name: str | None = None
    storage_path: str | None = None
    checkpoint_freq: int | None = None
    checkpoint_at_end: bool | None = None
    keep_checkpoints_num: int | None = None
    checkpoint_score_attr: str | None = None
    restore: str | None = None
    max_failures: int | None = None


def load_experiments(path: Path) -> tuple[Experiments, Notes]:
    """Read the experiments of a YAML or Python file, by name, with ``env`` moved into ``config``.

    Returns:
        The experiments, and a note for each old spelling that was translated.

    Raises:
        UserError: If the file is missing, cannot be read, or is not laid out as it must be.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it")
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix == ".py":
        return _experiment_of_python(path)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path} must end in .yaml, .yml or .py, got {path.suffix or 'nothing'!r}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {_yaml_problem(error)}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} must map experiment names to experiments, got {type(content).__name__}; "
            "start it with a name, e.g. `my-experiment:`, and indent the rest"
        )
    experiments, notes = {}, []
    for name, spec in content.items():
        experiments[str(name)], more = _check_layout(str(name), spec)
        notes += more
    return experiments, list(dict.fromkeys(notes))


def experiment_of_options(algo: str, env: str | None) -> Experiments:
    """Return the one experiment that the command line describes; ``config`` comes as an override.

    Example:
        >>> experiment_of_options("PPO", "CartPole-v1")
        {'ppo-cartpole-v1': {'run': 'PPO', 'config': {'env': 'CartPole-v1'}}}
    """
    config = {} if env is None else {"env": env}
    words = [algo, *([] if env is None else [env.rpartition("/")[2].rpartition(":")[2]])]
    name = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", word).strip("-").lower() for word in words)
    return {name: {"run": algo, "config": config}}


def apply_overrides(experiments: Experiments, given: Overrides) -> tuple[Experiments, Notes]:
    """Return the experiments with the given options in place of what they said.

    Raises:
        UserError: If an option cannot be read, or several experiments cannot share it.
    """
    _check_single(experiments, given)
    if given.experiment_name is not None:
        (spec,) = experiments.values()
        experiments = {given.experiment_name: spec}
    notes: Notes = []
    for spec in experiments.values():
        try:
            notes += _override(spec, given)
        except ValueError as error:
            raise UserError(str(error)) from None
    return experiments, list(dict.fromkeys(notes))


def parse_mapping(text: str | None, *, option: str) -> dict[str, Any] | None:
    """Read JSON (or YAML) given to an option.

    Raises:
        UserError: If it cannot be read or is not a mapping.

    Example:
        >>> parse_mapping('{"lr": 3e-4}', option="--config")
        {'lr': 0.0003}
    """
    if text is None:
        return None
    value = _parse_value(text, option=option)
    if not isinstance(value, dict):
        raise UserError(f"{option} must be a mapping such as '{{key: value}}', got {text!r}")
    return value


def _check_single(experiments: Experiments, given: Overrides) -> None:
    for option, value in (
        ("--experiment-name", given.experiment_name),
        ("--restore", given.restore),
    ):
        if value is not None and len(experiments) > 1:
            raise UserError(
                f"{option} needs a file with one experiment, got {len(experiments)} "
                f"({', '.join(experiments)}); split the file"
            )


def _override(spec: dict[str, Any], given: Overrides) -> Notes:
    notes: Notes = []
    if (stop := parse_mapping(given.stop, option="--stop")) is not None:
        spec["stop"], notes = old_spellings.translate_stop(stop)
    if (config := parse_mapping(given.config, option="--config")) is not None:
        config, more = old_spellings.translate_config(config)
        spec["config"] |= config
        notes += more
    for setting in given.settings:
        notes += _apply_setting(spec, setting)
    for key in ("num_samples", "storage_path", "max_failures"):
        if (value := getattr(given, key)) is not None:
            spec[key] = value
    if given.restore is not None:
        spec["restore"] = given.restore
    return notes + _override_checkpoints(spec, given)


def _override_checkpoints(spec: dict[str, Any], given: Overrides) -> Notes:
    options = {
        "checkpoint_frequency": given.checkpoint_freq,
        "checkpoint_at_end": given.checkpoint_at_end,
        "num_to_keep": given.keep_checkpoints_num,
    }
    section = {"checkpoint_at_end": True, **(spec.get("checkpoint_config") or {})}
    section |= {key: value for key, value in options.items() if value is not None}
    notes: Notes = []
    if given.checkpoint_score_attr is not None:
        score, notes = old_spellings.translate_score(given.checkpoint_score_attr)
        section |= score
    spec["checkpoint_config"] = section
    return notes


def _apply_setting(spec: dict[str, Any], setting: str) -> Notes:
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set takes KEY=VALUE, got {setting!r}; e.g. --set lr=0.001")
    first, *rest = key.split(".")
    value = _parse_value(text, option=f"--set {key}")
    for part in reversed(rest):
        value = {part: value}
    translated, notes = old_spellings.translate_config({first: value})
    depth = len(rest) if first in translated or rest else 1
    _merge(spec["config"], translated, depth, setting)
    return notes


def _merge(section: dict[str, Any], new: dict[str, Any], depth: int, setting: str) -> None:
    """Put ``new`` into ``section``; mappings are merged down to ``depth``, replaced below it."""
    for key, value in new.items():
        if depth == 0 or not isinstance(value, dict):
            section[key] = value
            continue
        below = section.setdefault(key, {})
        if not isinstance(below, dict):
            raise UserError(f"--set {setting}: `{key}` is {below!r}, not a mapping")
        _merge(below, value, depth - 1, setting)


# The layout of files.


def _check_layout(name: str, spec: Any) -> tuple[dict[str, Any], Notes]:
    if not isinstance(spec, dict):
        raise UserError(f"experiment {name!r} must be a mapping with a `run:` key, got {spec!r}")
    spec = _numbers(spec)
    _check_sections(name, spec)
    try:
        spec, notes = old_spellings.translate_experiment(spec)
        check_keys(EXPERIMENT_KEYS, spec, where=f"experiment {name!r}")
        check_keys(
            CHECKPOINT_KEYS,
            spec.get("checkpoint_config") or {},
            where=f"checkpoint_config of {name!r}",
        )
    except ValueError as error:
        raise UserError(f"experiment {name!r}: {error}") from None
    if not isinstance(spec.get("run"), str):
        raise UserError(f"experiment {name!r} names no algorithm; add e.g. `run: OffsetA2C`")
    config = dict(spec.pop("config", None) or {})
    if "env" in spec:
        config["env"] = spec.pop("env")
    spec = {key: value for key, value in spec.items() if value is not None}
    return spec | {"config": config}, notes


def _check_sections(name: str, spec: Mapping[str, Any]) -> None:
    for key in ("config", "stop", "checkpoint_config"):
        if spec.get(key) is not None and not isinstance(spec[key], dict):
            raise UserError(f"`{key}` of {name!r} must be a mapping, got {spec[key]!r}")


def _experiment_of_python(path: Path) -> tuple[Experiments, Notes]:
    """Read ``config`` and ``stop`` of a Python file; its folder can be imported from."""
    sys.path.insert(0, str(path.resolve().parent))
    try:
        names = runpy.run_path(str(path), run_name=path.stem)
    except Exception as error:
        raise UserError(f"{path} raised {type(error).__name__}: {one_line(error)}") from error
    config: Any = names.get("config")
    stop = names.get("stop")
    algorithm = getattr(config, "algo_class", None)
    if not hasattr(config, "to_dict") or algorithm is None:
        raise UserError(
            f"{path} must define `config`, the configuration of an algorithm, e.g. "
            f"`config = OffsetA2CConfig()...`; got {type(config).__name__}"
        )
    if stop is not None and not isinstance(stop, dict):
        raise UserError(f"`stop` of {path} must be a mapping, got {type(stop).__name__}")
    spec: dict[str, Any] = {"run": algorithm, "config": changed_settings(config)}
    notes: Notes = []
    if stop is not None:
        spec["stop"], notes = old_spellings.translate_stop(stop)
    return {path.stem: spec}, notes


# Values.


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads ``3e-4`` as text (it wants ``3.0e-4``): read it as the number it is."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _parse_value(text: str, *, option: str) -> Any:
    try:
        return _numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"{option}: cannot read {text!r}: {_yaml_problem(error)}") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return one_line(error)
