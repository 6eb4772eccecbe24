"""Runs experiments with Tune: starts Ray, watches the trials, says how it went."""

import logging
import math
import os
import signal
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rllib_offset.config_keys import check_name
from rllib_offset.console import display, show_next_commands, waiting
from rllib_offset.experiment_checks import check_resources, prepare_experiment, with_samplers
from rllib_offset.experiments import Experiments
from rllib_offset.user_errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    UserError,
    one_line,
)

if TYPE_CHECKING:
    from ray.tune.experiment import Experiment, Trial

    from rllib_offset.reporting import StatusLines

__all__ = [
    "NOISY_LOGGERS",
    "Cluster",
    "Search",
    "keep_out_noise",
    "prepare_experiment",
    "run_experiments",
    "start_ray",
]

_SCHEDULERS = {"asha": "async_hyperband", "population_based_training": "pbt"}
_METRIC = "env_runners/episode_return_mean"

_INTERRUPTED = "Interrupted; the same command with --resume goes on from the last checkpoints."
_INTERRUPTED_UNSAVED = "Interrupted before anything was saved."

NOISY_LOGGERS = ("ray", "ray.tune", "ray.rllib", "ray.train")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where Ray runs.

    Args:
        address: Of a running cluster; ``None`` joins the one of this machine, or starts one.
        num_cpus: CPUs of a cluster of its own; ``None`` is all.
        num_gpus: GPUs of it; ``None`` is all.
        verbosity: 0 shows our own lines only, 1 Ray's and Tune's besides, 2 their debugging too.
    """

    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    verbosity: int = 0


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the trials of a run are scheduled.

    Args:
        scheduler: A name that ``ray.tune.schedulers.create_scheduler`` knows, or ``ASHA``.
        scheduler_config: Its arguments; the metric is the return unless given.
        resume: Continue the unfinished and failed trials of the experiment of this name.
    """

    scheduler: str = "FIFO"
    scheduler_config: Mapping[str, Any] | None = None
    resume: bool = False


def run_experiments(experiments: Experiments, cluster: Cluster, search: Search) -> None:
    """Train, and exit with the code that says how it went.

    Raises:
        UserError: If an experiment or the cluster is not as it must be.
        typer.Exit: With code 1 if a trial failed, 130 after Ctrl-C, 143 after SIGTERM.
    """
    if cluster.verbosity == 0:
        keep_out_noise()
    with waiting("checking the settings, starting Ray"):
        for name, spec in experiments.items():
            prepare_experiment(name, spec)
            if cluster.address is None and cluster.num_cpus is not None:  # known before Ray starts
                check_resources(name, spec, {"CPU": cluster.num_cpus}, unknown=math.inf)
        scheduler = _scheduler(search)
        start_ray(cluster)
        prepared = _prepare_for_tune(experiments)
    if not all(spec.get("stop") or spec.get("time_budget_s") for spec in experiments.values()):
        typer.echo("Note: no `stop`: it trains until you press Ctrl-C", err=True)
    from rllib_offset.interruption import exit_on_sigterm

    with exit_on_sigterm():
        trials, status, interrupted_by = _tune(
            prepared, scheduler, search.resume, cluster.verbosity
        )
    _finish(trials, status, interrupted_by)


def keep_out_noise() -> None:
    """Silence what Ray, Tune and RLlib say about themselves, here and in the processes they start.

    A trial's own output is kept in Ray's session folder.
    """
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")
    import ray.rllib  # noqa: F401  (sets the level of its logger when imported)

    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failed trials are reported at the end


def start_ray(cluster: Cluster) -> None:
    """Start Ray, or join a cluster, unless this process already has.

    Raises:
        UserError: If it does not start.
    """
    import ray

    if ray.is_initialized():
        return
    level = {0: logging.CRITICAL, 1: logging.INFO}.get(cluster.verbosity, logging.DEBUG)
    options: dict[str, Any] = {"log_to_driver": cluster.verbosity > 0, "logging_level": level}
    is_sized = cluster.num_cpus is not None or cluster.num_gpus is not None
    if cluster.address is None:
        options |= {"num_cpus": cluster.num_cpus, "num_gpus": cluster.num_gpus}
        options["include_dashboard"] = False
    elif is_sized:
        raise UserError(
            "--ray-num-cpus and --ray-num-gpus are for a cluster started here; "
            "leave them out with --ray-address"
        )
    try:
        # None joins a cluster that runs on this machine, whose size is what it is
        ray.init(address="local" if is_sized else cluster.address, **options)
    except Exception as error:  # Ray raises plain ones too, e.g. after a node's time is up
        raise UserError(f"Ray does not start: {one_line(error)}") from error


def _scheduler(search: Search) -> Any:
    from ray.tune.schedulers import SCHEDULER_IMPORT, create_scheduler

    name = search.scheduler.lower()
    name = _SCHEDULERS.get(name, name)
    try:
        check_name(SCHEDULER_IMPORT, name, what="scheduler")
        if name == "fifo":
            return None
        arguments = {"metric": _METRIC, "mode": "max", **(search.scheduler_config or {})}
        return create_scheduler(name, **with_samplers(arguments))
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"--scheduler {search.scheduler}: {one_line(error)}") from error


# Running.


def _prepare_for_tune(experiments: Experiments) -> "list[Experiment]":
    import ray
    from ray import tune
    from ray.tune.experiment import Experiment

    available = ray.cluster_resources()
    for name, spec in experiments.items():
        check_resources(name, spec, available)
        if len(experiments) > 1 and (budget := spec.pop("time_budget_s", None)):
            # Tune would apply the first experiment's budget to all of them
            spec["stop"] = {"time_total_s": budget, **(spec.get("stop") or {})}
            typer.echo(f"Note: `time_budget_s` of {name!r} counts for each of its trials", err=True)
    try:
        return [
            Experiment.from_json(
                name, {**_with_absolute_paths(spec), "trial_name_creator": _trial_name}
            )
            for name, spec in experiments.items()
        ]
    except (ValueError, TypeError, tune.TuneError) as error:
        raise UserError(one_line(error)) from error


def _trial_name(trial: "Trial") -> str:
    """Tune's own has the environment in it, which makes folders that fill two lines."""
    return f"{trial.trainable_name}_{trial.trial_id}"


def _with_absolute_paths(spec: dict[str, Any]) -> dict[str, Any]:
    """Tune takes a storage path that is absolute, or that names a file system such as s3://."""
    result = dict(spec)
    path = result.get("storage_path")
    if path is not None and "://" not in str(path):
        result["storage_path"] = str(Path(path).expanduser().resolve())
    return result


def _tune(
    prepared: "list[Experiment]", scheduler: Any, resume: bool, verbosity: int
) -> "tuple[list[Trial], StatusLines, int | None]":
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune

    from rllib_offset.experiment_storage import StoredExperiments
    from rllib_offset.interruption import SavedInterruption
    from rllib_offset.reporting import StatusLines

    with display() as shown:
        interruption = SavedInterruption(shown.line)
        status = StatusLines(
            shown.line, shows_experiment=len(prepared) > 1, on_progress=shown.progress
        )
        analysis = tune.run(
            prepared,
            scheduler=scheduler,
            callbacks=[
                StoredExperiments(prepared, resumes=resume),
                status,
                interruption,
            ],
            resume_config=_resume_config() if resume else None,
            verbose=min(verbosity + 1, 3) if verbosity else 0,
            raise_on_failed_trial=False,
        )
    return analysis.trials, status, interruption.signal


def _resume_config() -> Any:
    from ray.tune import ResumeConfig

    resumes = ResumeConfig.ResumeType.RESUME
    return ResumeConfig(unfinished=resumes, errored=resumes)


def _finish(trials: "list[Trial]", status: "StatusLines", interrupted_by: int | None) -> None:
    from ray.tune.experiment import Trial

    from rllib_offset.reporting import best_trial, error_file, next_commands, root_cause, summary

    for trial in trials:
        typer.echo("")
        if trial.status == Trial.ERROR:
            typer.echo(f"Error: {trial} failed: {root_cause(trial)}", err=True)
            typer.echo(f"The traceback is in {error_file(trial)}", err=True)
        elif trial.last_result:
            typer.echo(summary(trial, status.report_of(trial)))
    if (best := best_trial(trials, status)) is not None:
        show_next_commands(next_commands(best))
    if any(trial.status == Trial.ERROR for trial in trials):
        raise typer.Exit(EXIT_FAILED)
    if not all(status.report_of(trial).is_complete for trial in trials):
        typer.echo(_INTERRUPTED if best else _INTERRUPTED_UNSAVED, err=True)
        is_terminated = interrupted_by == signal.SIGTERM
        raise typer.Exit(EXIT_TERMINATED if is_terminated else EXIT_INTERRUPTED)
