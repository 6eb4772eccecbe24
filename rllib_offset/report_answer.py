"""What the page opens with: the answer in words, its key figures, and the table of arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rllib_offset.report_claims import (
    Timing,
    near_baseline_share,
    roles_of,
    speedup_of,
    with_interval,
)
from rllib_offset.results import Arm

__all__ = ["answer", "arms_table", "key_figures"]


def answer(arms: Sequence[Arm]) -> str:
    """One paragraph: how good the proposal is, and what it cost."""
    roles = roles_of(arms)
    offset = roles.offset
    if offset is None or not len(offset.finals()):
        evaluated = [arm for arm in arms if len(arm.finals())]
        if not evaluated:
            return "None of these trials was evaluated: set evaluation_interval to see a return."
        best = max(evaluated, key=lambda arm: float(arm.finals().mean()))
        return f"{best.name} ends with a return of {with_interval(best.finals())} in evaluation."
    steps = _slow_steps(offset)
    text = (
        f"Trained on fast + offset, the agent ends with a return of "
        f"{with_interval(offset.finals())} in the slow simulator, for {steps:,.0f} slow steps"
    )
    others = [("the baseline", roles.baseline), ("transfer", roles.transfer)]
    parts = [
        f"{name} ends at {with_interval(arm.finals())}"
        for name, arm in others
        if arm is not None and len(arm.finals())
    ]
    text += f"; {' and '.join(parts)}." if parts else "."
    frugal = _most_frugal(arms)
    if frugal is not None and frugal is not offset:
        cost = _slow_steps(frugal)
        text += (
            f" Buying single steps ({frugal.name}), {cost:,.0f} slow steps are enough for "
            f"{with_interval(frugal.finals())}."
        )
    return text


def key_figures(
    arms: Sequence[Arm], timings: Sequence[Timing], comparisons: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """The few numbers that tell the most, each with what it is."""
    roles, shown = roles_of(arms), []
    share = near_baseline_share(roles)
    if share is not None:
        shown.append((f"{share:.1%}", "of the way from transfer to baseline, on fast + offset"))
    frugal = _most_frugal(arms)
    if frugal is not None and frugal is not roles.offset and roles.offset is not None:
        text = f"slow steps if single ones are bought, instead of {_slow_steps(roles.offset):,.0f}"
        shown.append((f"{_slow_steps(frugal):,.0f}", text))
    largest = max((timing.step_cost_s for timing in timings), default=0.0)
    most = max((timing.workers for timing in timings), default=0)
    levels = [speedup_of(timings, largest, level, most) for level in ("trajectory", "sample")]
    speedups = [speedup for speedup in levels if speedup is not None]
    if largest and speedups:
        text = f"faster with {most} replay workers than serial, at {1e3 * largest:g} ms a slow step"
        shown.append((f"{max(speedups):.1f} times", text))
    if comparisons:
        speedup = np.mean([float(item["speedup"]) for item in comparisons])
        slow_ms = 1e3 * np.mean([float(item["slow_step_s"]) for item in comparisons])
        text = f"faster evaluation in fast + offset, at {slow_ms:.0f} ms a slow step"
        shown.append((f"{speedup:.0f} times", text))
    return shown


def arms_table(arms: Sequence[Arm]) -> list[dict[str, str]]:
    """What each arm reached and what it cost, one row per arm."""
    step_s = _slow_step_s(arms)
    rows = []
    for arm in arms:
        steps = np.array([trial.slow_steps[-1] for trial in arm.trials])
        times = np.array([trial.slow_time_s for trial in arm.trials])
        estimated = not np.isfinite(times).any() and np.isfinite(step_s)
        times = steps * step_s if estimated else times
        times = times[np.isfinite(times)]
        slow_s = with_interval(times, 1 if len(times) and times.mean() >= 1 else 2)
        wall = np.array([trial.wall_clock_s for trial in arm.trials])
        rows.append(
            {
                "arm": arm.name,
                "trained on": arm.label,
                "return in the slow simulator": with_interval(arm.finals()),
                "score (0 random, 1 best)": with_interval(arm.finals("score"), 3),
                "slow steps": f"{steps.mean():,.0f}" if np.isfinite(steps).all() else "-",
                "slow seconds": f"about {slow_s}" if estimated else slow_s,
                "wall-clock (s)": with_interval(wall[np.isfinite(wall)], 0),
                "seeds": str(len(arm.trials)),
            }
        )
    return rows


def _most_frugal(arms: Sequence[Arm]) -> Arm | None:
    """The arm that bought the fewest single steps, None if no arm bought any."""
    bought = [arm for arm in arms if arm.trials[0].config.get("label_level") == "sample"]
    return min((arm for arm in bought if len(arm.finals())), key=_slow_steps, default=None)


def _slow_steps(arm: Arm) -> float:
    """Slow steps bought for training, mean over seeds."""
    return float(np.mean([trial.slow_steps[-1] for trial in arm.trials]))


def _slow_step_s(arms: Sequence[Arm]) -> float:
    """Seconds of a slow step, over all arms whose ledger knows."""
    trials = [trial for arm in arms if arm.has_pair for trial in arm.trials]
    steps = sum(trial.slow_steps[-1] for trial in trials)
    return sum(trial.slow_time_s for trial in trials) / steps if steps else float("nan")
