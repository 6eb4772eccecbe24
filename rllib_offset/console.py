"""Where the command writes: a live progress bar on a terminal, plain lines in a log.

Knows nothing of Tune: lines, a fraction done, and commands to type next.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import typer

__all__ = ["Display", "display", "show_next_commands"]


@dataclass(frozen=True)
class Display:
    """Where a run shows itself.

    Args:
        line: Writes one line above the bar.
        progress: Moves the bar to a fraction between 0 and 1.
    """

    line: Callable[[str], None]
    progress: Callable[[float], None]


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
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(highlight=False, markup=False)
    # long window: an iteration may take minutes
    with Progress(*columns, console=console, speed_estimate_period=600.0) as bar:
        task = bar.add_task("training", total=1.0)
        yield Display(
            lambda text: bar.console.print(text, soft_wrap=True),
            lambda fraction: bar.update(task, completed=fraction),
        )


def show_next_commands(commands: Sequence[tuple[str, str]]) -> None:
    """Write commands to type next, each with what it is for; no borders, so that they copy well."""
    width = max(len(purpose) for purpose, _ in commands)
    typer.echo("")
    typer.secho("Next:", bold=True)
    for purpose, command in commands:
        typer.echo(f"  {purpose:<{width}}  {command}")
