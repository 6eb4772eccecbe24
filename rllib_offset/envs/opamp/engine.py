"""Who simulates a deck: one operating point and one AC sweep in ngspice.

Neither the exit code nor the silence of ngspice means that it succeeded, and its library ends the
process that loaded it on some decks. An `Engine` therefore keeps the simulator in a process of its
own, under a deadline and a memory limit, and believes only complete and finite results.
"""

import math
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["AcResult", "Bench", "Deck", "Engine", "Status"]

Deck = tuple[str, ...]
Status = Literal["ok", "refused", "malformed", "died", "deadline"]


@dataclass(frozen=True)
class Bench:
    """What is simulated and read: the operating point, then a sweep, of a deck.

    Args:
        start_hz: First frequency.
        stop_hz: Last frequency, a power of ten times the first.
        points_per_decade: Of the sweep.
        supply: Name of the voltage source whose current is read.
        output: The node whose voltage is read.
    """

    start_hz: float
    stop_hz: float
    points_per_decade: int
    supply: str
    output: str

    @property
    def sweep(self) -> str:
        """The sweep as an ngspice command."""
        return f"ac dec {self.points_per_decade} {self.start_hz:g} {self.stop_hz:g}"

    @property
    def num_points(self) -> int:
        """How many frequencies a complete sweep has."""
        return self.points_per_decade * round(math.log10(self.stop_hz / self.start_hz)) + 1


@dataclass(frozen=True)
class AcResult:
    """What came of a deck; the arrays are empty unless ``status`` is ``"ok"``.

    Args:
        frequency_hz: ``(F,)``.
        response: ``(F,)``, complex voltage of the output.
        supply_a: Current that the circuit draws.
        status: ``"refused"``: the simulator said no; ``"malformed"``: points are missing or not
            finite; ``"died"``: its process ended, twice; ``"deadline"``: it took too long.
        message: Why, on one line.
    """

    frequency_hz: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    response: NDArray[np.complex128] = field(default_factory=lambda: np.zeros(0, complex))
    supply_a: float = math.nan
    status: Status = "ok"
    message: str = ""

    @property
    def is_repeatable(self) -> bool:
        """Whether the deck alone is the reason; a deadline or a death may have had others."""
        return self.status in ("ok", "refused", "malformed")


class Engine(ABC):
    """Runs decks, each in bounded time and without harm to the caller.

    One deck at a time, from any thread; ``counts`` says how the runs ended.

    Args:
        bench: What to simulate and read.
        deadline_s: Longest a deck may take, in seconds of wall-clock time.
        memory_bytes: Address space of the simulator's process.

    Raises:
        ValueError: If a limit is not positive.
    """

    def __init__(
        self, bench: Bench, *, deadline_s: float = 30.0, memory_bytes: int = 2 << 30
    ) -> None:
        if not 0.0 < deadline_s < math.inf or memory_bytes < 1:
            raise ValueError(f"must be finite and > 0, got {deadline_s=}, {memory_bytes=}")
        self.bench = bench
        self.deadline_s = deadline_s
        self.memory_bytes = int(memory_bytes)
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, deck: Deck) -> AcResult:
        """Simulate a deck; a failure is a result too, never an exception.

        A process that dies is given the deck a second time: it may have been killed from outside.
        """
        with self._lock:
            result = self._attempt(deck)
            if result.status == "died":
                self.counts["retried"] += 1
                result = self._attempt(deck)
            result = self._believe(result)
            self.counts["runs"] += 1
            self.counts[result.status] += 1
        return result

    @abstractmethod
    def _attempt(self, deck: Deck) -> AcResult:
        """Simulate a deck once."""

    @abstractmethod
    def close(self) -> None:
        """End the simulator's process; a later run would start another."""

    def _deadline(self) -> float:
        return time.monotonic() + self.deadline_s

    def _believe(self, result: AcResult) -> AcResult:
        if result.status != "ok":
            return replace(result, message=" ".join(result.message.split()))
        doubts = _doubts(result, self.bench)
        return AcResult(status="malformed", message=doubts) if doubts else result


def _doubts(result: AcResult, bench: Bench) -> str:
    frequency, response = result.frequency_hz, result.response
    if frequency.shape != (bench.num_points,) or response.shape != frequency.shape:
        return f"{bench.num_points} points expected, got {frequency.size} and {response.size}"
    if not (np.isfinite(response).all() and math.isfinite(result.supply_a)):
        return "the response or the supply current is not finite"
    if not np.allclose(frequency[[0, -1]], (bench.start_hz, bench.stop_hz), rtol=1e-6):
        return f"the sweep runs from {frequency[0]:g} to {frequency[-1]:g} Hz"
    return ""
