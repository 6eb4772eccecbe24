"""What a folder of labels holds: counts, checks, exports.  Only reads."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import fs

from rllib_offset.columns import VALID, Columns
from rllib_offset.store import (
    IDENTITY,
    IS_END,
    KIND,
    PURCHASE,
    RUN,
    SECONDS,
    STEP,
    LabelStore,
    StoreLocation,
)
from rllib_offset.tables import flat_table, open_filesystem, to_table, without_repeats

__all__ = ["StoreReport", "export_labels", "open_stores", "pairs_in", "verify"]

FORMS = ("csv", "parquet")


@dataclass
class StoreReport:
    """What was found in a folder of labels.

    Args:
        num_segments: Files that can be read.
        num_rows: Slow steps, each counted once.
        num_invalid: Of these, steps whose result means nothing.
        num_bought_twice: Steps bought again although their label was complete.
        num_unfinished: Steps of attempts that did not come to their end.
        seconds: Simulator seconds that all of them took.
        runs: Steps by the run that bought them.
        kinds: Steps by kind of request.
        damaged: Reason, by name, of each segment that was left out.
        abandoned: Unfinished files of writers that died.
    """

    num_segments: int = 0
    num_rows: int = 0
    num_invalid: int = 0
    num_bought_twice: int = 0
    num_unfinished: int = 0
    seconds: float = 0.0
    runs: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, str] = field(default_factory=dict)
    abandoned: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether every segment could be read."""
        return not self.damaged


def verify(store: LabelStore) -> StoreReport:
    """Read every segment of a store again, with its checksum, and count what is in it."""
    store.reread()
    report = StoreReport(damaged=dict(store.damaged), abandoned=store.abandoned())
    seen: set[tuple[str, str, int]] = set()
    rows_of: Counter[tuple[str, str]] = Counter()  # by identity and purchase
    ended: set[tuple[str, str]] = set()
    for columns in store.segments():
        report.num_segments += 1
        _count(columns, report, seen, rows_of, ended)
    complete_of = Counter(identity for identity, _ in ended)
    firsts: set[str] = set()
    for (identity, purchase), num_rows in rows_of.items():
        if (identity, purchase) not in ended:
            report.num_unfinished += num_rows
        elif complete_of[identity] > 1 and identity in firsts:
            report.num_bought_twice += num_rows
        else:
            firsts.add(identity)
    return report


def _count(
    columns: Columns,
    report: StoreReport,
    seen: set[tuple[str, str, int]],
    rows_of: Counter[tuple[str, str]],
    ended: set[tuple[str, str]],
) -> None:
    names = (IDENTITY, PURCHASE, STEP, IS_END, RUN, KIND, SECONDS, f"slow.{VALID}")
    for row in zip(*(columns[name].tolist() for name in names), strict=True):
        identity, purchase, step, is_end, run, kind, seconds, is_valid = row
        if (purchase, identity, step) in seen:
            continue  # a merge was cut short: the row is in the source and in the merged segment
        seen.add((purchase, identity, step))
        rows_of[identity, purchase] += 1
        if is_end:
            ended.add((identity, purchase))
        report.num_rows += 1
        report.num_invalid += not is_valid
        report.seconds += seconds
        report.runs[run] += 1
        report.kinds[kind] += 1


def export_labels(store: LabelStore, path: Path, form: str) -> int:
    """Write all labels of a store as one file, a row per slow step; return how many.

    Args:
        store: Where from.
        path: Where to; written in one go.
        form: ``"csv"`` or ``"parquet"``.

    Raises:
        ValueError: If the form is not known, there are no labels, or the file cannot be written.
    """
    if form not in FORMS:
        raise ValueError(f"labels are exported as {' or '.join(FORMS)}, got {form!r}")
    tables = [flat_table(to_table(columns)) for columns in store.segments()]
    if not tables:
        raise ValueError(f"no labels in {store.folder}; there is nothing to export")
    table = without_repeats(
        pa.concat_tables(tables, promote_options="default"), [PURCHASE, IDENTITY, STEP]
    )
    part = path.with_name(path.name + ".part")
    try:
        if form == "csv":
            pa.csv.write_csv(table, part)
        else:
            pq.write_table(table, part)
        part.replace(path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error}; choose another place") from error
    return int(table.num_rows)


def pairs_in(path: str, filesystem: Any = None) -> dict[str, dict[str, Any]]:
    """Return the pairs that a folder holds labels of: description by fingerprint.

    Raises:
        ValueError: If there is no such folder, or no labels in it.
    """
    files, root = open_filesystem(path, filesystem)
    found = {}
    for info in files.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True)):
        if info.base_name == "pair.json":
            with files.open_input_file(info.path) as stream:
                about = json.loads(stream.read())
            fingerprint = info.path.removesuffix("/pair.json").rpartition("/")[2]
            found[fingerprint] = about.get("pair", {})
    if not found:
        raise ValueError(f"no labels in {path!r}; give the folder named by `.labels(store=...)`")
    return found


def open_stores(path: str) -> list[LabelStore]:
    """Open the labels of every pair in a folder, to read them."""
    return [
        LabelStore(StoreLocation(path, fingerprint), is_read_only=True)
        for fingerprint in pairs_in(path)
    ]
