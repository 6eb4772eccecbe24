"""Pictures of paths over a reward map, as in figures 3 to 5 of the paper.

Draws on the axes it is given and leaves pyplot's global state alone. matplotlib is imported when
something is drawn, not before.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.envs.reward_maps import RewardMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import ContourSet

__all__ = ["draw_paths", "draw_reward_map", "render_frame"]

_GRID = 121  # points per side: three per cell of the default maps


def draw_reward_map(ax: "Axes", reward_map: RewardMap) -> "ContourSet":
    """Fill the square with the contours of a reward map; warm colours are high rewards."""
    line = np.linspace(-1.0, 1.0, _GRID)
    rewards = reward_map(np.stack(np.meshgrid(line, line), axis=-1))
    ticks = (-1.0, -0.5, 0.0, 0.5, 1.0)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xlabel="x", ylabel="y", aspect="equal")
    ax.set(xticks=ticks, yticks=ticks)
    # cividis runs from blue to yellow and looks the same with and without colour blindness
    return ax.contourf(line, line, rewards, levels=24, cmap="cividis")


def draw_paths(
    ax: "Axes", paths: Sequence[NDArray[Any]], target: Sequence[float], *, markersize: float = 7.0
) -> None:
    """Draw paths, each ``(T, 2)``, their starts, and the target, told apart by shape."""
    style: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "clip_on": False}
    for index, path in enumerate(paths):
        label = "path" if index == 0 else None
        ax.plot(path[:, 0], path[:, 1], color="black", linewidth=3.0)
        ax.plot(path[:, 0], path[:, 1], color="white", linewidth=1.5, label=label)
    if paths:
        starts = np.array([path[0] for path in paths])
        ends = np.array([path[-1] for path in paths])
        ax.plot(*starts.T, "o", color="white", markersize=markersize, label="start", **style)
        ax.plot(*ends.T, "s", color="white", markersize=0.7 * markersize, label="end", **style)
    ax.plot(*target, "*", color="red", markersize=2 * markersize, label="target", **style)


def render_frame(
    reward_map: RewardMap, path: NDArray[Any], target: Sequence[float]
) -> NDArray[np.uint8]:
    """Draw one path on a canvas of its own and return the picture, ``(400, 400, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_axis_off()
    draw_reward_map(ax, reward_map)
    draw_paths(ax, [path], target)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()
