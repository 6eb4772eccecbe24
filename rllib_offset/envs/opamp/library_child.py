"""The process in which libngspice lives: decks in on fd 0, results out on what was fd 1.

Run as a script by `rllib_offset.envs.opamp.library_engine`, with the standard library alone, so
that it starts in milliseconds. libngspice prints on the standard streams and may end the process.

Frames, little-endian: request ``(number, length)`` + text, whose first three lines are the supply's
vector, the output's vector and the sweep, the others the deck; answer ``(number, is_ok, length)`` +
bytes, which are ``(supply, F, H)`` and F + 2H doubles, or why there are none. Answer 0 says whether
the library could be loaded.
"""

import ctypes
import os
import resource
import select
import struct
import sys
import threading
from typing import Any, NoReturn

_POLL_MS = 2000  # between looks at the parent's id


class Refused(Exception):
    """The simulator gave no result."""


class _Complex(ctypes.Structure):
    _fields_ = (("re", ctypes.c_double), ("im", ctypes.c_double))


class _Vector(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("flags", ctypes.c_short),
        ("real", ctypes.POINTER(ctypes.c_double)),
        ("complex", ctypes.POINTER(_Complex)),
        ("length", ctypes.c_int),
    )


class Ngspice:
    """The one instance of libngspice that a process can have."""

    def __init__(self, library: str) -> None:
        self.log: list[str] = []
        self.is_dead = False
        text = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p)
        end = ctypes.CFUNCTYPE(
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_bool,
            ctypes.c_bool,
            ctypes.c_int,
            ctypes.c_void_p,
        )
        # kept, or the library would call into freed memory
        self._callbacks = (text(self._said), text(lambda *_: 0), end(self._ended))
        self._lib = ctypes.CDLL(library)
        self._lib.ngGet_Vec_Info.restype = ctypes.POINTER(_Vector)
        if self._lib.ngSpice_Init(*self._callbacks, None, None, None, None):
            raise OSError(f"{library} does not initialise")
        for setting in ("set num_threads=1", "set noaskquit"):
            self.command(setting)

    def simulate(self, supply: str, output: str, sweep: str, deck: list[str]) -> bytes:
        """Return the packed result of one deck."""
        self.log.clear()
        lines = [line.encode() for line in deck if line.strip()]
        array = (ctypes.c_char_p * (len(lines) + 2))(*lines, b".end", None)
        if self._lib.ngSpice_Circ(array) or self.is_dead:
            raise Refused(self._why("the deck cannot be parsed"))
        self.command("op")
        current = self._vector(supply)[:8]
        self.command(sweep)
        frequency, response = self._vector("frequency"), self._vector(output)
        if len(current) < 8 or len(frequency) % 16 or len(response) % 16:
            raise Refused(self._why("vectors of another kind than asked for"))
        real = b"".join(frequency[i : i + 8] for i in range(0, len(frequency), 16))
        head = struct.pack("<QQ", len(real) // 8, len(response) // 16)
        for clean in ("destroy all", "remcirc"):
            self.command(clean)
        return current + head + real + response

    def command(self, command: str) -> None:
        """Run one command of ngspice's."""
        failed = self._lib.ngSpice_Command(command.encode())
        if failed or self.is_dead:
            raise Refused(self._why(f"`{command}` failed"))

    def _vector(self, name: str) -> bytes:
        found = self._lib.ngGet_Vec_Info(name.encode())
        if not found:
            raise Refused(self._why(f"there is no vector {name}"))
        vector = found.contents
        if vector.complex:
            return ctypes.string_at(vector.complex, 16 * vector.length)
        return ctypes.string_at(vector.real, 8 * vector.length)

    def _why(self, what: str) -> str:
        return f"{what}: {' | '.join(self.log[-6:])}"[:500]

    def _said(self, line: bytes, *_: Any) -> int:
        self.log.append(line.decode("latin1"))
        del self.log[:-50]
        return 0

    def _ended(self, *_: Any) -> int:
        self.is_dead = True
        return 0


def watch_parent(fd: int, parent: int) -> NoReturn:
    """End this process as soon as nobody can ask any more, even while ngspice is at work."""
    poller = select.poll()
    poller.register(fd, 0)  # hang-ups only
    while not poller.poll(_POLL_MS) and os.getppid() == parent:
        pass
    os._exit(0)


def read(fd: int, length: int) -> bytes:
    """Read exactly so many bytes; at the end of the stream, end the process."""
    parts = []
    while length:
        part = os.read(fd, length)
        if not part:
            os._exit(0)
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def answer(fd: int, number: int, is_ok: bool, body: bytes) -> None:
    """Write one frame."""
    view = memoryview(struct.pack("<QBQ", number, is_ok, len(body)) + body)
    while view:
        view = view[os.write(fd, view) :]


def main(library: str, memory_bytes: int, parent: int) -> None:
    """Serve until the parent hangs up."""
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=watch_parent, args=(requests, parent), daemon=True).start()
    try:
        ngspice = Ngspice(library)
    except (OSError, Refused) as error:
        answer(answers, 0, False, str(error).encode())
        return
    answer(answers, 0, True, b"")
    while not ngspice.is_dead:
        number, length = struct.unpack("<QQ", read(requests, 16))
        supply, output, sweep, *deck = read(requests, length).decode().split("\n")
        try:
            answer(answers, number, True, ngspice.simulate(supply, output, sweep, deck))
        except Refused as error:
            answer(answers, number, False, str(error).encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
