"""``rllib labels``: what a folder of labels holds, whether it is sound, and its export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rllib_offset.user_errors import EXIT_FAILED, UserError, user_errors

if TYPE_CHECKING:
    from rllib_offset.store import LabelStore
    from rllib_offset.store_report import StoreReport

__all__ = ["labels"]

ACTIONS = ("export", "verify")


def labels(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[export|verify] PATH", help="The folder named by .labels(store=PATH)."
        ),
    ],
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With export: write a CSV file.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With export: write a Parquet file.")
    ] = None,
) -> None:
    """Show what a folder of labels holds, check every segment of it, or export it.

    Exit code 1 if a segment is damaged (the others are used all the same).

    Example: rllib labels export ~/labels --csv labels.csv
    """
    with user_errors():
        action, path = _action_and_path(words)
        stores = _open(path)
        if action == "export":
            _export(stores, csv, parquet)
        elif csv or parquet:
            raise UserError("--csv and --parquet belong to `rllib labels export PATH`")
        else:
            _show(stores, is_thorough=action == "verify")


def _action_and_path(words: list[str]) -> tuple[str | None, str]:
    if len(words) == 1 and words[0] not in ACTIONS:
        return None, words[0]
    if len(words) == 2 and words[0] in ACTIONS:
        return words[0], words[1]
    raise UserError(
        f"`rllib labels` takes a folder, or one of {', '.join(ACTIONS)} and a folder, "
        f"got {' '.join(words)!r}; e.g. `rllib labels verify PATH`"
    )


def _open(path: str) -> "list[tuple[str, LabelStore]]":
    from rllib_offset.store import LabelStore, StoreLocation
    from rllib_offset.store_report import pairs_in

    try:
        pairs = pairs_in(path)
        return [
            (
                f"{about.get('fast', '?')} / {about.get('slow', '?')}",
                LabelStore(StoreLocation(path, fingerprint), is_read_only=True),
            )
            for fingerprint, about in sorted(pairs.items())
        ]
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def _show(stores: "list[tuple[str, LabelStore]]", *, is_thorough: bool) -> None:
    from rllib_offset.store_report import verify

    is_sound = True
    for pair, store in stores:
        report = verify(store)
        is_sound &= report.is_sound
        typer.echo(f"{store.fingerprint}  {pair}")
        for line in _lines(report, is_thorough):
            typer.echo(f"  {line}")
        for name, reason in report.damaged.items():
            typer.echo(f"  damaged: {store.folder}/{name}: {reason}", err=True)
    if not is_sound:
        raise typer.Exit(EXIT_FAILED)


def _lines(report: "StoreReport", is_thorough: bool) -> list[str]:
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(report.kinds.items()))
    lines = [
        f"{report.num_rows} slow steps ({kinds or 'none'}), {report.seconds:.1f} s of simulator",
        f"{report.num_segments} segments, {len(report.damaged)} damaged",
    ]
    if is_thorough:
        lines += [
            f"{report.num_invalid} invalid, {report.num_unfinished} of attempts that broke off, "
            f"{report.num_bought_twice} bought twice",
            f"{len(report.abandoned)} unfinished files of writers that died",
        ]
        lines += [f"run {run}: {number} slow steps" for run, number in sorted(report.runs.items())]
    return lines


def _export(stores: "list[tuple[str, LabelStore]]", csv: Path | None, parquet: Path | None) -> None:
    from rllib_offset.store_report import export_labels

    targets = [(form, path) for form, path in (("csv", csv), ("parquet", parquet)) if path]
    if not targets:
        raise UserError("an export needs a file: add --csv FILE or --parquet FILE")
    for form, path in targets:
        for pair, store in stores:
            # several pairs have different columns: one file each
            own = path.with_stem(f"{path.stem}-{store.fingerprint}") if len(stores) > 1 else path
            try:
                number = export_labels(store, own, form)
            except ValueError as error:
                raise UserError(str(error)) from error
            typer.echo(f"{own}: {number} slow steps of {pair}")
