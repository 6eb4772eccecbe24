"""What the speed benchmarks share: quiet Ray, the PointMass pair, ratios with their spread."""

import gc
import json
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

import rllib_offset
from rllib_offset.launch import NOISY_LOGGERS

FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"


@dataclass(frozen=True)
class Spread:
    """Least, median and largest of several measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarise at least one value."""
        ordered = sorted(values)
        return cls(ordered[0], statistics.median(ordered), ordered[-1])

    @classmethod
    def of_ratios(cls, above: Iterable[float], below: Iterable[float]) -> "Spread":
        """Summarise the ratios of pairs measured one after the other, round by round."""
        return cls.of(a / b for a, b in zip(above, below, strict=True))

    def __format__(self, spec: str) -> str:
        """Show ``median (low to high)``; the spec is a width and a format, e.g. ``>24.2f``."""
        width, _, digits = spec.partition(".")
        text = "{:.{d}} ({:.{d}} to {:.{d}})".format(self.median, self.low, self.high, d=digits)
        return f"{text:{width}}"


def start_ray(num_cpus: int) -> None:
    """Start Ray with logical CPUs, and without a word."""
    warnings.simplefilter("ignore")
    for noisy in NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    ray.init(
        num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL"
    )
    rllib_offset.register()


def seconds(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, garbage collected beforehand."""
    gc.collect()
    start_s = time.perf_counter()
    function()
    return time.perf_counter() - start_s


def rounds_of(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call, all functions once per round: a slow moment hits everybody."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return times


def machine() -> str:
    """What the figures were measured on, as far as they depend on it."""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, Python {platform.python_version()}, Ray {ray.__version__}"


def resident_mib(pid: int | None = None) -> float:
    """Resident memory of a process, by default this one."""
    statm = Path(f"/proc/{pid or os.getpid()}/statm").read_text(encoding="ascii")
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def keep(name: str, figures: Any) -> None:
    """Write figures to ``build/bench/NAME.json``, for later comparison."""
    path = Path("build/bench") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")
