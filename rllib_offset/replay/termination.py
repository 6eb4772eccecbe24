"""SIGTERM during a replay: it ends the simulator's step at once, and never a row's way to disk.

Ray sends it to workers whose owner has died, and kills them a tenth of a second later.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["termination"]


class _Termination:
    """Makes the process's own handler wait while it would cost a finished row.

    Attributes:
        has_come: A SIGTERM has arrived in this replay; ``SystemExit`` is then no simulator's fault.
    """

    def __init__(self) -> None:
        self.has_come = self._waits = self._is_held = False
        self._handle: Callable[[int, Any], Any] | None = None  # of the process

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let it wait within the block, but after :meth:`let_through`.

        Where the process has no handler, the system ends it at once, as ever.
        """
        handle = signal.getsignal(signal.SIGTERM)
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or not callable(handle) or self._handle is not None:
            yield
            return
        self._handle, self._is_held = handle, True
        signal.signal(signal.SIGTERM, self._arrive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, handle)
            waits = self._waits
            self._handle, self.has_come, self._waits = None, False, False
            if waits:
                handle(signal.SIGTERM, None)

    def let_through(self) -> None:
        """Let it come from now on, at once if one waits: the simulator is called."""
        self._is_held = False
        if self._waits and self._handle is not None:
            self._waits = False
            self._handle(signal.SIGTERM, None)

    def hold_back(self) -> None:
        """Let it wait again: the simulator has answered."""
        self._is_held = True

    def _arrive(self, number: int, frame: Any) -> None:
        self.has_come = True
        if self._is_held:
            self._waits = True
        elif self._handle is not None:
            self._handle(number, frame)


termination = _Termination()  # signals belong to the process
