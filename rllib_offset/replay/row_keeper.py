"""How the finished rows of one attempt survive the process: noted at once, written later."""

import math

from rllib_offset.replay.known import LabelWriter
from rllib_offset.replay.requests import ReplayResult

__all__ = ["RowKeeper"]


class RowKeeper:
    """Rows that finish one after the other, each noted and written once, as often as pays off.

    A subclass holds them.

    Args:
        writer: Knows what pays off; with None nothing is kept on disk.
    """

    def __init__(self, writer: LabelWriter | None) -> None:
        self._writer = writer
        self._written = self._noted = (0, 0.0)  # rows, and seconds that they took
        self._is_end = False

    def _so_far(self) -> tuple[int, float]:
        """Return how many rows have finished, and how many seconds the attempt has taken."""
        raise NotImplementedError

    def _result(self, first: int) -> ReplayResult:
        """Return the finished rows from number ``first`` on."""
        raise NotImplementedError

    def note(self, *, is_end: bool) -> None:
        """Note what is due, moments after a row has finished.

        Args:
            is_end: Whether the replay needs no row after it.
        """
        self._is_end = is_end
        writer = self._writer
        if writer is not None and writer.is_noted(self._so_far()[1] - self._noted[1]):
            self._note(writer)

    def write(self) -> None:
        """Write what is due, which may take its time."""
        writer = self._writer
        if writer is not None and writer.is_due(self._so_far()[1] - self._written[1]):
            self._write(writer)

    def close(self) -> ReplayResult:
        """Write what is left, and return the answer."""
        if self._writer is None:
            return self._result(0)
        if self._written[0] < self._so_far()[0]:
            self._write(self._writer)
        return self._writer.signed(self._result(0))

    def leave(self) -> None:
        """Note, or else write, what is left: this process will not come to it."""
        if self._writer is None or self._noted[0] == self._so_far()[0]:
            return
        leave = self._note if self._writer.is_noted(math.inf) else self._write
        leave(self._writer)

    def _note(self, writer: LabelWriter) -> None:
        num_rows, seconds = self._noted
        self._noted = self._so_far()
        writer.note(self._result(num_rows), self._noted[1] - seconds, is_end=self._is_end)

    def _write(self, writer: LabelWriter) -> None:
        num_rows, seconds = self._written
        self._written = self._noted = self._so_far()
        writer.write(self._result(num_rows), self._written[1] - seconds, is_end=self._is_end)
