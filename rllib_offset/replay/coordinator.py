"""The queue between those who ask for slow replays and the processes that do them.

A light asynchronous actor, ``ray.remote(ReplayCoordinator).options(num_cpus=0).remote(pair, 8)``,
that knows nothing of learning and imports neither torch nor RLlib.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray

from rllib_offset.errors import SlowSimulatorError
from rllib_offset.pair import EnvPair
from rllib_offset.replay.journal import RequestJournal
from rllib_offset.replay.known import KnownLabels
from rllib_offset.replay.leases import Leases
from rllib_offset.replay.options import ReplayOptions
from rllib_offset.replay.pool import WorkerPool, one_line
from rllib_offset.replay.requests import Key, ReplayRequest, ReplayResult, nothing
from rllib_offset.replay.retries import FailureWatch, Retries
from rllib_offset.replay.rows import identities

__all__ = ["LOOK_AGAIN_S", "ReplayCoordinator"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_AGAIN_S = 0.1  # while another process buys the same label
_NUM_THREADS = 2  # of the store; the memory allocator keeps an arena for each


class ReplayCoordinator:
    """Serves replay requests in the order of their keys, one asyncio task per worker.

    What the label store knows is not bought again.  With a store, requests are noted on disk until
    their answers have arrived: an actor that died and came back goes on where it was.

    Args:
        pair: The simulators.
        num_workers: Processes that replay; 0 makes this the queue only, for a driver that calls
            :meth:`take`.
        options: How to replay; the fields of :class:`ReplayOptions` may also be given one by one.
        recovers: Go on with the requests noted by a coordinator that died.
        **fields: Fields of :class:`ReplayOptions`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        pair: EnvPair,
        num_workers: int,
        *,
        options: ReplayOptions | None = None,
        recovers: bool = False,
        **fields: Any,
    ) -> None:
        self._options = options = replace(options or ReplayOptions(), **fields)
        if num_workers < 0:
            raise ValueError(f"`num_workers` must be >= 0, got {num_workers=}")
        self._pair = pair
        self._run = options.run
        self._queue: asyncio.PriorityQueue[tuple[Key, ReplayRequest]] = asyncio.PriorityQueue()
        self._pending: dict[Key, ReplayRequest] = {}
        self._finished: dict[Key, ReplayResult] = {}
        self._handed_over: dict[Key, ReplayRequest] = {}  # and not confirmed yet
        self._buying = set[str]()  # labels, by their identities
        self._changed = asyncio.Condition()
        self._failure: SlowSimulatorError | None = None

        pa.set_memory_pool(pa.system_memory_pool())  # the other ones keep what a merge needed
        self._watch = FailureWatch(options.max_failure_rate)
        self._leases = Leases()
        self._labels = None if options.labels is None else KnownLabels(options.labels)
        self._journal = None if self._labels is None else RequestJournal(self._labels, options.run)
        self._num_lost = self._num_retries = self._num_reused = 0

        self._threads = ThreadPoolExecutor(_NUM_THREADS)
        self._workers = WorkerPool(pair, num_workers, options)
        self._tasks: list[asyncio.Task[None]] = []
        if self._journal is not None:
            if recovers or ray.get_runtime_context().was_current_actor_reconstructed:
                self._run = self._journal.noted_run() or options.run
                self._enqueue(self._journal.recover())
            else:
                self._journal.clear()

    # --- requests in, answers out ---

    async def submit(self, requests: Iterable[ReplayRequest]) -> int:
        """Queue the requests whose keys are not waiting already; return how many were new."""
        self._start()
        new = self._enqueue(requests)
        if self._journal is not None and new:
            try:
                await self._in_thread(self._journal.note, new)
            except OSError as error:
                logger.warning("requests could not be noted on disk: %s", error)
        return len(new)

    async def gather(
        self, up_to: int | None = None, confirmed: Iterable[Key] = (), *after: Any
    ) -> list[ReplayResult]:
        """Hand over results, sorted by key.

        Args:
            up_to: Wait for every request with ``key[0] <= up_to`` and return exactly those; None
                returns what is finished, without waiting.
            confirmed: Keys of answers that have arrived earlier.
            *after: References that Ray waits for before it makes this call.

        Raises:
            SlowSimulatorError: If replays cannot go on, for example as no worker can start.
        """
        self._start()
        await self._strike_out(confirmed)
        if up_to is not None:
            await self._wait_for(up_to)
        if self._failure is not None:
            raise self._failure
        keys = sorted(key for key in self._finished if up_to is None or key[0] <= up_to)
        self._handed_over |= {key: self._finished[key].request for key in keys}
        return [self._finished.pop(key) for key in keys]

    async def take(
        self, up_to: int | None = None, confirmed: Iterable[Key] = (), *after: Any
    ) -> list[ReplayRequest]:
        """Hand over the requests that nobody works on yet, sorted by key.

        Args:
            up_to: Only those with ``key[0] <= up_to``; None for all.
            confirmed: Keys of requests that have arrived earlier.
            *after: As in :meth:`gather`.
        """
        await self._strike_out(confirmed)
        queued = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        requests = []
        for key, request in queued:
            if up_to is not None and key[0] > up_to:
                self._queue.put_nowait((key, request))
            elif self._pending.pop(key, None) is not None:
                requests.append(request)
        await self._announce()
        return requests

    async def outstanding(self, confirmed: Iterable[Key] = ()) -> list[ReplayRequest]:
        """Return what was submitted and not yet gathered or taken, sorted by key."""
        await self._strike_out(confirmed)
        finished = {key: result.request for key, result in self._finished.items()}
        return [request for _, request in sorted((self._pending | finished).items())]

    async def restart(self, run: str, requests: Iterable[ReplayRequest]) -> None:
        """Forget all requests for others, which are bought on the account of another run."""
        self._run = run
        while not self._queue.empty():
            self._queue.get_nowait()
        await self._strike_out([*self._pending, *self._finished, *self._handed_over])
        if self._journal is not None:
            await self._in_thread(self._journal.note_run, run)
        await self.submit(requests)

    async def acquire(self, pool: str, limit: int) -> str:
        """Wait for a lease on behalf of a driver that replays itself; returns its name."""
        return await self._leases.acquire(pool, limit)

    async def release(self, lease: str) -> None:
        """Give back what :meth:`acquire` returned."""
        await self._leases.release(lease)

    async def stats(self) -> dict[str, Any]:
        """Return counts; busy seconds and utilization are those since the last call."""
        return {
            **self._workers.stats(),
            "num_lost": self._num_lost,
            "num_retries": self._num_retries,
            "num_reused": self._num_reused,
            "num_queued": self._queue.qsize(),
            "num_unstored": sum(
                len(part.index) for result in self._finished.values() for part in result.unstored
            ),
            "coordinator_pid": os.getpid(),
        }

    async def shutdown(self) -> None:
        """Close the simulators of idle workers, then end all workers."""
        self._failure = SlowSimulatorError("the replay coordinator was shut down")
        await self._announce()
        for task in self._tasks:
            task.cancel()
        for key, result in self._finished.items():  # nobody has gathered them
            if result.unstored and self._labels is not None:
                late = self._in_thread(self._labels.append_late, result, run=self._run)
                self._finished[key] = await late
        await self._workers.shutdown()
        if self._journal is not None:
            await self._in_thread(self._journal.clear)

    # --- the queue ---

    def _start(self) -> None:
        if not self._tasks:
            slots = range(self._workers.num_workers)
            self._tasks = [asyncio.create_task(self._serve(slot)) for slot in slots]

    def _enqueue(self, requests: Iterable[ReplayRequest]) -> list[ReplayRequest]:
        known = self._pending.keys() | self._finished.keys() | self._handed_over.keys()
        new = {request.key: request for request in requests if request.key not in known}
        self._pending |= new
        for item in new.items():
            self._queue.put_nowait(item)
        return list(new.values())

    async def _strike_out(self, keys: Iterable[Key]) -> None:
        """Forget requests whose answers have arrived, those noted on disk included."""
        keys = list(keys)
        for key in keys:
            self._pending.pop(key, None)
            self._finished.pop(key, None)
            self._handed_over.pop(key, None)
        if self._journal is not None and keys:
            await self._in_thread(self._journal.forget, keys)

    async def _wait_for(self, up_to: int) -> None:
        def is_settled() -> bool:
            return self._failure is not None or all(key[0] > up_to for key in self._pending)

        if not self._workers.num_workers and not is_settled():
            raise ValueError("nobody replays with `num_workers=0`; call `take()` and replay there")
        async with self._changed:
            await self._changed.wait_for(is_settled)

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # --- replays ---

    async def _serve(self, slot: int) -> None:
        """Replay whatever is next; a fault of our own must not leave :meth:`gather` waiting."""
        try:
            while True:
                key, request = await self._queue.get()
                if key not in self._pending:
                    continue  # its answer had arrived before the coordinator died
                result = await self._replay(slot, request)
                if self._pending.get(key) is request:  # not one of that key from before a restart
                    del self._pending[key]
                    self._finished[key] = result
                self._watch.observe(result)
                self._failure = self._failure or self._watch.failure()
                await self._announce()
                await self._workers.recycle(slot)
        except Exception as error:
            self._failure = (
                error
                if isinstance(error, SlowSimulatorError)
                else SlowSimulatorError(f"replay worker {slot} stopped: {one_line(error)}")
            )
            await self._announce()

    async def _replay(self, slot: int, request: ReplayRequest) -> ReplayResult:
        """Look up, and replay what is not known, with retries."""
        options = self._options
        async with (
            self._leases.hold(options.claim(request), 1 if options.is_shared else None),
            self._alone(request),
        ):
            retries = Retries(request, options.max_retries, await self._lookup(request))
            self._num_reused += retries.result.num_reused
            for rows in retries.asks():
                await self._workers.until_ready(slot)  # a start is no replay
                async with self._leases.hold(options.licence, options.max_concurrent_replays):
                    part, has_crashed = await self._attempt(slot, request.rows(rows))
                retries.add(part, rows, has_crashed=has_crashed)
        self._num_retries += retries.num_retries
        if retries.result.error is None:
            return retries.result
        self._num_lost += 1
        if self._labels is None:
            return retries.result
        return await self._in_thread(self._labels.with_failure_noted, retries.result, self._run)

    @asynccontextmanager
    async def _alone(self, request: ReplayRequest) -> AsyncIterator[None]:
        """Wait for other requests of this queue that buy the same, which the store then knows."""
        if self._labels is None:
            yield
            return
        wanted = set(identities(request))
        async with self._changed:
            await self._changed.wait_for(lambda: wanted.isdisjoint(self._buying))
            self._buying |= wanted
        try:
            yield
        finally:
            self._buying -= wanted
            await self._announce()

    async def _attempt(self, slot: int, request: ReplayRequest) -> tuple[ReplayResult, bool]:
        """Replay once; return the result and whether the worker had to be replaced."""
        part, purchase, death = await self._workers.replay(slot, request, self._run)
        if part is None:
            error = f"{death} ({request.whence()}; replay {request.key})"
            part = await self._in_thread(self._bought, request, purchase)
            return part if part.error is None else replace(part, error=error), True
        if part.unstored:
            assert self._labels is not None
            part = await self._in_thread(self._labels.append_late, part, run=self._run)
        return part, False

    # --- the store, always in another thread: disks and networks may be slow ---

    async def _in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _lookup(self, request: ReplayRequest) -> ReplayResult | None:
        if self._labels is None:
            return None
        while await self._in_thread(self._labels.is_being_bought, request):
            await asyncio.sleep(LOOK_AGAIN_S)
        return await self._in_thread(self._labels.lookup_latest, request, self._run)

    def _bought(self, request: ReplayRequest, purchase: str) -> ReplayResult:
        if self._labels is None:
            return nothing(request, "nothing is kept")
        return self._labels.bought(request, purchase)
