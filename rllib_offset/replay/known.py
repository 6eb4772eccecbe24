"""The label store, asked by request: what was bought once is never bought again."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from rllib_offset.columns import Columns, slice_columns, stack_columns
from rllib_offset.replay.attempts import About, Attempt, Attempts
from rllib_offset.replay.requests import ReplayRequest, ReplayResult, nothing
from rllib_offset.replay.rows import (
    KEY,
    answer_from,
    as_request,
    as_result,
    identities,
    label_rows,
    noted_rows,
    request_rows,
    sorted_rows,
    split_rows,
    word_of,
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

__all__ = ["KnownLabels", "LabelWriter"]

logger = logging.getLogger(__name__)

_WRITING_MAY_COST = 0.05  # of the simulator's time
_IS_PRECIOUS_S = 1.0  # what took longer waits for the device to hold it
_COMPACT_EVERY = 256  # lookups
_INTERRUPTED = "it was interrupted"
_DYING_TAKES_S = 5.0  # at most, until the system has ended a process


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
        rows = label_rows(result, run, total_s, is_complete)
        self.store.append(rows, is_precious=total_s >= _IS_PRECIOUS_S)

    def append_late(self, result: ReplayResult, *, run: str) -> ReplayResult:
        """Write what those before could not write; what still cannot be stays ``unstored``.

        On a machine with a folder of its own nothing is written: the driver's is the one to keep.
        """
        if not self.store.is_same_folder:
            return result
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
        wanted = set(identities(request))
        living = self.attempts.survey(self._append_left)
        return any(not wanted.isdisjoint(about["identities"]) for about in living)

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
        is_own = (rows[RUN] == run) & (rows[KEY] == word_of(request.key))
        attempts = [sorted_rows(part) for part in split_rows(rows, PURCHASE)]
        complete = [part for part in attempts if part[IS_END].any()]
        own = [sorted_rows(part) for part in split_rows(slice_columns(rows, is_own), PURCHASE)]
        if not complete and not own:
            return None
        paid = sum(len(part[STEP]) for part in own)
        found = (complete or sorted(own, key=lambda part: len(part[STEP])))[-1]
        is_bought = found[PURCHASE][0] in {part[PURCHASE][0] for part in own}
        return replace(
            answer_from(request, found),
            sim_time_s=float(sum(part[SECONDS].sum() for part in own)),
            num_steps=paid,
            num_reused=0 if is_bought else len(found[STEP]),
            error=None if complete else _INTERRUPTED,
        )

    def bought(self, request: ReplayRequest, purchase: str) -> ReplayResult:
        """Return what an attempt wrote before its process died; an error says that rows lack."""
        if self.attempts is not None:
            end_s = time.monotonic() + _DYING_TAKES_S
            while self.attempts.is_held(purchase) and time.monotonic() < end_s:
                time.sleep(0.01)
            self.attempts.survey(self._append_left)
        self.store.refresh()
        parts = []
        for i, identity in enumerate(identities(request)):
            rows = self.store.find(identity)
            if rows is not None:
                mine = slice_columns(rows, rows[PURCHASE] == purchase)
                mine = sorted_rows(mine)
                if request.kind == "steps":
                    mine = slice_columns(mine, mine[STEP] == i)
                parts.append(mine)
        parts = [part for part in parts if len(part[STEP])]
        if not parts:
            return nothing(request, _INTERRUPTED)
        found = stack_columns(parts)
        is_single = request.kind == "steps"
        is_whole = len(parts) == len(request) if is_single else bool(found[IS_END].any())
        return replace(
            answer_from(request, found),
            sim_time_s=float(found[SECONDS].sum()),
            num_steps=len(found[STEP]),
            error=None if is_whole else _INTERRUPTED,
        )

    def load_all(self, *, except_run: str | None = None) -> list[ReplayResult]:
        """Return every label, one answer per trajectory and one for the steps of each attempt.

        Of attempts at one trajectory a whole one is taken, or else the longest.

        Args:
            except_run: Leave out what this run bought; its checkpoint knows it already.
        """
        attempts: dict[tuple[str, str], list[Columns]] = {}
        for columns in self.store.segments():
            for part in split_rows(columns, PURCHASE):
                if except_run is None or part[RUN][0] != except_run:
                    key = (str(part[PURCHASE][0]), str(part[KIND][0]))
                    attempts.setdefault(key, []).append(part)
        results, seen = [], set[str]()
        found = [sorted_rows(stack_columns(parts)) for parts in attempts.values()]
        for rows in sorted(found, key=_whole_ones_first):
            fresh = ~np.isin(rows[IDENTITY], list(seen))
            seen |= set(rows[IDENTITY].tolist())
            if fresh.any():
                results.append(as_result(slice_columns(rows, fresh)))
        return results

    def with_failure_noted(self, result: ReplayResult, run: str) -> ReplayResult:
        """Write down a request that failed, so that it can be replayed alone, and say where."""
        name = f"failures/{run}-{word_of(result.request.key)}.parquet"
        error = {"error": np.array([result.error or ""] * len(result.request))}
        try:
            self.store.write_named(name, request_rows(result.request) | error)
        except OSError as problem:
            logger.warning("a failed request could not be noted on disk: %s", problem)
            return result
        return replace(result, error=f"{result.error}; `rllib replay-one` knows it as {name}")

    def failures(self) -> dict[str, tuple[ReplayRequest, str]]:
        """Return the requests that failed, with why, by the name of their file."""
        found = {}
        for name in self.store.named("failures"):
            rows = self.store.read_named(name)
            found[name] = as_request(rows), str(rows["error"][0])
        return found

    def _append_left(self, purchase: str, about: About, parts: list[Columns]) -> None:
        asked, *noted = parts
        if not noted:
            return
        rows, request = stack_columns(noted), as_request(asked)
        result = answer_from(request, rows | {PURCHASE: np.array([purchase])})
        seconds, is_end = float(rows[SECONDS].sum()), bool(rows[IS_END][-1])
        self.append(result, run=about["run"], seconds=seconds, is_end=is_end)

    def _lookup_steps(self, request: ReplayRequest, run: str) -> ReplayResult | None:
        found, index, num_own, own_s = [], [], 0, 0.0
        for i, identity in enumerate(identities(request)):
            rows = self.store.find(identity)
            if rows is None or not (request.fast or any(n.startswith("fast.") for n in rows)):
                continue
            own = np.flatnonzero((rows[RUN] == run) & (rows[KEY] == word_of(request.key)))
            row = int(own[0]) if len(own) else 0
            num_own += bool(len(own))
            own_s += float(rows[SECONDS][row]) if len(own) else 0.0
            found.append(slice_columns(rows, slice(row, row + 1)) | {STEP: np.array([i])})
            index.append(i)
        if not found:
            return None
        return replace(
            answer_from(request, stack_columns(found)),
            sim_time_s=own_s,
            num_steps=num_own,
            num_reused=len(index) - num_own,
        )


class LabelWriter:
    """Writes the rows of one attempt while it goes on, as often as pays off.

    Writing may cost a twentieth of the simulator's time: rows of a fast simulator travel together,
    each row of an hour's work is written at once.  Before that it is noted in the file of the
    attempt, which takes a hundredth of the time, so that it survives this process.
    """

    def __init__(self, labels: KnownLabels, *, run: str, purchase: str) -> None:
        self._labels, self._run, self._purchase = labels, run, purchase
        self._write_s, self._note_s = 0.005, 0.00003  # until measured
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
                self._attempt.add(request_rows(rows.request))
                self._has_noted = True
                start_s = time.thread_time()
            self._attempt.add(noted_rows(rows, seconds, is_end))
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


def _whole_ones_first(rows: Columns) -> float:
    return -math.inf if rows[IS_END].any() else -len(rows[STEP])
