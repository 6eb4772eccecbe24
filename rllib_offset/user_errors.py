"""What a user can put right: one line on standard error, and an exit code.

Every verb of the command runs inside :func:`user_errors`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_REFUSED",
    "EXIT_TERMINATED",
    "UserError",
    "one_line",
    "user_errors",
]

EXIT_FAILED = 1  # a trial failed; its traceback lies in its results folder
EXIT_REFUSED = 2  # the command, the file, a setting or the pair of simulators is wrong
EXIT_INTERRUPTED = 130  # stopped by Ctrl-C, as a shell reports it
EXIT_TERMINATED = 143  # stopped by SIGTERM


class UserError(Exception):
    """What a user can put right; shown as one line, without a traceback."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a :class:`UserError`, and a file that cannot be used, into one line and exit code 2."""
    try:
        yield
    except UserError as error:
        _refuse(one_line(error))
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}")


def _refuse(line: str) -> NoReturn:
    typer.echo(f"Error: {line}", err=True)
    raise typer.Exit(EXIT_REFUSED) from None


def one_line(error: BaseException | str) -> str:
    """Return the message of an error without line breaks, and without RLlib's usual postscript.

    Example:
        >>> one_line(ValueError("too    many"))
        'too many'
    """
    text = re.sub(r"To suppress all validation errors.*", "", str(error), flags=re.DOTALL)
    return " ".join(text.split()) or type(error).__name__
