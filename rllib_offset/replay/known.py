"""Requests and answers as rows of the label store: what was bought once is never bought again."""

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from rllib_offset.columns import Columns, concat_columns, slice_columns
from rllib_offset.replay.attempts import About, Attempt, Attempts
from rllib_offset.replay.requests import (
    Key,
    ReplayRequest,
    ReplayResult,
    nothing,
    stack_columns,
)
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

__all__ = ["KnownLabels", "LabelWriter", "RequestJournal", "identities"]

logger = logging.getLogger(__name__)

_KEY, _SEED = "key", "seed"
_NO_SEED = -1
_WRITING_MAY_COST = 0.05  # of the simulator's time
_IS_PRECIOUS_S = 1.0  # what took longer waits for the device to hold it
_COMPACT_EVERY = 512  # lookups
_DYING_TAKES_S = 5.0  # at most, until the system has ended a process


def identities(request: ReplayRequest) -> list[str]:
    """Return what makes two requests the same: one name per single step, one per trajectory.

    A single step is its state and action; a trajectory is its seed and sequence of actions.
    """
    if request.kind != "steps":
        return [_digest(request.kind, request.seed, request.actions)]
    assert request.states is not None
    rows = zip(request.states, request.actions, strict=True)
    return [_digest("steps", np.asarray(state, np.float64), action) for state, action in rows]


def _digest(*parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray | np.generic):
            part = np.ascontiguousarray(part)
            digest.update(f"{part.dtype.str}{part.shape}".encode() + part.tobytes())
        else:
            digest.update(f"{part};".encode())
    return digest.hexdigest()


class KnownLabels:
    """The store of one pair, asked by request.

    Args:
        location: Where the store is.
        is_read_only: Make and change nothing.
    """

    def __init__(self, location: StoreLocation, *, is_read_only: bool = False) -> None:
        self.store = LabelStore(location, is_read_only=is_read_only)
        folder = self.store.local_folder
        self.attempts = None if folder is None else Attempts(folder / "attempts")
        self._num_lookups = 0

    def append(
        self, result: ReplayResult, *, run: str, seconds: float | None = None, is_end: bool = True
    ) -> None:
        """Write the rows of an answer.

        Args:
            result: Whose rows are new; its ``purchase`` names the attempt.
            run: Who paid.
            seconds: Simulator time of these rows; by default that of the answer.
            is_end: Whether nothing is missing after the last row of a trajectory.

        Raises:
            OSError: If they cannot be written.
        """
        total_s = result.sim_time_s if seconds is None else seconds
        is_complete = is_end and result.error is None
        rows = _label_rows(result, run, total_s, is_complete)
        self.store.append(rows, is_precious=total_s >= _IS_PRECIOUS_S)

    def append_late(self, result: ReplayResult, *, run: str) -> ReplayResult:
        """Write what those before could not write; what still cannot be stays ``unstored``."""
        left = []
        for part in result.unstored:
            try:
                self.append(part, run=run)
            except OSError as error:
                logger.warning("%d slow results are not on disk: %s", len(part.index), error)
                left.append(part)
        return replace(result, unstored=tuple(left))

    def is_being_bought(self, request: ReplayRequest) -> bool:
        """Whether a process, of this run or another, buys some of it just now; then wait.

        It may have outlived the driver that asked for it.  What dead processes have left is taken
        into the store first.
        """
        if self.attempts is None:
            return False
        self._take_over()
        return self.attempts.wanted_elsewhere(identities(request))

    def lookup_latest(self, request: ReplayRequest, run: str = "") -> ReplayResult | None:
        """As :meth:`lookup`, after taking in what others wrote; merges small segments at times."""
        self._num_lookups += 1
        if self._num_lookups % _COMPACT_EVERY == 1:
            try:
                self.store.compact()
            except OSError as error:
                logger.warning("small segments of labels could not be merged: %s", error)
        self.store.refresh()
        return self.lookup(request, run)

    def lookup(self, request: ReplayRequest, run: str = "") -> ReplayResult | None:
        """Return what is known of a request, for free; None if that is nothing.

        Rows that this very request of this run bought, before its driver or worker died, count as
        bought (``num_steps``), those of anyone else as reused.  A part of a trajectory is only
        returned for what it cost: the trajectory has to be bought again.
        """
        if request.kind == "steps":
            return self._lookup_steps(request, run)
        rows = self.store.find(identities(request)[0])
        if rows is None:
            return None
        is_own = (rows[RUN] == run) & (rows[_KEY] == _word(request.key))
        attempts = [_sorted(part) for part in _split(rows, PURCHASE)]
        complete = [part for part in attempts if part[IS_END].any()]
        own = [_sorted(part) for part in _split(slice_columns(rows, is_own), PURCHASE)]
        if not complete and not own:
            return None
        paid = sum(len(part[STEP]) for part in own)
        found = (complete or sorted(own, key=lambda part: len(part[STEP])))[-1]
        is_bought = found[PURCHASE][0] in {part[PURCHASE][0] for part in own}
        return replace(
            _answer(request, found),
            sim_time_s=float(sum(part[SECONDS].sum() for part in own)),
            num_steps=paid,
            num_reused=0 if is_bought else len(found[STEP]),
            error=None if complete else "it was interrupted",
        )

    def bought(self, request: ReplayRequest, purchase: str) -> ReplayResult:
        """Return what an attempt wrote before its process died."""
        if self.attempts is not None:
            end_s = time.monotonic() + _DYING_TAKES_S
            while self.attempts.is_held(purchase) and time.monotonic() < end_s:
                time.sleep(0.01)
            self._take_over()
        self.store.refresh()
        parts = []
        for i, identity in enumerate(identities(request)):
            rows = self.store.find(identity)
            if rows is not None:
                mine = slice_columns(rows, rows[PURCHASE] == purchase)
                mine = _sorted(mine)
                if request.kind == "steps":
                    mine = slice_columns(mine, mine[STEP] == i)
                parts.append(mine)
        parts = [part for part in parts if len(part[STEP])]
        if not parts:
            return nothing(request)
        found = stack_columns(parts)
        return replace(
            _answer(request, found),
            sim_time_s=float(found[SECONDS].sum()),
            num_steps=len(found[STEP]),
        )

    def load_all(self, *, except_run: str | None = None) -> list[ReplayResult]:
        """Return every label, one answer per trajectory and one for the steps of each attempt.

        Args:
            except_run: Leave out what this run bought; its checkpoint knows it already.
        """
        attempts: dict[tuple[str, str], list[Columns]] = {}
        for columns in self.store.segments():
            for part in _split(columns, PURCHASE):
                if except_run is None or part[RUN][0] != except_run:
                    key = (str(part[PURCHASE][0]), str(part[KIND][0]))
                    attempts.setdefault(key, []).append(part)
        results, seen = [], set[str]()
        for parts in attempts.values():
            rows = _sorted(stack_columns(parts))
            fresh = ~np.isin(rows[IDENTITY], list(seen))
            seen |= set(rows[IDENTITY].tolist())
            if fresh.any():
                results.append(_as_result(slice_columns(rows, fresh)))
        return results

    def with_failure_noted(self, result: ReplayResult, run: str) -> ReplayResult:
        """Write down a request that failed, so that it can be replayed alone, and say where."""
        name = f"failures/{run}-{_word(result.request.key)}.parquet"
        error = {"error": np.array([result.error or ""] * len(result.request))}
        try:
            self.store.write_named(name, _request_rows(result.request) | error)
        except OSError as problem:
            logger.warning("a failed request could not be noted on disk: %s", problem)
            return result
        return replace(result, error=f"{result.error}; `rllib replay-one` knows it as {name}")

    def failures(self) -> dict[str, tuple[ReplayRequest, str]]:
        """Return the requests that failed, with why, by the name of their file."""
        found = {}
        for name in self.store.named("failures"):
            rows = self.store.read_named(name)
            found[name] = _as_request(rows), str(rows["error"][0])
        return found

    def _take_over(self) -> None:
        assert self.attempts is not None
        try:
            self.attempts.take_over(self._append_left)
        except OSError as error:
            logger.warning("what a dead process has left cannot be stored yet: %s", error)

    def _append_left(self, purchase: str, about: About, parts: list[Columns]) -> None:
        asked, *noted = parts
        if not noted:
            return
        rows, request = stack_columns(noted), _as_request(asked)
        result = _answer(request, rows | {PURCHASE: np.array([purchase])})
        seconds, is_end = float(rows[SECONDS].sum()), bool(rows[IS_END][-1])
        self.append(result, run=about["run"], seconds=seconds, is_end=is_end)

    def _lookup_steps(self, request: ReplayRequest, run: str) -> ReplayResult | None:
        found, index, num_own, own_s = [], [], 0, 0.0
        for i, identity in enumerate(identities(request)):
            rows = self.store.find(identity)
            if rows is None or not (request.fast or any(n.startswith("fast.") for n in rows)):
                continue
            own = np.flatnonzero((rows[RUN] == run) & (rows[_KEY] == _word(request.key)))
            row = int(own[0]) if len(own) else 0
            num_own += bool(len(own))
            own_s += float(rows[SECONDS][row]) if len(own) else 0.0
            found.append(slice_columns(rows, slice(row, row + 1)) | {STEP: np.array([i])})
            index.append(i)
        if not found:
            return None
        return replace(
            _answer(request, stack_columns(found)),
            sim_time_s=own_s,
            num_steps=num_own,
            num_reused=len(index) - num_own,
        )


class LabelWriter:
    """Writes the rows of one attempt while it goes on, as often as pays off.

    Writing may cost a twentieth of the simulator's time: rows of a fast simulator travel together,
    each row of an hour's work is written at once.  Before that it is noted in the file of the
    attempt, which takes a sixth of the time, so that it survives this process.
    """

    def __init__(self, labels: KnownLabels, *, run: str, purchase: str) -> None:
        self._labels, self._run, self._purchase = labels, run, purchase
        self._write_s, self._note_s = 0.005, 0.0003  # until measured
        self._error: OSError | None = None
        self._attempt: Attempt | None = None
        self._has_noted = False

    @contextmanager
    def attempting(self, request: ReplayRequest) -> Iterator[None]:
        """Let others know of the attempt while it lasts."""
        attempts = self._labels.attempts
        if attempts is None or not self._labels.store.is_same_folder:
            yield
            return
        about = {"run": self._run, "identities": identities(request)}
        with attempts.hold(self._purchase, about) as self._attempt:
            yield

    def is_due(self, unwritten_s: float) -> bool:
        """Whether rows that took the simulator so long should be written now."""
        return self._error is None and self._write_s <= _WRITING_MAY_COST * unwritten_s

    def is_noted(self, unnoted_s: float) -> bool:
        """Whether rows that took the simulator so long should be noted now."""
        return self._attempt is not None and self._note_s <= _WRITING_MAY_COST * unnoted_s

    def note(self, rows: ReplayResult, seconds: float, *, is_end: bool) -> None:
        """Note rows; if that fails, those that follow are only written."""
        assert self._attempt is not None
        start_s = time.thread_time()
        try:
            if not self._has_noted:
                self._attempt.add(_request_rows(rows.request))
                self._has_noted = True
                start_s = time.thread_time()
            self._attempt.add(_noted_rows(rows, seconds, is_end))
        except OSError:
            self._attempt = None
        took_s = time.thread_time() - start_s
        self._note_s = min(took_s, 1.2 * self._note_s)  # a single slow one is the machine's doing

    def write(self, rows: ReplayResult, seconds: float, *, is_end: bool) -> None:
        """Write rows; a failure is kept for :meth:`signed`."""
        if self._error is not None or not self._labels.store.is_same_folder:
            return
        start_s = time.perf_counter()
        rows = replace(rows, purchase=self._purchase)
        try:
            self._labels.append(rows, run=self._run, seconds=seconds, is_end=is_end)
        except OSError as error:
            self._error = error
        self._write_s = time.perf_counter() - start_s

    def signed(self, answer: ReplayResult) -> ReplayResult:
        """Return the answer with its attempt's name, and whether others must write it."""
        answer = replace(answer, purchase=self._purchase)
        is_stored = self._error is None and self._labels.store.is_same_folder
        return answer if is_stored or answer.slow is None else replace(answer, unstored=(answer,))


class RequestJournal:
    """What was asked and not yet answered, on disk: a queue that died is filled again from it.

    Requests that are handed in together share a file, which goes with the last of their answers.

    Args:
        labels: In whose folder the requests are noted.
        name: Of this queue, among those of other trials.
    """

    def __init__(self, labels: KnownLabels, name: str) -> None:
        self._store = labels.store
        self._folder = f"queue-{name}"
        self._noted: dict[str, dict[Key, ReplayRequest]] = {}  # by file
        self._lock = threading.Lock()

    def note(self, requests: Iterable[ReplayRequest]) -> None:
        """Write requests down.

        Raises:
            OSError: If they cannot be written.
        """
        alike: dict[tuple[Any, ...], dict[Key, ReplayRequest]] = {}
        for request in requests:
            alike.setdefault(_column_types(request), {})[request.key] = request
        with self._lock:
            for group in alike.values():
                self._write(f"{self._folder}/{uuid.uuid4().hex}.parquet", group)

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
                        self._write(name, left)

    def recover(self) -> list[ReplayRequest]:
        """Return what is written down, in the order of the keys."""
        with self._lock:
            for name in self._store.named(self._folder):
                parts = _split(self._store.read_named(name), _KEY)
                requests = [_as_request(part) for part in parts]
                self._noted[name] = {request.key: request for request in requests}
            noted = [request for group in self._noted.values() for request in group.values()]
        return sorted(noted, key=lambda request: request.key)

    def clear(self) -> None:
        """Strike out everything."""
        with self._lock:
            self._noted.clear()
            self._store.delete_folder(self._folder)

    def _write(self, name: str, group: dict[Key, ReplayRequest]) -> None:
        rows = concat_columns([_request_rows(request) for request in group.values()])
        self._store.write_named(name, rows)
        self._noted[name] = group


# --- answers as rows, and back ---


def _label_rows(result: ReplayResult, run: str, seconds: float, is_complete: bool) -> Columns:
    request, index = result.request, result.index
    num_rows = len(index)
    names = identities(request)
    single_steps = request.kind == "steps"
    return {
        IDENTITY: np.array([names[i] for i in index] if single_steps else names * num_rows),
        PURCHASE: np.array([result.purchase] * num_rows),
        RUN: np.array([run] * num_rows),
        **_noted_rows(result, seconds, is_complete),
        **slice_columns(_request_rows(replace(request, fast={})), index),
        **{f"fast.{name}": column for name, column in result.fast.items()},
    }


def _noted_rows(result: ReplayResult, seconds: float, is_complete: bool) -> Columns:
    """Return what the request does not say."""
    num_rows = len(result.index)
    is_end = np.full(num_rows, result.request.kind == "steps")
    is_end[-1] |= is_complete
    assert result.slow is not None
    fast = {} if result.request.fast else result.fast
    return {
        STEP: result.index.astype(np.int64),
        IS_END: is_end,
        SECONDS: np.full(num_rows, seconds / num_rows),
        **{f"slow.{name}": column for name, column in result.slow.items()},
        **{f"fast.{name}": column for name, column in fast.items()},
    }


def _request_rows(request: ReplayRequest) -> Columns:
    num_rows = len(request)
    rows: Columns = {
        KIND: np.array([request.kind] * num_rows),
        _KEY: np.array([_word(request.key)] * num_rows),
        _SEED: np.full(num_rows, _NO_SEED if request.seed is None else request.seed, np.int64),
        "ask.action": np.asarray(request.actions),
    }
    if request.states is not None:
        rows["ask.state"] = np.asarray(request.states, np.float64)
    return rows | {f"fast.{name}": column for name, column in request.fast.items()}


def _column_types(request: ReplayRequest) -> tuple[Any, ...]:
    """Return what requests must share for their rows to stand in one table."""
    return tuple(
        (name, column.dtype.kind if column.dtype.kind == "U" else column.dtype, column.shape[1:])
        for name, column in _request_rows(request).items()
    )


def _as_request(rows: Columns) -> ReplayRequest:
    seed, kind = int(rows[_SEED][0]), str(rows[KIND][0])
    return ReplayRequest(
        key=_key(str(rows[_KEY][0])),
        kind=kind,  # type: ignore[arg-type]
        actions=rows["ask.action"],
        seed=None if seed == _NO_SEED else seed,
        states=rows.get("ask.state"),
        fast=_named("fast.", rows),
    )


def _answer(request: ReplayRequest, rows: Columns) -> ReplayResult:
    """Return rows of the store as an answer; fast columns that the request brought stay its own."""
    index = rows[STEP].astype(np.int64)
    fast = _named("fast.", rows) if not request.fast else slice_columns(request.fast, index)
    return replace(
        nothing(request),
        slow=_named("slow.", rows),
        fast=fast,
        index=index,
        purchase=str(rows[PURCHASE][0]),
    )


def _as_result(rows: Columns) -> ReplayResult:
    """Return rows of one attempt with the request that they would answer."""
    is_whole = bool(rows[IS_END].any())
    request = _as_request(rows)
    return replace(
        _answer(request, rows | {STEP: np.arange(len(rows[STEP]))}),
        num_reused=len(rows[STEP]),
        error=None if is_whole else "it was interrupted",
    )


def _named(prefix: str, rows: Columns) -> Columns:
    return {k.removeprefix(prefix): v for k, v in rows.items() if k.startswith(prefix)}


def _split(rows: Columns, by: str) -> Iterator[Columns]:
    names, first = np.unique(rows[by], return_index=True)
    for name in names[np.argsort(first)]:
        yield slice_columns(rows, rows[by] == name)


def _sorted(rows: Columns) -> Columns:
    """Order the rows of one attempt, each once: a merge that was cut short leaves repeats."""
    _, first = np.unique(rows[STEP], return_index=True)
    return slice_columns(rows, first)


def _word(key: Key) -> str:
    return ",".join(map(str, key))


def _key(word: str) -> Key:
    return tuple(int(part) for part in word.split(","))
