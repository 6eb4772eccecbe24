"""Figures of training time: measured against predicted, and what more replay workers would bring.

Results in, matplotlib ``Axes`` out, as in :mod:`rllib_offset.figures`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rllib_offset.figures import STYLES, legend_below, new_axes
from rllib_offset.timing import Level, TimingModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TimeBar", "batch_time_curve", "training_times"]


@dataclass(frozen=True)
class TimeBar:
    """One bar of figure 8.

    Args:
        group: What the bars of a group share, e.g. the cost of a slow step.
        label: What it measures; the same label has the same colour in every group.
        seconds: Measured, one per seed.
        predicted_s: What section 3.4 predicts, corrected; None if nothing was predicted.
    """

    group: str
    label: str
    seconds: Sequence[float]
    predicted_s: float | None = None


def training_times(
    bars: Sequence[TimeBar], *, ylabel: str, ax: "Axes | None" = None, title: str | None = None
) -> "Axes":
    """Draw measured times as bars with a dot per seed, and predicted ones as lines across them.

    Source: figure 8 of the paper.
    """
    groups = list(dict.fromkeys(bar.group for bar in bars))
    labels = list(dict.fromkeys(bar.label for bar in bars))
    ax = ax if ax is not None else new_axes(max(4.9, 2.6 * len(groups)), 3.7)
    width = 0.8 / max(len(labels), 1)
    predicted_label: str | None = "predicted (section 3.4, corrected)"
    for bar in bars:
        rank = labels.index(bar.label)
        x = groups.index(bar.group) + (rank - (len(labels) - 1) / 2) * width
        mean = float(np.mean(bar.seconds))
        color = STYLES[rank % len(STYLES)].color
        known = {text for handle in ax.containers for text in [handle.get_label()]}
        label = None if bar.label in known else bar.label
        ax.bar([x], [mean], 0.9 * width, color=color, alpha=0.75, label=label)
        ax.plot([x] * len(bar.seconds), bar.seconds, "k.", markersize=4)
        ax.annotate(
            f"{mean:.2g}" if mean < 10 else f"{mean:.0f}",
            (x, mean),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
        if bar.predicted_s is not None:
            ends = (x - 0.45 * width, x + 0.45 * width)
            ax.plot(ends, [bar.predicted_s] * 2, "k--", linewidth=1.5, label=predicted_label)
            predicted_label = None
    ax.set_xticks(range(len(groups)), groups)
    ax.set(ylabel=ylabel)
    ax.margins(y=0.12)
    ax.set_xlim(-0.7, len(groups) - 0.3)
    ax.grid(axis="y", alpha=0.25)
    legend_below(ax)
    if title is not None:
        ax.set_title(title, fontsize=11)
    return ax


def batch_time_curve(
    model_of: Callable[[int], TimingModel],
    *,
    steps: int,
    most_workers: int,
    measured: Sequence[tuple[Level, int, float]] = (),
    shows_samples: bool = True,
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "Axes":
    """Draw the predicted time of a batch over the number of replay workers, and measured times.

    Args:
        model_of: The simulators' and the updates' times, for a number of workers.
        steps: Steps in a batch.
        most_workers: Where the axis ends.
        measured: Triples of level, workers and seconds.
        shows_samples: Whether the pair allows single steps.
        ax: Axes to draw on; by default, those of a new figure.
        title: Title of the axes.
    """
    from matplotlib.ticker import LogFormatter

    ax = ax if ax is not None else new_axes()
    workers = np.arange(1, most_workers + 1)
    levels: tuple[Level, ...] = ("trajectory", "sample") if shows_samples else ("trajectory",)
    serial_s = model_of(1).corrected_serial_batch_time_s(steps=steps)
    ax.axhline(serial_s, color="grey", linestyle=":", label="serial: replays in the driver")
    for level, style in zip(levels, STYLES, strict=False):
        times = [
            model_of(int(n)).corrected_batch_time_s(steps=steps, workers=int(n), level=level)
            for n in workers
        ]
        ax.plot(workers, times, color=style.color, drawstyle="steps-post", label=f"{level} level")
        dots = [(n, seconds) for which, n, seconds in measured if which == level]
        if dots:
            ax.plot(
                *np.array(dots).T,
                style.marker,
                color=style.color,
                markeredgecolor="black",
                linestyle="none",
                label=f"{level} level, measured",
            )
    ax.set(xlabel="replay workers n", ylabel="time per batch (s)", yscale="log")
    for axis in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        axis(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    if most_workers > 32:
        ax.set_xscale("log", base=2)
    ax.grid(alpha=0.25)
    legend_below(ax)
    if title is not None:
        ax.set_title(title, fontsize=11)
    return ax
