"""How slow replays are made: limits, retries, where labels are kept."""

import hashlib
import re
from dataclasses import dataclass

from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.rows import identities
from rllib_offset.store import StoreLocation

__all__ = ["ReplayOptions", "check_lanes"]


@dataclass(frozen=True)
class ReplayOptions:
    """What the coordinator and its workers need to know.

    Args:
        num_cpus_per_worker: CPUs that Ray reserves for each worker.
        step_timeout_s: Longest time one slow step may take; None waits for ever.
        max_retries: How often a failed replay is repeated before it counts as lost.
        first_bundle: Worker ``i`` is pinned to bundle ``first_bundle + i`` of the current placement
            group; ignored where there is none.
        labels: Store of the labels; None keeps none, and survives nothing.
        is_shared: Whether other trials use the store at the same time: of two that want the same
            label at once, one waits.
        run: Name of the run on whose account labels are bought.
        max_replays_per_worker: A worker is replaced after so many requests, against simulators
            whose memory grows; None never.
        max_failure_rate: Share of the last 100 labels that may fail before replays stop; 1 never.
        max_concurrent_replays: Replays at a time of all trials on the cluster that have the same
            ``licence``; None does not limit them.
        num_envs_per_worker: Trajectories, or single steps, that are replayed side by side in the
            slow simulator's native vector form; only without workers.
        licence: What the limit is about; by default the slow simulator.

    Raises:
        ValueError: If a number is out of range.
    """

    num_cpus_per_worker: float = 1.0
    step_timeout_s: float | None = None
    max_retries: int = 2
    first_bundle: int | None = None
    labels: StoreLocation | None = None
    is_shared: bool = False
    run: str = "run"
    max_replays_per_worker: int | None = None
    max_failure_rate: float = 1.0
    max_concurrent_replays: int | None = None
    num_envs_per_worker: int = 1
    licence: str = "slow simulator"

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise ValueError(f"`max_retries` must be >= 0, got max_retries={self.max_retries}")
        if self.step_timeout_s is not None and self.step_timeout_s <= 0:
            raise ValueError(
                f"`step_timeout_s` must be positive or None, got {self.step_timeout_s}"
            )
        if self.num_envs_per_worker < 1:
            raise ValueError(f"`num_envs_per_worker` must be >= 1, got {self.num_envs_per_worker}")
        if not re.fullmatch(r"[\w.-]+", self.run):  # it names files
            raise ValueError(f"`run` must be letters, digits, '_', '.' or '-', got {self.run!r}")
        for name in ("max_replays_per_worker", "max_concurrent_replays"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"`{name}` must be >= 1 or None, got {limit}")

    def claim(self, request: ReplayRequest) -> str:
        """Return the name of what only one trial at a time may buy."""
        fingerprint = "" if self.labels is None else self.labels.fingerprint
        words = " ".join([fingerprint, *identities(request)]) if self.is_shared else ""
        return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def check_lanes(num_envs_per_worker: int, num_workers: int) -> None:
    """Refuse replays side by side in workers.

    Raises:
        ValueError: If there are workers, and several environments for each.
    """
    if num_envs_per_worker > 1 and num_workers:
        raise ValueError(
            "replays side by side happen in the driver's process; use `num_replay_workers=0`, or "
            "leave `num_envs_per_replay_worker` at 1"
        )
