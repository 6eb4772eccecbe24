"""The processes that replay: started, watched, timed, replaced."""

import asyncio
import time
import uuid
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rllib_offset.errors import SlowSimulatorError
from rllib_offset.pair import EnvPair
from rllib_offset.replay.options import ReplayOptions
from rllib_offset.replay.requests import ReplayRequest, ReplayResult
from rllib_offset.replay.worker import ReplayWorker

__all__ = ["WorkerPool", "one_line"]

_CLOSE_TIMEOUT_S = 2.0


class WorkerPool:
    """Slots, each with one replay worker, which is replaced when it dies, hangs or has grown old.

    Args:
        pair: The simulators.
        num_workers: How many slots.
        options: How to replay.
    """

    def __init__(self, pair: EnvPair, num_workers: int, options: ReplayOptions) -> None:
        self.num_workers = num_workers
        self._pair, self._options = pair, options
        self._pids: dict[int, int] = {}  # of the workers that have started
        self._num_replays = [0] * num_workers  # of the worker in each slot
        self._busy_since_s: dict[int, float] = {}
        self._busy_s, self._stats_since_s = 0.0, time.monotonic()
        self._num_replaced = self._num_recycled = 0
        self._workers = [self._new_worker(slot) for slot in range(num_workers)]

    async def until_ready(self, slot: int) -> None:
        """Wait until the worker has built its simulators.

        Raises:
            SlowSimulatorError: If it cannot.
        """
        error: RayError | None = None
        for _ in range(self._options.max_retries + 1):
            if slot in self._pids:
                return
            try:
                await self._workers[slot].ready.remote()
                self._pids[slot] = await self._workers[slot].pid.remote()
                return
            except RayError as reason:
                error = reason
                self._replace(slot)
        raise SlowSimulatorError(f"replay worker {slot} cannot start: {one_line(error)}")

    async def replay(
        self, slot: int, request: ReplayRequest, run: str
    ) -> tuple[ReplayResult | None, str, str]:
        """Replay once.

        Returns:
            The answer, or None if the worker had to be replaced; the name of this attempt in the
            store; why there is no answer.
        """
        purchase = uuid.uuid4().hex
        step_s = self._options.step_timeout_s
        limit_s = None if step_s is None else step_s * (len(request) + 1)
        start_s = self._busy_since_s[slot] = time.monotonic()
        self._num_replays[slot] += 1
        try:
            answer = self._workers[slot].replay.remote(request, run, purchase)
            return await asyncio.wait_for(answer, limit_s), purchase, ""
        except TimeoutError:
            why = f"no answer within {limit_s:g} s"
        except RayTaskError:
            raise  # simulators cannot cause it: what they raise is part of the result
        except RayError as death:
            why = f"the process died: {one_line(death)}"
            if step_s is not None and time.monotonic() - start_s >= step_s:
                why = f"the process died, perhaps of a step longer than {step_s:g} s"
        finally:
            self._busy_s += time.monotonic() - self._busy_since_s.pop(slot, time.monotonic())
        self._replace(slot)
        return None, purchase, why

    async def recycle(self, slot: int) -> None:
        """Replace a worker that has replayed as often as it may."""
        limit = self._options.max_replays_per_worker
        if limit is None or self._num_replays[slot] < limit:
            return
        self._num_recycled += 1
        closing = asyncio.ensure_future(_quietly(self._workers[slot].close.remote()))
        await asyncio.wait([closing], timeout=_CLOSE_TIMEOUT_S)
        self._replace(slot)

    def stats(self) -> dict[str, Any]:
        """Return counts; busy seconds and utilization are those since the last call."""
        now_s = time.monotonic()
        busy_s = self._busy_s + sum(now_s - since_s for since_s in self._busy_since_s.values())
        elapsed_s = max(now_s - self._stats_since_s, 1e-9)
        self._busy_s, self._stats_since_s = 0.0, now_s
        self._busy_since_s = dict.fromkeys(self._busy_since_s, now_s)
        return {
            "busy_s": busy_s,
            "utilization": busy_s / (elapsed_s * max(self.num_workers, 1)),
            "num_workers_replaced": self._num_replaced - self._num_recycled,
            "num_workers_recycled": self._num_recycled,
            "worker_pids": [self._pids[slot] for slot in sorted(self._pids)],
        }

    async def shutdown(self) -> None:
        """Close the simulators of idle workers, then end all workers."""
        idle = [slot for slot in self._pids if slot not in self._busy_since_s]
        closing = [asyncio.ensure_future(_quietly(self._workers[i].close.remote())) for i in idle]
        if closing:
            await asyncio.wait(closing, timeout=_CLOSE_TIMEOUT_S)
        for worker in self._workers:
            ray.kill(worker)
        self._workers, self._pids, self._busy_since_s = [], {}, {}

    def _new_worker(self, slot: int) -> Any:
        """Start a worker; returns at once, so that all of them start together."""
        options: dict[str, Any] = {"num_cpus": self._options.num_cpus_per_worker}
        group = ray.util.get_current_placement_group()
        first = self._options.first_bundle
        if first is not None and group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=first + slot
            )
        worker = ray.remote(ReplayWorker).options(**options)
        return worker.remote(self._pair, self._options.labels, self._options.step_timeout_s)

    def _replace(self, slot: int) -> None:
        ray.kill(self._workers[slot])
        self._pids.pop(slot, None)
        self._num_replays[slot] = 0
        self._num_replaced += 1
        self._workers[slot] = self._new_worker(slot)


def one_line(error: BaseException | None) -> str:
    """Return kind and first line of an error, of its cause if a worker raised it."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"


async def _quietly(reference: Any) -> None:
    with suppress(RayError):
        await reference
