"""How long a batch will take with more replay workers: measured here, predicted by section 3.4.

:func:`measure` times both simulators and the driver's own work on this machine, in a few slow
steps; :func:`plan` puts the times into :class:`~rllib_offset.timing.TimingModel`; and
:func:`iteration_times_s` times real iterations, to check the prediction against.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rllib_offset.columns import ACTION
from rllib_offset.pair import EnvPair
from rllib_offset.pair_facts import probe_pair
from rllib_offset.replay.requests import ReplayRequest, steps_per_call
from rllib_offset.rollouts import greedy_trajectories
from rllib_offset.timing import Level, TimingModel

__all__ = [
    "Measurement",
    "PlanRow",
    "best_row",
    "config_for",
    "iteration_times_s",
    "measure",
    "plan",
]

_MAX_SLOW_S = 60.0  # measuring the slow simulator stops here, after two steps at least
_MIN_SLOW_S, _MAX_CHEAP_STEPS = 1.0, 200  # cheap steps are timed for longer: it steadies the mean
_WARM_UP, _MEASURED = 2, 4  # iterations of the driver's own work
_CALLS = 12
_NEARLY_BEST = 1.05  # fewer workers are recommended if they cost at most this much time


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Seconds that things take on this machine.

    Args:
        slow_step_s: One slow step.
        slow_reset_s: One reset of the slow simulator.
        fast_step_s: One corrected fast step, policy and sampling included.
        trajectory_steps: Steps of an episode, mean.
        call_overhead_s: What a replay call costs its worker besides the simulator.
        policy_update_s: Policy update, weights to the runners included.
        fit_s: Everything after the labels have arrived: the fit, the broadcast, the metrics.
        cpu_share: CPUs that a slow step keeps busy: 1 computes, 0 waits (a licence server, a
            sleep).
        num_cpus: CPUs of this machine.
        replays_single_steps: Whether the pair allows sample-level replay.
    """

    slow_step_s: float
    slow_reset_s: float
    fast_step_s: float
    trajectory_steps: int
    call_overhead_s: float
    policy_update_s: float
    fit_s: float
    cpu_share: float
    num_cpus: int
    replays_single_steps: bool

    def model(self, workers: int = 1) -> TimingModel:
        """The model for ``workers`` workers, who share the CPUs if the simulator computes."""
        crowding = max(1.0, workers * self.cpu_share / self.num_cpus)
        return TimingModel(
            slow_step_s=self.slow_step_s * crowding,
            fast_step_s=self.fast_step_s,
            trajectory_steps=self.trajectory_steps,
            call_overhead_s=self.call_overhead_s + self.slow_reset_s,
            policy_update_s=self.policy_update_s,
            fit_s=self.fit_s,
            collects_first=True,  # lanes run side by side and end together
        )

    def with_slow_of(self, config: Any, *, slow_steps: int = 20) -> "Measurement":
        """The same machine and driver with another slow simulator, which is timed.

        Args:
            config: Configuration with the other slow simulator.
            slow_steps: As for :func:`measure`.
        """
        step_s, reset_s, cpu_share = _time_slow(config.pair(), slow_steps)
        return replace(self, slow_step_s=step_s, slow_reset_s=reset_s, cpu_share=cpu_share)

    def batch_time_s(self, *, steps: int, workers: int, level: Level = "trajectory") -> float:
        """Predicted time of a batch that is replayed whole; 0 workers replay in the driver.

        Args:
            steps: Steps in a batch.
            workers: Replay workers.
            level: What one replay call holds.
        """
        model = self.model(workers)
        if not workers:  # the driver calls nobody
            model = replace(model, call_overhead_s=self.slow_reset_s)
        elif level == "sample":
            model = replace(model, steps_per_call=steps_per_call(steps, workers))
        return model.corrected_batch_time_s(steps=steps, workers=workers, level=level)


@dataclass(frozen=True)
class PlanRow:
    """Predicted seconds per batch with ``workers`` replay workers."""

    workers: int
    serial_s: float
    trajectory_s: float
    sample_s: float | None

    @property
    def faster_level(self) -> Level:
        """The level with the smaller time; whole trajectories where there is no difference."""
        is_sample = self.sample_s is not None and self.sample_s < self.trajectory_s
        return "sample" if is_sample else "trajectory"

    @property
    def best_s(self) -> float:
        """Time of the faster level."""
        return min(self.trajectory_s, self.sample_s or self.trajectory_s)

    @property
    def speedup(self) -> float:
        """Serial time over the time of the faster level."""
        return self.serial_s / self.best_s


def plan(measurement: Measurement, *, steps: int, workers: Sequence[int]) -> list[PlanRow]:
    """Predict the time of a batch of ``steps`` steps for every number of workers."""

    def row(count: int) -> PlanRow:
        sample_s = None
        if measurement.replays_single_steps:
            sample_s = measurement.batch_time_s(steps=steps, workers=count, level="sample")
        return PlanRow(
            workers=count,
            serial_s=measurement.batch_time_s(steps=steps, workers=0),
            trajectory_s=measurement.batch_time_s(steps=steps, workers=count),
            sample_s=sample_s,
        )

    return [row(count) for count in workers]


def best_row(rows: Sequence[PlanRow]) -> PlanRow:
    """The fewest workers that come within 5 % of the shortest time."""
    shortest_s = min(row.best_s for row in rows)
    return min(
        (row for row in rows if row.best_s <= _NEARLY_BEST * shortest_s),
        key=lambda row: row.workers,
    )


def measure(config: Any, *, slow_steps: int = 20) -> Measurement:
    """Time both simulators, the driver's work and a replay call; Ray must be running.

    The driver is timed with the fast simulator in the slow one's place, so that no more than these
    slow steps are taken.

    Args:
        config: Configuration of OffsetA2C or OffsetPPO with its pair.
        slow_steps: Slow steps to time; fewer if they take more than a minute, up to 200 if they
            take less than a second.
    """
    pair: EnvPair = config.pair()
    slow_step_s, slow_reset_s, cpu_share = _time_slow(pair, slow_steps)
    cheap = config_for(config, level="trajectory", workers=1)
    cheap.slow_simulator(env=config.env, env_config=dict(config.env_config))
    with _algorithm(cheap) as algorithm:
        laps = [_lap(algorithm) for _ in range(_WARM_UP + _MEASURED)][_WARM_UP:]
        sampling_s, update_s, after_s = np.median(laps, axis=0)
        overhead_s, trajectory_steps = _time_calls(algorithm)
        steps = algorithm.config.total_train_batch_size
    return Measurement(
        slow_step_s=slow_step_s,
        slow_reset_s=slow_reset_s,
        fast_step_s=float(sampling_s) / (-(-steps // trajectory_steps) * trajectory_steps),
        trajectory_steps=trajectory_steps,
        call_overhead_s=overhead_s,
        policy_update_s=float(update_s),
        fit_s=float(after_s),
        cpu_share=cpu_share,
        num_cpus=os.cpu_count() or 1,
        replays_single_steps=probe_pair(pair).level >= 1,
    )


def iteration_times_s(config: Any, *, iterations: int = 2, warm_up: int = 1) -> list[float]:
    """Train for a few iterations and return the seconds of each after the first ``warm_up``."""
    seconds = []
    with _algorithm(config) as algorithm:
        for _ in range(warm_up + iterations):
            started = time.perf_counter()
            algorithm.train()
            seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def config_for(config: Any, *, level: Level | Literal["serial"], workers: int) -> Any:
    """The same experiment with every step replayed, at one level, and nothing evaluated."""
    changed = config.copy(copy_frozen=False)
    changed.evaluation_interval = None
    cpus = os.cpu_count() or 1
    changed.slow_simulator(
        num_replay_workers=0 if level == "serial" else workers,
        num_cpus_per_replay_worker=min(1.0, cpus / 2 / max(workers, 1)),
    )
    if level == "sample":
        batch = changed.total_train_batch_size
        changed.labels(level="sample", initial=0, per_iteration=batch, candidates_per_label=1)
    else:
        changed.labels(level="trajectory", replay_fraction=1.0)
    if changed.num_replay_workers:
        changed.slow_simulator(num_envs_per_replay_worker=1)
    changed.labels(freeze_below=None, rounds=None, max_slow_steps=None, max_replay_lag=0)
    return changed


def _time_slow(pair: EnvPair, steps: int) -> tuple[float, float, float]:
    """Seconds of a slow step and of a reset, and the CPUs that a step keeps busy."""
    env = pair.make_slow()
    try:
        env.action_space.seed(0)
        env.reset(seed=0)  # the first may build or compile
        started = time.perf_counter()
        env.reset(seed=1)
        reset_s = time.perf_counter() - started
        busy_s, started, taken = _cpu_s(), time.perf_counter(), 0
        while _wants_another(taken, steps, time.perf_counter() - started):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            taken += 1
            if terminated or truncated:
                env.reset(seed=taken)
        elapsed_s = time.perf_counter() - started
        return elapsed_s / taken, reset_s, (_cpu_s() - busy_s) / max(elapsed_s, 1e-9)
    finally:
        env.close()  # type: ignore[no-untyped-call]


def _wants_another(taken: int, steps: int, elapsed_s: float) -> bool:
    if taken < 2:
        return True
    if taken < steps:
        return elapsed_s < _MAX_SLOW_S
    return elapsed_s < _MIN_SLOW_S and taken < _MAX_CHEAP_STEPS


def _cpu_s() -> float:
    """CPU seconds of this process and of the programs it has run."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _lap(algorithm: Any) -> tuple[float, float, float]:
    """Seconds of an iteration before, within and after what replays run behind."""
    marks: dict[str, float] = {}
    with (
        _marked(algorithm.learner_group, "update", marks),
        _marked(algorithm, "gather_labels", marks),
    ):
        started = time.perf_counter()
        algorithm.train()
        ended = time.perf_counter()
    return (
        marks["update starts"] - started,
        marks["gather_labels starts"] - marks["update starts"],
        ended - marks["gather_labels ends"],
    )


@contextmanager
def _marked(owner: Any, name: str, marks: dict[str, float]) -> Iterator[None]:
    """Note down when a method of one object starts first and ends last."""
    method = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        marks.setdefault(f"{name} starts", time.perf_counter())
        try:
            return method(*args, **kwargs)
        finally:
            marks[f"{name} ends"] = time.perf_counter()

    setattr(owner, name, call)
    try:
        yield
    finally:
        delattr(owner, name)


def _time_calls(algorithm: Any) -> tuple[float, int]:
    """Seconds that a replay call costs besides the simulator, and the mean episode length."""
    runner = algorithm.env_runner
    trajectories = greedy_trajectories(runner, list(range(_CALLS)))
    requests = [
        ReplayRequest(
            key=(algorithm.version, 0, trajectory.ordinal),
            kind="trajectory",
            actions=trajectory.fast[ACTION],
            seed=trajectory.seed,
            states=None,
            fast=trajectory.fast,
        )
        for trajectory in trajectories
    ]
    started = time.perf_counter()
    algorithm.replay.submit(requests)
    results = algorithm.replay.gather(algorithm.version)
    elapsed_s = time.perf_counter() - started
    simulating_s = sum(result.sim_time_s for result in results)
    length = round(float(np.mean([len(trajectory.rewards) for trajectory in trajectories])))
    return max(0.0, elapsed_s - simulating_s) / _CALLS, length


@contextmanager
def _algorithm(config: Any) -> Iterator[Any]:
    algorithm = config.build_algo()
    try:
        yield algorithm
    finally:
        algorithm.stop()
        with suppress(OSError):
            Path(algorithm.logdir).rmdir()  # RLlib makes one; nothing was written there
