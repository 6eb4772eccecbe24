"""Licences and claims, shared by all trials of a cluster: who may replay what, now.

A licensed simulator allows so many replays at a time.  And of two trials that want the same label
at the same moment one should wait, and find it in the store.  Both are leases of a named thing:
``limit`` holders at a time, each of whom must say once in a while that it is still there.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError

__all__ = ["LeaseDesk", "Leases"]

_NAME, _NAMESPACE = "rllib_offset_leases", "rllib_offset"
_RENEW_S = 1.0
_TTL_S = 10.0  # a holder silent for longer is dead, and so are the replays it ran
_GRACE_S = 2.5  # a desk that came back first hears from those who hold leases
_ASK_S = 5.0  # a waiting call returns after so long, to be repeated
_IDLE_S = 60.0  # without holders: the desk closes


class LeaseDesk:
    """Hands out leases; a Ray actor, one of a cluster.

    Keeps nothing that its holders could not tell it again: killed, it comes back empty, and
    listens before it hands out anything.

    Args:
        grace_s: How long it listens first.
        ttl_s: How long a lease lasts without being renewed.
    """

    def __init__(self, grace_s: float = _GRACE_S, ttl_s: float = _TTL_S) -> None:
        self._opens_s = time.monotonic() + grace_s
        self._ttl_s = ttl_s
        self._held: dict[str, dict[str, float]] = {}  # pool -> lease -> heard of last
        self._waiting: dict[str, dict[str, float]] = {}  # pool -> lease -> waiting since
        self._used_s = time.monotonic()
        self._closing: asyncio.Task[None] | None = None

    async def acquire(
        self, pool: str, lease: str, limit: int, since_s: float, wait_s: float = _ASK_S
    ) -> bool:
        """Wait for a lease, those who wait longest first; return whether it was given.

        Args:
            pool: What is leased.
            lease: Names this one.
            limit: How many may hold one at a time.
            since_s: Since when (Unix time) the caller has been waiting.
            wait_s: Longest time to wait in this call.
        """
        self._closing = self._closing or asyncio.create_task(self._close_when_idle())
        waiting = self._waiting.setdefault(pool, {})
        waiting[lease] = since_s
        end_s = time.monotonic() + wait_s
        try:
            while not self._grant(pool, lease, limit):
                if time.monotonic() >= end_s:
                    return False
                await asyncio.sleep(0.02)
            return True
        finally:
            waiting.pop(lease, None)
            if not waiting:  # a claim comes once: nothing may stay of it
                self._waiting.pop(pool, None)

    async def renew(self, leases: dict[str, str]) -> None:
        """Hear that these leases (pool by name) are still held."""
        self._used_s = time.monotonic()
        for lease, pool in leases.items():
            self._held.setdefault(pool, {})[lease] = self._used_s

    async def release(self, pool: str, lease: str) -> None:
        """Take a lease back."""
        self._held.get(pool, {}).pop(lease, None)
        self._expire(pool)

    async def holders(self, pool: str) -> list[str]:
        """Return who holds a lease of this pool."""
        self._expire(pool)
        return sorted(self._held.get(pool, {}))

    def _grant(self, pool: str, lease: str, limit: int) -> bool:
        now_s = self._used_s = time.monotonic()
        self._expire(pool)
        held = self._held.get(pool, {})
        if lease in held:
            return True
        since_s = self._waiting[pool][lease]
        ahead = sum(other < since_s for other in self._waiting[pool].values())
        if now_s < self._opens_s or len(held) + ahead >= limit:
            return False
        self._held.setdefault(pool, {})[lease] = now_s
        return True

    def _expire(self, pool: str) -> None:
        oldest_s = time.monotonic() - self._ttl_s
        held = self._held.pop(pool, {})
        if living := {lease: s for lease, s in held.items() if s > oldest_s}:
            self._held[pool] = living

    async def _close_when_idle(self) -> None:
        while time.monotonic() - self._used_s < _IDLE_S:
            await asyncio.sleep(_RENEW_S)
        ray.actor.exit_actor()


class Leases:
    """The leases of one process; opens the desk when it is needed, and again if it is gone."""

    def __init__(self) -> None:
        self._desk: Any = None
        self._held: dict[str, str] = {}
        self._renewing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def hold(self, pool: str, limit: int | None) -> AsyncIterator[None]:
        """Hold a lease of ``pool`` within the block; ``limit=None`` needs none."""
        if limit is None:
            yield
            return
        lease = await self.acquire(pool, limit)
        try:
            yield
        finally:
            await self.release(lease)

    async def acquire(self, pool: str, limit: int) -> str:
        """Wait for a lease; returns its name."""
        lease, since_s = uuid.uuid4().hex, time.time()
        while True:
            try:
                if await self._open().acquire.remote(pool, lease, limit, since_s):
                    break
            except RayError:
                self._desk = None  # killed, or closed for lack of work just now
                await asyncio.sleep(0.1)
        self._held[lease] = pool
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())
        return lease

    async def release(self, lease: str) -> None:
        """Give a lease back; a desk that is gone has forgotten it already."""
        pool = self._held.pop(lease, None)
        if pool is not None:
            with suppress(RayError):
                await self._open().release.remote(pool, lease)

    def _open(self) -> Any:
        if self._desk is None:
            self._desk = (
                ray.remote(LeaseDesk)
                .options(
                    name=_NAME,
                    namespace=_NAMESPACE,
                    get_if_exists=True,
                    lifetime="detached",  # outlives the trial that happened to open it
                    num_cpus=0,
                    scheduling_strategy="DEFAULT",  # not in the placement group of that trial
                    max_concurrency=10_000,
                )
                .remote()
            )
        return self._desk

    async def _renew(self) -> None:
        while self._held:
            try:
                await self._open().renew.remote(dict(self._held))
            except RayError:
                self._desk = None
            await asyncio.sleep(_RENEW_S)
