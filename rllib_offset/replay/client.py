"""The driver's side of slow replay: start the coordinator, hand in requests, collect labels."""

from contextlib import suppress
from typing import Any

import gymnasium as gym
import ray
from ray.actor import ActorHandle

from rllib_offset.pair import EnvPair
from rllib_offset.replay.coordinator import ReplayCoordinator
from rllib_offset.replay.requests import ReplayRequest, ReplayResult
from rllib_offset.replay.worker import replay

__all__ = ["SlowReplay"]


class SlowReplay:
    """Slow replays by Ray actors or, with no workers, in this process (Algorithm 1 of the paper).

    Args:
        pair: The two simulators.
        num_workers: Replay actors; 0 replays here, when :meth:`gather` is called.
        num_cpus_per_worker: Logical CPUs that each reserves.
        step_timeout_s: Time limit of one slow step; ``None`` waits for ever.
        max_retries: How often a failed replay is tried again.
        first_bundle: Placement-group bundle of worker 0, where there is a placement group.
    """

    def __init__(
        self,
        pair: EnvPair,
        *,
        num_workers: int,
        num_cpus_per_worker: float = 1.0,
        step_timeout_s: float | None = None,
        max_retries: int = 2,
        first_bundle: int | None = None,
    ) -> None:
        self.num_workers = num_workers
        self._pair = pair
        self._envs: tuple[gym.Env[Any, Any], gym.Env[Any, Any]] | None = None
        self.coordinator: ActorHandle = (
            ray.remote(ReplayCoordinator)
            .options(num_cpus=0)
            .remote(
                pair,
                num_workers,
                num_cpus_per_worker=num_cpus_per_worker,
                step_timeout_s=step_timeout_s,
                max_retries=max_retries,
                first_bundle=first_bundle,
            )
        )

    def submit(self, requests: list[ReplayRequest]) -> None:
        """Queue requests; one that is known already is not queued again."""
        ray.get(self.coordinator.submit.remote(requests))

    def gather(self, up_to: int | None) -> list[ReplayResult]:
        """Return finished replays in key order.

        Args:
            up_to: Wait for every request of versions up to this one and return exactly those;
                ``None`` waits for nothing and returns what has finished.
        """
        if self.num_workers:
            results: list[ReplayResult] = ray.get(self.coordinator.gather.remote(up_to))
            return results
        requests = ray.get(self.coordinator.take.remote())
        return [replay(request, *self._own_envs()) for request in requests]

    def outstanding(self) -> list[ReplayRequest]:
        """Return the requests that were queued and not gathered yet."""
        requests: list[ReplayRequest] = ray.get(self.coordinator.outstanding.remote())
        return requests

    def stats(self) -> dict[str, Any]:
        """Return the coordinator's counters since the last call."""
        stats: dict[str, Any] = ray.get(self.coordinator.stats.remote())
        return stats

    def shutdown(self) -> None:
        """Stop workers and coordinator, and close the environments of this process."""
        with suppress(ray.exceptions.RayError):  # dead already, or too busy to answer: killed next
            ray.get(self.coordinator.shutdown.remote(), timeout=5)
        ray.kill(self.coordinator)
        for env in self._envs or ():
            env.close()  # type: ignore[no-untyped-call]
        self._envs = None

    def _own_envs(self) -> tuple[gym.Env[Any, Any], gym.Env[Any, Any]]:
        if self._envs is None:
            self._envs = (self._pair.make_slow(), self._pair.make_fast())
        return self._envs
