"""Figure 8 of the page, measured and costed, and the curve that `rllib plan` would show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rllib_offset.page_figure import PageFigure, Rows
from rllib_offset.report_claims import Timing
from rllib_offset.results import Arm
from rllib_offset.timing_figures import TimeBar, batch_time_curve, training_times

if TYPE_CHECKING:
    from rllib_offset.planner import Measurement

__all__ = ["costed_times", "plan_curve", "total_times"]

_LABELS = {
    "serial": "serial (Algorithm 1)",
    "trajectory": "parallel trajectories, n={}",
    "sample": "parallel single steps, n={}",
}


def total_times(serial: Arm, parallel: Arm) -> PageFigure:
    """Draw the wall-clock of whole runs, serial and parallel."""
    bars = [
        TimeBar("as trained", arm.label, [trial.wall_clock_s for trial in arm.trials])
        for arm in (serial, parallel)
    ]
    slow_s = float(np.mean([trial.slow_time_s for trial in serial.trials]))
    return PageFigure(
        "fig8-total-times",
        "Figure 8: total training time",
        "Wall-clock of whole runs, evaluation included, one dot per seed. Serial runs spent "
        f"{slow_s:.3g} s inside the slow simulator: parallel replay can save no more than that, "
        "and its processes have to be talked to.",
        training_times(bars, ylabel="total training time (s)"),
        _bar_rows(bars),
    )


def costed_times(timings: Sequence[Timing]) -> PageFigure:
    """Draw the time of an iteration where a slow step costs time."""
    bars = []
    for cost_s in sorted({t.step_cost_s for t in timings}):
        for level in ("serial", "trajectory", "sample"):
            chosen = [t for t in timings if (t.step_cost_s, t.level) == (cost_s, level)]
            if chosen:
                bars.append(
                    TimeBar(
                        f"{1e3 * cost_s:g} ms per slow step",
                        _LABELS[level].format(chosen[0].workers),
                        [t.mean_s for t in chosen],
                        float(np.mean([t.predicted_s for t in chosen])),
                    )
                )
    return PageFigure(
        "fig8-costed-times",
        "Figure 8 with a slow simulator that costs time",
        "Time of one iteration that replays all of its 1000 steps, one dot per seed; dashed: the "
        "corrected prediction of section 3.4. Ten trajectories on eight workers take two rounds, "
        "so whole trajectories gain at most a factor of five; single steps come close to eight.",
        training_times(bars, ylabel="time per iteration (s)"),
        _bar_rows(bars),
    )


def _bar_rows(bars: Sequence[TimeBar]) -> Rows:
    return [
        {
            "group": bar.group,
            "label": bar.label,
            "number": index,
            "seconds": seconds,
            "predicted_s": "" if bar.predicted_s is None else bar.predicted_s,
        }
        for bar in bars
        for index, seconds in enumerate(bar.seconds)
    ]


def plan_curve(timings: Sequence[Timing], measurement: "Measurement") -> PageFigure:
    """Draw predicted times over the number of workers, with the measured ones."""
    cost_s = max(t.step_cost_s for t in timings)
    dots = [t for t in timings if t.step_cost_s == cost_s and t.level != "serial"]
    axes = batch_time_curve(
        measurement.model,
        steps=1000,
        most_workers=16,
        measured=[(t.level, t.workers, t.mean_s) for t in dots if t.level != "serial"],
    )
    return PageFigure(
        "plan",
        "What rllib plan would say",
        f"Predicted time of a batch of 1000 steps at {1e3 * cost_s:g} ms a slow step, over the "
        "number of replay workers; markers are measured iterations. Whole trajectories gain in "
        "steps, whenever a round is saved; single steps gain with every worker.",
        axes,
        [
            {
                "level": t.level,
                "workers": t.workers,
                "seed": t.seed,
                "measured_s": t.mean_s,
                "predicted_s": t.predicted_s,
                "printed_s": t.printed_s,
            }
            for t in timings
        ],
    )
