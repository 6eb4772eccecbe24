"""How long one waits before anything happens.

Each figure is the median of fresh processes: imports, ``rllib --help``, the first iteration of
``rllib train file`` from the command on, and replay workers until each has answered once.

Command: python benchmarks/startup.py [--repeats 3] [--workers 8 32]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from measuring import FAST, SLOW, Spread, keep, machine, seconds, start_ray

from rllib_offset.pair import EnvPair
from rllib_offset.replay.client import SlowReplay
from rllib_offset.replay.requests import ReplayRequest

PYTHON, RLLIB = sys.executable, str(Path(sys.executable).with_name("rllib"))
TUNED = Path(__file__).parents[1] / "tuned_configs" / "pointmass-offset.yaml"
IMPORTS = (
    "import rllib_offset",
    "import rllib_offset.envs, sys; assert 'ray' not in sys.modules",
    "import rllib_offset.replay.worker, sys; assert 'torch' not in sys.modules",
    "from rllib_offset import EnvPair",
    "from rllib_offset import OffsetA2C",
)


def command_s(*command: str) -> float:
    """Seconds of a command that must succeed."""
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def first_iteration_s() -> float:
    """Seconds from the command to the end of a training of one iteration's first line."""
    spec = next(iter(yaml.safe_load(TUNED.read_text(encoding="utf-8")).values()))
    spec["stop"] = {"training_iteration": 1}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first.yaml"
        path.write_text(yaml.safe_dump({"first": spec}), encoding="utf-8")
        start_s = time.perf_counter()
        with subprocess.Popen(
            [RLLIB, "train", "file", str(path), "--storage-path", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            shown = ""
            for line in process.stdout:
                shown += line
                if "iter " in line:
                    return time.perf_counter() - start_s
        raise RuntimeError(f"no iteration was reported:\n{shown}")


def workers_ready_s(num_workers: int) -> float:
    """Seconds until each of so many replay workers, started together, has answered."""
    pair = EnvPair(fast=FAST, slow=SLOW)
    actions = np.zeros((1, 2), np.float32)
    start_s = time.perf_counter()
    replay = SlowReplay(pair, num_workers=num_workers)
    requests = [ReplayRequest((0, i), "trajectory", actions, seed=i) for i in range(num_workers)]
    replay.submit(requests)
    pids: list[int] = []
    while len(pids) < num_workers:
        pids = replay.stats()["worker_pids"]
        time.sleep(0.05)
    replay.gather(0)
    spent_s = time.perf_counter() - start_s
    replay.shutdown()
    return spent_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[8, 32])
    options = parser.parse_args()
    print(f"{machine()}; seconds")
    figures: dict[str, list[float]] = {}
    for code in IMPORTS:
        figures[code.partition(",")[0]] = [
            command_s(PYTHON, "-c", code) for _ in range(options.repeats)
        ]
    figures["rllib --help"] = [command_s(RLLIB, "--help") for _ in range(options.repeats)]
    figures["first iteration of `rllib train file`"] = [
        first_iteration_s() for _ in range(options.repeats)
    ]
    if options.workers:
        start_ray(num_cpus=max(options.workers) + 1)
    for number in options.workers:
        figures[f"{number} replay workers ready"] = [workers_ready_s(number)]
    for name, values in figures.items():
        print(f"{name:<42}{Spread.of(values):>24.2f}")
    keep("startup", figures)


if __name__ == "__main__":
    main()
