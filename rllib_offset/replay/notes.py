"""Columns as bytes, one note after the other: what is written within moments of a slow step.

A tenth of the time that Arrow's streams take for a single row, and as safe to read: lengths, JSON,
numbers.  A note that was cut short ends a file.
"""

import json
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from rllib_offset.columns import Columns

__all__ = ["packed", "unpacked"]

_LENGTHS = struct.Struct("<II")  # of the names, types and shapes, and of the values


def packed(columns: Columns) -> bytes:
    """Return columns as bytes.

    Raises:
        ValueError: If a column holds objects.
    """
    about, values = [], []
    for name, column in columns.items():
        if column.dtype.hasobject:
            raise ValueError(f"column {name!r} must hold numbers or text, got {column.dtype}")
        about.append((name, column.dtype.str, column.shape))
        values.append(column.tobytes())
    head, body = json.dumps(about).encode(), b"".join(values)
    return _LENGTHS.pack(len(head), len(body)) + head + body


def unpacked(file: BinaryIO) -> Iterator[Columns]:
    """Return what was packed into the rest of a file, up to where it was cut short.

    Raises:
        ValueError: If it holds something else.
    """
    while len(lengths := file.read(_LENGTHS.size)) == _LENGTHS.size:
        head_length, body_length = _LENGTHS.unpack(lengths)
        head, body = file.read(head_length), file.read(body_length)
        if len(head) + len(body) < head_length + body_length:
            return
        columns, start = {}, 0
        for name, kind, shape in json.loads(head):
            dtype, count = np.dtype(kind), int(np.prod(shape, dtype=np.int64))
            values = np.frombuffer(body, dtype, count, start) if count else np.empty(0, dtype)
            columns[name] = values.reshape(shape).copy()
            start += values.nbytes
        yield columns
