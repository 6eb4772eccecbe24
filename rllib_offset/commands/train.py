"""``rllib train``: train what options or a file describe."""

from pathlib import Path
from typing import Annotated

import typer

from rllib_offset import old_spellings
from rllib_offset.commands import options as given
from rllib_offset.commands.verbs import show_notes
from rllib_offset.experiments import (
    Experiments,
    Overrides,
    apply_overrides,
    experiment_of_options,
    load_experiments,
    parse_mapping,
)
from rllib_offset.launch import Cluster, Search, run_experiments
from rllib_offset.user_errors import UserError, user_errors

__all__ = ["launch", "train", "train_file"]

# What a shell completes, without importing Ray; any other algorithm that RLlib has can be typed.
_ALGORITHMS = ("OffsetA2C", "OffsetPPO", "A2C", "PPO", "APPO", "IMPALA", "SAC", "DQN", "CQL", "BC")
_IGNORED_ON_RESUME = ("stop", "config", "settings", "num_samples", "restore")


def _complete_algorithm(incomplete: str) -> list[str]:
    return [name for name in _ALGORITHMS if name.startswith(incomplete)]


def train(
    context: typer.Context,
    algo: Annotated[
        str | None,
        typer.Option(
            "--algo",
            "--run",
            "-a",
            "-r",
            metavar="NAME",
            help="OffsetA2C, OffsetPPO, A2C, PPO, SAC, ...",
            autocompletion=_complete_algorithm,
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            "--env",
            "-e",
            metavar="ENV",
            help="Gymnasium id ('module:Id' imports first) or class path.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="JSON", help="Settings: '{\"lr\": 0.001}'."),
    ] = None,
    stop: given.Stop = None,
    settings: given.Settings = None,
    experiment_name: given.ExperimentName = None,
    storage_path: given.StoragePath = None,
    num_samples: given.NumSamples = None,
    scheduler: given.Scheduler = "FIFO",
    scheduler_config: given.SchedulerConfig = None,
    checkpoint_freq: given.CheckpointFreq = None,
    checkpoint_at_end: given.CheckpointAtEnd = None,
    keep_checkpoints_num: given.KeepCheckpoints = None,
    checkpoint_score_attr: given.CheckpointScoreAttr = None,
    restore: given.Restore = None,
    resume: given.Resume = False,
    max_failures: given.MaxFailures = None,
    ray_address: given.RayAddress = None,
    ray_num_cpus: given.RayNumCpus = None,
    ray_num_gpus: given.RayNumGpus = None,
    verbose: given.Verbose = 0,
) -> None:
    """Train an algorithm, from options or (`rllib train file`) from a file.

    Example: rllib train --algo PPO --env CartPole-v1 --stop '{training_iteration: 5}'
    """
    if context.invoked_subcommand is not None:
        with user_errors():
            _refuse_options_before_file(context)
        return
    overrides = Overrides(
        stop=stop,
        config=config,
        settings=tuple(settings or ()),
        num_samples=num_samples,
        experiment_name=experiment_name,
        storage_path=storage_path,
        checkpoint_freq=checkpoint_freq,
        checkpoint_at_end=checkpoint_at_end,
        keep_checkpoints_num=keep_checkpoints_num,
        checkpoint_score_attr=checkpoint_score_attr,
        restore=restore,
        max_failures=max_failures,
    )
    with user_errors():
        if algo is None:
            raise UserError(
                "no algorithm; give e.g. --algo OffsetA2C --env ..., or rllib train file FILE"
            )
        experiments = experiment_of_options(algo, env)
        launch(
            experiments,
            overrides,
            _cluster(ray_address, ray_num_cpus, ray_num_gpus, verbose),
            _search(scheduler, scheduler_config, resume),
        )


def train_file(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="YAML experiments, or .py with `config`.")
    ],
    stop: given.Stop = None,
    settings: given.Settings = None,
    experiment_name: given.ExperimentName = None,
    storage_path: given.StoragePath = None,
    num_samples: given.NumSamples = None,
    scheduler: given.Scheduler = "FIFO",
    scheduler_config: given.SchedulerConfig = None,
    checkpoint_freq: given.CheckpointFreq = None,
    checkpoint_at_end: given.CheckpointAtEnd = None,
    keep_checkpoints_num: given.KeepCheckpoints = None,
    checkpoint_score_attr: given.CheckpointScoreAttr = None,
    restore: given.Restore = None,
    resume: given.Resume = False,
    max_failures: given.MaxFailures = None,
    ray_address: given.RayAddress = None,
    ray_num_cpus: given.RayNumCpus = None,
    ray_num_gpus: given.RayNumGpus = None,
    verbose: given.Verbose = 0,
) -> None:
    """Train what a file describes; an option that is given wins over the file.

    Example: rllib train file tuned_configs/demo.yaml --set lr=0.001
    """
    overrides = Overrides(
        stop=stop,
        settings=tuple(settings or ()),
        num_samples=num_samples,
        experiment_name=experiment_name,
        storage_path=storage_path,
        checkpoint_freq=checkpoint_freq,
        checkpoint_at_end=checkpoint_at_end,
        keep_checkpoints_num=keep_checkpoints_num,
        checkpoint_score_attr=checkpoint_score_attr,
        restore=restore,
        max_failures=max_failures,
    )
    with user_errors():
        experiments, notes = load_experiments(path)
        show_notes(notes)
        launch(
            experiments,
            overrides,
            _cluster(ray_address, ray_num_cpus, ray_num_gpus, verbose),
            _search(scheduler, scheduler_config, resume),
        )


def launch(
    experiments: Experiments, overrides: Overrides, cluster: Cluster, search: Search
) -> None:
    """Apply the options that were given, then train.

    Raises:
        UserError: If something is refused.
    """
    if search.resume:
        ignored = [name for name in _IGNORED_ON_RESUME if getattr(overrides, name)]
        if ignored:
            names = ", ".join(_option_of(name) for name in ignored)
            show_notes([f"--resume continues the run as it was started; {names} is not read"])
    experiments, notes = apply_overrides(experiments, overrides)
    show_notes(notes)
    run_experiments(experiments, cluster, search)


def _option_of(name: str) -> str:
    return "--set" if name == "settings" else f"--{name.replace('_', '-')}"


def _cluster(
    address: str | None, num_cpus: int | None, num_gpus: int | None, verbosity: int
) -> Cluster:
    return Cluster(address=address, num_cpus=num_cpus, num_gpus=num_gpus, verbosity=verbosity)


def _search(scheduler: str, scheduler_config: str | None, resume: bool) -> Search:
    arguments = parse_mapping(scheduler_config, option="--scheduler-config")
    if arguments and isinstance(arguments.get("metric"), str):
        arguments["metric"], notes = old_spellings.translate_metric(arguments["metric"])
        show_notes(notes)
    return Search(scheduler=scheduler, scheduler_config=arguments, resume=resume)


def _refuse_options_before_file(context: typer.Context) -> None:
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name != "DEFAULT":
            raise UserError(
                f"{parameter.opts[0]} comes after the file: rllib train file FILE "
                f"{parameter.opts[0]} ..."
            )
