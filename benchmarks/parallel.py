"""Iterations with slow simulators in parallel, against the batch-time model and against serial.

A slow simulator sleeps (an external or licensed one) or keeps a core busy. The bound is
``TimingModel.corrected_batch_time_s`` with whole rounds of replay calls, the simulator's nominal
step time, and the fast step, policy update and fit measured in the same run; ``of bound`` is bound
over measured, 1 at best. ``overhead`` is what remains of an iteration without sampling, policy
update, fit and the wait for replays.

Commands:
    python benchmarks/parallel.py sleep --step-ms 10 --level trajectory --workers 0 1 2 4 8 16 32
    python benchmarks/parallel.py sleep --step-ms 10 --level sample --workers 8 32 --lag 1
    python benchmarks/parallel.py busy --step-ms 0.1 1 5 --workers 0 2 --steps 1000
    python benchmarks/parallel.py sleep --step-ms 100 --workers 64 --nodes 4 --steps 6400
"""

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray
from measuring import FAST, SLOW, Spread, keep, machine, seconds, start_ray
from pairs import BusyPointMass
from phases import FAST_STEPS, FIT, PARTS, SAMPLING, SLOW_STEPS, UPDATE, WAIT, clocked
from ray.cluster_utils import Cluster

import rllib_offset
from rllib_offset import OffsetA2CConfig, metrics
from rllib_offset.pair import EnvPair
from rllib_offset.replay.requests import ReplayRequest, steps_per_call
from rllib_offset.replay.worker import ReplayWorker
from rllib_offset.timing import Join, TimingModel

EPISODE = 100
LONGEST_ROUNDS_S = 12.0  # an iteration that takes longer is measured once
ROUNDS = 5
IN_FLIGHT = 5  # with a lag, single iterations are short and long in turn: so many are timed at once


@dataclass(frozen=True)
class Case:
    """One setting: its name and numbers, and what was measured."""

    kind: str
    level: str
    step_ms: float
    workers: int
    lag: int
    steps: int


@dataclass(frozen=True)
class Outcome:
    """What was measured of a case; medians over the iterations."""

    iteration: Spread
    bound_s: float
    utilization: float
    overhead_ms: float
    sample_and_update_s: float


def build(case: Case) -> Any:
    """An algorithm that replays every step of a batch."""
    step_s = case.step_ms / 1e3
    lanes = min(case.steps // EPISODE, 32)
    config = OffsetA2CConfig().environment(FAST).debugging(seed=0)
    if case.kind == "busy":
        config.slow_simulator(env=BusyPointMass, env_config={"busy_s": step_s})
    else:
        config.slow_simulator(env=SLOW, env_config={"step_cost_s": step_s})
    config.slow_simulator(num_replay_workers=case.workers)
    config.labels(level=case.level, initial=max(5, case.workers), per_iteration=case.steps)
    config.labels(replay_fraction=1.0, max_replay_lag=case.lag)
    config.env_runners(num_envs_per_env_runner=lanes)
    config.training(train_batch_size_per_learner=case.steps)
    return config.build_algo()


def measure(case: Case) -> Outcome:
    """Train a few iterations, and compare their time with the bound."""
    algorithm = build(case)
    try:
        for _ in range(1 + case.lag):  # the first ones start workers, and fit many steps
            algorithm.train()
        iterations_s: list[float] = []
        phases: list[dict[str, float]] = []
        used: list[float] = []
        together = IN_FLIGHT if case.lag else 1
        while len(iterations_s) < ROUNDS and sum(iterations_s) * together < LONGEST_ROUNDS_S:
            with clocked() as clock:
                spent_s = seconds(
                    lambda: used.extend(_utilization(algorithm.train()) for _ in range(together))
                )
            iterations_s.append(spent_s / together)
            phases.append({part: clock.seconds[part] / together for part in PARTS})
        return _outcome(case, iterations_s, phases, used)
    finally:
        algorithm.stop()


def _outcome(
    case: Case,
    iterations_s: list[float],
    phases: list[dict[str, float]],
    used: list[float],
) -> Outcome:
    sample_s = Spread.of(phase[SAMPLING] + phase[FAST_STEPS] for phase in phases).median
    update_s = Spread.of(phase[UPDATE] for phase in phases).median
    fit_s = Spread.of(phase[FIT] for phase in phases).median
    busy = (SAMPLING, FAST_STEPS, UPDATE, FIT, WAIT, SLOW_STEPS)
    own_s = [sum(phase.values()) - sum(phase[part] for part in busy) for phase in phases]
    call_steps = None if case.level == "trajectory" else steps_per_call(case.steps, case.workers)
    model = TimingModel(
        slow_step_s=case.step_ms / 1e3,
        fast_step_s=sample_s / case.steps,
        trajectory_steps=EPISODE,
        steps_per_call=call_steps,
        policy_update_s=update_s,
        fit_s=fit_s,
        join=Join.NEXT_BATCH if case.lag else Join.BEFORE_FIT,
        collects_first=True,  # all lanes end together, at the end of the sample
    )
    return Outcome(
        iteration=Spread.of(iterations_s),
        bound_s=model.corrected_batch_time_s(
            steps=case.steps, workers=case.workers, level=case.level
        ),
        utilization=Spread.of(used).median,
        overhead_ms=1e3 * Spread.of(own_s).median,
        sample_and_update_s=sample_s + update_s,
    )


def cpu_of_a_step_us(step_ms: float, steps: int = 50) -> float:
    """CPU time of a replayed step that sleeps, most of it for falling asleep and waking up."""
    worker = ReplayWorker(EnvPair(FAST, SLOW, slow_config={"step_cost_s": step_ms / 1e3}))
    request = ReplayRequest((0,), "trajectory", np.zeros((steps, 2), np.float32), seed=0)
    worker.replay(replace(request, actions=request.actions[:1]))
    start_s = time.thread_time()
    worker.replay(request)
    return 1e6 * (time.thread_time() - start_s) / steps


def _utilization(result: dict[str, Any]) -> float:
    return float(result[metrics.SLOW].get(metrics.UTILIZATION, math.nan))


@contextmanager
def cluster(nodes: int, num_cpus: int) -> Iterator[None]:
    """Ray on this machine, or on so many pretended ones, with logical CPUs."""
    if nodes == 1:
        start_ray(num_cpus)
        yield
        ray.shutdown()
        return
    each = {"num_cpus": -(-num_cpus // nodes)}
    pretended = Cluster(initialize_head=True, head_node_args=each)
    for _ in range(nodes - 1):
        pretended.add_node(**each)
    ray.init(address=pretended.address, log_to_driver=False, logging_level="CRITICAL")
    rllib_offset.register()
    try:
        yield
    finally:
        ray.shutdown()
        pretended.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kind", choices=("sleep", "busy"))
    parser.add_argument("--step-ms", type=float, nargs="+", default=[10.0])
    parser.add_argument("--level", choices=("trajectory", "sample"), default="trajectory")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16, 32])
    parser.add_argument("--lag", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--nodes", type=int, default=1)
    options = parser.parse_args()
    figures = []
    with cluster(options.nodes, max(options.workers) + 2):
        print(f"{machine()}; {options.kind}, {options.level} level, {options.steps} steps")
        print(
            f"{'ms/step':>8}{'workers':>8}{'lag':>4}{'iteration, s':>30}{'bound, s':>10}"
            f"{'of bound':>10}{'x serial':>10}{'busy':>7}{'overhead, ms':>14}"
        )
        for step_ms in options.step_ms:
            if options.kind == "sleep":
                print(f"{cpu_of_a_step_us(step_ms):.0f} us of CPU per step of {step_ms:g} ms")
            serial_s = math.nan
            for workers in options.workers:
                case = Case(
                    options.kind, options.level, step_ms, workers, options.lag, options.steps
                )
                outcome = measure(case)
                median_s = outcome.iteration.median
                serial_s = median_s if workers == 0 else serial_s
                print(
                    f"{step_ms:>8g}{workers:>8}{options.lag:>4}{outcome.iteration:>30.3f}"
                    f"{outcome.bound_s:>10.3f}{outcome.bound_s / median_s:>10.3f}"
                    f"{serial_s / median_s:>10.2f}{outcome.utilization:>7.0%}"
                    f"{outcome.overhead_ms:>14.1f}",
                    flush=True,
                )
                figures.append(asdict(case) | asdict(outcome))
    name = f"parallel-{options.kind}-{options.level}-lag{options.lag}-nodes{options.nodes}"
    keep(name, figures)


if __name__ == "__main__":
    main()
