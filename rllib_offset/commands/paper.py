"""``rllib paper``: the paper's experiments, and the page about them."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rllib_offset.user_errors import EXIT_FAILED, EXIT_INTERRUPTED, user_errors

__all__ = ["paper"]


def paper(
    out: Annotated[Path, typer.Option("--out", help="Where results and page go.")] = Path(
        "paper-results"
    ),
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of every arm. Default: 5, with --quick 1.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few minutes: one seed, short runs, fewer timings.")
    ] = False,
    ray_num_cpus: Annotated[
        int | None,
        typer.Option(min=1, help="CPUs that Ray counts. Default: two a core, as replays wait."),
    ] = None,
) -> None:
    """Run the experiments of the paper and write the page about them.

    Interrupted, the same command goes on where it was: finished trials and timings are kept.

    Example: rllib paper --seeds 5 --out paper-results
    """
    with user_errors():
        from rllib_offset.commands.example import find_examples
        from rllib_offset.console import display
        from rllib_offset.launch import Cluster, keep_out_noise, start_ray
        from rllib_offset.paper import FULL, QUICK, PaperError, PaperRun

        keep_out_noise()
        start_ray(Cluster(num_cpus=ray_num_cpus or 2 * (os.cpu_count() or 1)))
        try:
            with display() as shown:
                page = PaperRun(
                    out=out,
                    configs=find_examples(),
                    seeds=seeds or (1 if quick else 5),
                    scale=QUICK if quick else FULL,
                    command=_command(seeds, quick),
                    line=shown.line,
                    progress=shown.progress,
                ).run()
        except PaperError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(EXIT_FAILED) from error
        except KeyboardInterrupt:
            typer.echo("Interrupted; the same command goes on where it was.", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        typer.echo(f"page written to {page}")


def _command(seeds: int | None, quick: bool) -> str:
    """What makes the same page again; where it is written is nobody's business."""
    options = ["--quick"] if quick else []
    if seeds is not None:
        options.append(f"--seeds {seeds}")
    return " ".join(["rllib paper", *options])
