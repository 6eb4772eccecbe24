"""Labels on disk: immutable, checksummed Parquet segments that any number of processes add to.

Knows rows, columns and files; what a request is, ``replay.rows`` knows.  Nothing is ever pickled.

``PATH/<fingerprint of the pair>/<time>-<random>-<checksum>.parquet``, beside a ``pair.json`` that
says in words what the fingerprint stands for.  A segment appears under its name only when it is
complete, and is never changed: writers need no lock, and a reader takes what it finds.
"""

import json
import logging
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from rllib_offset.columns import Columns, stack_columns
from rllib_offset.folder_checks import absolute_folder
from rllib_offset.label_index import LabelIndex
from rllib_offset.segment_reader import SegmentReader
from rllib_offset.tables import (
    DamagedTableError,
    checksum,
    from_bytes,
    open_filesystem,
    shape_of,
    to_bytes,
    to_columns,
    to_table,
    without_repeats,
)

__all__ = [
    "IDENTITY",
    "IS_END",
    "KIND",
    "PURCHASE",
    "RUN",
    "SECONDS",
    "STEP",
    "LabelStore",
    "StoreLocation",
]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
IDENTITY, PURCHASE, STEP, IS_END = "identity", "purchase", "step", "is_end"
RUN, KIND, SECONDS = "run", "kind", "seconds"

_SUFFIX = ".parquet"
_ROWS_OF_A_SMALL_SEGMENT = 10_000
_PART_IS_ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True)
class StoreLocation:
    """Where a store is; small and picklable, so that workers open it themselves.

    Args:
        path: A folder, or the URI of one (``s3://...``) that pyarrow reaches.
        fingerprint: Of the pair; labels of other pairs are never seen.
        description: What the fingerprint stands for, JSON.
        filesystem: The file system of ``path``; by default found from it.
        store_id: Written into the folder by whoever made it.  Given, it tells a process whether it
            sees that folder, or another of the same name on its own disk.
    """

    path: str
    fingerprint: str
    description: str = "{}"
    filesystem: Any = None
    store_id: str | None = None

    def __post_init__(self) -> None:
        if self.filesystem is None:  # workers may work in another folder
            object.__setattr__(self, "path", absolute_folder(self.path))


class LabelStore:
    """The labels of one pair, shared by everyone who names the same folder.

    A row is one slow step.  ``identity`` says what was asked (rows of one trajectory share it),
    ``purchase`` the attempt that bought it, ``step`` its place, ``is_end`` that nothing follows.

    Raises:
        ValueError: If the folder cannot be made or written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> store = LabelStore(StoreLocation(tempfile.mkdtemp(), "0f"))
        >>> rows = {"identity": ["a"], "purchase": ["p"], "step": [0], "is_end": [True]}
        >>> name = store.append({k: np.array(v) for k, v in rows.items()})
        >>> store.refresh()
        >>> store.find("a")["step"].tolist()
        [0]
    """

    def __init__(self, location: StoreLocation, *, is_read_only: bool = False) -> None:
        self._fs, root = open_filesystem(location.path, location.filesystem)
        self.folder = f"{root}/{location.fingerprint}"
        self.fingerprint = location.fingerprint
        self.damaged: dict[str, str] = {}
        self._about = {"schema_version": str(SCHEMA_VERSION), "fingerprint": self.fingerprint}
        self._lock = threading.RLock()
        self._index = LabelIndex()
        self._reader = SegmentReader(self._fs, self.folder, self._about, _SUFFIX)
        if location.store_id is None and not is_read_only:
            self._prepare(location)
        self.store_id = self._read_id()
        is_everywhere = not isinstance(self._fs, fs.LocalFileSystem)
        self.is_same_folder = is_everywhere or location.store_id in (None, self.store_id)

    @property
    def local_folder(self) -> Path | None:
        """The folder, if it is on this machine or mounted; None behind a network protocol."""
        return Path(self.folder) if isinstance(self._fs, fs.LocalFileSystem) else None

    # --- writing ---

    def append(self, columns: Columns, *, is_precious: bool = False) -> str:
        """Write rows as one segment, complete or not at all; return its name.

        Args:
            columns: Arrays of one length; strings, booleans and numbers of any row shape.
            is_precious: Wait until the device holds it, against a power cut.

        Raises:
            OSError: If it cannot be written: no space, no permission, no network.
        """
        return self._write(to_table(columns), is_precious)

    def _write(self, table: pa.Table, is_precious: bool) -> str:
        data = to_bytes(table, self._about)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        name = f"{stamp}-{uuid.uuid4().hex[:12]}-{checksum(data)}{_SUFFIX}"
        self.write_file(name, data, is_precious)
        return name

    def write_file(self, name: str, data: Any, is_precious: bool = False) -> None:
        """Write a file under its name in one go; raises ``OSError`` and leaves nothing if not."""
        final = f"{self.folder}/{name}"
        part = f"{final}.{uuid.uuid4().hex[:8]}.part"
        try:
            with self._fs.open_output_stream(part) as stream:
                stream.write(data)
            if is_precious and isinstance(self._fs, fs.LocalFileSystem):
                _flush_to_device(part)
            self._fs.move(part, final)
        except OSError:
            with suppress(OSError):
                self._fs.delete_file(part)
            raise

    # --- reading ---

    def find(self, identity: str) -> Columns | None:
        """Return every row with this identity, or None; see :meth:`refresh` for those of others."""
        with self._lock:
            parts, gone = [], []
            for place in self._index.places(identity):
                try:
                    parts.append(self._reader.rows(*place))
                except (FileNotFoundError, DamagedTableError):  # merged by another, or spoilt now
                    gone.append(place.segment)
            if gone:
                self._look_again(gone)
                return self.find(identity)
            return stack_columns(parts) if parts else None

    def refresh(self) -> None:
        """Take note of segments that others have written."""
        with self._lock:
            known = {*self._index.segments(), *self.damaged}
            for name in self.segment_names():
                if name not in known:
                    self._take_in(name)

    def segments(self) -> Iterator[Columns]:
        """Yield the columns of every segment that can be read, oldest first.

        A row that is merged by another process meanwhile may come twice, or late, but it comes.
        """
        done = set[str]()
        while todo := self._present() - done:
            for name in sorted(todo):
                with suppress(FileNotFoundError):
                    yield to_columns(self._reader.table(name))
            done |= todo

    def _present(self) -> set[str]:
        with self._lock:
            self.refresh()
            return set(self._index.segments())

    def segment_names(self) -> list[str]:
        """Return the names of all segments present, oldest first."""
        return sorted(name for name in self._names() if name.endswith(_SUFFIX))

    def _names(self) -> list[str]:
        infos = self._fs.get_file_info(fs.FileSelector(self.folder, allow_not_found=True))
        return [info.base_name for info in infos if info.type == fs.FileType.File]

    def _take_in(self, name: str) -> None:
        """Index a segment, if it is there and whole."""
        try:
            identities = self._reader.table(name, [IDENTITY])[IDENTITY].to_pylist()
        except FileNotFoundError:
            return
        except DamagedTableError as error:
            self._leave_out(name, error)
            return
        self._index.add(name, identities)

    def _leave_out(self, name: str, error: DamagedTableError) -> None:
        self._index.forget(name)
        self.damaged[name] = str(error)
        logger.warning("left out a damaged segment of labels, %s/%s: %s", self.folder, name, error)

    def _look_again(self, names: Iterable[str]) -> None:
        for name in set(names):
            self._index.forget(name)
            self._take_in(name)
        self.refresh()

    # --- care ---

    def compact(self, min_segments: int = 64) -> int:
        """Merge small segments of equal columns; returns how many were merged.

        Safe beside writers, readers and others that merge: the merged segment is in place before
        its sources go, and rows that are seen twice meanwhile are known by their purchase.  Less
        than two segments that are not small are in memory at once, for each kind of columns.
        """
        with self._lock:
            self.refresh()
            small = self._index.segments(below=_ROWS_OF_A_SMALL_SEGMENT)
            num_merged = self._merge_alike(small, min_segments) if len(small) >= min_segments else 0
        pa.default_memory_pool().release_unused()
        return num_merged

    def _merge_alike(self, names: list[str], min_segments: int) -> int:
        groups: dict[tuple[str, ...], dict[str, pa.Table]] = {}
        num_rows: Counter[tuple[str, ...]] = Counter()
        num_merged = 0
        for name in names:
            try:
                table = self._reader.table(name)
            except FileNotFoundError:  # merged by another
                self._index.forget(name)
                continue
            except DamagedTableError:
                continue
            shape = shape_of(table)
            groups.setdefault(shape, {})[name] = table
            num_rows[shape] += table.num_rows
            if num_rows[shape] >= _ROWS_OF_A_SMALL_SEGMENT:
                num_merged += self._merge(groups.pop(shape))
                del num_rows[shape]
        left = [group for group in groups.values() if len(group) >= min_segments]
        num_merged += sum(map(self._merge, left))
        self.refresh()  # what others have merged stands in segments of theirs
        self._index.prune()
        return num_merged

    def _merge(self, group: dict[str, pa.Table]) -> int:
        table = pa.concat_tables(group.values())
        table = without_repeats(table, [PURCHASE, IDENTITY, STEP])
        self._write(table, is_precious=True)
        for name in group:
            self._index.forget(name)
            with suppress(FileNotFoundError):
                self._fs.delete_file(f"{self.folder}/{name}")
        self.refresh()
        return len(group)

    def reread(self) -> None:
        """Forget what was read, and read every segment again."""
        with self._lock:
            self._index.clear()
            self._reader.clear()
            self.damaged.clear()
            self.refresh()

    def abandoned(self) -> list[str]:
        """Return the unfinished files of writers that died, or that write just now."""
        return sorted(name for name in self._names() if name.endswith(".part"))

    # --- other files of the folder ---

    def write_named(self, name: str, columns: Columns) -> None:
        """Write one file of columns under a name of its own, in place of what was there."""
        folder = name.rpartition("/")[0]
        if folder:
            self._fs.create_dir(f"{self.folder}/{folder}")
        self.write_file(name, to_bytes(to_table(columns), self._about))

    def read_named(self, name: str) -> Columns:
        """Read what :meth:`write_named` wrote.

        Raises:
            ValueError: If there is no such file, or it is damaged.
        """
        try:
            with self._fs.open_input_file(f"{self.folder}/{name}") as stream:
                return to_columns(from_bytes(stream.read(), self._about))
        except (DamagedTableError, OSError) as error:
            raise ValueError(f"cannot read {self.folder}/{name}: {error}") from error

    def named(self, folder: str) -> list[str]:
        """Return the names of the files in a folder of the store, sorted."""
        selector = fs.FileSelector(f"{self.folder}/{folder}", allow_not_found=True)
        infos = self._fs.get_file_info(selector)
        return sorted(f"{folder}/{i.base_name}" for i in infos if i.base_name.endswith(_SUFFIX))

    def delete_named(self, names: Iterable[str]) -> None:
        """Delete files; those that are gone already do not matter."""
        for name in names:
            with suppress(FileNotFoundError):
                self._fs.delete_file(f"{self.folder}/{name}")

    def delete_folder(self, folder: str) -> None:
        """Delete a folder of the store with what it holds."""
        with suppress(OSError):  # what stays is rubbish, but does no harm
            self._fs.delete_dir(f"{self.folder}/{folder}")

    def _prepare(self, location: StoreLocation) -> None:
        """Make the folder, see that it can be written, and say in it what it is."""
        try:
            self._fs.create_dir(self.folder, recursive=True)
            self._sweep()
            probe = f"probe-{uuid.uuid4().hex}"
            self.write_file(probe, b"")
            self.delete_named([probe])
            if self._read_id() is None:
                about = {"store_id": uuid.uuid4().hex, "pair": json.loads(location.description)}
                self._write_once("pair.json", json.dumps(about, indent=2).encode())
        except OSError as error:
            raise ValueError(
                f"labels must be kept in a folder that can be written, got {location.path!r} "
                f"({error}); choose another with `.labels(store=...)`"
            ) from error

    def _write_once(self, name: str, data: bytes) -> None:
        """Write a file unless someone else is first: all must read the same in it."""
        if not isinstance(self._fs, fs.LocalFileSystem):
            self.write_file(name, data)
            return
        own = f"{name}.{uuid.uuid4().hex[:8]}"
        self.write_file(own, data)
        with suppress(FileExistsError):
            os.link(f"{self.folder}/{own}", f"{self.folder}/{name}")
        self.delete_named([own])

    def _read_id(self) -> str | None:
        try:
            with self._fs.open_input_file(f"{self.folder}/pair.json") as stream:
                return str(json.loads(stream.read())["store_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not made yet, or made on another machine

    def _sweep(self) -> None:
        """Delete what writers left unfinished a day ago."""
        for info in self._fs.get_file_info(fs.FileSelector(self.folder, recursive=True)):
            is_part = info.base_name.endswith(".part") and info.mtime is not None
            if is_part and time.time() - info.mtime.timestamp() > _PART_IS_ABANDONED_S:
                with suppress(FileNotFoundError):
                    self._fs.delete_file(info.path)


def _flush_to_device(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
