"""Results in, matplotlib ``Axes`` out; nothing is saved and pyplot's state is left alone.

matplotlib is imported when something is drawn, not before. To keep a picture, call
``ax.figure.savefig(...)``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from rllib_offset.envs.drawing import draw_paths, draw_reward_map
from rllib_offset.envs.reward_maps import RewardMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["trajectory_map"]


def trajectory_map(
    reward_map: RewardMap,
    paths: Sequence[NDArray[Any]],
    target: Sequence[float],
    *,
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "Axes":
    """Draw paths over the contours of a reward map.

    Args:
        reward_map: The map to fill the square with; warm colours are high rewards.
        paths: Positions, each ``(T, 2)``; observations ``(T, 3)`` of PointMass work as well.
        target: Where the slow reward is highest.
        ax: Axes to draw on; by default, those of a new figure.
        title: Title of the axes.

    Returns:
        The axes, with colour bar and legend.

    Source: figures 3 to 5 of the paper.
    """
    ax = ax if ax is not None else _new_axes()
    contours = draw_reward_map(ax, reward_map)
    draw_paths(ax, paths, target)
    ax.figure.colorbar(contours, ax=ax, label="reward")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, facecolor="lightgrey")
    if title is not None:
        ax.set_title(title)
    return ax


def _new_axes() -> "Axes":
    from matplotlib.figure import Figure

    return Figure(figsize=(5.5, 4.5), layout="constrained").add_subplot()
