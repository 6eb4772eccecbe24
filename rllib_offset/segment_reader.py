"""Segments of a label store, read whole with their checksum or a few rows at a time."""

from collections import OrderedDict
from typing import Any

import pyarrow as pa

from rllib_offset.columns import Columns, concat_columns, slice_columns
from rllib_offset.tables import (
    ROWS_PER_GROUP,
    DamagedTableError,
    checksum,
    from_bytes,
    read_group,
    to_columns,
)

__all__ = ["SegmentReader"]

_MAX_CACHED = 32  # groups of rows kept decoded


class SegmentReader:
    """Reads the immutable files of one folder; keeps the rows used last.

    Args:
        filesystem: Of the folder.
        folder: Path within it.
        about: What every segment must say of itself.
        suffix: Of their names, after the checksum.
    """

    def __init__(self, filesystem: Any, folder: str, about: dict[str, str], suffix: str) -> None:
        self._fs, self._folder, self._about, self._suffix = filesystem, folder, about, suffix
        self._cache: OrderedDict[tuple[str, int], Columns] = OrderedDict()

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a segment, all of it checked, all or some columns returned.

        Raises:
            FileNotFoundError: If it is gone.
            DamagedTableError: If it is not what was written.
        """
        with self._fs.open_input_file(f"{self._folder}/{name}") as stream:
            data = stream.read()
        expected = name.removesuffix(self._suffix).rpartition("-")[2]
        if checksum(data) != expected:
            raise DamagedTableError(f"its checksum is {checksum(data)}, not {expected}")
        return from_bytes(data, self._about, columns)

    def rows(self, name: str, start: int, stop: int) -> Columns:
        """Return the rows from ``start`` to before ``stop``; raises as :meth:`table` does."""
        first, last = start // ROWS_PER_GROUP, (stop - 1) // ROWS_PER_GROUP
        parts = [self._group(name, group) for group in range(first, last + 1)]
        whole = parts[0] if len(parts) == 1 else concat_columns(parts)
        return slice_columns(
            whole, slice(start - first * ROWS_PER_GROUP, stop - first * ROWS_PER_GROUP)
        )

    def clear(self) -> None:
        """Forget what was read."""
        self._cache.clear()

    def _group(self, name: str, group: int) -> Columns:
        if (name, group) in self._cache:
            self._cache.move_to_end((name, group))
            return self._cache[name, group]
        with self._fs.open_input_file(f"{self._folder}/{name}") as stream:
            columns = to_columns(read_group(stream, group))
        self._cache[name, group] = columns
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return columns
