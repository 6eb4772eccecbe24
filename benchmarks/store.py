"""What it costs to keep slow results: a chunk written, flushed to the device, and looked up.

Also the memory of a process that knows them all, after each merge of 512 segments.

Command: python benchmarks/store.py [--rounds 30] [--merges 6]
"""

import argparse
import tempfile
from functools import partial

import numpy as np
from measuring import FAST, SLOW, Spread, keep, machine, resident_mib, seconds

from rllib_offset.fingerprint import label_location
from rllib_offset.pair import EnvPair
from rllib_offset.replay.known import KnownLabels
from rllib_offset.replay.requests import ReplayRequest, ReplayResult
from rllib_offset.replay.worker import ReplayWorker

CHUNKS = (1, 32, 100, 256)  # single steps that travel together


def answer(worker: ReplayWorker, steps: int, number: int) -> ReplayResult:
    """Single steps from states that were never asked for before, replayed."""
    rng = np.random.default_rng([steps, number])
    states, actions = rng.uniform(-1, 1, (2, steps, 2))
    actions = actions.astype(np.float32)
    return worker.replay(ReplayRequest((number,), "steps", actions, states=states))


def measure(steps: int, rounds: int) -> dict[str, Spread]:
    """Milliseconds per chunk of ``steps`` labels."""
    pair, worker = EnvPair(FAST, SLOW), ReplayWorker(EnvPair(FAST, SLOW))
    times: dict[str, list[float]] = {"not found": [], "written": [], "flushed": [], "found": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        labels = KnownLabels(label_location(pair, folder))
        for number in range(2 * rounds):
            result = answer(worker, steps, number)
            result.purchase = str(number)
            look_up = partial(labels.lookup, result.request, "another run")
            what, simulated_s = ("written", 0.0) if number % 2 else ("flushed", 10.0)
            write = partial(labels.append, result, run="run", seconds=simulated_s)
            times["not found"].append(seconds(look_up))
            times[what].append(seconds(write))
            labels.store.refresh()
            times["found"].append(seconds(look_up))
    return {what: Spread.of(1e3 * s for s in spent) for what, spent in times.items()}


def memory_after_merges(merges: int, chunk: int) -> list[float]:
    """MiB of this process before the first label and after each merge of 512 chunks."""
    worker, memory = ReplayWorker(EnvPair(FAST, SLOW)), [resident_mib()]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        labels = KnownLabels(label_location(EnvPair(FAST, SLOW), folder))
        for merge in range(merges):
            for number in range(512):
                result = answer(worker, chunk, 512 * merge + number)
                result.purchase = str(number)
                labels.append(result, run="run")
            labels.store.compact()
            memory.append(resident_mib())
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--merges", type=int, default=6)
    options = parser.parse_args()
    print(f"{machine()}; milliseconds per chunk, median (least to largest)")
    figures = {}
    for steps in CHUNKS:
        figures[steps] = measure(steps, options.rounds)
        parts = "".join(f"{what:>11} {spread:<21.2f}" for what, spread in figures[steps].items())
        print(f"{steps:>4} steps{parts}", flush=True)
    memory = {chunk: memory_after_merges(options.merges, chunk) for chunk in (1, 100)}
    for chunk, mib in memory.items():
        print(f"memory, MiB, at the start and per 512 chunks of {chunk} steps: {np.round(mib)}")
    keep("store", {steps: {w: vars(s) for w, s in row.items()} for steps, row in figures.items()})


if __name__ == "__main__":
    main()
