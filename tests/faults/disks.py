"""File systems that fail on demand."""

import errno
import os
from pathlib import Path

from pyarrow import fs


class FullDisk:
    """The local file system, which takes nothing (28: no space) while the file `flag` exists."""

    def __init__(self, flag, code=errno.ENOSPC):
        self.flag, self.code = str(flag), code

    def open_output_stream(self, path):
        if Path(self.flag).exists():
            raise OSError(self.code, os.strerror(self.code), path)
        return fs.LocalFileSystem().open_output_stream(path)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(fs.LocalFileSystem(), name)
