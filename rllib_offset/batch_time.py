"""What section 3.4 of the paper predicts for an iteration, from what the iteration measured.

Knows no Ray: seconds and counts in, seconds out.
"""

from dataclasses import dataclass

from rllib_offset.timing import Join, Level, TimingModel

__all__ = ["BatchTime"]


@dataclass(frozen=True, kw_only=True)
class BatchTime:
    """One iteration as its driver saw it.

    Args:
        batch_s: Seconds of the whole iteration, evaluation left out.
        sampling_s: Of these, collecting the batch.
        wait_s: Waiting for slow replays.
        fit_s: Fitting the predictor and sending it out.
        env_steps: Steps collected.
        trajectory_steps: Mean length of a trajectory.
        slow_steps: Slow steps bought.
        slow_s: Seconds spent in the slow simulator for them, all workers together.
        workers: Replay workers; 0 replays in the driver.
        level: What a replay call holds.
        max_replay_lag: Iterations that labels may be late.

    Example:
        >>> eight = BatchTime(batch_s=231.0, sampling_s=10.0, wait_s=199.0, fit_s=1.0,
        ...     env_steps=1000, trajectory_steps=100, slow_steps=1000, slow_s=1000.0, workers=8,
        ...     level="trajectory")
        >>> eight.predicted_s, round(eight.utilization, 2)  # ten trajectories take two rounds
        (211.0, 0.54)
    """

    batch_s: float
    sampling_s: float
    wait_s: float
    fit_s: float
    env_steps: int
    trajectory_steps: float
    slow_steps: int
    slow_s: float
    workers: int
    level: Level
    max_replay_lag: int | None = 0

    @property
    def utilization(self) -> float:
        """Share of the replay workers' time that was spent inside the slow simulator."""
        return self.slow_s / (self.batch_s * max(self.workers, 1))

    @property
    def predicted_s(self) -> float:
        """Time that the corrected form of section 3.4 gives for the steps taken and bought."""
        # in the driver nothing is rounded up to whole trajectories
        length = max(1, round(self.trajectory_steps)) if self.workers else 1
        model = TimingModel(
            slow_step_s=self.slow_s / max(self.slow_steps, 1),
            fast_step_s=self.sampling_s / max(self.env_steps, 1),
            trajectory_steps=length,
            policy_update_s=max(0.0, self.batch_s - self.sampling_s - self.wait_s - self.fit_s),
            fit_s=self.fit_s,
            join=Join.BEFORE_FIT if self.max_replay_lag == 0 else Join.NEXT_BATCH,
            collects_first=True,  # lanes run side by side and end together
        )
        return model.corrected_batch_time_s(
            steps=max(self.env_steps, 1),
            workers=self.workers,
            level=self.level,
            replayed_steps=self.slow_steps,
        )
