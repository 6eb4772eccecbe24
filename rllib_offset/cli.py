"""The ``rllib`` command: its verbs, and how they are reached.

Each verb is a plain function of ``rllib_offset.commands``.  Exit codes: 0 done, 1 a trial failed,
2 the command, the file, a setting or the pair of simulators is wrong, 130 interrupted
(143 by SIGTERM).
"""

import sys
from typing import Annotated, Any

import typer

from rllib_offset import __version__
from rllib_offset.commands import (
    check,
    evaluate,
    example,
    labels,
    paper,
    plan,
    propose,
    replay_one,
    report,
    train,
)
from rllib_offset.commands.verbs import Verb, VerbGroup

__all__ = ["app", "main"]


class _Verbs(VerbGroup):
    """Lists first what is needed first."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the verbs."""
        first = ("train", "evaluate", "report", "example", "check", "plan")
        return [*first, *(name for name in super().list_commands(ctx) if name not in first)]


app = typer.Typer(
    name="rllib",
    cls=_Verbs,
    epilog="Exit codes: 0 done, 1 a trial failed, 2 something given is wrong, 130 interrupted, "
    "143 the same by SIGTERM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rllib-offset {__version__}")
        raise typer.Exit


@app.callback()
def rllib(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Train agents on a fast simulator, corrected towards a slow one.

    Example: rllib example run demo
    """


train_app = typer.Typer(cls=VerbGroup, invoke_without_command=True)
train_app.callback()(train.train)
train_app.command("file", cls=Verb)(train.train_file)
app.add_typer(train_app, name="train")

app.command("evaluate", cls=Verb)(evaluate.evaluate)
app.command("propose", cls=Verb)(propose.propose)
app.command("report")(report.report)
app.command("plan")(plan.plan)
app.command("check")(check.check)
app.command("paper")(paper.paper)
app.command("labels")(labels.labels)
app.command("replay-one")(replay_one.replay_one)

example_app = typer.Typer(
    help="Tuned examples that come with the package.\n\nExample: rllib example run demo",
    no_args_is_help=True,
)
example_app.command("list")(example.list_examples)
example_app.command("get")(example.get_example)
example_app.command("run")(example.run_example)
app.add_typer(example_app, name="example")


def main() -> None:
    """Entry point of the ``rllib`` script."""
    sys.path.insert(0, "")  # as with `python -m`: a user's own modules lie where they type
    app()
