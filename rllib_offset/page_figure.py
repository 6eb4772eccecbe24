"""A figure of the page, with what is said about it and the numbers behind it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PageFigure", "Rows", "slug"]

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class PageFigure:
    """A figure with its caption and its numbers.

    Args:
        name: Of its files.
        title: What it is, in a few words.
        caption: What to see in it.
        axes: The drawing.
        rows: The numbers, one mapping per line of the CSV file.
        is_small: Whether three of its kind fit side by side, two otherwise.
    """

    name: str
    title: str
    caption: str
    axes: "Axes"
    rows: Rows
    is_small: bool = False


def slug(text: str) -> str:
    """Make a name for files of any text."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
