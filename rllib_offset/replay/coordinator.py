"""The queue between those who ask for slow replays and the processes that do them.

A light asynchronous actor, ``ray.remote(ReplayCoordinator).options(num_cpus=0).remote(pair, 8)``,
that knows nothing of learning and imports neither torch nor RLlib.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rllib_offset.errors import SlowSimulatorError
from rllib_offset.pair import EnvPair
from rllib_offset.replay.requests import (
    Key,
    ReplayRequest,
    ReplayResult,
    merge_results,
    missing_rows,
)
from rllib_offset.replay.worker import ReplayWorker

__all__ = ["ReplayCoordinator"]

_CLOSE_TIMEOUT_S = 2.0


class ReplayCoordinator:
    """Serves replay requests in the order of their keys, one asyncio task per worker.

    Args:
        pair: The simulators.
        num_workers: Processes that replay; 0 makes this the queue only, for a driver that calls
            :meth:`take`.
        num_cpus_per_worker: CPUs that Ray reserves for each.
        step_timeout_s: Longest time one slow step may take; None waits for ever.
        max_retries: How often a failed replay is repeated before it counts as lost.
        first_bundle: Worker ``i`` is pinned to bundle ``first_bundle + i`` of the current placement
            group; ignored where there is none.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        pair: EnvPair,
        num_workers: int,
        *,
        num_cpus_per_worker: float = 1.0,
        step_timeout_s: float | None = None,
        max_retries: int = 2,
        first_bundle: int | None = None,
    ) -> None:
        if num_workers < 0 or max_retries < 0:
            raise ValueError(f"all must be >= 0, got {num_workers=}, {max_retries=}")
        if step_timeout_s is not None and step_timeout_s <= 0:
            raise ValueError(f"`step_timeout_s` must be positive or None, got {step_timeout_s}")
        self._pair = pair
        self._num_cpus = num_cpus_per_worker
        self._step_timeout_s = step_timeout_s
        self._max_retries = max_retries
        self._first_bundle = first_bundle

        self._queue: asyncio.PriorityQueue[tuple[Key, ReplayRequest]] = asyncio.PriorityQueue()
        self._pending: dict[Key, ReplayRequest] = {}
        self._finished: dict[Key, ReplayResult] = {}
        self._changed = asyncio.Condition()
        self._failure: SlowSimulatorError | None = None

        self._pids: dict[int, int] = {}  # of the workers that have started
        self._busy_since_s: dict[int, float] = {}
        self._busy_s, self._stats_since_s = 0.0, time.monotonic()
        self._num_lost = self._num_retries = 0

        self._workers = [self._new_worker(slot) for slot in range(num_workers)]
        self._tasks: list[asyncio.Task[None]] = []

    async def submit(self, requests: Iterable[ReplayRequest]) -> int:
        """Queue the requests whose keys are not waiting already; return how many were new."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._serve(i)) for i in range(len(self._workers))]
        known = self._pending.keys() | self._finished.keys()
        new = {request.key: request for request in requests if request.key not in known}
        self._pending |= new
        for item in new.items():
            self._queue.put_nowait(item)
        return len(new)

    async def gather(self, up_to: int | None = None) -> list[ReplayResult]:
        """Hand over results, sorted by key.

        Args:
            up_to: Wait for every request with ``key[0] <= up_to`` and return exactly those; None
                returns what is finished, without waiting.

        Raises:
            SlowSimulatorError: If replays cannot go on, for example as no worker can start.
        """
        if up_to is not None:
            await self._wait_for(up_to)
        if self._failure is not None:
            raise self._failure
        keys = sorted(key for key in self._finished if up_to is None or key[0] <= up_to)
        return [self._finished.pop(key) for key in keys]

    async def take(self) -> list[ReplayRequest]:
        """Hand over the requests that nobody works on yet, sorted by key."""
        taken = [self._queue.get_nowait()[1] for _ in range(self._queue.qsize())]
        for request in taken:
            del self._pending[request.key]
        await self._announce()
        return taken

    async def outstanding(self) -> list[ReplayRequest]:
        """Return what was submitted and not yet gathered or taken, sorted by key."""
        finished = {key: result.request for key, result in self._finished.items()}
        return [request for _, request in sorted((self._pending | finished).items())]

    async def stats(self) -> dict[str, Any]:
        """Return counts; busy seconds and utilization are those since the last call."""
        now_s = time.monotonic()
        busy_s = self._busy_s + sum(now_s - since_s for since_s in self._busy_since_s.values())
        elapsed_s = max(now_s - self._stats_since_s, 1e-9)
        self._busy_s, self._stats_since_s = 0.0, now_s
        self._busy_since_s = dict.fromkeys(self._busy_since_s, now_s)
        return {
            "busy_s": busy_s,
            "utilization": busy_s / (elapsed_s * max(len(self._workers), 1)),
            "num_lost": self._num_lost,
            "num_retries": self._num_retries,
            "num_queued": self._queue.qsize(),
            "worker_pids": [self._pids[slot] for slot in sorted(self._pids)],
        }

    async def shutdown(self) -> None:
        """Close the simulators of idle workers, then end all workers."""
        self._failure = SlowSimulatorError("the replay coordinator was shut down")
        await self._announce()
        idle = [slot for slot in self._pids if slot not in self._busy_since_s]
        for task in self._tasks:
            task.cancel()
        closing = [asyncio.ensure_future(_result(self._workers[i].close.remote())) for i in idle]
        if closing:
            await asyncio.wait(closing, timeout=_CLOSE_TIMEOUT_S)
        for worker in self._workers:
            ray.kill(worker)
        self._workers, self._pids, self._busy_since_s = [], {}, {}

    async def _wait_for(self, up_to: int) -> None:
        def is_settled() -> bool:
            return self._failure is not None or all(key[0] > up_to for key in self._pending)

        if not self._workers and not is_settled():
            raise ValueError("nobody replays with `num_workers=0`; call `take()` and replay there")
        async with self._changed:
            await self._changed.wait_for(is_settled)

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _new_worker(self, slot: int) -> Any:
        """Start a worker; returns at once, so that all of them start together."""
        options: dict[str, Any] = {"num_cpus": self._num_cpus}
        group = ray.util.get_current_placement_group()
        if self._first_bundle is not None and group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=self._first_bundle + slot
            )
        return ray.remote(ReplayWorker).options(**options).remote(self._pair)

    def _replace_worker(self, slot: int) -> None:
        ray.kill(self._workers[slot])
        self._pids.pop(slot, None)
        self._workers[slot] = self._new_worker(slot)

    async def _serve(self, slot: int) -> None:
        """Replay whatever is next; a fault of our own must not leave :meth:`gather` waiting."""
        try:
            while True:
                key, request = await self._queue.get()
                self._finished[key] = await self._replay(slot, request)
                del self._pending[key]
                await self._announce()
        except Exception as error:
            self._failure = (
                error
                if isinstance(error, SlowSimulatorError)
                else SlowSimulatorError(f"replay worker {slot} stopped: {_one_line(error)}")
            )
            await self._announce()

    async def _replay(self, slot: int, request: ReplayRequest) -> ReplayResult:
        """Replay with retries; after a crash or a time-out single steps are sent one by one."""
        result = _nothing(request, None)
        is_apart = False
        for attempt in range(self._max_retries + 1):
            self._num_retries += attempt > 0
            missing = missing_rows(result)
            is_apart = is_apart and request.kind == "steps"
            for rows in np.split(missing, len(missing)) if is_apart else [missing]:
                part, has_crashed = await self._attempt(slot, request.rows(rows))
                result = merge_results(result, part, rows)
                is_apart = is_apart or has_crashed
            if result.error is None:
                return result
        self._num_lost += 1
        return result

    async def _attempt(self, slot: int, request: ReplayRequest) -> tuple[ReplayResult, bool]:
        """Replay once; return the result and whether the worker had to be replaced."""
        await self._until_ready(slot)  # a start takes seconds that are not the simulator's
        limit_s = None if self._step_timeout_s is None else self._step_timeout_s * len(request)
        self._busy_since_s[slot] = time.monotonic()
        try:
            answer = self._workers[slot].replay.remote(request)
            return await asyncio.wait_for(answer, limit_s), False
        except TimeoutError:
            error = f"no answer within {limit_s:g} s"
        except RayTaskError:
            raise  # simulators cannot cause it: what they raise is part of the result
        except RayError as death:
            error = f"the process died: {_one_line(death)}"
        finally:
            self._busy_s += time.monotonic() - self._busy_since_s.pop(slot, time.monotonic())
        self._replace_worker(slot)
        return _nothing(request, f"{error} (seed {request.seed}; replay {request.key})"), True

    async def _until_ready(self, slot: int) -> None:
        error: RayError | None = None
        for _ in range(self._max_retries + 1):
            if slot in self._pids:
                return
            try:
                await self._workers[slot].ready.remote()
                self._pids[slot] = await self._workers[slot].pid.remote()
                return
            except RayError as reason:
                error = reason
                self._replace_worker(slot)
        raise SlowSimulatorError(f"replay worker {slot} cannot start: {_one_line(error)}")


def _nothing(request: ReplayRequest, error: str | None) -> ReplayResult:
    return ReplayResult(request, None, {}, 0.0, 0, error, np.arange(0))


def _one_line(error: BaseException | None) -> str:
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"


async def _result(reference: Any) -> None:
    with suppress(RayError):
        await reference
