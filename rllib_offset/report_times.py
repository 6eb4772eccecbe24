"""Figure 8 of the page, measured and costed, and the curve that `rllib plan` would show."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rllib_offset.page_figure import PageFigure, Rows
from rllib_offset.report_claims import Timing
from rllib_offset.results import Arm
from rllib_offset.timing_figures import TimeBar, batch_time_curve, training_times

if TYPE_CHECKING:
    from rllib_offset.planner import Measurement

__all__ = ["plan_curve", "time_figures", "times_table", "total_times"]

_LABELS = {"serial": "serial", "trajectory": "trajectories,\nn={}", "sample": "single steps,\nn={}"}
_LEVELS = ("serial", "trajectory", "sample")


def total_times(serial: Arm, parallel: Arm) -> PageFigure:
    """Draw the wall-clock of whole runs, serial and parallel."""
    bars = [
        TimeBar(arm.label, [trial.wall_clock_s for trial in arm.trials])
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
        is_small=True,
    )


def time_figures(timings: Sequence[Timing]) -> Iterator[PageFigure]:
    """Draw the time of an iteration for each cost of a slow step."""
    for cost_s in sorted({t.step_cost_s for t in timings}):
        here = [t for t in timings if t.step_cost_s == cost_s]
        most = max(t.workers for t in here)
        bars = []
        for level in _LEVELS:
            chosen = [t for t in here if t.level == level and t.workers in (0, most)]
            if chosen:
                seconds = [t.mean_s for t in chosen]
                predicted_s = float(np.mean([t.predicted_s for t in chosen]))
                bars.append(TimeBar(_LABELS[level].format(most), seconds, predicted_s))
        yield PageFigure(
            f"fig8-times-{1e3 * cost_s:g}-ms",
            f"Figure 8: {1e3 * cost_s:g} ms a slow step",
            _caption(cost_s),
            training_times(bars, ylabel="time per iteration of 1000 steps (s)"),
            _bar_rows(bars),
            is_small=True,
        )


def _caption(cost_s: float) -> str:
    if not cost_s:
        return (
            "Every step of the batch is replayed, as in the paper, in a slow simulator that is not "
            "slow (0 ms: no sleep). Replays in other processes can only save what the driver's own "
            "replays take, which is little; dots are seeds."
        )
    return (
        "All 1000 steps are replayed by the driver (serial) or by workers; dots are seeds, dashes "
        "the prediction. Ten trajectories on eight workers take two rounds, so that whole "
        "trajectories gain a factor of five at most; single steps come close to eight."
    )


def times_table(timings: Sequence[Timing]) -> list[dict[str, str]]:
    """Measured and predicted times of every setting in which a slow step costs time."""
    settings = {(t.step_cost_s, t.workers, _LEVELS.index(t.level)) for t in timings}
    rows = []
    for cost_s, workers, rank in sorted(settings):
        if not cost_s:
            continue
        level = _LEVELS[rank]
        chosen = [
            t for t in timings if (t.step_cost_s, t.workers, t.level) == (cost_s, workers, level)
        ]
        measured_s, predicted_s, printed_s = (
            float(np.mean([getattr(t, name) for t in chosen]))
            for name in ("mean_s", "predicted_s", "printed_s")
        )
        rows.append(
            {
                "slow step": f"{1e3 * cost_s:g} ms",
                "replays": _LABELS[level].partition(",")[0],
                "workers": str(workers or "-"),
                "measured": f"{measured_s:.2f} s",
                "predicted, corrected": f"{predicted_s:.2f} s",
                "off by": f"{predicted_s / measured_s - 1:+.0%}",
                "predicted, as printed": f"{printed_s:.2f} s",
                "seeds": str(len(chosen)),
            }
        )
    return rows


def _bar_rows(bars: Sequence[TimeBar]) -> Rows:
    return [
        {
            "label": bar.label.replace("\n", " "),
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
    dots = [t for t in timings if t.step_cost_s == cost_s and t.workers]
    axes = batch_time_curve(
        measurement.model,
        steps=1000,
        most_workers=16,
        measured=[(t.level, t.workers, t.mean_s) for t in dots if t.level != "serial"],
    )
    return PageFigure(
        "plan",
        "What rllib plan says, and what was measured",
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
