"""libngspice in a child process, which serves deck after deck."""

import os
import select
import struct
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np

from rllib_offset.envs.opamp.engine import AcResult, Bench, Deck, Engine
from rllib_offset.errors import SlowSimulatorError

__all__ = ["LibraryEngine"]

_CHILD = Path(__file__).with_name("library_child.py")
_START_S = 20.0  # loading the library, on a machine that is busy


class LibraryEngine(Engine):
    """Keeps one child process with libngspice, and replaces it whenever it misbehaves.

    The child is replaced after a failure of any kind, so that no deck suffers from another's, and
    after ``recycle_after`` runs, because the library leaks (about 30 kB per extracted deck). It
    ends by itself when this process does.

    Args:
        bench: What to simulate and read.
        deadline_s: Longest a deck may take; then the child is killed.
        memory_bytes: Address space of the child.
        recycle_after: Runs that one child serves.
        library: What the dynamic linker is asked for.

    Raises:
        ValueError: If a limit is not positive.
        SlowSimulatorError: If the library cannot be loaded; says how to install it.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        deadline_s: float = 30.0,
        memory_bytes: int = 2 << 30,
        recycle_after: int = 5000,
        library: str = "libngspice.so.0",
    ) -> None:
        super().__init__(bench, deadline_s=deadline_s, memory_bytes=memory_bytes)
        if recycle_after < 1:
            raise ValueError(f"`recycle_after` must be >= 1, got {recycle_after}")
        self.recycle_after = recycle_after
        self.library = library
        self._child: _Child | None = None
        self._start()

    @property
    def pid(self) -> int | None:
        """Id of the child process; None before it is started again."""
        return None if self._child is None else self._child.process.pid

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._stop()

    def _attempt(self, deck: Deck) -> AcResult:
        deadline = self._deadline()
        child = self._child
        if child is None or not child.can_serve(self.recycle_after):
            self._stop()
            try:
                child = self._start()
            except SlowSimulatorError as error:  # it could be loaded before
                return AcResult(status="died", message=str(error))
            deadline = self._deadline()
        bench = self.bench
        head = (f"i({bench.supply})", f"v({bench.output})", bench.sweep)
        try:
            is_ok, body = child.ask("\n".join((*head, *deck)).encode(), deadline)
        except TimeoutError:
            self._stop()
            return AcResult(status="deadline", message=f"no result within {self.deadline_s:g} s")
        except (OSError, EOFError, struct.error) as error:
            code = child.exit_code()
            self._stop()
            return AcResult(status="died", message=f"ngspice ended with {code} ({error})")
        if not is_ok:
            self._stop()
            return AcResult(status="refused", message=body.decode(errors="replace"))
        return _unpack(body)

    def _start(self) -> "_Child":
        self.counts["started"] += 1
        self._child = child = _Child(self.library, self.memory_bytes)
        try:
            is_ok, body = child.answer(0, time.monotonic() + _START_S)
        except (OSError, EOFError, struct.error) as error:
            is_ok, body = False, f"its process ended with {child.exit_code()} ({error})".encode()
        if not is_ok:
            self._stop()
            raise SlowSimulatorError(
                f"ngspice cannot be loaded, {' '.join(body.decode(errors='replace').split())}; "
                "install it with `apt-get install libngspice0`"
            )
        return child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


class _Child:
    """The process and its two pipes; ended when collected, and at exit."""

    def __init__(self, library: str, memory_bytes: int) -> None:
        owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CHILD), library, str(memory_bytes), str(owner)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "LC_ALL": "C"},
            bufsize=0,
            start_new_session=True,  # an interrupt at the keyboard is not for the child
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._to, False)
        self._owner, self._asked = owner, 0
        self.end = weakref.finalize(self, _end, self.process, owner)

    def can_serve(self, most: int) -> bool:
        """Whether it lives, is this process's own and not used up."""
        return self._owner == os.getpid() and self._asked < most and self.process.poll() is None

    def ask(self, request: bytes, deadline: float) -> tuple[bool, bytes]:
        """Send a request and return the answer to it."""
        self._asked += 1
        view = memoryview(struct.pack("<QQ", self._asked, len(request)) + request)
        while view:
            _wait(self._to, select.POLLOUT, deadline)
            view = view[os.write(self._to, view) :]
        return self.answer(self._asked, deadline)

    def answer(self, number: int, deadline: float) -> tuple[bool, bytes]:
        """Return whether answer ``number`` is a result, and its body.

        Raises:
            TimeoutError: At the deadline.
            OSError, EOFError: If the process ended, or answers something else.
        """
        got, is_ok, length = struct.unpack("<QBQ", self._read(17, deadline))
        if got != number:
            raise OSError(f"answer {got} came in place of {number}")
        return bool(is_ok), self._read(length, deadline)

    def exit_code(self) -> int | None:
        """Return how the process ended, if it does within a second."""
        try:
            return self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return None

    def _read(self, length: int, deadline: float) -> bytes:
        parts = []
        while length:
            _wait(self._from, select.POLLIN, deadline)
            part = os.read(self._from, min(length, 1 << 20))
            if not part:
                raise EOFError("it closed its pipe")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    if os.getpid() == owner:  # a copy of this process made by `fork` leaves the child alone
        process.kill()
        process.wait()


def _wait(fd: int, event: int, deadline: float) -> None:
    poller = select.poll()
    poller.register(fd, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poller.poll(left * 1e3):
        raise TimeoutError


def _unpack(body: bytes) -> AcResult:
    supply, num_frequencies, num_values = struct.unpack_from("<dQQ", body)
    doubles = np.frombuffer(body, "<f8", offset=24)
    if doubles.size != num_frequencies + 2 * num_values:
        return AcResult(status="malformed", message="the numbers of points do not add up")
    frequency, response = doubles[:num_frequencies], doubles[num_frequencies:].copy()
    return AcResult(frequency.copy(), response.view(np.complex128), abs(supply))
