"""Figures of training time: measured against predicted, and what more replay workers would bring.

Results in, matplotlib ``Axes`` out, as in :mod:`rllib_offset.figures`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
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
        label: What it measures, written under it.
        seconds: Measured, one per seed.
        predicted_s: What section 3.4 predicts, corrected; None if nothing was predicted.
    """

    label: str
    seconds: Sequence[float]
    predicted_s: float | None = None


def training_times(
    bars: Sequence[TimeBar], *, ylabel: str, ax: "Axes | None" = None, title: str | None = None
) -> "Axes":
    """Draw measured times as bars with a dot per seed, and predicted ones as lines across them.

    Above each bar stand its mean and how many times faster it is than the first.

    Source: figure 8 of the paper.
    """
    ax = ax if ax is not None else new_axes(4.3, 3.5)
    serial_s = float(np.mean(bars[0].seconds))
    for x, (bar, style) in enumerate(zip(bars, cycle(STYLES), strict=False)):
        mean = float(np.mean(bar.seconds))
        label = "one seed" if x == 0 else None
        ax.bar([x], [mean], 0.62, color=style.color, alpha=0.8)
        ax.plot([x] * len(bar.seconds), bar.seconds, "k.", markersize=5, label=label)
        text = f"{mean:.3g} s" + (f"\n{serial_s / mean:.1f} times faster" if x else "")
        ax.annotate(
            text,
            (x, max(mean, *bar.seconds, bar.predicted_s or 0.0)),
            (0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
        if bar.predicted_s is not None:
            label = None if x else "predicted (section 3.4, corrected)"
            ends = (x - 0.36, x + 0.36)
            ax.plot(ends, [bar.predicted_s] * 2, "k--", linewidth=1.5, label=label)
    ax.set_xticks(range(len(bars)), [bar.label for bar in bars])
    ax.set(ylabel=ylabel, xlim=(-0.6, len(bars) - 0.4))
    ax.margins(y=0.18)
    ax.set_ylim(bottom=0.0)
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
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

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
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if most_workers > 32:
        ax.set_xscale("log", base=2)
    ax.grid(alpha=0.25)
    legend_below(ax)
    if title is not None:
        ax.set_title(title, fontsize=11)
    return ax
