"""File systems that fail on demand."""

from pathlib import Path

from pyarrow import fs


class FullDisk:
    """The local file system, without space while the file `flag` exists."""

    def __init__(self, flag):
        self.flag = str(flag)

    def open_output_stream(self, path):
        if Path(self.flag).exists():
            raise OSError(28, "No space left on device", path)
        return fs.LocalFileSystem().open_output_stream(path)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(fs.LocalFileSystem(), name)
