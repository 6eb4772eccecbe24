"""What was asked and not yet answered, on disk."""

import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from rllib_offset.columns import Columns, concat_columns
from rllib_offset.replay.known import KnownLabels
from rllib_offset.replay.requests import Key, ReplayRequest
from rllib_offset.replay.rows import KEY, as_request, column_types, request_rows, split_rows
from rllib_offset.store import RUN

__all__ = ["RequestJournal"]


class RequestJournal:
    """What was asked and not yet answered, on disk: a queue that died is filled again from it.

    Requests that are handed in together share a file, which goes with the last of their answers.

    Args:
        labels: In whose folder the requests are noted.
        name: Of this queue, among those of other trials.
    """

    def __init__(self, labels: KnownLabels, name: str) -> None:
        self._store = labels.store
        self._folder, self._about = f"queue-{name}", f"account-{name}"
        self._noted: dict[str, dict[Key, ReplayRequest]] = {}  # by file
        self._lock = threading.Lock()

    def note(self, requests: Iterable[ReplayRequest]) -> None:
        """Write requests down.

        Raises:
            OSError: If they cannot be written.
        """
        alike: dict[tuple[Any, ...], dict[Key, ReplayRequest]] = {}
        columns: dict[Key, Columns] = {}
        for request in requests:
            columns[request.key] = request_rows(request)
            group = alike.setdefault(column_types(columns[request.key]), {})
            group[request.key] = request
        with self._lock:
            for group in alike.values():
                name = f"{self._folder}/{uuid.uuid4().hex}.parquet"
                self._write(name, group, [columns[key] for key in group])

    def forget(self, keys: Iterable[Key]) -> None:
        """Strike out requests whose answers have arrived."""
        gone = set(keys)
        with self._lock:
            for name, noted in list(self._noted.items()):
                left = {key: request for key, request in noted.items() if key not in gone}
                if not left:
                    del self._noted[name]
                    self._store.delete_named([name])
                elif len(left) < len(noted):
                    self._noted[name] = left
                    with suppress(OSError):  # tried again with the next answer
                        self._write(name, left, list(map(request_rows, left.values())))

    def recover(self) -> list[ReplayRequest]:
        """Return what is written down, in the order of the keys."""
        with self._lock:
            for name in self._store.named(self._folder):
                parts = split_rows(self._store.read_named(name), KEY)
                requests = [as_request(part) for part in parts]
                self._noted[name] = {request.key: request for request in requests}
            noted = [request for group in self._noted.values() for request in group.values()]
        return sorted(noted, key=lambda request: request.key)

    def note_run(self, run: str) -> None:
        """Write down on whose account is bought, where that is not the queue's own name."""
        with suppress(OSError):  # then a queue that dies goes on on its own
            self._store.write_named(f"{self._about}/run.parquet", {RUN: np.array([run])})

    def noted_run(self) -> str | None:
        """Return what :meth:`note_run` wrote, None if nothing."""
        names = self._store.named(self._about)
        return str(self._store.read_named(names[0])[RUN][0]) if names else None

    def clear(self) -> None:
        """Strike out everything."""
        with self._lock:
            self._noted.clear()
            self._store.delete_folder(self._folder)
            self._store.delete_folder(self._about)

    def _write(self, name: str, group: dict[Key, ReplayRequest], rows: list[Columns]) -> None:
        self._store.write_named(name, concat_columns(rows))
        self._noted[name] = group
