"""A design in, what its discharge delivers out: one cell in PyBaMM, in two models.

PyBaMM is imported when a cell is opened, not before.
"""

import math
import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rllib_offset.errors import SlowSimulatorError

__all__ = ["HIGH", "LOW", "PARAMETERS", "SPECS", "START", "Cell", "Discharge", "Model", "open_cell"]

Model = Literal["SPM", "DFN"]
Design = NDArray[np.int64]
Floats = NDArray[np.float64]

# pores of either electrode in percent of its volume, which active material fills otherwise; salt in
# the electrolyte, in units of 100 mol/m^3
PARAMETERS = ("negative_pores", "positive_pores", "salt")
LOW: Design = np.array([4, 4, 2])
HIGH: Design = np.array([60, 60, 12])
START: Design = np.array([40, 40, 8])

SPECS = ("energy", "voltage")  # Wh, and V on average over the discharge
FAILED_SPECS: Floats = np.array([1e-2, 1.0])  # far from every target, and finite
FAILED_SPECS.setflags(write=False)

_PERCENT, _SALT_MOL = 0.01, 100.0
_LONGEST_S = 4 * 3600.0  # of a discharge that does not end by itself


@dataclass(frozen=True)
class Discharge:
    """Specs ``(2,)`` of a design; if ``failure`` says why, they are `FAILED_SPECS`."""

    specs: Floats
    failure: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether the solver came to the end of the discharge."""
        return not self.failure


class Cell:
    """A cell of PyBaMM's ``Chen2020`` set, discharged at a constant current; results are kept.

    Args:
        model: ``"SPM"`` or ``"DFN"``.
        current_a: What is drawn, in amperes; 5 A empty the reference cell in an hour.

    Raises:
        ValueError: If the model is unknown or the current not positive.
        SlowSimulatorError: If PyBaMM is not installed; says how to install it.
    """

    def __init__(self, model: Model = "SPM", *, current_a: float = 10.0) -> None:
        if model not in ("SPM", "DFN"):
            raise ValueError(f"`model` is SPM or DFN, got {model!r}")
        if not 0.0 < current_a < math.inf:
            raise ValueError(f"`current_a` must be > 0 and finite, got {current_a}")
        self.current_a = current_a
        self._pybamm = _import_pybamm()
        self._simulation = self._build(model)
        self._known: dict[tuple[int, ...], Discharge] = {}
        self._lock = threading.Lock()

    def evaluate(self, design: ArrayLike) -> Discharge:
        """Return what a full discharge of a design ``(3,)`` delivers, or why it is not known.

        Raises:
            ValueError: If it is not three whole numbers between `LOW` and `HIGH`.
        """
        sizes = _as_design(design)
        key = tuple(sizes.tolist())
        with self._lock:
            if key not in self._known:
                self._known[key] = self._discharge(sizes)
            return self._known[key]

    def _build(self, model: Model) -> Any:
        pybamm = self._pybamm
        parameters = pybamm.ParameterValues("Chen2020")
        parameters.update(dict.fromkeys(_inputs(START), "[input]"))
        parameters["Current function [A]"] = self.current_a
        chosen = getattr(pybamm.lithium_ion, model)({"calculate discharge energy": "true"})
        return pybamm.Simulation(chosen, parameter_values=parameters, solver=pybamm.IDAKLUSolver())

    def _discharge(self, sizes: Design) -> Discharge:
        try:
            solution = self._simulation.solve([0.0, _LONGEST_S], inputs=_inputs(sizes))
        except self._pybamm.SolverError as error:
            return Discharge(FAILED_SPECS, " ".join(str(error).split())[:200])
        energy_wh = float(solution["Discharge energy [W.h]"].entries[-1])
        charge_ah = float(solution["Discharge capacity [A.h]"].entries[-1])
        if not (energy_wh > 0.0 and charge_ah > 0.0):
            return Discharge(FAILED_SPECS, f"{energy_wh} Wh in {charge_ah} Ah are no discharge")
        return Discharge(np.array([energy_wh, energy_wh / charge_ah]))


@lru_cache
def open_cell(model: Model, current_a: float) -> Cell:
    """Return the cell of these settings; all environments of a process share it."""
    return Cell(model, current_a=current_a)


def _inputs(sizes: Design) -> dict[str, float]:
    negative, positive, salt = (float(size) for size in sizes)
    return {
        "Negative electrode porosity": _PERCENT * negative,
        "Negative electrode active material volume fraction": 1.0 - _PERCENT * negative,
        "Positive electrode porosity": _PERCENT * positive,
        "Positive electrode active material volume fraction": 1.0 - _PERCENT * positive,
        "Initial concentration in electrolyte [mol.m-3]": _SALT_MOL * salt,
    }


def _as_design(design: ArrayLike) -> Design:
    values = np.asarray(design, np.float64)
    if values.shape != LOW.shape or not (np.rint(values) == values).all():
        raise ValueError(f"a design is three whole numbers, got {design!r}")
    if (values < LOW).any() or (values > HIGH).any():
        raise ValueError(
            f"a design lies between {LOW.tolist()} and {HIGH.tolist()}, got {values.tolist()}; "
            "clip it"
        )
    return values.astype(np.int64)


def _import_pybamm() -> Any:
    os.environ.setdefault("PYBAMM_DISABLE_TELEMETRY", "true")
    try:
        import pybamm
    except ImportError as error:
        raise SlowSimulatorError(
            f"PyBaMM cannot be imported ({error}); install it with "
            "`pip install 'rllib-offset[battery]'`"
        ) from None
    return pybamm
