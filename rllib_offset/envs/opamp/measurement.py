"""From a frequency response to the four specs, and to the scale on which offsets are learned."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.opamp.engine import AcResult

__all__ = ["FAILED_SPECS", "SPECS", "Evaluation", "from_learned", "measure", "to_learned"]

Floats = NDArray[np.float64]

SPECS = ("gain", "bandwidth", "phase_margin", "current")  # V/V, Hz, deg, A
_PHASE_MARGIN = 2
_PHASE_UNIT_DEG = 30.0  # makes offsets of the phase margin as large as those of the logarithms

# Stand in for what a failed simulation does not say: far from every target, and finite.
FAILED_SPECS: Floats = np.array([1e-2, 1e3, -90.0, 2e-2])
FAILED_SPECS.setflags(write=False)


@dataclass(frozen=True)
class Evaluation:
    """Specs ``(4,)`` of a design; if ``failure`` says why, they are `FAILED_SPECS`."""

    specs: Floats
    failure: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether the simulator found the specs."""
        return not self.failure

    @classmethod
    def failed(cls, why: str) -> "Evaluation":
        """Return the evaluation of a design that could not be simulated."""
        return cls(FAILED_SPECS, why)


def measure(result: AcResult) -> Evaluation:
    """Read the specs off a response: gain at the lowest frequency, then where it crosses one.

    Between the points of the sweep, magnitude and phase are interpolated over the logarithm of the
    frequency. The phase counts from its value at the lowest frequency, rounded to a half turn.
    """
    if result.status != "ok":
        return Evaluation.failed(f"{result.status}: {result.message}")
    magnitude = np.abs(result.response)
    gain = float(magnitude[0])
    below = np.flatnonzero(magnitude < 1.0)
    if gain <= 1.0 or below.size == 0:
        return Evaluation.failed(f"the gain of {gain:.3g} V/V does not cross one")
    if result.supply_a <= 0.0:
        return Evaluation.failed("no supply current flows")
    k = int(below[0])
    # a response that is exactly zero has crossed one, wherever
    log_gain = np.log(np.maximum(magnitude[k - 1 : k + 1], np.finfo(float).tiny))
    log_frequency = np.log(result.frequency_hz[k - 1 : k + 1])
    part = log_gain[0] / (log_gain[0] - log_gain[1])
    phase = np.unwrap(np.angle(result.response))
    phase -= round(phase[0] / math.pi) * math.pi
    margin = 180.0 + math.degrees(phase[k - 1] + part * (phase[k] - phase[k - 1]))
    bandwidth = math.exp(log_frequency[0] + part * (log_frequency[1] - log_frequency[0]))
    return Evaluation(np.array([gain, bandwidth, np.clip(margin, -90.0, 180.0), result.supply_a]))


def to_learned(specs: ArrayLike) -> Floats:
    """Return ln(gain), ln(bandwidth), phase margin / 30 deg, ln(current): ``(..., 4)``.

    Differences on this scale are relative errors, alike in size over all designs; the generic
    ``offset = slow - fast`` is therefore learned on it.

    Example:
        >>> to_learned([1.0, 1.0, 60.0, 1.0]).tolist()
        [0.0, 0.0, 2.0, 0.0]
    """
    specs = np.asarray(specs, np.float64)
    learned: Floats = np.log(np.where(_IS_LOGARITHMIC, specs, 1.0))
    learned[..., _PHASE_MARGIN] = specs[..., _PHASE_MARGIN] / _PHASE_UNIT_DEG
    return learned


def from_learned(measurement: ArrayLike) -> Floats:
    """Return the specs in V/V, Hz, deg and A: the inverse of `to_learned`."""
    measurement = np.asarray(measurement, np.float64)
    specs: Floats = np.exp(np.clip(measurement, -_MOST, _MOST))
    specs[..., _PHASE_MARGIN] = measurement[..., _PHASE_MARGIN] * _PHASE_UNIT_DEG
    return specs


_IS_LOGARITHMIC = np.array([name != "phase_margin" for name in SPECS])
_MOST = 300.0  # a predictor may say anything; its exponential stays finite
