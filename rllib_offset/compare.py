"""The same episodes in the slow simulator and in fast + offset: what was promised, what was gained.

Reads a checkpoint; needs no running Ray.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rllib_offset.rollouts import greedy_trajectories, restored_runner
from rllib_offset.seeded_env_runner import EVALUATION_SEED

__all__ = ["Comparison", "compare"]

_MAX_LANES = 10


@dataclass(frozen=True)
class Comparison:
    """Returns ``(E,)`` per episode and the time of a step, in both simulators.

    A step is everything an evaluation does: the policy, the simulator and, in fast + offset, the
    predictor.

    Args:
        seeds: Seed of each episode.
        slow_returns: Returns in the slow simulator.
        corrected_returns: Returns in fast + offset, from the same starts.
        slow_step_s: Seconds per step in the slow simulator.
        corrected_step_s: Seconds per step in fast + offset.
        slow_steps: Slow steps that the comparison took.
    """

    seeds: list[int]
    slow_returns: NDArray[np.float64]
    corrected_returns: NDArray[np.float64]
    slow_step_s: float
    corrected_step_s: float
    slow_steps: int

    @property
    def gap(self) -> float:
        """Mean promise minus mean truth."""
        return float(self.corrected_returns.mean() - self.slow_returns.mean())

    @property
    def speedup(self) -> float:
        """Time of a slow step over that of a corrected one."""
        return self.slow_step_s / self.corrected_step_s

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        lists = {name: np.asarray(value).tolist() for name, value in asdict(self).items()}
        return lists | {"gap": self.gap, "speedup": self.speedup}

    def __str__(self) -> str:
        rows = (
            ("episodes", f"{len(self.seeds)}, the same starts in both"),
            ("return, slow simulator", f"{self.slow_returns.mean():.3f}"),
            ("return, fast + offset", f"{self.corrected_returns.mean():.3f}"),
            ("gap (promise - truth)", f"{self.gap:.3f}"),
            ("time per step, slow", f"{1e3 * self.slow_step_s:.3f} ms"),
            ("time per step, fast + offset", f"{1e3 * self.corrected_step_s:.3f} ms"),
            ("speed-up", f"{self.speedup:.1f}"),
            ("slow steps taken", f"{self.slow_steps:,}"),
        )
        return "\n".join(f"{name:<30}{text}" for name, text in rows)


def compare(
    checkpoint: Path, *, episodes: int = 10, slow_env_config: dict[str, Any] | None = None
) -> Comparison:
    """Evaluate a trained agent twice, greedily, on the same seeds as its evaluation while training.

    Args:
        checkpoint: A checkpoint of OffsetA2C or OffsetPPO.
        episodes: How many episodes each simulator gets.
        slow_env_config: Changes to the slow simulator's arguments, e.g. another ``step_cost_s``.

    Raises:
        ValueError: If the folder is no such checkpoint.
    """
    seeds = list(range(EVALUATION_SEED, EVALUATION_SEED + episodes))
    slow_returns, slow_step_s, slow_steps = _timed(checkpoint, "slow", seeds, slow_env_config)
    returns, step_s, _ = _timed(checkpoint, "training", seeds, None)
    return Comparison(seeds, slow_returns, returns, slow_step_s, step_s, slow_steps)


def _timed(
    checkpoint: Path,
    simulator: Literal["training", "slow"],
    seeds: list[int],
    env_config: dict[str, Any] | None,
) -> tuple[NDArray[np.float64], float, int]:
    """Returns per episode, seconds per step, and the steps taken."""
    # without a remainder: an idle lane of a costed vector environment would cost time as well
    lanes = max(lanes for lanes in range(1, _MAX_LANES + 1) if len(seeds) % lanes == 0)
    runner = restored_runner(checkpoint, simulator, lanes=lanes, env_config=env_config)
    try:
        started = time.perf_counter()
        trajectories = greedy_trajectories(runner, seeds)
        elapsed_s = time.perf_counter() - started
    finally:
        runner.stop()
    steps = sum(len(trajectory.rewards) for trajectory in trajectories)
    returns = np.array([float(trajectory.rewards.sum()) for trajectory in trajectories])
    return returns, elapsed_s / steps, steps
