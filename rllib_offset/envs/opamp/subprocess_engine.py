"""One ``ngspice`` process per deck: nothing leaks from one simulation into the next."""

import os
import re
import resource
import secrets
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.envs.opamp.engine import AcResult, Bench, Deck, Engine
from rllib_offset.errors import SlowSimulatorError

__all__ = ["SubprocessEngine"]

_TAIL_BYTES = 1 << 16  # of what ngspice prints
_POINT, _SWEEP = "point.raw", "sweep.raw"
_FILE_BYTES = 1 << 28  # largest file that it may write


class SubprocessEngine(Engine):
    """Starts ngspice for every deck, 10 ms each on top of the simulation.

    Limits on memory, processor time and the size of files are the kernel's, so that ngspice cannot
    outlive its deadline by much, whatever becomes of this process.

    Args:
        bench: What to simulate and read.
        deadline_s: Longest a deck may take; then ngspice is killed.
        memory_bytes: Address space of ngspice.
        executable: Name or path of the program.

    Raises:
        ValueError: If a limit is not positive.
        SlowSimulatorError: If the program is not found; says how to install it.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        deadline_s: float = 30.0,
        memory_bytes: int = 2 << 30,
        executable: str = "ngspice",
    ) -> None:
        super().__init__(bench, deadline_s=deadline_s, memory_bytes=memory_bytes)
        found = shutil.which(executable)
        if found is None:
            raise SlowSimulatorError(
                f"there is no program {executable!r}; install it with `apt-get install ngspice`"
            )
        self._executable = found

    def close(self) -> None:
        """Nothing is kept between runs."""

    def _attempt(self, deck: Deck) -> AcResult:
        marker = secrets.token_hex(8)
        with tempfile.TemporaryDirectory(prefix="ngspice-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            deck_file = folder / "deck.cir"
            text = self._with_commands(deck, marker)
            deck_file.write_text(text, encoding="ascii", errors="replace")
            (folder / ".spiceinit").write_text("set num_threads=1\n", encoding="ascii")
            try:
                return _read(folder, self._execute(deck_file), marker)
            except TimeoutError:
                why = f"no result within {self.deadline_s:g} s"
                return AcResult(status="deadline", message=why)
            except ProcessLookupError as error:
                return AcResult(status="died", message=str(error))

    def _with_commands(self, deck: Deck, marker: str) -> str:
        bench = self.bench
        commands = (
            ".control",
            "set filetype=binary",
            "op",
            f"write {_POINT} i({bench.supply})",
            bench.sweep,
            f"write {_SWEEP} v({bench.output})",
            f"echo done {marker}",
            "quit",
            ".endc",
            ".end",
        )
        return "\n".join((*deck, *commands)) + "\n"

    def _execute(self, deck_file: Path) -> str:
        """Return the last of what ngspice prints.

        Raises:
            TimeoutError: At the deadline.
            ProcessLookupError: If a signal ended it.
        """
        folder = str(deck_file.parent)
        deadline = self._deadline()
        process = subprocess.Popen(
            [self._executable, "-b", str(deck_file)],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "OMP_NUM_THREADS": "1", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        try:
            self._limit(process.pid)
            printed = _drain(process, deadline)
            code = process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        if code < 0:
            raise ProcessLookupError(f"ngspice ended by signal {-code}: {printed[-200:]}")
        return printed

    def _limit(self, pid: int) -> None:
        cpu_s = int(self.deadline_s) + 2
        limits = (
            (resource.RLIMIT_CPU, cpu_s),
            (resource.RLIMIT_AS, self.memory_bytes),
            (resource.RLIMIT_FSIZE, _FILE_BYTES),
            (resource.RLIMIT_CORE, 0),
        )
        for limit, value in limits:
            resource.prlimit(pid, limit, (value, value))


def _drain(process: subprocess.Popen[bytes], deadline: float) -> str:
    """Read until the process closes its output, and keep the last of it."""
    assert process.stdout is not None
    fd, tail = process.stdout.fileno(), b""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1e3):
            raise TimeoutError
        part = os.read(fd, 1 << 16)
        if not part:
            return tail.decode("latin1")
        tail = (tail + part)[-_TAIL_BYTES:]


def _read(folder: Path, printed: str, marker: str) -> AcResult:
    """Return the result, if ngspice came to the end of its commands and wrote what it says."""
    if f"done {marker}" not in printed:
        return AcResult(status="refused", message=printed[-300:])
    try:
        point = _read_raw(folder / _POINT, "real")
        sweep = _read_raw(folder / _SWEEP, "complex")
    except FileNotFoundError:
        return AcResult(status="refused", message=printed[-300:])
    except ValueError as error:
        return AcResult(status="malformed", message=str(error))
    return AcResult(sweep[:, 0].real.copy(), sweep[:, -1].copy(), abs(float(point[0, -1])))


def _read_raw(path: Path, kind: str) -> NDArray[Any]:
    """Return the table ``(points, variables)`` of one of ngspice's binary files.

    Raises:
        FileNotFoundError: If it was not written.
        ValueError: If header and data do not agree, or the numbers are of another kind.
    """
    head, _, data = path.read_bytes().partition(b"Binary:\n")
    found = dict(re.findall(rb"^([A-Z][\w. ]*): *(.*?) *$", head, re.MULTILINE))
    points, variables = (int(found.get(b"No. " + name, 0)) for name in (b"Points", b"Variables"))
    number = np.dtype("<f8" if kind == "real" else "<c16")
    is_whole = len(data) == points * variables * number.itemsize
    if found.get(b"Flags") != kind.encode() or not is_whole or not data:
        raise ValueError(f"{path.name}: {points} points of {variables} in {len(data)} bytes")
    return np.frombuffer(data, number).reshape(points, variables)
