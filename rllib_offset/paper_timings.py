"""The timed iterations of figure 8, and what section 3.4 predicts for them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rllib_offset.planner import Measurement, config_for, iteration_times_s
from rllib_offset.report_claims import LevelName, Timing
from rllib_offset.timing import Level

__all__ = [
    "TimingScale",
    "expected_s",
    "same_case",
    "timed",
    "wanted_timings",
    "with_step_cost",
]

_BATCH_STEPS = 1000
_WARM_UP = 1
_FREE_WORKERS = 2  # more processes than that only get in each other's way on two cores
_START_S = 8.0  # of an algorithm


@dataclass(frozen=True, kw_only=True)
class TimingScale:
    """How much is timed; every timing replays all steps of a batch.

    Args:
        seeds: Seeds of each timing.
        step_costs_s: Sleeps of the slow simulator; it is also timed without any.
        most_workers: Parallel workers, the paper's n.
        planned_workers: Workers at which `rllib plan` is checked, at the largest cost, one seed.
        iterations: Iterations timed each, after one to warm up.
    """

    seeds: int = 3
    step_costs_s: tuple[float, ...] = (0.002, 0.01)
    most_workers: int = 8
    planned_workers: tuple[int, ...] = (1, 2, 4, 8)
    iterations: int = 2

    @property
    def largest_cost_s(self) -> float:
        """The cost at which the machine is measured."""
        return max(self.step_costs_s)


def wanted_timings(scale: TimingScale) -> Iterator[Timing]:
    """Every timing that is wanted, with nothing measured yet."""
    for seed in range(scale.seeds):
        yield _case("serial", 0, 0.0, seed)
        yield _case("trajectory", _FREE_WORKERS, 0.0, seed)
        for cost_s in scale.step_costs_s:
            yield _case("serial", 0, cost_s, seed)
            yield _case("trajectory", scale.most_workers, cost_s, seed)
            yield _case("sample", scale.most_workers, cost_s, seed)
    for workers in scale.planned_workers:
        if workers != scale.most_workers:  # timed above
            yield _case("trajectory", workers, scale.largest_cost_s, 0)
            yield _case("sample", workers, scale.largest_cost_s, 0)


def timed(case: Timing, config: Any, here: Measurement, scale: TimingScale) -> Timing:
    """Time iterations of a case; Ray must be running.

    Args:
        case: What to time.
        config: Configuration of the pair.
        here: The times of this machine, at this cost of a slow step.
        scale: How many iterations.
    """
    config = with_step_cost(config, case.step_cost_s)
    seconds = iteration_times_s(
        config_for(config.debugging(seed=case.seed), level=case.level, workers=case.workers),
        iterations=scale.iterations,
        warm_up=_WARM_UP,
    )
    level: Level = "sample" if case.level == "sample" else "trajectory"
    printed = here.model()
    return replace(
        case,
        seconds=seconds,
        predicted_s=here.batch_time_s(steps=_BATCH_STEPS, workers=case.workers, level=level),
        printed_s=printed.batch_time_s(steps=_BATCH_STEPS, workers=case.workers, level=level)
        if case.workers
        else printed.serial_batch_time_s(steps=_BATCH_STEPS),
    )


def with_step_cost(config: Any, step_cost_s: float) -> Any:
    """The same pair with a slow simulator that sleeps in every step."""
    slowed = config.copy(copy_frozen=False)
    return slowed.slow_simulator(env=config.slow_env, env_config={"step_cost_s": step_cost_s})


def same_case(timing: Timing, case: Timing) -> bool:
    """Whether a timing is of this case, whatever was measured."""
    blank = {"seconds": (), "predicted_s": 0.0, "printed_s": 0.0}
    return replace(timing, **blank) == replace(case, **blank)  # type: ignore[arg-type]


def expected_s(case: Timing, scale: TimingScale) -> float:
    """How long a case will roughly take, for the time left."""
    batch_s = 0.3 + _BATCH_STEPS * case.step_cost_s / max(case.workers, 1)
    return _START_S + (_WARM_UP + scale.iterations) * batch_s


def _case(level: LevelName, workers: int, cost_s: float, seed: int) -> Timing:
    return Timing(
        level=level,
        workers=workers,
        step_cost_s=cost_s,
        seed=seed,
        seconds=(),
        predicted_s=0.0,
        printed_s=0.0,
    )
