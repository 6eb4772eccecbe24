"""Which figures a page shows, what their captions say, and the numbers behind them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from rllib_offset import figures, metrics
from rllib_offset.figures import STYLES, Curve, Style
from rllib_offset.page_figure import PageFigure, Rows, slug
from rllib_offset.report_claims import Timing, roles_of
from rllib_offset.report_times import plan_curve, time_figures, total_times
from rllib_offset.results import Arm, common_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rllib_offset.planner import Measurement

__all__ = ["beyond_figures", "learning_figures", "parallel_figures"]

_ENV_STEPS = "environment steps"
_SLOW_STEPS = "slow steps bought for training"
_RETURN = "return in the slow simulator"


def learning_figures(arms: Sequence[Arm]) -> Iterator[PageFigure]:
    """Figure 7, over environment steps and over slow steps, and the ledger of slow steps."""
    styles, arms = _styles_of(arms), _without_twin(arms)
    evaluated = _evaluated(arms)
    if evaluated:
        yield from _return_curves(evaluated, styles, _number(7, arms))
    counted = [arm for arm in arms if _known_slow_steps(arm)]
    if counted:
        yield _ledger(counted, styles)


def parallel_figures(
    arms: Sequence[Arm], timings: Sequence[Timing], measurement: "Measurement | None"
) -> Iterator[PageFigure]:
    """Figures 8 and 9: what parallel replay saves, and that it changes nothing else."""
    roles = roles_of(_evaluated(arms))
    if timings:
        yield from time_figures(timings)
    elif roles.serial is not None and roles.parallel is not None:
        yield total_times(roles.serial, roles.parallel)
    if measurement is not None and timings:
        yield plan_curve(timings, measurement)
    if roles.serial is not None and roles.parallel is not None:
        yield _parallel_against_serial(roles.serial, roles.parallel, _styles_of(arms))


def beyond_figures(arms: Sequence[Arm]) -> Iterator[PageFigure]:
    """Promise against truth, the predictor's error and its coverage."""
    styles = _styles_of(arms)
    pairs = [arm for arm in _without_twin(arms) if arm.has_pair]
    for arm in _evaluated(pairs):
        yield _promise_and_truth(arm)
    yield from _predictor_curves(pairs, styles)


def _styles_of(arms: Sequence[Arm]) -> dict[str, Style]:
    return dict(zip((arm.name for arm in arms), cycle(STYLES), strict=False))


def _number(number: int, arms: Sequence[Arm]) -> str:
    """What the title of a figure begins with where the arms are the paper's."""
    return f"Figure {number}: " if roles_of(arms).is_section_4 else ""


def _without_twin(arms: Sequence[Arm]) -> Sequence[Arm]:
    """Leave the serial arm out where a parallel one has learned the same: see figure 9."""
    roles = roles_of(arms)
    if roles.parallel is None:
        return arms
    return [arm for arm in arms if arm is not roles.serial]


def _evaluated(arms: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in arms if all(len(trial.evaluations) for trial in arm.trials)]


def _near_the_top(curves: Sequence[Curve]) -> list[Curve]:
    """Those that end within a tenth of the whole range from the best."""
    ends = np.array([curve.values[:, -1].mean() for curve in curves])
    lowest = min(float(np.nanmin(curve.values)) for curve in curves)
    keep = ends >= ends.max() - 0.1 * (ends.max() - lowest)
    return [curve for curve, is_near in zip(curves, keep, strict=True) if is_near]


def _second_half(curves: Sequence[Curve]) -> "Axes":
    halves = [
        replace(c, x=c.x[len(c.x) // 2 :], values=c.values[:, len(c.x) // 2 :]) for c in curves
    ]
    return figures.curve_chart(halves, xlabel=_ENV_STEPS, ylabel=_RETURN)


# Learning curves.


def _return_curves(
    evaluated: Sequence[Arm], styles: Mapping[str, Style], number: str
) -> Iterator[PageFigure]:
    curves = [_evaluation_curve(arm, "env_steps", "truth", styles[arm.name]) for arm in evaluated]
    yield PageFigure(
        "fig7-learning-curves",
        f"{number}learning curves",
        "Return in the slow simulator while training, mean over seeds; bands are 95 % intervals. "
        + (
            "Look at how close each arm comes to the one that trained on the slow simulator, and "
            "whether the arm without slow data stays below."
            if number
            else "The higher it ends, and the further left it rises, the better."
        ),
        figures.curve_chart(curves, xlabel=_ENV_STEPS, ylabel=_RETURN),
        _curve_rows(curves, "env_steps"),
    )
    near = _near_the_top(curves)
    if 1 < len(near) < len(curves):
        yield PageFigure(
            "fig7-enlarged",
            f"{number}enlarged",
            "The same curves without those that end far below, second half of training. Where "
            "the bands overlap, the arms cannot be told apart.",
            _second_half(near),
            _curve_rows(near, "env_steps"),
        )
    known = [arm for arm in evaluated if _known_slow_steps(arm)]
    if known:
        yield _curves_over_slow_steps(known, styles, number)


def _known_slow_steps(arm: Arm) -> bool:
    return all(np.isfinite(trial.slow_steps).any() for trial in arm.trials)


def _evaluation_curve(arm: Arm, x: str, y: str, style: Style, label: str | None = None) -> Curve:
    points = [(getattr(t.evaluations, x), getattr(t.evaluations, y)) for t in arm.trials]
    return Curve(label or f"{arm.name} ({arm.label})", *common_curve(points), style)


def _curves_over_slow_steps(
    arms: Sequence[Arm], styles: Mapping[str, Style], number: str
) -> PageFigure:
    curves = [_evaluation_curve(arm, "slow_steps", "truth", styles[arm.name]) for arm in arms]
    return PageFigure(
        "fig7-over-slow-steps",
        f"{number}over what training cost",
        "The same returns over the slow steps bought for training, on a logarithmic axis. The "
        "further left a curve rises, the cheaper the agent. A level line is the final return of "
        "an arm that bought none.",
        figures.curve_chart(curves, xlabel=_SLOW_STEPS, ylabel=_RETURN, log_x=True),
        _curve_rows(curves, "slow_steps"),
    )


def _parallel_against_serial(serial: Arm, parallel: Arm, styles: Mapping[str, Style]) -> PageFigure:
    curves = [
        _evaluation_curve(arm, "env_steps", "truth", styles[arm.name], arm.label)
        for arm in (parallel, serial)
    ]
    return PageFigure(
        "fig9-parallel-against-serial",
        "Figure 9: return of parallel against serial",
        "Return in the slow simulator with slow replays done by the driver one after the other "
        "(serial) and by workers side by side (parallel), same seeds. Nothing may differ: the "
        "labels are the same, only the time they take changes.",
        figures.curve_chart(curves, xlabel=_ENV_STEPS, ylabel=_RETURN),
        _curve_rows(curves, "env_steps"),
    )


def _promise_and_truth(arm: Arm) -> PageFigure:
    curves = [
        _evaluation_curve(arm, "env_steps", "truth", STYLES[0], "truth (slow simulator)"),
        _evaluation_curve(arm, "env_steps", "promise", STYLES[1], "promise (fast + offset)"),
    ]
    gap = arm.finals("promise").mean() - arm.finals("truth").mean()
    return PageFigure(
        f"promise-{slug(arm.name)}",
        f"Promise against truth: {arm.name}",
        "The same agent on the same starts in the slow simulator and in fast + offset. The "
        "distance between the lines is what the predictor makes the agent believe; at the end it "
        f"is {gap:+.2f}. A promise far above the truth would mean that the agent exploits the "
        "predictor.",
        figures.curve_chart(curves, xlabel=_ENV_STEPS, ylabel="return"),
        _curve_rows(curves, "env_steps"),
    )


def _predictor_curves(arms: Sequence[Arm], styles: Mapping[str, Style]) -> Iterator[PageFigure]:
    for key, title, ylabel, caption in (
        (
            metrics.HOLDOUT_MAE,
            "Hold-out error of the predictor",
            "mean absolute error, held-out labels",
            "Error on labels that the predictor never saw, in units of the corrected values. It "
            "should fall and stay low; a rise means that the agent went where few labels are.",
        ),
        (
            metrics.COVERAGE,
            "Coverage of the predicted intervals",
            "share of fresh labels inside",
            "Share of fresh labels that fall inside the predictor's 90 % intervals. Around 0.9 "
            "the predictor knows how wrong it is; well below, it is overconfident.",
        ),
    ):
        curves = [_metric_curve(arm, (metrics.OFFSET, key), styles[arm.name]) for arm in arms]
        curves = [curve for curve in curves if np.isfinite(curve.values).any()]
        if curves:
            yield PageFigure(
                f"predictor-{slug(key)}",
                title,
                caption,
                figures.curve_chart(
                    curves, xlabel=_ENV_STEPS, ylabel=ylabel, log_y=key == metrics.HOLDOUT_MAE
                ),
                _curve_rows(curves, "env_steps"),
            )


def _metric_curve(arm: Arm, path: tuple[str, ...], style: Style) -> Curve:
    points = [(trial.env_steps, trial.column(*path)) for trial in arm.trials]
    x, values = common_curve(points)
    thinned = np.unique(np.linspace(0, max(len(x) - 1, 0), min(len(x), 60)).astype(int))
    return Curve(f"{arm.name} ({arm.label})", x[thinned], values[:, thinned], style)


def _ledger(arms: Sequence[Arm], styles: Mapping[str, Style]) -> PageFigure:
    curves = [
        Curve(
            f"{arm.name} ({arm.label})",
            *common_curve([(trial.env_steps, trial.slow_steps) for trial in arm.trials]),
            styles[arm.name],
        )
        for arm in arms
    ]
    curves = [curve for curve in curves if np.any(curve.values > 0)]
    return PageFigure(
        "ledger",
        "The ledger: slow steps over time",
        "Slow steps bought for training so far, on a logarithmic axis, evaluation apart. Arms "
        "that bought none are left out. The lower the line ends, the less the slow simulator was "
        "asked.",
        figures.curve_chart(curves, xlabel=_ENV_STEPS, ylabel=_SLOW_STEPS, log_y=True),
        _curve_rows(curves, "env_steps"),
    )


def _curve_rows(curves: Sequence[Curve], x_name: str) -> Rows:
    rows = []
    for curve in curves:
        for index, (mean, low, high) in enumerate(zip(*curve.band(), strict=True)):
            row = {"arm": curve.label, x_name: curve.x[index]}
            row |= {"mean": mean, "low_95": low, "high_95": high}
            row |= {f"seed_{i}": value for i, value in enumerate(curve.values[:, index])}
            rows.append(row)
    return rows
