"""When a failed replay is tried again, and when so many fail that it is better to stop."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from rllib_offset.columns import VALID
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.replay.requests import (
    ReplayRequest,
    ReplayResult,
    Rows,
    merge_results,
    missing_rows,
    nothing,
)

__all__ = ["FailureWatch", "Retries"]

_WINDOW = 100  # labels; a trajectory is one
_MIN_LABELS = 10  # before anything is concluded from them


class Retries:
    """One request on its way to an answer.

    Args:
        request: What is asked.
        max_retries: How often what failed is tried again.
        known: What the store knows of it already.

    Example:
        >>> request = ReplayRequest((0,), "trajectory", np.zeros((3, 2)), seed=1)
        >>> retries = Retries(request, max_retries=2)
        >>> for rows in retries.asks():
        ...     retries.add(nothing(request, "no licence"), rows)
        >>> retries.num_retries, retries.result.error
        (2, 'no licence')
    """

    def __init__(
        self, request: ReplayRequest, max_retries: int, known: ReplayResult | None = None
    ) -> None:
        self.result = nothing(request) if known is None else known
        self.num_retries = 0
        self._max_retries = max_retries
        self._is_apart = False

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing left to ask."""
        result = self.result
        if result.request.kind == "steps":
            return len(result.index) == len(result.request)
        return result.error is None and len(result.index) > 0

    def asks(self) -> Iterator[Rows]:
        """Yield the rows to ask for next; :meth:`add` the answer before going on.

        After a crash or a time-out single steps are asked for one by one, to find the culprit.
        """
        for attempt in range(self._max_retries + 1):
            if self.is_complete:
                return
            self.num_retries += attempt > 0
            missing = missing_rows(self.result)
            yield from np.split(missing, len(missing)) if self._is_apart else [missing]

    def add(self, part: ReplayResult, rows: Rows, *, has_crashed: bool = False) -> None:
        """Take in the answer to the rows ``rows``."""
        self.result = merge_results(self.result, part, rows)
        self._is_apart |= has_crashed and part.request.kind == "steps"


class FailureWatch:
    """Notices that the slow simulator fails too often.

    Args:
        max_rate: Share of the last labels that may fail, from 0 to 1; 1 never stops.

    Raises:
        ValueError: If ``max_rate`` is out of range.
    """

    def __init__(self, max_rate: float = 1.0) -> None:
        if not 0.0 <= max_rate <= 1.0:
            raise ValueError(f"`max_failure_rate` must be within [0, 1], got {max_rate}")
        self._max_rate = max_rate
        self._failed: deque[bool] = deque(maxlen=_WINDOW)
        self._last_error = ""

    def observe(self, result: ReplayResult) -> None:
        """Take note of an answer: a lost or invalid step counts as failed."""
        valid = np.zeros(len(result.request), bool)
        if result.slow is not None:
            valid[result.index] = result.slow[VALID]
        if result.request.kind == "steps":
            self._failed.extend((~valid).tolist())
        else:
            self._failed.append(result.error is not None or not valid[: len(result.index)].all())
        self._last_error = result.error or self._last_error

    def failure(self) -> SlowSimulatorError | None:
        """Return why to stop, or None."""
        num, failed = len(self._failed), sum(self._failed)
        if num < _MIN_LABELS or failed <= self._max_rate * num:
            return None
        last = f"; the last: {self._last_error}" if self._last_error else ", their results invalid"
        return SlowSimulatorError(
            f"{failed} of the last {num} slow labels failed, more than `max_failure_rate` "
            f"({self._max_rate:g}) allows{last}; mend the simulator and resume, or raise the limit"
        )
