"""Refuses a version of Ray that this package was not made for, before anything else fails."""

from importlib import metadata

__all__ = ["check_ray_version"]

_SUPPORTED = "2.60"  # as in pyproject.toml


def check_ray_version() -> None:
    """See that the installed Ray is one that is supported; imports nothing.

    Raises:
        ImportError: If it is not, or there is none.
    """
    try:
        found = metadata.version("ray")
    except metadata.PackageNotFoundError:
        found = "none"
    if found != _SUPPORTED and not found.startswith(f"{_SUPPORTED}."):
        raise ImportError(
            f"rllib-offset needs Ray {_SUPPORTED}, found {found}; "
            f"pip install 'ray[rllib]~={_SUPPORTED}.0'"
        )
