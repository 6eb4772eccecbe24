"""What is being bought just now: a locked file for each attempt, in the folder of the store.

The lock ends with the process that holds it, however that comes to its end.  Until then others who
want the same labels wait; afterwards whoever comes first takes the finished rows out of the file.
"""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from rllib_offset.columns import Columns
from rllib_offset.replay.notes import packed, unpacked

__all__ = ["Attempt", "Attempts"]

logger = logging.getLogger(__name__)

About = dict[str, Any]

_SUFFIX = ".rows"


class Attempt:
    """The file of one attempt, to which columns are added while it lasts.

    They outlive the process, not the machine: to flush each row to the device would cost more.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, columns: Columns) -> None:
        """Add columns; raises ``OSError`` if they cannot be written."""
        _write(self._file, packed(columns))


class Attempts:
    """The attempts of all processes that see a folder.

    Args:
        folder: On this machine, or on a file system that all machines have mounted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._has_warned = False

    @contextmanager
    def hold(self, name: str, about: About) -> Iterator[Attempt | None]:
        """Say what is being bought within the block; None where the disk does not take it.

        Args:
            name: Of the attempt.
            about: What others should know; ``identities`` are those of the labels.
        """
        path = self._folder / f"{name}{_SUFFIX}"
        try:
            file = self._locked(path, about)
        except OSError as error:
            self._warn(error)
            yield None
            return
        with file:
            yield Attempt(file)
            path.unlink(missing_ok=True)

    def _locked(self, path: Path, about: About) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        file = part.open("wb", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            _write(file, json.dumps(about).encode() + b"\n")
            part.rename(path)  # others see it locked or not at all
        except OSError:
            file.close()
            part.unlink(missing_ok=True)
            raise
        return file

    def is_held(self, name: str) -> bool:
        """Whether a living process is at this attempt."""
        with self._opened(self._folder / f"{name}{_SUFFIX}") as file:
            return file is not None and self._is_locked(file) is True

    def survey(self, keep: Callable[[str, About, list[Columns]], None]) -> list[About]:
        """Return what living processes are at; hand on what dead ones left, and delete it.

        Args:
            keep: Called with the name of an attempt, what it was about, and all that was added; an
                ``OSError`` leaves the file for the next time.
        """
        living: list[About] = []
        can_keep = has_taken = True
        while has_taken:  # meanwhile others may have begun
            living, has_taken = [], False
            for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
                with self._opened(path) as file:
                    is_locked = None if file is None else self._is_locked(file)
                    if file is None or is_locked is None:
                        continue
                    if is_locked:
                        living.append(json.loads(file.readline()))
                    elif can_keep and os.fstat(file.fileno()).st_nlink:
                        can_keep = _take_over(path, file, keep)
                        has_taken |= can_keep
        return living

    @contextmanager
    def _opened(self, path: Path) -> Iterator[BinaryIO | None]:
        try:
            file = _open(path)
        except OSError:
            yield None
            return
        with file:
            yield file

    def _is_locked(self, file: BinaryIO) -> bool | None:
        """Whether another process holds the file, else lock it; None where nobody can tell."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            self._warn(error)
            return None
        return False

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            logger.warning("nobody knows what others are buying: %s", error)
        self._has_warned = True


def _take_over(
    path: Path, file: BinaryIO, keep: Callable[[str, About, list[Columns]], None]
) -> bool:
    """Hand on what a dead process left, and delete it; False if it cannot be kept yet."""
    about, parts = _read(file)
    try:
        if parts:
            keep(path.name.removesuffix(_SUFFIX), about, parts)
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("what a dead process has left cannot be stored yet: %s", error)
        return False
    return True


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("r+b")  # NFS locks only what can be written
    except PermissionError:
        return path.open("rb")  # of another user


def _write(file: BinaryIO, data: bytes) -> None:
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


def _read(file: BinaryIO) -> tuple[About, list[Columns]]:
    """Read an attempt to where it was cut short: its first line, and what was added."""
    about: About = {}
    parts: list[Columns] = []
    with suppress(ValueError, OSError):
        about = json.loads(file.readline())
        parts.extend(unpacked(file))
    return about, parts
