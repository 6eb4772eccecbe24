"""How verbs read their words: options of the old command are understood, verbs keep their order."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from rllib_offset.old_spellings import translate_options
from rllib_offset.user_errors import UserError, user_errors

__all__ = ["Verb", "VerbGroup", "show_notes"]


def show_notes(notes: list[str]) -> None:
    """Write what was translated, one line each, on standard error."""
    for note in notes:
        typer.echo(f"Note: {note}", err=True)


class Verb(TyperCommand):
    """A verb that says what became of an option of Ray's old ``rllib`` command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words that follow the verb."""
        return super().parse_args(ctx, _without_old_options(args))


class VerbGroup(TyperGroup):
    """The same for a verb with verbs below it, which are listed in the order they were added."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words that follow the verb."""
        return super().parse_args(ctx, _without_old_options(args))


def _without_old_options(words: list[str]) -> list[str]:
    with user_errors():
        try:
            kept, notes = translate_options(words)
        except ValueError as error:
            raise UserError(str(error)) from error
    show_notes(notes)
    return kept
