"""The ``rllib`` command.

Knows files, options and Tune; what is printed while training is in ``reporting``.  Ray is imported
inside the verbs only, so that ``rllib --help`` answers at once.

Exit codes: 0 done, 1 a trial failed, 2 the command, the file or a setting is wrong, 130
interrupted.
"""

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from rllib_offset.config_keys import (
    CHECKPOINT_KEYS,
    EXPERIMENT_KEYS,
    check_config_keys,
    check_keys,
    check_name,
    translate_keys,
)

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from rllib_offset.reporting import StatusLines

__all__ = ["NOISY_LOGGERS", "app", "load_experiments", "main", "prepare_experiment"]

app = typer.Typer(
    name="rllib",
    help="Train agents on a fast simulator, corrected towards a slow one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train an algorithm.", no_args_is_help=True)
app.add_typer(train_app, name="train")

_OWN_ALGORITHMS = ("A2C", "OffsetA2C", "OffsetPPO")
_MAX_CHECKED_VARIANTS = 32  # of a grid search, before anything starts

NOISY_LOGGERS = ("ray", "ray.tune", "ray.rllib", "ray.train")

Experiments = dict[str, dict[str, Any]]


class UserError(Exception):
    """What a user can put right; shown as one line, without a traceback."""


@app.callback()
def rllib() -> None:
    """Train agents on a fast simulator, corrected towards a slow one."""


@train_app.command("file")
def train_file(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of experiments.")],
    stop: Annotated[
        str | None, typer.Option(help="Stop when any is reached, e.g. '{training_iteration: 50}'.")
    ] = None,
    num_samples: Annotated[int | None, typer.Option(min=1, help="Repeat each variant.")] = None,
    experiment_name: Annotated[
        str | None, typer.Option("--experiment-name", "-n", help="Name of the results folder.")
    ] = None,
    storage_path: Annotated[
        str | None, typer.Option(help="Where results go.  [default: ~/ray_results]")
    ] = None,
    checkpoint_at_end: Annotated[
        bool | None, typer.Option(help="Save the trained agent.  [default: on]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. lr=0.001."),
    ] = None,
    ray_num_cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs that Ray may use.  [default: all]")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the messages of Ray and Tune.")
    ] = False,
) -> None:
    """Train what a YAML file describes.

    Example: rllib train file tuned_configs/demo.yaml
    """
    with _user_errors():
        experiments = load_experiments(path)
        if experiment_name is not None:
            experiments = _rename_experiment(experiments, experiment_name)
        overrides = {
            "stop": _parse_mapping(stop, option="--stop"),
            "num_samples": num_samples,
            "storage_path": storage_path,
        }
        for spec in experiments.values():
            spec |= {key: value for key, value in overrides.items() if value is not None}
            _set_checkpoint_at_end(spec, checkpoint_at_end)
            _apply_settings(spec, settings or [])
        _run_experiments(experiments, num_cpus=ray_num_cpus, verbose=verbose)


def load_experiments(path: Path) -> Experiments:
    """Read the experiments of a YAML file, by name, with ``env`` moved into ``config``.

    Raises:
        UserError: If the file is missing, not YAML, or not in the classic layout.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {_one_line(error)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {_yaml_problem(error)}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} must map experiment names to experiments, got {type(content).__name__}; "
            "start it with a name, e.g. `my-experiment:`, and indent the rest"
        )
    return {str(name): _check_layout(str(name), spec) for name, spec in content.items()}


def prepare_experiment(name: str, spec: dict[str, Any]) -> None:
    """Check one experiment against its algorithm, before anything starts.

    Raises:
        UserError: If the algorithm, a setting, its value or the environment is unknown or refused.
    """
    algorithm = _algorithm_class(name, spec["run"])
    spec["config"] = translate_keys(spec["config"])
    for config in _variants(spec["config"]):
        try:
            default = algorithm.get_default_config()
            check_config_keys(default, config)
            for key in ("env", "slow_env"):
                _check_environment(config.get(key))
            default.update_from_dict(config).validate()
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"experiment {name!r}: {_one_line(error)}") from error


def main() -> None:
    """Entry point of the ``rllib`` script."""
    app()


@contextmanager
def _user_errors() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None


# Reading the file and the options.


def _check_layout(name: str, spec: Any) -> dict[str, Any]:
    if not isinstance(spec, dict):
        raise UserError(f"experiment {name!r} must be a mapping with a `run:` key, got {spec!r}")
    spec = _numbers(spec)
    try:
        check_keys(EXPERIMENT_KEYS, spec, where=f"experiment {name!r}")
        for key, valid in (
            ("config", None),
            ("stop", None),
            ("checkpoint_config", CHECKPOINT_KEYS),
        ):
            section = spec.get(key)
            if section is not None and not isinstance(section, dict):
                raise ValueError(f"`{key}` of {name!r} must be a mapping, got {section!r}")
            if valid and section:
                check_keys(valid, section, where=f"{key} of {name!r}")
    except ValueError as error:
        raise UserError(str(error)) from None
    if not isinstance(spec.get("run"), str):
        raise UserError(f"experiment {name!r} names no algorithm; add e.g. `run: OffsetA2C`")
    config = dict(spec.pop("config", None) or {})
    if "env" in spec:
        config["env"] = spec.pop("env")
    return {key: value for key, value in spec.items() if value is not None} | {"config": config}


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads ``3e-4`` as text (it wants ``3.0e-4``): read it as the number it is."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _rename_experiment(experiments: Experiments, name: str) -> Experiments:
    if len(experiments) > 1:
        raise UserError(
            f"--experiment-name needs a file with one experiment, got {len(experiments)} "
            f"({', '.join(experiments)}); rename them in the file"
        )
    (spec,) = experiments.values()
    return {name: spec}


def _parse_value(text: str, *, option: str) -> Any:
    try:
        return _numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"{option}: cannot read {text!r}: {_yaml_problem(error)}") from None


def _parse_mapping(text: str | None, *, option: str) -> dict[str, Any] | None:
    if text is None:
        return None
    value = _parse_value(text, option=option)
    if not isinstance(value, dict):
        raise UserError(f"{option} must be a mapping such as '{{key: value}}', got {text!r}")
    return value


def _set_checkpoint_at_end(spec: dict[str, Any], given: bool | None) -> None:
    """An option wins over the file, the file over the default."""
    from_file = spec.get("checkpoint_config") or {}
    at_end = from_file.get("checkpoint_at_end", True) if given is None else given
    spec["checkpoint_config"] = {**from_file, "checkpoint_at_end": at_end}


def _apply_settings(spec: dict[str, Any], settings: list[str]) -> None:
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise UserError(f"--set takes KEY=VALUE, got {setting!r}; e.g. --set lr=0.001")
        *parents, last = key.split(".")
        section = spec["config"]
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise UserError(f"--set {setting}: `{parent}` is {section!r}, not a mapping")
        section[last] = _parse_value(text, option=f"--set {key}")


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return _one_line(error)


def _one_line(error: BaseException | str) -> str:
    text = re.sub(r"To suppress all validation errors.*", "", str(error), flags=re.DOTALL)
    return " ".join(text.split()) or type(error).__name__


# Checking against RLlib.


def _algorithm_class(experiment: str, name: str) -> Any:
    import ray.rllib.algorithms.registry as registry
    from ray.tune.registry import get_trainable_cls

    import rllib_offset

    rllib_offset.register()
    try:
        check_name([*_OWN_ALGORITHMS, *registry.ALGORITHMS], name, what="algorithm")
    except ValueError as error:
        raise UserError(f"experiment {experiment!r}: {error}") from None
    return get_trainable_cls(name)


def _variants(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The configurations that a search will try, the first ones of a large search."""
    from ray.tune.search.variant_generator import generate_variants

    for _, spec in islice(generate_variants({"config": config}), _MAX_CHECKED_VARIANTS):
        yield spec["config"]


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
        raise ValueError(f"environment {env!r} cannot be made: {_one_line(error)}") from error


# Running.


def _run_experiments(experiments: Experiments, *, num_cpus: int | None, verbose: bool) -> None:
    if not verbose:
        _keep_out_noise()
    for name, spec in experiments.items():
        prepare_experiment(name, spec)

    import ray
    from ray import tune
    from ray.tune.experiment import Experiment

    from rllib_offset.reporting import StatusLines

    _start_ray(num_cpus, verbose)
    for name, spec in experiments.items():
        _check_resources(name, spec, ray.cluster_resources())
    try:
        prepared = [Experiment.from_json(name, spec) for name, spec in experiments.items()]
    except (ValueError, TypeError, tune.TuneError) as error:
        raise UserError(_one_line(error)) from error
    status = StatusLines(typer.echo, shows_experiment=len(experiments) > 1)
    analysis = tune.run(
        prepared,
        callbacks=[status],
        verbose=2 if verbose else 0,
        raise_on_failed_trial=False,
    )
    _finish(analysis.trials, status)


def _keep_out_noise() -> None:
    """Silence what Ray, Tune and RLlib say about themselves, here and in the processes they start.

    A trial's own output is kept in Ray's session folder.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")
    import ray.rllib  # noqa: F401  (sets the level of its logger when imported)

    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failed trials are reported at the end


def _start_ray(num_cpus: int | None, verbose: bool) -> None:
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.CRITICAL,
        )
    except (ValueError, ConnectionError) as error:
        raise UserError(f"Ray does not start: {_one_line(error)}") from error


def _check_resources(name: str, spec: dict[str, Any], available: Mapping[str, float]) -> None:
    """Tune would wait for ever for resources that the cluster does not have."""
    algorithm = _algorithm_class(name, spec["run"])
    for config in _variants(spec["config"]):
        try:
            request = algorithm.default_resource_request(config)
        except ValueError as error:
            raise UserError(_one_line(error)) from error
        for resource, amount in request.required_resources.items():
            if amount > available.get(resource, 0.0):
                raise UserError(
                    f"experiment {name!r} needs {amount:g} {resource}, but Ray has "
                    f"{available.get(resource, 0.0):g}; use fewer num_env_runners or "
                    f"num_replay_workers, or start Ray with more (--ray-num-cpus)"
                )


def _finish(trials: "list[Trial]", status: "StatusLines") -> None:
    from ray.tune.experiment import Trial

    from rllib_offset.reporting import error_file, root_cause, summary

    for trial in trials:
        typer.echo("")
        if trial.status == Trial.ERROR:
            typer.echo(f"Error: {trial} failed: {root_cause(trial)}", err=True)
            typer.echo(f"The traceback is in {error_file(trial)}", err=True)
        elif trial.last_result:
            typer.echo(summary(trial, status.report_of(trial)))
    if any(trial.status == Trial.ERROR for trial in trials):
        raise typer.Exit(1)
    if not all(status.report_of(trial).is_complete for trial in trials):
        typer.echo("Interrupted before all trials had finished.", err=True)
        raise typer.Exit(130)
