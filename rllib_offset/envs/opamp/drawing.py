"""Bode plots of the op-amp against what is asked of it.

matplotlib is imported when something is drawn, not before; the axes are the caller's.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.opamp.engine import AcResult
from rllib_offset.envs.opamp.measurement import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_bode", "draw_target", "render_bode"]

_UNITS = ("V/V", "MHz", "deg", "uA")
_PER_UNIT = np.array([1.0, 1e-6, 1.0, 1e6])


def draw_bode(magnitude: "Axes", phase: "Axes", result: AcResult, **line: Any) -> None:
    """Draw a response: magnitude in dB and phase in degrees over the frequency.

    Args:
        magnitude: Axes of the magnitude.
        phase: Axes of the phase.
        result: A response, as `rllib_offset.envs.opamp.simulators.Simulator.response` returns it.
        **line: Properties of the lines, such as ``label``.
    """
    frequency_hz = result.frequency_hz
    size = np.maximum(np.abs(result.response), 1e-12)
    angle = np.unwrap(np.angle(result.response))
    if angle.size:
        angle -= round(angle[0] / np.pi) * np.pi
    magnitude.plot(frequency_hz, 20 * np.log10(size), **line)
    phase.plot(frequency_hz, np.degrees(angle), **line)
    magnitude.set(xscale="log", ylabel="gain (dB)", ylim=(-60, 60))
    phase.set(xscale="log", xlabel="frequency (Hz)", ylabel="phase (deg)", ylim=(-270, 20))


def draw_target(magnitude: "Axes", phase: "Axes", target: ArrayLike) -> None:
    """Draw what is asked: the gain, the bandwidth, and the phase at the bandwidth, ``(4,)``."""
    gain, bandwidth, margin, _ = np.asarray(target, np.float64)
    style: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.0}
    magnitude.axhline(20 * np.log10(gain), **style)
    magnitude.plot(bandwidth, 0.0, "k>", markersize=6)  # the curve must pass to the right of it
    phase.axhline(margin - 180.0, **style)
    for axes in (magnitude, phase):
        axes.axvline(bandwidth, **style)


def render_bode(
    result: AcResult, evaluation: Evaluation, target: ArrayLike, title: str
) -> NDArray[np.uint8]:
    """Draw one design on a canvas of its own and return the picture, ``(480, 480, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.8), dpi=100)
    canvas = FigureCanvasAgg(figure)
    magnitude, phase = figure.subplots(2, 1, sharex=True)
    draw_bode(magnitude, phase, result, color="tab:blue")
    draw_target(magnitude, phase, target)
    for axes in (magnitude, phase):
        axes.minorticks_off()  # they take most of the time
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.1, top=0.9, hspace=0.1)
    magnitude.set_title(f"{title}\n{_summary(evaluation, target)}", fontsize=8)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def _summary(evaluation: Evaluation, target: ArrayLike) -> str:
    wanted = np.asarray(target, np.float64) * _PER_UNIT
    if not evaluation.is_valid:
        return evaluation.failure[:60]
    found = evaluation.specs * _PER_UNIT
    signs = ("≥", "≥", "≥", "≤")
    parts = zip(found, signs, wanted, _UNITS, strict=True)
    return ", ".join(f"{spec:.3g} ({sign} {asked:.3g}) {unit}" for spec, sign, asked, unit in parts)
