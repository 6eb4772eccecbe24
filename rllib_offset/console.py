"""Where the command writes: a live progress bar on a terminal, plain lines in a log.

Knows nothing of Tune: lines, a fraction done, and commands to type next.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import typer

__all__ = ["Display", "display", "show_next_commands", "waiting"]


@dataclass(frozen=True)
class Display:
    """Where a run shows itself.

    Args:
        line: Writes one line above the bar.
        progress: Moves the bar to a fraction between 0 and 1; while it is 0, nobody knows how much
            is left, and the bar only shows that something is going on.
    """

    line: Callable[[str], None]
    progress: Callable[[float], None]


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on a terminal what takes so long while the block runs; a log is spared."""
    if not sys.stdout.isatty():
        yield
        return
    from rich.console import Console

    with Console().status(what):
        yield


@contextmanager
def display() -> Iterator[Display]:
    """Show progress while the block runs; in a log (no terminal) there are lines only."""
    if not sys.stdout.isatty():
        yield Display(typer.echo, lambda fraction: None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"),
        BarColumn(),
        TaskProgressColumn(),  # empty as long as there is no total
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TimeRemainingColumn(),
    )
    console = Console(highlight=False, markup=False)
    # long window: an iteration may take minutes
    with Progress(*columns, console=console, speed_estimate_period=600.0) as bar:
        task = bar.add_task("training", total=None, left="")

        def show(fraction: float) -> None:
            if fraction:
                bar.update(task, completed=fraction, total=1.0, left="left")

        yield Display(lambda text: bar.console.print(text, soft_wrap=True), show)


def show_next_commands(commands: Sequence[tuple[str, str]]) -> None:
    """Write commands to type next, each with what it is for; no borders, so that they copy well."""
    width = max(len(purpose) for purpose, _ in commands)
    typer.echo("")
    typer.secho("Next:", bold=True)
    for purpose, command in commands:
        typer.echo(f"  {purpose:<{width}}  {command}")
