"""The claims of the paper, each with what was measured and whether it held.

Numbers in, sentences out.  A claim that the results say nothing about has ``held`` None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any, Literal

import numpy as np

from rllib_offset.results import Arm, common_curve, mean_and_interval

__all__ = [
    "DEPARTURES",
    "Claim",
    "Roles",
    "Timing",
    "claims",
    "near_baseline_share",
    "roles_of",
    "speedup_of",
    "with_interval",
]

_NEAR = 0.95  # of the way from transfer to baseline
_PAPER_SPEEDUP = 2.2
_TOLERANCE = 0.15  # of the corrected prediction

LevelName = Literal["serial", "trajectory", "sample"]


@dataclass(frozen=True)
class Claim:
    """One claim: where the paper makes it, what was measured, whether it held."""

    text: str
    source: str
    measured: str
    held: bool | None


@dataclass(frozen=True)
class Roles:
    """Which arm plays which part of section 4; None where nobody does."""

    baseline: Arm | None
    transfer: Arm | None
    serial: Arm | None
    parallel: Arm | None

    @property
    def offset(self) -> Arm | None:
        """The arm that stands for the proposal."""
        return self.parallel or self.serial

    @property
    def is_section_4(self) -> bool:
        """Whether these are experiments of the paper, with the numbers of its figures."""
        return self.offset is not None and (self.baseline or self.transfer) is not None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Measured iterations that replay every step, and what section 3.4 says about them.

    Args:
        level: What one replay call holds; ``serial`` replays in the driver.
        workers: Replay workers, 0 for serial.
        step_cost_s: Sleep in every slow step.
        seed: Of the run.
        seconds: Of each measured iteration.
        predicted_s: Corrected prediction.
        printed_s: The paper's formula as printed.
    """

    level: LevelName
    workers: int
    step_cost_s: float
    seed: int
    seconds: Sequence[float]
    predicted_s: float
    printed_s: float

    @property
    def mean_s(self) -> float:
        """Mean time of an iteration."""
        return float(np.mean(self.seconds))

    @property
    def error(self) -> float:
        """Relative error of the corrected prediction."""
        return abs(self.predicted_s - self.mean_s) / self.mean_s


def roles_of(arms: Sequence[Arm]) -> Roles:
    """Find the arms of section 4 by what they did, not by their names."""

    def first(condition: Callable[[Arm], bool]) -> Arm | None:
        return next((arm for arm in arms if condition(arm)), None)

    return Roles(
        baseline=first(lambda arm: arm.trains_on_slow is True),
        transfer=first(lambda arm: arm.trains_on_slow is False),
        serial=first(lambda arm: arm.is_serial),
        parallel=first(lambda arm: arm.has_pair and not arm.is_serial and _replays_all(arm))
        or first(lambda arm: arm.has_pair and not arm.is_serial),
    )


def _replays_all(arm: Arm) -> bool:
    return arm.trials[0].config.get("replay_fraction") == 1.0


def claims(
    arms: Sequence[Arm], timings: Sequence[Timing], comparisons: Sequence[Mapping[str, Any]]
) -> list[Claim]:
    """Judge every claim of section 4, and those of section 3.4 that can be measured."""
    roles = roles_of(arms)
    costed = [timing for timing in timings if timing.step_cost_s]
    return [
        _beats_transfer(roles),
        _near_baseline(roles),
        _parallel_equals_serial(roles),
        _speedup_when_costed(costed),
        _speedup_when_free([timing for timing in timings if not timing.step_cost_s]),
        _prediction(costed),
        _faster_level(costed),
        _evaluation(comparisons),
    ]


def with_interval(values: np.ndarray[Any, Any], digits: int = 2) -> str:
    """Mean and 95 % interval as text; a dash where nothing was measured."""
    mean, half = mean_and_interval(np.asarray(values, float))
    if not np.isfinite(mean):
        return "-"
    return f"{mean:,.{digits}f}" + (f" ± {half:.{digits}f}" if np.isfinite(half) else "")


def _beats_transfer(roles: Roles) -> Claim:
    text = "An agent trained on fast + offset beats one transferred from the fast simulator."
    source = "section 4.1, figures 4, 5 and 7"
    if roles.offset is None or roles.transfer is None:
        return Claim(text, source, _NOT_MEASURED, None)
    offset, transfer = roles.offset.finals(), roles.transfer.finals()
    if not len(offset) or not len(transfer):
        return Claim(text, source, _NOT_MEASURED, None)
    difference, half = _welch(offset, transfer)
    measured = (
        f"return in the slow simulator {with_interval(offset)} against {with_interval(transfer)}; "
        f"difference {difference:.1f}"
    )
    measured += f" ± {half:.1f}" if np.isfinite(half) else " (one seed)"
    is_better = difference - np.nan_to_num(half) > 0
    return Claim(text, source, measured, bool(is_better))


def near_baseline_share(roles: Roles) -> float | None:
    """How far the proposal comes from transfer (0) to baseline (1); None if not measured."""
    arms = (roles.offset, roles.transfer, roles.baseline)
    finals = [arm.finals() for arm in arms if arm is not None]
    if len(finals) < 3 or not all(len(values) for values in finals):
        return None
    offset, transfer, baseline = (float(values.mean()) for values in finals)
    return (offset - transfer) / (baseline - transfer)


def _near_baseline(roles: Roles) -> Claim:
    text = "It comes near the baseline, which trained on the slow simulator."
    source = "section 4.1, figures 3, 5 and 7"
    share = near_baseline_share(roles)
    if share is None or roles.offset is None or roles.baseline is None:
        return Claim(text, source, _NOT_MEASURED, None)
    measured = (
        f"{with_interval(roles.offset.finals())} against {with_interval(roles.baseline.finals())}: "
        f"{share:.1%} of the way from transfer to baseline (near: {_NEAR:.0%})"
    )
    return Claim(text, source, measured, share >= _NEAR)


def _parallel_equals_serial(roles: Roles) -> Claim:
    text = "Running the slow simulator in parallel does not impact the agent's performance."
    source = "section 4.2, figure 9"
    pairs = _same_seeds(roles.serial, roles.parallel)
    if not pairs:
        return Claim(text, source, _NOT_MEASURED, None)
    largest = 0.0
    for serial, parallel in pairs:
        _, curves = common_curve(
            [(trial.env_steps[:0], trial.evaluations.truth) for trial in (serial, parallel)]
        )
        largest = max(largest, float(np.abs(curves[0] - curves[1]).max(initial=0.0)))
    seeds = "one seed" if len(pairs) == 1 else f"{len(pairs)} seeds"
    measured = f"largest difference between their learning curves, {seeds}: {largest:g}"
    if largest == 0.0:
        return Claim(text, source, f"{measured}: identical to the last bit", True)
    assert roles.serial is not None
    assert roles.parallel is not None
    difference, half = _welch(roles.parallel.finals(), roles.serial.finals())
    return Claim(text, source, measured, bool(abs(difference) <= np.nan_to_num(half)))


def _speedup_when_costed(timings: Sequence[Timing]) -> Claim:
    text = "Parallel replay speeds training up, by more the slower the slow simulator is."
    source = f"section 4.2, figure 8 (the paper: {_PAPER_SPEEDUP})"
    parts, best = [], []
    most = max((timing.workers for timing in timings), default=0)
    for cost_s in _costs(timings):
        speedups = {
            level: speedup
            for level in ("trajectory", "sample")
            if (speedup := speedup_of(timings, cost_s, level, most)) is not None
        }
        if speedups:
            best.append(max(speedups.values()))
            listed = ", ".join(f"{value:.1f} at {name} level" for name, value in speedups.items())
            parts.append(f"{1e3 * cost_s:g} ms a slow step, n={most}: {listed}")
    if not parts:
        return Claim(text, source, _NOT_MEASURED, None)
    return Claim(text, source, "; ".join(parts), min(best) >= _PAPER_SPEEDUP)


def _speedup_when_free(timings: Sequence[Timing]) -> Claim:
    text = "It does so even where the slow simulator is hardly slower than the fast one."
    source = f"section 4.2, figure 8 (the paper: {_PAPER_SPEEDUP})"
    most = max((timing.workers for timing in timings), default=0)
    speedup = speedup_of(timings, 0.0, "trajectory", most)
    if speedup is None:
        return Claim(text, source, _NOT_MEASURED, None)
    serial_s, _ = _mean_of(timings, 0.0, "serial", 0) or (0.0, 0.0)
    measured = (
        f"{speedup:.2f} times, n={most}: an iteration of 1000 steps takes {1e3 * serial_s:.0f} ms "
        "even if the driver replays, so that there is little to save"
    )
    return Claim(text, source, measured, speedup >= _PAPER_SPEEDUP)


def _prediction(timings: Sequence[Timing]) -> Claim:
    text = "The formulas of section 3.4 tell the time of a batch."
    if not timings:
        return Claim(text, "section 3.4", _NOT_MEASURED, None)
    worst = max(timings, key=lambda timing: timing.error)
    printed = max(abs(t.printed_s - t.mean_s) / t.mean_s for t in timings)
    measured = (
        f"corrected for whole rounds, calls and updates: at most {worst.error:.0%} off in "
        f"{len(timings)} runs (allowed: {_TOLERANCE:.0%}); as printed: up to {printed:.0%} off"
    )
    return Claim(text, "section 3.4", measured, worst.error <= _TOLERANCE)


def _faster_level(timings: Sequence[Timing]) -> Claim:
    text = "They tell which level of parallelism is faster."
    right = wrong = 0
    for cost_s in _costs(timings):
        for workers in sorted({t.workers for t in timings if t.workers}):
            pair = [_mean_of(timings, cost_s, level, workers) for level in ("trajectory", "sample")]
            if None in pair:
                continue
            (trajectory_s, trajectory_p), (sample_s, sample_p) = (p for p in pair if p is not None)
            if abs(trajectory_s - sample_s) < 0.05 * trajectory_s:
                continue  # a tie
            agrees = (sample_s < trajectory_s) == (sample_p < trajectory_p)
            right, wrong = right + agrees, wrong + (not agrees)
    if not right + wrong:
        return Claim(text, "section 3.4.3", _NOT_MEASURED, None)
    measured = f"right for {right} of {right + wrong} settings in which the two differ by over 5 %"
    return Claim(text, "section 3.4.3", measured, wrong == 0)


def _evaluation(comparisons: Sequence[Mapping[str, Any]]) -> Claim:
    text = "Evaluation is faster on fast + offset than on the slow simulator."
    if not comparisons:
        return Claim(text, "section 4.2", _NOT_MEASURED, None)
    speedups = [float(item["speedup"]) for item in comparisons]
    slow_ms = 1e3 * np.mean([item["slow_step_s"] for item in comparisons])
    fast_ms = 1e3 * np.mean([item["corrected_step_s"] for item in comparisons])
    gap = np.mean([abs(item["gap"]) for item in comparisons])
    measured = (
        f"{fast_ms:.2f} ms a step against {slow_ms:.1f} ms: {np.mean(speedups):.0f} times faster, "
        f"with returns {gap:.2f} apart"
    )
    return Claim(text, "section 4.2", measured, min(speedups) > 1.0)


_NOT_MEASURED = "not measured in these results"


def _welch(first: Any, second: Any) -> tuple[float, float]:
    """Difference of two means and the half width of its 95 % interval; NaN for one seed."""
    difference = float(np.mean(first) - np.mean(second))
    halves = [mean_and_interval(np.asarray(values, float))[1] for values in (first, second)]
    return difference, hypot(*halves)


def _same_seeds(serial: Arm | None, parallel: Arm | None) -> list[tuple[Any, Any]]:
    if serial is None or parallel is None:
        return []
    partners = {trial.seed: trial for trial in parallel.trials}
    return [(t, partners[t.seed]) for t in serial.trials if t.seed in partners]


def _costs(timings: Sequence[Timing]) -> list[float]:
    return sorted({timing.step_cost_s for timing in timings})


def _mean_of(
    timings: Sequence[Timing], cost_s: float, level: str, workers: int
) -> tuple[float, float] | None:
    """Mean measured and mean predicted time of one setting."""
    chosen = [t for t in timings if (t.step_cost_s, t.level, t.workers) == (cost_s, level, workers)]
    if not chosen:
        return None
    return (
        float(np.mean([t.mean_s for t in chosen])),
        float(np.mean([t.predicted_s for t in chosen])),
    )


def speedup_of(timings: Sequence[Timing], cost_s: float, level: str, workers: int) -> float | None:
    """Mean serial time over the mean time of a level; None where one was not measured."""
    serial = _mean_of(timings, cost_s, "serial", 0)
    parallel = _mean_of(timings, cost_s, level, workers)
    return None if serial is None or parallel is None else serial[0] / parallel[0]


DEPARTURES = (
    (
        "The reward is corrected, not only the observation.",
        "Algorithm 1 as printed trains on the fast reward, and so towards the fast optimum, "
        "whatever the predictor knows. The printed form stays available as "
        "offset_targets: [obs].",
    ),
    (
        "The policy is updated while replays run.",
        "Algorithm 2 joins them before both updates. The policy update needs no slow result, so "
        "waiting there only costs time; the numbers are the same.",
    ),
    (
        "Five predictors instead of one.",
        "Their spread tells where the correction is not to be trusted.",
    ),
    (
        "Corrected rewards stay within the slow rewards seen so far.",
        "Otherwise the agent learns to visit the predictor's errors.",
    ),
    (
        "Predicted times count whole rounds, call overhead and updates.",
        "Ten trajectories on eight workers take two rounds; b/n lets a worker replay a quarter of "
        "a trajectory. In the middle range of section 3.4.3 the printed condition for trajectory "
        "level, |tau| < b/n, can never hold.",
    ),
    (
        "What the paper leaves open was chosen and is written down.",
        "Target (0.4, 0.3), shift (-0.8, -0.7), moves of at most 0.1, 100 steps, gamma and lambda "
        "0.95, a learning rate that decays from 0.003, two layers of 64, evaluation on the same 64 "
        "starts every time.",
    ),
    (
        "Intervals over seeds are shown.",
        "95 %, Student's t; the paper shows means of three seeds.",
    ),
)
