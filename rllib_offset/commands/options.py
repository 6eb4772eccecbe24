"""Options that several verbs share."""

from typing import Annotated

import typer

__all__ = [
    "CheckpointAtEnd",
    "CheckpointFreq",
    "CheckpointScoreAttr",
    "ExperimentName",
    "KeepCheckpoints",
    "MaxFailures",
    "NumSamples",
    "RayAddress",
    "RayNumCpus",
    "RayNumGpus",
    "Restore",
    "Resume",
    "Scheduler",
    "SchedulerConfig",
    "Settings",
    "Stop",
    "StoragePath",
    "Verbose",
]

_RESULTS, _CHECKPOINTS, _SEARCH, _RAY = "Results", "Checkpoints", "Search", "Ray"

Stop = Annotated[
    str | None,
    typer.Option(
        "--stop", "-s", metavar="JSON", help="Stop when any is reached: '{training_iteration: 50}'."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: lr=0.001."),
]
ExperimentName = Annotated[
    str | None,
    typer.Option(
        "--experiment-name",
        "-n",
        metavar="NAME",
        help="Name of the results folder.",
        rich_help_panel=_RESULTS,
    ),
]
StoragePath = Annotated[
    str | None,
    typer.Option(
        "--storage-path",
        "--local-dir",
        metavar="PATH",
        help="Where results go. Default: ~/ray_results.",
        rich_help_panel=_RESULTS,
    ),
]
CheckpointFreq = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Iterations between checkpoints. Default: 0.",
        rich_help_panel=_CHECKPOINTS,
    ),
]
CheckpointAtEnd = Annotated[
    bool | None,
    typer.Option(help="Save the trained agent. Default: on.", rich_help_panel=_CHECKPOINTS),
]
KeepCheckpoints = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Keep the best or latest.", rich_help_panel=_CHECKPOINTS),
]
CheckpointScoreAttr = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC",
        help="Metric that ranks checkpoints; min-X for lowest.",
        rich_help_panel=_CHECKPOINTS,
    ),
]
Restore = Annotated[
    str | None,
    typer.Option(
        metavar="CHECKPOINT", help="Start from a checkpoint.", rich_help_panel=_CHECKPOINTS
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue a run of this name after a crash.", rich_help_panel=_CHECKPOINTS
    ),
]
MaxFailures = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=-1,
        help="Restarts of a failed trial; -1 is endless.",
        rich_help_panel=_CHECKPOINTS,
    ),
]
NumSamples = Annotated[
    int | None,
    typer.Option(metavar="N", help="Repeat each variant.", rich_help_panel=_SEARCH),
]
Scheduler = Annotated[
    str,
    typer.Option(metavar="NAME", help="FIFO, ASHA, PBT, ... of Ray Tune.", rich_help_panel=_SEARCH),
]
SchedulerConfig = Annotated[
    str | None,
    typer.Option(
        metavar="JSON", help="Its arguments: '{grace_period: 5}'.", rich_help_panel=_SEARCH
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Of a running cluster, e.g. auto.", rich_help_panel=_RAY),
]
RayNumCpus = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="CPUs that Ray may use. Default: all.", rich_help_panel=_RAY
    ),
]
RayNumGpus = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, help="GPUs that Ray may use. Default: all.", rich_help_panel=_RAY
    ),
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="Show Ray's messages; -vv, its debugging too.",
        rich_help_panel=_RAY,
    ),
]
