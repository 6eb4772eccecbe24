"""Folders as the user names them: where they are, and whether they can be written."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

__all__ = ["absolute_folder", "check_writable"]


def absolute_folder(folder: str) -> str:
    """Return the same folder as every process finds it, whatever it works in; a URI stays as it is.

    Example:
        >>> absolute_folder("/data/labels"), absolute_folder("s3://bucket/labels")
        ('/data/labels', 's3://bucket/labels')
    """
    return folder if "://" in folder else str(Path(folder).expanduser().absolute())


def check_writable(folder: str, setting: str) -> None:
    """See that a folder can be made and written; nothing is left behind.  A URI is not looked at.

    Raises:
        ValueError: If it cannot.

    Example:
        >>> check_writable("/proc/labels", "label_store")
        Traceback (most recent call last):
            ...
        ValueError: `label_store` must be a folder that can be written, got '/proc/labels'
    """
    if "://" in folder:
        return
    path = Path(absolute_folder(folder))
    made = [part for part in (path, *path.parents) if not part.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"`{setting}` must be a folder that can be written, got {folder!r}"
        ) from error
    finally:
        for part in made:
            with suppress(OSError):
                part.rmdir()
