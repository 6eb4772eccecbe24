"""Hand equations of the op-amp (fidelity F0): square law, two poles, a zero and a mirror doublet.

Vectorised over designs, ``(..., 7)``, and exact where a simulator sweeps: the frequency of unity
gain is a root, not a point of a grid.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.opamp.design import (
    COMPENSATION_UNIT_F,
    FINGER_WIDTH_M,
    GATE_LENGTH_M,
    LOAD_F,
    REFERENCE_A,
    SUPPLY_V,
)

__all__ = ["SmallSignal", "hand_response", "hand_specs", "small_signal"]

Floats = NDArray[np.float64]

_THERMAL_V = 0.02585
_KN, _KP = 3.5e-4, 1.2e-4  # transconductance parameters, A/V^2
_LAMBDA = 0.80 + 0.90  # output conductance per current of an nMOS plus a pMOS, 1/V
_SLOPE = 1.34  # of weak inversion: gm is at most I / (n kT/q)
_OXIDE_F_PER_M2, _OVERLAP_F_PER_M = 0.0157, 2.5e-10
_DRIVER_HEADROOM_V = 0.55  # what the driver's gate cannot use of the supply
_RATIO = FINGER_WIDTH_M / GATE_LENGTH_M
_GATE_F = 2 / 3 * FINGER_WIDTH_M * GATE_LENGTH_M * _OXIDE_F_PER_M2
_OVERLAP_F = FINGER_WIDTH_M * _OVERLAP_F_PER_M

_LOWEST, _HIGHEST = np.log(2 * np.pi * 1e3), np.log(2 * np.pi * 1e12)  # ln(rad/s) of the search
_NEWTON_STEPS = 10  # safeguarded; the test compares with bisection


class SmallSignal(NamedTuple):
    """Coefficients of the gain, each ``(...)``.

    ``gain (1 - s zero_s) / (1 + s b1 + s^2 b2) * (1 + s mirror_s / 2) / (1 + s mirror_s)``
    """

    gain: Floats
    zero_s: Floats
    b1: Floats
    b2: Floats
    mirror_s: Floats
    supply_a: Floats


def small_signal(designs: ArrayLike) -> SmallSignal:
    """Return the coefficients of designs ``(..., 7)``."""
    sizes = np.moveaxis(np.asarray(designs, np.float64), -1, 0)
    load, pair, driver, tail, bias, sink, compensation = sizes
    cc = compensation * COMPENSATION_UNIT_F
    tail_a = REFERENCE_A * tail / bias
    most_a = 0.5 * _KP * _RATIO * driver * (SUPPLY_V - _DRIVER_HEADROOM_V) ** 2
    output_a = np.minimum(REFERENCE_A * sink / bias, most_a)
    half_a = tail_a / 2
    gm_pair, gm_load = _gm(_KN, pair, half_a), _gm(_KP, load, half_a)
    gm_driver = _gm(_KP, driver, output_a)
    g1, g2 = _LAMBDA * half_a, _LAMBDA * output_a
    c1 = driver * (_GATE_F + _OVERLAP_F) + (load + pair) * _OVERLAP_F
    c2 = LOAD_F + (driver + sink) * _OVERLAP_F
    return SmallSignal(
        gain=gm_pair * gm_driver / (g1 * g2),
        zero_s=cc / gm_driver,
        b1=(c1 + cc) / g1 + (c2 + cc) / g2 + gm_driver * cc / (g1 * g2),
        b2=(c1 * c2 + cc * (c1 + c2)) / (g1 * g2),
        mirror_s=2 * load * (_GATE_F + _OVERLAP_F) / gm_load,
        supply_a=REFERENCE_A + tail_a + output_a,
    )


def hand_specs(designs: ArrayLike) -> Floats:
    """Return gain (V/V), bandwidth (Hz), phase margin (deg) and current (A), ``(..., 4)``.

    Every design has a frequency of unity gain: the gain exceeds one, and falls all the way.
    """
    circuit = small_signal(designs)
    omega = _unity_gain(circuit)
    return np.stack(
        [
            circuit.gain,
            omega / (2 * np.pi),
            np.clip(180.0 + np.degrees(_phase(circuit, omega)), -90.0, 180.0),
            circuit.supply_a,
        ],
        axis=-1,
    )


def hand_response(design: ArrayLike, frequency_hz: Floats) -> NDArray[np.complex128]:
    """Return the gain of one design ``(7,)`` at frequencies ``(F,)``."""
    circuit, s = small_signal(design), 2j * np.pi * frequency_hz
    mirror = (1 + s * circuit.mirror_s / 2) / (1 + s * circuit.mirror_s)
    poles = 1 + s * circuit.b1 + s * s * circuit.b2
    response: NDArray[np.complex128] = circuit.gain * (1 - s * circuit.zero_s) / poles * mirror
    return response


def _gm(k: float, fingers: Floats, current: Floats) -> Floats:
    """Transconductance in strong inversion, at most that of weak inversion."""
    strong = np.sqrt(2 * k * _RATIO * fingers * current)
    return np.minimum(strong, current / (_SLOPE * _THERMAL_V))


def _unity_gain(circuit: SmallSignal) -> Floats:
    """Return the angular frequency of unity gain: Newton's method on ln|gain| over ln(omega).

    Poles and zeros are real and no two zeros follow each other, so the gain falls throughout and
    its one root stays in a bracket.
    """
    low = np.full_like(circuit.gain, _LOWEST)
    high = np.full_like(circuit.gain, _HIGHEST)
    x = np.log(circuit.gain / circuit.b1)  # as if there were one pole
    for _ in range(_NEWTON_STEPS):
        value, slope = _log_gain(circuit, np.exp(2 * x))
        low, high = np.where(value > 0, x, low), np.where(value > 0, high, x)
        x = x - value / slope
        x = np.where((x >= low) & (x <= high), x, (low + high) / 2)
    root: Floats = np.exp(x)
    return root


def _log_gain(circuit: SmallSignal, w2: Floats) -> tuple[Floats, Floats]:
    """Return ln|gain|^2 and its derivative by ln(omega), at squared angular frequencies."""
    zero, half, whole = (
        w2 * t * t for t in (circuit.zero_s, circuit.mirror_s / 2, circuit.mirror_s)
    )
    real, imag2 = 1 - w2 * circuit.b2, w2 * circuit.b1**2
    poles = real * real + imag2
    value = 2 * np.log(circuit.gain) + np.log((1 + zero) * (1 + half) / ((1 + whole) * poles))
    slope = zero / (1 + zero) + half / (1 + half) - whole / (1 + whole)
    slope = slope - (imag2 - 2 * real * w2 * circuit.b2) / poles
    return value, 2 * slope


def _phase(circuit: SmallSignal, omega: Floats) -> Floats:
    poles = np.arctan2(omega * circuit.b1, 1 - omega * omega * circuit.b2)
    mirror = np.arctan(omega * circuit.mirror_s / 2) - np.arctan(omega * circuit.mirror_s)
    phase: Floats = mirror - np.arctan(omega * circuit.zero_s) - poles
    return phase
