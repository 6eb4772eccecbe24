"""``rllib check``: what a pair of simulators allows, in plain words or as JSON."""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from rllib_offset.experiments import parse_mapping
from rllib_offset.user_errors import UserError, user_errors

if TYPE_CHECKING:
    from rllib_offset.pair import PairReport

__all__ = ["check"]


def check(
    fast: Annotated[
        str,
        typer.Argument(
            metavar="FAST", help="Gymnasium id ('module:Id' imports first) or class path."
        ),
    ],
    slow: Annotated[str, typer.Argument(metavar="SLOW", help="The same for the slow simulator.")],
    fast_config: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="What the fast one is made with: '{shift: [0, 1]}'."),
    ] = None,
    slow_config: Annotated[
        str | None, typer.Option(metavar="JSON", help="What the slow one is made with.")
    ] = None,
    steps: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Steps to compare; about twice as many slow ones."),
    ] = 20,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the episodes and the random actions.")
    ] = 0,
    is_strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a pair of which any claim does not hold.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Test what a pair of simulators allows; exit code 2 if it cannot be used.

    Example: rllib check rllib_offset.envs:rllib_offset/Pendulum-v0
    rllib_offset.envs:rllib_offset/DampedPendulum-v0
    """
    from rllib_offset.pair import EnvPair

    with user_errors():
        pair = EnvPair(
            fast,
            slow,
            fast_config=parse_mapping(fast_config, option="--fast-config") or {},
            slow_config=parse_mapping(slow_config, option="--slow-config") or {},
        )
        try:
            # what a simulator prints would not be JSON
            with redirect_stdout(sys.stderr) if as_json else nullcontext():
                report = pair.check(seed=seed, steps=steps)
        except ValueError as error:
            raise UserError(str(error)) from error
        typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else _without_problems(report))
        broken = [
            f"not so: {claim.name}: {claim.text}" for claim in report.claims if claim.holds is False
        ]
        if problems := [*report.problems] or broken * is_strict:
            raise UserError("; ".join(problems))


def _without_problems(report: "PairReport") -> str:
    """The problems follow on standard error."""
    return "\n".join(str(report).splitlines()[len(report.problems) :])
