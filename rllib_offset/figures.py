"""Results in, matplotlib ``Axes`` out; nothing is saved and pyplot's state is left alone.

matplotlib is imported when something is drawn, not before. To keep a picture, call
``ax.figure.savefig(...)``.  Colours are told apart with and without colour blindness, and lines by
their dashes and markers too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.envs.drawing import draw_paths, draw_reward_map
from rllib_offset.envs.reward_maps import RewardMap
from rllib_offset.results import mean_and_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import ContourSet
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = [
    "STYLES",
    "Curve",
    "Style",
    "curve_chart",
    "figure_of",
    "legend_below",
    "new_axes",
    "offset_map",
    "predicted_against_true",
    "shorten",
    "trajectory_map",
]

Floats = NDArray[Any]


@dataclass(frozen=True)
class Style:
    """How one arm looks in every figure."""

    color: str
    linestyle: Any = "-"
    marker: str = "o"


_MAP_SIZE_IN = (4.6, 3.7)  # wide enough for a colour bar beside a square
_LEGEND_DROP_IN, _LEGEND_ROW_IN = 0.5, 0.2  # room for tick and axis labels; one line of text
_LEGEND_CHARACTERS = 76  # of all columns together, with their symbols

# Okabe and Ito's palette, without its yellow, which fades on white.
STYLES = (
    Style("#0072B2"),
    Style("#D55E00", marker="s"),
    Style("#009E73", (0, (5, 2)), marker="^"),
    Style("#CC79A7", (0, (1, 1)), marker="D"),
    Style("#E69F00", (0, (5, 1, 1, 1)), marker="v"),
    Style("#56B4E9", marker="P"),
    Style("#000000", (0, (3, 3)), marker="X"),
)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: the mean over seeds, with a band for the interval of that mean.

    Args:
        label: Name in the legend.
        x: Abscissas, ``(E,)``.
        values: One row per seed, ``(S, E)``.
        style: Colour, dashes and marker.
    """

    label: str
    x: Floats
    values: Floats
    style: Style = STYLES[0]

    def band(self) -> tuple[Floats, Floats, Floats]:
        """Mean, lower and upper end of its 95 % interval, each ``(E,)``; NaN ends for one seed."""
        points = [mean_and_interval(np.asarray(column, float)) for column in self.values.T]
        mean, half = np.array(points).T if points else (np.zeros(0), np.zeros(0))
        return mean, mean - half, mean + half


def new_axes(width_in: float = 4.9, height_in: float = 3.7) -> "Axes":
    """Axes of a new figure that is in nobody's list of figures."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained").add_subplot()


def trajectory_map(
    reward_map: RewardMap | Floats,
    paths: Sequence[NDArray[Any]],
    target: Sequence[float] | Floats,
    *,
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "Axes":
    """Draw paths over the contours of a reward map.

    Args:
        reward_map: The map to fill the square with, or its values on an even grid ``(G, G)``, rows
            along y; warm colours are high rewards.
        paths: Positions, each ``(T, 2)``; observations ``(T, 3)`` of PointMass work as well, and
            rows of NaN are left out.
        target: Where the slow reward is highest.
        ax: Axes to draw on; by default, those of a new figure.
        title: Title of the axes.

    Returns:
        The axes, with colour bar and legend.

    Source: figures 3 to 5 of the paper.
    """
    from matplotlib.ticker import MaxNLocator

    ax = ax if ax is not None else new_axes(*_MAP_SIZE_IN)
    if isinstance(reward_map, np.ndarray):
        line = np.linspace(-1.0, 1.0, len(reward_map))
        _draw_square(ax)
        contours: ContourSet = ax.contourf(line, line, reward_map, levels=24, cmap="cividis")
    else:
        contours = draw_reward_map(ax, reward_map)
    draw_paths(ax, [path[np.isfinite(path).all(axis=1)] for path in paths], list(target))
    _colorbar(ax, contours, "reward per step", ticks=MaxNLocator(6))
    legend_below(ax, columns=4, facecolor="lightgrey")
    return _titled(ax, title)


def offset_map(
    offsets: Floats,
    *,
    limit: float | None = None,
    label_positions: Floats | None = None,
    ax: "Axes | None" = None,
    title: str | None = None,
    colorbar_label: str = "offset of the reward (slow - fast)",
) -> "Axes":
    """Draw an offset over the square; white is zero, the two colours are its signs.

    Args:
        offsets: Values on an even grid, ``(G, G)``, rows along y.
        limit: Absolute value at the ends of the colour scale; by default the largest.
        label_positions: Where labels were bought, ``(N, 2)``; drawn as dots.
        ax: Axes to draw on; by default, those of a new figure.
        title: Title of the axes.
        colorbar_label: What the colours are.

    Source: figure 6 of the paper.
    """
    has_dots = label_positions is not None and len(label_positions) > 0
    width_in, height_in = _MAP_SIZE_IN
    ax = ax if ax is not None else new_axes(width_in, height_in - (0 if has_dots else 0.45))
    largest = float(np.nanmax(np.abs(offsets))) if offsets.size else 0.0
    limit = max(largest if limit is None else limit, 1e-9)
    _draw_square(ax)
    image: AxesImage = ax.imshow(
        offsets,
        origin="lower",
        extent=(-1.0, 1.0, -1.0, 1.0),
        cmap="PuOr",
        vmin=-limit,
        vmax=limit,
        interpolation="bilinear",
    )
    _colorbar(ax, image, colorbar_label)
    if label_positions is not None and has_dots:
        size = 12.0 if len(label_positions) < 500 else 4.0
        ax.scatter(
            label_positions[:, 0],
            label_positions[:, 1],
            s=size,
            color="black",
            linewidths=0,
            alpha=0.6,
            label="label: a slow result",
        )
        legend_below(ax)
    return _titled(ax, title)


def curve_chart(
    curves: Sequence[Curve],
    *,
    xlabel: str,
    ylabel: str,
    ax: "Axes | None" = None,
    title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> "Axes":
    """Draw mean and interval of several arms.

    A curve whose abscissas are all zero (an arm that bought no slow step) becomes a level line of
    its last value.  On a logarithmic axis, points at or below zero are left out.  The axis shows
    every seed; the interval of two seeds may be wider than that.

    Source: figures 7 and 9 of the paper.
    """
    ax = ax if ax is not None else new_axes()
    for curve in curves:
        mean, low, high = curve.band()
        style = curve.style
        if len(curve.x) and not np.any(curve.x):
            ax.axhline(mean[-1], color=style.color, linestyle=style.linestyle, label=curve.label)
            continue
        shown = np.isfinite(mean)
        if log_x:
            shown &= curve.x > 0
        every = max(1, int(shown.sum()) // 8)
        ax.plot(
            curve.x[shown],
            mean[shown],
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker,
            markevery=every,
            markersize=5,
            label=curve.label,
        )
        ax.fill_between(
            curve.x[shown], low[shown], high[shown], color=style.color, alpha=0.18, linewidth=0
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if log_x:
        ax.set_xscale("log")
        _label_decades(ax.xaxis)
    else:
        _thousands(ax)
    if log_y:
        ax.set_yscale("log")
        _label_decades(ax.yaxis)
    else:
        _show_every_seed(ax, curves)
    ax.grid(alpha=0.25)
    legend_below(ax)
    return _titled(ax, title)


def predicted_against_true(
    true: Floats,
    predicted: Floats,
    is_held_out: NDArray[np.bool_],
    *,
    name: str = "reward",
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "Axes":
    """Draw predicted offsets over measured ones; a perfect predictor puts every dot on the line.

    Args:
        true: Measured offsets, ``(N,)``, NaN where not measured.
        predicted: Predicted offsets, ``(N,)``.
        is_held_out: Which labels the predictor was not fitted to, ``(N,)``.
        name: The corrected value.
        ax: Axes to draw on; by default, those of a new figure.
        title: Title of the axes.
    """
    from matplotlib.ticker import MaxNLocator

    ax = ax if ax is not None else new_axes(4.4, 4.2)
    known = np.isfinite(true)
    ends = (0.0, 1.0)
    if known.any():
        both = np.concatenate([true[known], predicted[known]])
        margin = 0.03 * float(np.ptp(both)) or 1.0  # all offsets may be the same
        ends = (float(both.min()) - margin, float(both.max()) + margin)
    ax.plot(ends, ends, color="grey", linewidth=1.0, label="predicted = measured")
    for chosen, style, label in (
        (known & ~is_held_out, STYLES[0], "fitted labels"),
        (known & is_held_out, STYLES[1], "held-out labels"),
    ):
        ax.plot(
            true[chosen],
            predicted[chosen],
            linestyle="none",
            color=style.color,
            marker=style.marker,
            markersize=3.5,
            alpha=0.6,
            label=label,
        )
    ax.set(xlabel=f"measured offset of {name}", ylabel=f"predicted offset of {name}")
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    ax.grid(alpha=0.25)
    legend_below(ax, columns=3)
    return _titled(ax, title)


def _draw_square(ax: "Axes") -> None:
    ticks = (-1.0, -0.5, 0.0, 0.5, 1.0)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xlabel="x", ylabel="y", aspect="equal")
    ax.set(xticks=ticks, yticks=ticks)


def figure_of(ax: "Axes") -> "Figure":
    """The whole figure that axes belong to, which can be saved."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes are never taken out of their figure here
    return figure


def legend_below(ax: "Axes", *, columns: int = 2, **options: Any) -> None:
    """Put the legend under the axis label, however high the axes are.

    Axes that have a figure to themselves grow by the height of the legend.
    """
    from matplotlib.transforms import ScaledTranslation

    handles, labels = ax.get_legend_handles_labels()
    if not labels:
        return
    labels = [shorten(label) for label in labels]
    columns = min(columns, len(labels), max(1, _LEGEND_CHARACTERS // (max(map(len, labels)) + 7)))
    figure = figure_of(ax)
    if figure.axes == [ax]:
        rows = -(-len(labels) // columns)
        figure.set_figheight(figure.get_figheight() + _LEGEND_ROW_IN * (rows - 1))
    lowered = ScaledTranslation(0, -_LEGEND_DROP_IN, figure.dpi_scale_trans)
    ax.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=ax.transAxes + lowered,
        ncols=columns,
        fontsize=9,
        **options,
    )


def shorten(text: str, characters: int = 56) -> str:
    """Cut a text that would not fit beside a drawing.

    Example:
        >>> shorten("one two three", 8)
        'one two…'
    """
    return text if len(text) <= characters else f"{text[: characters - 1].rstrip()}…"


def _colorbar(ax: "Axes", mappable: Any, label: str, **options: Any) -> None:
    """A colour bar exactly as high as the axes, also where their aspect is fixed."""
    bar_ax = ax.inset_axes((1.04, 0.0, 0.05, 1.0))
    ax.figure.colorbar(mappable, cax=bar_ax, label=label, **options)


def _show_every_seed(ax: "Axes", curves: Sequence[Curve]) -> None:
    """Let the seeds decide on the vertical axis, not the bands around their means."""
    values = np.concatenate([curve.values.ravel() for curve in curves]) if curves else np.zeros(0)
    values = values[np.isfinite(values)]
    if len(values):
        margin = 0.05 * float(np.ptp(values)) or 0.5
        ax.set_ylim(float(values.min()) - margin, float(values.max()) + margin)


def _label_decades(axis: Any) -> None:
    """Label a logarithmic axis with numbers in full, more of them where it spans few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    subs = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0) if high > 5 * low else range(1, 10)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _thousands(ax: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _titled(ax: "Axes", title: str | None) -> "Axes":
    if title is not None:
        ax.set_title(title, fontsize=11)
    return ax
