"""How long one batch takes: section 3.4 of the paper, as printed and corrected.

Knows nothing of Ray or environments: seconds and counts in, seconds out.  The printed formulas
assume that work divides evenly and that calls and updates are free; the corrected ones drop both
assumptions and equal the printed ones where they hold.
"""

from dataclasses import dataclass
from enum import Enum
from math import ceil
from typing import Literal

__all__ = ["Join", "Level", "TimingModel", "WorkerRange"]

Level = Literal["trajectory", "sample"]


class Join(Enum):
    """When the driver waits for the slow replays of a batch."""

    BEFORE_UPDATES = "before-updates"  # Algorithm 2 as printed: a barrier before both updates
    BEFORE_FIT = "before-fit"  # the policy update needs no slow data and runs meanwhile
    NEXT_BATCH = "next-batch"  # labels may lag: replays run behind everything the driver does


class WorkerRange(Enum):
    """The three ranges of ``n`` in section 3.4.3."""

    FEWER_THAN_TRAJECTORIES = "n < b/|tau|"
    FEWER_THAN_STEPS = "b/|tau| <= n < b"
    ONE_PER_STEP = "n >= b"


@dataclass(frozen=True, kw_only=True)
class TimingModel:
    r"""Batch times of serial, trajectory-level and sample-level slow replay.

    The paper's letters: :math:`t_s` is ``slow_step_s``, :math:`t_f` ``fast_step_s``,
    :math:`|\tau|_{max}` ``trajectory_steps``, :math:`b_{des}` ``steps`` and :math:`n` ``workers``.
    The fields below the first three enter the corrected times only.

    Args:
        slow_step_s: Seconds of one slow step.
        fast_step_s: Seconds of one fast step, as seen by the driver (vectorised: per step).
        trajectory_steps: Length of every trajectory.
        call_overhead_s: Seconds that each replay call costs its worker, whatever its length:
            the way there and back, and the reset of the slow simulator.
        dispatch_s: Seconds that each replay call costs the driver, which submits one by one.
        steps_per_call: Steps in one call of sample-level replay; None splits the batch evenly,
            one call for each worker.
        policy_update_s: Seconds of one policy update.
        fit_s: Seconds of one update of the offset predictor.
        join: When the driver waits for the replays.
        collects_first: Replays start only when the whole batch is collected, as they do when
            all lanes of a vectorised environment end together; the paper overlaps the two.

    Raises:
        ValueError: If a time is negative or a count below one.

    Example:
        >>> model = TimingModel(slow_step_s=1.0, fast_step_s=0.01, trajectory_steps=100)
        >>> model.batch_time_s(steps=1000, workers=8)
        125.0
        >>> model.corrected_batch_time_s(steps=1000, workers=8)  # ten trajectories: two rounds
        200.0
    """

    slow_step_s: float
    fast_step_s: float
    trajectory_steps: int
    call_overhead_s: float = 0.0
    dispatch_s: float = 0.0
    steps_per_call: int | None = None
    policy_update_s: float = 0.0
    fit_s: float = 0.0
    join: Join = Join.BEFORE_FIT
    collects_first: bool = False

    def __post_init__(self) -> None:
        times = (
            self.slow_step_s,
            self.fast_step_s,
            self.call_overhead_s,
            self.dispatch_s,
            self.policy_update_s,
            self.fit_s,
        )
        if min(times) < 0:
            raise ValueError(f"times must be >= 0 seconds, got {self}")
        _check_count(trajectory_steps=self.trajectory_steps)
        if self.steps_per_call is not None:
            _check_count(steps_per_call=self.steps_per_call)

    # The formulas as printed.

    def slow_only_batch_time_s(self, *, steps: int) -> float:
        """Training on the slow simulator alone: ``b t_s`` (section 3.2)."""
        return steps * self.slow_step_s

    def serial_batch_time_s(self, *, steps: int) -> float:
        """Algorithm 1, both simulators in the driver: ``b (t_s + t_f)`` (section 3.2)."""
        return steps * (self.slow_step_s + self.fast_step_s)

    def sample_level_batch_time_s(self, *, steps: int, workers: int) -> float:
        """Section 3.4.1, as printed."""
        _check_count(steps=steps, workers=workers)
        slow_s = self.slow_step_s
        if steps > workers:
            slow_s = steps / workers * self.slow_step_s
        return max(slow_s, self.fast_step_s * steps)

    def trajectory_level_batch_time_s(self, *, steps: int, workers: int) -> float:
        """Section 3.4.2, as printed."""
        _check_count(steps=steps, workers=workers)
        slow_s = self.trajectory_steps * self.slow_step_s
        if steps > workers * self.trajectory_steps:
            slow_s = steps / workers * self.slow_step_s
        return max(slow_s, self.fast_step_s * steps)

    def batch_time_s(self, *, steps: int, workers: int, level: Level = "trajectory") -> float:
        """The printed time of ``level``."""
        if level == "sample":
            return self.sample_level_batch_time_s(steps=steps, workers=workers)
        return self.trajectory_level_batch_time_s(steps=steps, workers=workers)

    def worker_range(self, *, steps: int, workers: int) -> WorkerRange:
        """In which range of section 3.4.3 ``workers`` lies."""
        _check_count(steps=steps, workers=workers)
        if workers >= steps:
            return WorkerRange.ONE_PER_STEP
        if workers * self.trajectory_steps >= steps:
            return WorkerRange.FEWER_THAN_STEPS
        return WorkerRange.FEWER_THAN_TRAJECTORIES

    def printed_faster_level(self, *, steps: int, workers: int) -> Level | None:
        """Section 3.4.3 word for word; None where the two times are identical.

        In the middle range ``b/n <= |tau|``, so the printed condition for trajectory level,
        ``|tau| < b/n``, never holds there; and the words ignore ties (``|tau| = b/n``, or the
        fast simulator being the bottleneck).  Compare with :meth:`faster_level`.
        """
        worker_range = self.worker_range(steps=steps, workers=workers)
        if worker_range is WorkerRange.FEWER_THAN_TRAJECTORIES:
            return None
        if worker_range is WorkerRange.ONE_PER_STEP:
            return "sample"
        return "trajectory" if self.trajectory_steps * workers < steps else "sample"

    # The corrected times.

    def corrected_serial_batch_time_s(
        self, *, steps: int, replayed_steps: int | None = None
    ) -> float:
        """Algorithm 1 over whole trajectories, with the reset of each replay and both updates."""
        trajectories = self._trajectories(steps)
        replayed = trajectories if replayed_steps is None else self._trajectories(replayed_steps)
        fast_s = trajectories * self.trajectory_steps * self.fast_step_s
        slow_s = replayed * (self.trajectory_steps * self.slow_step_s + self.call_overhead_s)
        return fast_s + slow_s + self.policy_update_s + self.fit_s

    def corrected_batch_time_s(
        self,
        *,
        steps: int,
        workers: int,
        level: Level = "trajectory",
        replayed_steps: int | None = None,
    ) -> float:
        """Time of one iteration, with whole rounds, overheads and updates.

        Args:
            steps: Steps wanted in a batch; whole trajectories are collected.
            workers: Replay workers; 0 replays in the driver.
            level: What one replay call holds: a trajectory, or single steps.
            replayed_steps: How many steps are replayed; None for all of them.
        """
        if workers == 0:
            return self.corrected_serial_batch_time_s(steps=steps, replayed_steps=replayed_steps)
        _check_count(steps=steps, workers=workers)
        replayed_steps = steps if replayed_steps is None else replayed_steps
        calls, call_steps = self._calls(replayed_steps, workers, level)
        rounds = ceil(calls / workers)  # the paper's b/n lets a worker take part of a call
        slow_s = rounds * (call_steps * self.slow_step_s + self.call_overhead_s)
        collected = self._trajectories(steps) * self.trajectory_steps
        fast_s = collected * self.fast_step_s + calls * self.dispatch_s
        return self._join_s(fast_s, slow_s)

    def faster_level(self, *, steps: int, workers: int, corrected: bool = True) -> Level | None:
        """The level with the smaller batch time; None for a tie."""
        time_s = self.corrected_batch_time_s if corrected else self.batch_time_s
        trajectory_s = time_s(steps=steps, workers=workers, level="trajectory")
        sample_s = time_s(steps=steps, workers=workers, level="sample")
        if sample_s == trajectory_s:
            return None
        return "sample" if sample_s < trajectory_s else "trajectory"

    def speedup(self, *, steps: int, workers: int, level: Level = "trajectory") -> float:
        """Corrected serial time over the corrected time of ``level``."""
        parallel_s = self.corrected_batch_time_s(steps=steps, workers=workers, level=level)
        return self.corrected_serial_batch_time_s(steps=steps) / parallel_s

    def _trajectories(self, steps: int) -> int:
        return ceil(steps / self.trajectory_steps)

    def _calls(self, replayed_steps: int, workers: int, level: Level) -> tuple[int, int]:
        """Number of replay calls, and the steps in each."""
        if replayed_steps == 0:
            return 0, 0
        if level == "trajectory":
            return self._trajectories(replayed_steps), self.trajectory_steps
        call_steps = self.steps_per_call or ceil(replayed_steps / workers)
        call_steps = min(call_steps, replayed_steps)
        return ceil(replayed_steps / call_steps), call_steps

    def _join_s(self, fast_s: float, slow_s: float) -> float:
        driver_s = self.policy_update_s + self.fit_s
        if self.join is Join.NEXT_BATCH:
            return max(slow_s, fast_s + driver_s)
        before_s, behind_s = (fast_s, 0.0) if self.collects_first else (0.0, fast_s)
        if self.join is Join.BEFORE_UPDATES:
            return before_s + max(slow_s, behind_s) + driver_s
        return before_s + max(slow_s, behind_s + self.policy_update_s) + self.fit_s


def _check_count(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be >= 1, got {count}")
