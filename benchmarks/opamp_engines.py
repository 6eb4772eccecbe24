"""Ten thousand op-amp simulations through each ngspice engine: speed, failures, memory.

Random designs, and a deck that cannot be simulated once in a while. Prints one row per engine: how
the runs ended (a failure that is not counted would show under ``lost``), how often a child process
was started, milliseconds per run, and by how many MiB the resident memory of this process and of
the longest-lived child grew after the first 200 runs.

Command: python benchmarks/opamp_engines.py [--runs 10000] [--fidelity schematic]

`PYTHONPATH=. python benchmarks/opamp_engines.py --broken` gives each engine the broken decks of the
tests instead, and prints how each ended and how long the next good deck took.
"""

import argparse
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rllib_offset.envs.opamp.design import HIGH, LOW, START
from rllib_offset.envs.opamp.engine import Deck, Engine
from rllib_offset.envs.opamp.layout import extracted
from rllib_offset.envs.opamp.library_engine import LibraryEngine
from rllib_offset.envs.opamp.measurement import measure
from rllib_offset.envs.opamp.netlists import BENCH, schematic
from rllib_offset.envs.opamp.subprocess_engine import SubprocessEngine

NETLISTS = {
    "schematic": schematic,
    "extracted": extracted,
    "extracted-25": lambda design: extracted(design, group=25),
}
BROKEN = ("* broken", "Vdd vdd 0 1 ac 1", "V2 vdd 0 2", "R1 vdd out 1k", "R2 out 0 1k")
ENDS = ("ok", "refused", "malformed", "died", "deadline")
WARM_UP = 200


def resident_mib(pid: int | None) -> float:
    if pid is None:
        return float("nan")
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_engine(engine: Engine, fidelity: str, runs: int, broken_every: int) -> str:
    rng = np.random.default_rng(0)
    host_before, no_crossing, wrong = float("nan"), 0, 0
    grown, child_before, pid = 0.0, float("nan"), None
    began = time.perf_counter()
    for run in range(runs):
        is_broken = run % broken_every == broken_every - 1
        deck = BROKEN if is_broken else NETLISTS[fidelity](rng.integers(LOW, HIGH + 1))
        result = engine.run(deck)
        no_crossing += result.status == "ok" and not measure(result).is_valid
        wrong += (result.status == "ok") == is_broken
        if run == WARM_UP:
            host_before = resident_mib(os.getpid())
        if isinstance(engine, LibraryEngine) and not is_broken:
            if engine.pid != pid:
                pid, served = engine.pid, 0
            served += 1
            if served == WARM_UP:
                child_before = resident_mib(pid)
            elif served > WARM_UP:
                grown = max(grown, resident_mib(pid) - child_before)
    seconds = time.perf_counter() - began
    counts = engine.counts
    lost = runs - _ended(counts)
    row = [f"{counts[end]:>10}" for end in ENDS]
    row += [f"{n:>12}" for n in (no_crossing, wrong, lost, counts["started"])]
    row += [f"{seconds / runs * 1e3:>8.1f}", f"{resident_mib(os.getpid()) - host_before:>8.1f}"]
    return "".join((*row, f"{grown:>8.1f}"))


def break_engines(kinds: list[type[Engine]], deadline_s: float = 1.0) -> None:
    """Print a row per broken deck: how it ended in each engine, and the deck that followed."""
    from tests.opamp import BROKEN, HANG  # needs the repository's root on the path

    engines = [kind(BENCH, deadline_s=deadline_s) for kind in kinds]
    decks = {name.replace("-", " "): (deck, None) for name, deck in BROKEN.items()}
    decks["stopped while it works"] = (HANG, signal.SIGSTOP)
    decks["killed while it works, twice"] = (HANG, signal.SIGKILL)
    print("| deck | " + " | ".join(f"{type(e).__name__} | next deck" for e in engines) + " |")
    print("|---" * (1 + 2 * len(engines)) + "|")
    for name, (deck, sent) in decks.items():
        cells = [_broken_cells(engine, deck, sent) for engine in engines]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for engine in engines:
        counts = engine.counts
        print(type(engine).__name__, dict(counts), "lost", counts["runs"] - _ended(counts))
        engine.close()


def _broken_cells(engine: Engine, deck: Deck, sent: signal.Signals | None) -> str:
    if sent is not None:
        if not isinstance(engine, LibraryEngine):
            return "- | -"  # a process per deck: nothing that lives on
        threading.Thread(target=_harm, args=(engine, sent), daemon=True).start()
    began = time.perf_counter()
    result = engine.run(deck)
    broken_s = time.perf_counter() - began
    good = engine.run(schematic(START))
    good_s = time.perf_counter() - began - broken_s
    ended = "no specs" if result.status == "ok" else result.status
    verdict = "valid" if measure(result).is_valid else f"invalid: {ended}"
    return f"{verdict}, {broken_s:.2f} s | {good.status}, {good_s * 1e3:.0f} ms"


def _harm(engine: LibraryEngine, sent: signal.Signals) -> None:
    """Send a signal to the child at work, and to the one that takes its place."""
    known: int | None = None
    for _ in range(2 if sent == signal.SIGKILL else 1):
        while engine.pid in (known, None):
            time.sleep(0.005)
        known = engine.pid
        time.sleep(0.3)  # until it is at work
        os.kill(known, sent)


def _ended(counts: Mapping[str, int]) -> int:
    return sum(counts[end] for end in ENDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--fidelity", choices=NETLISTS, default="schematic")
    parser.add_argument("--engine", choices=("library", "subprocess"), action="append")
    parser.add_argument("--broken-every", type=int, default=1000)
    parser.add_argument("--broken", action="store_true", help="only the broken decks of the tests")
    options = parser.parse_args()
    engines = {"library": LibraryEngine, "subprocess": SubprocessEngine}
    if options.broken:
        break_engines([engines[name] for name in options.engine or engines])
        return
    heads = (*(f"{end:>10}" for end in ENDS), *(f"{h:>12}" for h in ("no crossing", "wrong")))
    heads += (*(f"{h:>12}" for h in ("lost", "started")), *(f"{h:>8}" for h in ("ms", "host")))
    print(f"{'engine':<12}" + "".join((*heads, f"{'child':>8}")))
    for name in options.engine or engines:
        engine = engines[name](BENCH)
        row = measure_engine(engine, options.fidelity, options.runs, options.broken_every)
        engine.close()
        print(f"{name:<12}{row}", flush=True)


if __name__ == "__main__":
    main()
