"""A design in, its specs out: the three fidelities behind one interface.

Simulators with the same settings share one engine and one cache in a process: the lanes of a vector
environment take turns, so that one child process serves them all.
"""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.opamp.design import as_design, design_key
from rllib_offset.envs.opamp.engine import AcResult, Deck, Engine
from rllib_offset.envs.opamp.hand import hand_response, hand_specs
from rllib_offset.envs.opamp.layout import extracted
from rllib_offset.envs.opamp.library_engine import LibraryEngine
from rllib_offset.envs.opamp.measurement import Evaluation, measure
from rllib_offset.envs.opamp.netlists import BENCH, schematic
from rllib_offset.envs.opamp.subprocess_engine import SubprocessEngine

__all__ = [
    "EngineName",
    "Fidelity",
    "HandSimulator",
    "Simulator",
    "SpiceSimulator",
    "open_simulator",
]

Fidelity = Literal["hand", "schematic", "extracted"]
EngineName = Literal["library", "subprocess"]

_CACHED_DESIGNS = 100_000
_FREQUENCY_HZ = np.logspace(3, 11, 161)


class Simulator(ABC):
    """Evaluates designs."""

    @abstractmethod
    def evaluate(self, design: ArrayLike) -> Evaluation:
        """Return the specs of a design ``(7,)``, or why there are none.

        Raises:
            ValueError: If the design cannot be built.
        """

    @abstractmethod
    def response(self, design: ArrayLike) -> AcResult:
        """Return the frequency response of a design ``(7,)``."""


class HandSimulator(Simulator):
    """F0: the hand equations."""

    def evaluate(self, design: ArrayLike) -> Evaluation:
        """Return the specs; the hand equations have an answer to every design."""
        return Evaluation(hand_specs(as_design(design)[None])[0])

    def response(self, design: ArrayLike) -> AcResult:
        """Return the response that the equations are about."""
        sizes = as_design(design)
        current = float(hand_specs(sizes[None])[0, 3])
        return AcResult(_FREQUENCY_HZ, hand_response(sizes, _FREQUENCY_HZ), current)


class SpiceSimulator(Simulator):
    """F1 and F2: a netlist of the design, simulated; a design is simulated once.

    What may have failed for another reason than the design (a deadline, a process that was killed)
    is not remembered.

    Args:
        netlist: A design in, a deck out.
        engine: Who simulates it.
    """

    def __init__(self, netlist: Callable[[ArrayLike], Deck], engine: Engine) -> None:
        self.netlist = netlist
        self.engine = engine
        self._cache: dict[tuple[int, ...], Evaluation] = {}
        self._last: tuple[tuple[int, ...], AcResult] | None = None

    def evaluate(self, design: ArrayLike) -> Evaluation:
        """Return the specs, from the cache if the design was simulated before."""
        sizes = as_design(design)
        key = design_key(sizes)
        if key not in self._cache:
            result = self._simulate(key, sizes)
            evaluation = measure(result)
            if not result.is_repeatable:
                return evaluation
            if len(self._cache) >= _CACHED_DESIGNS:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = evaluation
        return self._cache[key]

    def response(self, design: ArrayLike) -> AcResult:
        """Return the response; only that of the latest design is kept."""
        sizes = as_design(design)
        key = design_key(sizes)
        if self._last is None or self._last[0] != key:
            return self._simulate(key, sizes)
        return self._last[1]

    def _simulate(self, key: tuple[int, ...], sizes: NDArray[np.int64]) -> AcResult:
        result = self.engine.run(self.netlist(sizes))
        self._last = (key, result)
        return result


_open: WeakValueDictionary[tuple[Any, ...], SpiceSimulator] = WeakValueDictionary()
_opening = threading.Lock()


def open_simulator(
    fidelity: Fidelity,
    *,
    engine: EngineName = "library",
    group: int = 1,
    segments: int = 12,
    deadline_s: float = 30.0,
) -> Simulator:
    """Return the simulator of a fidelity; it ends with the last reference to it.

    Args:
        fidelity: ``"hand"``, ``"schematic"`` or ``"extracted"``.
        engine: ``"library"`` keeps libngspice in a child process, ``"subprocess"`` starts ngspice
            for every design. No matter to the hand equations.
        group: Fingers per instance of the extracted netlist.
        segments: Rungs of its RC ladders.
        deadline_s: Longest a design may take.

    Raises:
        ValueError: If a name is unknown, or a number out of range.
        SlowSimulatorError: If ngspice is not installed.
    """
    if fidelity not in ("hand", "schematic", "extracted"):
        raise ValueError(f"`fidelity` is hand, schematic or extracted, got {fidelity!r}")
    if engine not in _ENGINES:
        raise ValueError(f"`engine` is one of {', '.join(_ENGINES)}, got {engine!r}")
    _check_dials(group, segments)
    if fidelity == "hand":
        return HandSimulator()
    key: tuple[Any, ...] = (os.getpid(), fidelity, engine, deadline_s)  # none is shared by a fork
    netlist: Callable[[ArrayLike], Deck] = schematic
    if fidelity == "extracted":
        key = (*key, group, segments)
        netlist = partial(extracted, group=group, segments=segments)
    with _opening:
        simulator = _open.get(key)
        if simulator is None:
            made = _ENGINES[engine](BENCH, deadline_s=deadline_s)
            simulator = _open[key] = SpiceSimulator(netlist, made)
    return simulator


_ENGINES: dict[str, Callable[..., Engine]] = {
    "library": LibraryEngine,
    "subprocess": SubprocessEngine,
}


def _check_dials(group: int, segments: int) -> None:
    if int(group) != group or int(segments) != segments or min(group, segments) < 1:
        raise ValueError(f"must be whole numbers >= 1, got {group=}, {segments=}")
