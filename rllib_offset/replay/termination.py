"""SIGTERM during a replay: it may end whatever goes on, but not a finished row's way to disk.

Ray sends it to workers whose owner has died, and ends them within moments, whatever they do.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Termination", "termination"]


class Termination:
    """Stands before the process's own handler of SIGTERM, and makes it wait for a row.

    Args:
        handle: The process's own; without one there is nothing to make wait.

    Attributes:
        raised: What the handler raised, which is no fault of the simulator it was raised in.
    """

    def __init__(self, handle: Callable[[int, Any], Any] | None = None) -> None:
        self.raised: BaseException | None = None
        self._handle = handle
        self._pid = os.getpid()
        self._is_held = self._waits = False

    def hold(self) -> None:
        """Let a signal wait from now on: the simulator has finished a step."""
        self._is_held = self._handle is not None

    def release(self) -> None:
        """Let it come, at once if one waits: the row is where it should be."""
        self._is_held = False
        if self._waits:
            self._waits = False
            self(signal.SIGTERM, None)

    def __call__(self, number: int, frame: Any) -> None:
        """Receive the signal."""
        if self._is_held and os.getpid() == self._pid:  # a forked child has no row to save
            self._waits = True
        elif self._handle is not None:
            try:
                self._handle(number, frame)
            except BaseException as error:
                self.raised = error
                raise


@contextmanager
def termination() -> Iterator[Termination]:
    """Stand before the handler within the block.

    Where the process has none, the system ends it at once, as ever; so it is outside of the main
    thread, which is the one that signals interrupt.
    """
    handle = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not callable(handle):
        yield Termination()
        return
    stands_before = Termination(handle)
    signal.signal(signal.SIGTERM, stands_before)
    try:
        yield stands_before
    finally:
        if signal.getsignal(signal.SIGTERM) is stands_before:  # else a simulator put in its own
            signal.signal(signal.SIGTERM, handle)
        stands_before.release()
