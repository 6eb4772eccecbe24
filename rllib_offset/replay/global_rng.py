"""The generators that a whole process shares, kept from what a simulator does to them."""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rllib_offset.replay.requests import ReplayRequest

__all__ = ["own_generators_only", "preserved_global_rng", "seed_of"]


def seed_of(request: ReplayRequest) -> int:
    """Return what both generators are seeded with for a replay: the same wherever it happens."""
    return zlib.crc32(repr(request.key).encode())


@contextmanager
def own_generators_only() -> Iterator[None]:
    """Refuse a simulator that draws from either generator in a call for several rows.

    Raises:
        ValueError: After the call: a row would depend on what is replayed beside it.
    """
    before = _position()
    yield
    if _position() != before:
        raise ValueError(
            "the slow simulator draws from `random` or `np.random`, so rows side by side would "
            "depend on each other; draw from `self.np_random`, or use num_envs_per_replay_worker=1"
        )


@contextmanager
def preserved_global_rng(seed: int | None = None) -> Iterator[None]:
    """Keep a simulator's use of ``random`` and ``np.random`` from anyone else's.

    Args:
        seed: Seeds both within the block; None leaves them as they are.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _position() -> tuple[Any, ...]:
    """Return something that is another once anybody has drawn from either generator."""
    _, *parts = np.random.get_state()  # noqa: NPY002
    return random.getstate(), *(np.asarray(part).tobytes() for part in parts)
