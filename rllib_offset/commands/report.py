"""``rllib report``: one page about a results folder."""

from pathlib import Path
from typing import Annotated

import typer

from rllib_offset.console import waiting
from rllib_offset.user_errors import UserError, user_errors

__all__ = ["report"]


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Results of `rllib train` or `rllib paper`.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write. Default: DIR/report.")
    ] = None,
) -> None:
    """Write one page about a results folder: the answer, every figure, the numbers.

    The page needs no network.  Beside it lies each figure as PNG, SVG and CSV.

    Example: rllib report ~/ray_results/demo
    """
    import warnings

    warnings.simplefilter("ignore")  # what Ray's libraries deprecate is not about the results
    from rllib_offset.report import write_report
    from rllib_offset.results import ResultsError

    with user_errors(), waiting("drawing"):
        try:
            page = write_report(folder.expanduser(), out)
        except ResultsError as error:
            raise UserError(str(error)) from error
        typer.echo(f"page written to {page}")
