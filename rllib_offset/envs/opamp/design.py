"""What a designer chooses, and what is given: sizes of the op-amp, and its surroundings."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "COMMON_MODE_V",
    "COMPENSATION_UNIT_F",
    "FINGER_WIDTH_M",
    "GATE_LENGTH_M",
    "HIGH",
    "LOAD_F",
    "LOW",
    "PARAMETERS",
    "REFERENCE_A",
    "START",
    "SUPPLY_V",
    "Design",
    "as_design",
    "design_key",
]

Design = NDArray[np.int64]

# fingers of: the mirror that loads the input pair, the input pair, the transistor that drives the
# output, the tail current source, the diode that mirrors the reference, the output's current sink;
# then the compensation capacitor in units of COMPENSATION_UNIT_F
PARAMETERS = ("load", "input", "driver", "tail", "bias", "sink", "compensation")
LOW: Design = np.array([2, 2, 2, 2, 2, 2, 1])
HIGH: Design = np.full(7, 100)
START: Design = np.array([34, 34, 34, 34, 34, 15, 21])  # meets no target of the default range

COMPENSATION_UNIT_F = 20e-15
FINGER_WIDTH_M = 0.5e-6
GATE_LENGTH_M = 90e-9
SUPPLY_V = 1.2
COMMON_MODE_V = 0.6
REFERENCE_A = 30e-6  # flows through the bias diode
LOAD_F = 1e-12


def as_design(design: ArrayLike) -> Design:
    """Return a design ``(7,)`` as integers, after checking that it can be built.

    Raises:
        ValueError: If it is not seven whole numbers between `LOW` and `HIGH`.

    Example:
        >>> as_design([34, 34, 34, 34, 34, 15, 21.0]).tolist()
        [34, 34, 34, 34, 34, 15, 21]
    """
    values = np.asarray(design, np.float64)
    if values.shape != LOW.shape or not np.isfinite(values).all():
        raise ValueError(f"a design is seven finite numbers, got {design!r}")
    if not (np.rint(values) == values).all() or (values < LOW).any() or (values > HIGH).any():
        raise ValueError(
            f"a design is whole numbers from {LOW.tolist()} to {HIGH.tolist()}, "
            f"got {values.tolist()}; round and clip it"
        )
    return values.astype(np.int64)


def design_key(design: Design) -> tuple[int, ...]:
    """Return what names a design in a cache."""
    return tuple(design.tolist())
