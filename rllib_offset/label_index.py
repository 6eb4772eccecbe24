"""Which rows of which segment hold the labels of an identity: tables of SQLite, in memory."""

import sqlite3
import weakref
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

__all__ = ["LabelIndex", "Place"]

_TABLES = """
    PRAGMA temp_store = MEMORY;
    CREATE TABLE segments (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL, num_rows INTEGER NOT NULL
    );
    CREATE TABLE places (
        identity TEXT, segment INTEGER, start INTEGER, stop INTEGER,
        PRIMARY KEY (identity, segment, start)
    ) WITHOUT ROWID;
"""


class Place(NamedTuple):
    """Rows ``start`` to before ``stop`` of a segment."""

    segment: str
    start: int
    stop: int


class LabelIndex:
    """Finds identities in segments; a label takes a sixth of what a dictionary of them takes.

    Not safe for several threads at once.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.executescript(_TABLES)
        weakref.finalize(self, self._db.close)

    def add(self, segment: str, identities: Sequence[str]) -> None:
        """Note a new segment, with the identity of each of its rows."""
        with self._db:
            insert = "INSERT INTO segments (name, num_rows) VALUES (?, ?)"
            number = self._db.execute(insert, (segment, len(identities))).lastrowid
            places, stop = [], 0
            for identity, rows in groupby(identities):
                start, stop = stop, stop + sum(1 for _ in rows)
                places.append((identity, number, start, stop))
            self._db.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", places)

    def places(self, identity: str) -> list[Place]:
        """Return where rows of this identity are, in the order in which segments were noted."""
        found = self._db.execute(
            "SELECT name, start, stop FROM places JOIN segments ON segments.id = segment "
            "WHERE identity = ? ORDER BY segment, start",
            (identity,),
        )
        return [Place(*row) for row in found]

    def segments(self, below: int | None = None) -> list[str]:
        """Return the names of all segments, or of those with fewer rows, sorted."""
        found = self._db.execute(
            "SELECT name FROM segments WHERE :below IS NULL OR num_rows < :below ORDER BY name",
            {"below": below},
        )
        return [name for (name,) in found]

    def forget(self, segment: str) -> None:
        """Leave a segment out; its room is not free before :meth:`prune`."""
        with self._db:
            self._db.execute("DELETE FROM segments WHERE name = ?", (segment,))

    def prune(self) -> None:
        """Free the room of what was forgotten, in a pass over everything."""
        with self._db:
            self._db.execute("DELETE FROM places WHERE segment NOT IN (SELECT id FROM segments)")

    def clear(self) -> None:
        """Forget everything."""
        with self._db:
            self._db.execute("DELETE FROM places")
            self._db.execute("DELETE FROM segments")
