"""``rllib replay-one``: replay a request that failed, alone and in this process."""

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rllib_offset.user_errors import EXIT_FAILED, UserError, user_errors

if TYPE_CHECKING:
    from rllib_offset.pair import EnvPair
    from rllib_offset.replay.known import KnownLabels
    from rllib_offset.replay.requests import ReplayRequest

__all__ = ["replay_one"]

_OWN = "rllib_offset.envs:"


def replay_one(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="The folder named by .labels(store=PATH).")
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Of the request, from the log. Default: list them."),
    ] = None,
    fast: Annotated[
        str | None, typer.Option(metavar="ENV", help="The fast simulator, if it is your own.")
    ] = None,
    slow: Annotated[
        str | None, typer.Option(metavar="ENV", help="The slow simulator, if it is your own.")
    ] = None,
) -> None:
    """Replay a request that failed, in this process, with the simulator's own traceback.

    Nothing is written to the folder.  Exit code 1 if it fails again.

    Example: rllib replay-one ~/labels failures/a1b2c3-4,0,7.parquet
    """
    with user_errors():
        found = _failures(path)
        if name is None:
            for known, (_, _, request, error) in sorted(found.items()):
                typer.echo(f"{known}  {request.kind}, {len(request)} steps: {error}")
            typer.echo(f"{len(found)} requests failed")
            return
        if name not in found:
            raise UserError(
                f"no failed request {name!r} in {path}; `rllib replay-one {path}` lists them"
            )
        _, about, request, _ = found[name]
        pair = _pair(about, fast, slow)
    _replay(pair, request)


def _failures(
    path: str,
) -> "dict[str, tuple[KnownLabels, dict[str, Any], ReplayRequest, str]]":
    from rllib_offset.replay.known import KnownLabels
    from rllib_offset.store import StoreLocation
    from rllib_offset.store_report import pairs_in

    found = {}
    try:
        for fingerprint, about in pairs_in(path).items():
            labels = KnownLabels(StoreLocation(path, fingerprint), is_read_only=True)
            for name, (request, error) in labels.failures().items():
                found[name] = labels, about, request, error
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    return found


def _pair(about: dict[str, Any], fast: str | None, slow: str | None) -> "EnvPair":
    """Return the pair of a store; what would import a module must be named by the user."""
    import gymnasium

    from rllib_offset.pair import EnvPair

    specs = {}
    for option, given in (("fast", fast), ("slow", slow)):
        recorded = str(about.get(option))
        is_known = recorded.startswith(_OWN) or recorded in gymnasium.registry
        if given is None and not is_known:
            raise UserError(
                f"the {option} simulator of these labels was {recorded!r}; to import it, "
                f"name it yourself: --{option} {recorded}"
            )
        specs[option] = given or recorded
    return EnvPair(
        specs["fast"],
        specs["slow"],
        fast_config=about.get("fast_config") or {},
        slow_config=about.get("slow_config") or {},
    )


def _replay(pair: "EnvPair", request: "ReplayRequest") -> None:
    from rllib_offset.replay.worker import replay

    with user_errors():
        try:
            slow_env, fast_env = pair.make_slow(), pair.make_fast()
            result = replay(request, slow_env, fast_env, on_error=_show_once())
        except ValueError as error:
            raise UserError(str(error)) from error
    typer.echo(f"{len(result.index)} of {len(request)} steps finished in {result.sim_time_s:.3g} s")
    if result.error is not None:
        typer.echo(f"It failed again: {result.error}", err=True)
        raise typer.Exit(EXIT_FAILED)
    typer.echo("It did not fail this time.")


def _show_once() -> Callable[[BaseException], None]:
    """Show where each error came from, once: many steps may fail in the same place."""
    shown: set[tuple[str, ...]] = set()

    def show(error: BaseException) -> None:
        cause = error.__cause__ or error
        place = (type(cause).__name__, *traceback.format_tb(cause.__traceback__))
        if place not in shown:
            shown.add(place)
            traceback.print_exception(error)

    return show
