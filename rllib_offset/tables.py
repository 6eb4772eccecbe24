"""Columns of NumPy arrays as Parquet, and back; the file systems that pyarrow reaches."""

import hashlib
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from rllib_offset.columns import Columns
from rllib_offset.folder_checks import absolute_folder

__all__ = [
    "ROWS_PER_GROUP",
    "DamagedTableError",
    "checksum",
    "flat_table",
    "from_bytes",
    "open_filesystem",
    "read_group",
    "shape_of",
    "to_bytes",
    "to_columns",
    "to_table",
    "without_repeats",
]

ROWS_PER_GROUP = 1024  # what is read at least
_SHAPE = b"shape"  # of one row, in the metadata of a field


class DamagedTableError(ValueError):
    """A file that is not what its writer wrote."""


def open_filesystem(path: str, filesystem: Any = None) -> tuple[Any, str]:
    """Return the file system of a path or URI, and the path within it.

    Raises:
        ValueError: If the kind of URI is not known.
    """
    if filesystem is not None:
        return filesystem, path.rstrip("/")
    if "://" not in path:
        return fs.LocalFileSystem(), absolute_folder(path)
    try:
        found, inside = fs.FileSystem.from_uri(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"no file system for {path!r}: {error}; give a folder") from error
    return found, inside.rstrip("/")


def to_table(columns: Columns) -> pa.Table:
    """Return a table; rows of any shape become lists of a fixed length.

    Columns whose rows are empty hold nothing and are left out.

    Raises:
        ValueError: If a column holds objects.
    """
    arrays, fields = [], []
    for name, given in columns.items():
        column = np.asarray(given)
        if column.dtype.kind not in "biufU":
            raise ValueError(f"column {name!r} must hold numbers or text, got {column.dtype}")
        width = math.prod(column.shape[1:])
        if width == 0:
            continue
        array = pa.array(column.tolist() if column.dtype.kind == "U" else np.ravel(column))
        if column.ndim > 1:
            array = pa.FixedSizeListArray.from_arrays(array, width)
        arrays.append(array)
        shape = json.dumps(column.shape[1:])
        fields.append(pa.field(name, array.type, metadata={_SHAPE: shape.encode()}))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def to_columns(table: pa.Table) -> Columns:
    """Return what :func:`to_table` was given."""
    return {field.name: _to_array(table[field.name], field) for field in table.schema}


def _to_array(chunks: pa.ChunkedArray, field: pa.Field) -> NDArray[Any]:
    array = chunks.combine_chunks()
    if pa.types.is_string(field.type):
        return np.array(array.to_pylist(), dtype=np.str_)
    shape = tuple(json.loads((field.metadata or {}).get(_SHAPE, b"[]")))
    flat = array.flatten() if pa.types.is_fixed_size_list(field.type) else array
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return values.reshape(len(array), *shape)


def shape_of(table: pa.Table) -> tuple[str, ...]:
    """Return what two tables must share to be joined: names, types and shapes of columns."""
    return tuple(f"{f.name} {f.type} {(f.metadata or {}).get(_SHAPE)}" for f in table.schema)


def flat_table(table: pa.Table) -> pa.Table:
    """Return the table with a column for each value of a list: ``slow.obs[0]``, ..."""
    columns: dict[str, Any] = {}
    for field in table.schema:
        array = table[field.name].combine_chunks()
        if not pa.types.is_fixed_size_list(field.type):
            columns[field.name] = array
            continue
        width = field.type.list_size
        values = array.flatten()
        for i in range(width):
            columns[f"{field.name}[{i}]"] = values.take(pa.array(range(i, len(values), width)))
    return pa.table(columns)


def without_repeats(table: pa.Table, keys: list[str]) -> pa.Table:
    """Return the first of all rows that agree in the columns ``keys``, in their order."""
    first: dict[tuple[Any, ...], int] = {}
    for i, row in enumerate(zip(*(table[key].to_pylist() for key in keys), strict=True)):
        first.setdefault(row, i)  # the process keeps 40 MB of pyarrow's `group_by` for good
    return table if len(first) == table.num_rows else table.take(pa.array(first.values()))


def to_bytes(table: pa.Table, about: dict[str, str]) -> Any:
    """Return a Parquet file that says what it is about."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(about),
        sink,
        compression="snappy",  # `zstd`, dictionaries of numbers and statistics: three times slower
        use_dictionary=[field.name for field in table.schema if pa.types.is_string(field.type)],
        write_statistics=False,
        row_group_size=ROWS_PER_GROUP,
        write_page_checksum=True,
    )
    return sink.getvalue()


def read_group(stream: Any, group: int) -> pa.Table:
    """Read one group of rows of a Parquet file, with the checksums of its pages.

    Raises:
        DamagedTableError: If it cannot be read.
    """
    try:
        return pq.ParquetFile(stream, page_checksum_verification=True).read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        raise DamagedTableError(f"not Parquet: {error}") from error


def from_bytes(data: Any, about: dict[str, str], columns: list[str] | None = None) -> pa.Table:
    """Read all or some columns of a Parquet file that must be about the same.

    Raises:
        DamagedTableError: If it is no Parquet, or about something else.
    """
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DamagedTableError(f"not Parquet: {error}") from error
    missing = set(columns or ()) - set(table.column_names)
    if missing:
        raise DamagedTableError(f"it has no column {', '.join(sorted(missing))}")
    found = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    for key, wanted in about.items():
        if found.get(key) != wanted:
            raise DamagedTableError(f"its {key} is {found.get(key)}, not {wanted}")
    return table


def checksum(data: Any) -> str:
    """Return 16 hexadecimal digits of a file's content."""
    return hashlib.blake2b(memoryview(data), digest_size=8).hexdigest()
