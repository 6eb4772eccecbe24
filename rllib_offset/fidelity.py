"""Label schedules: what to replay in the slow simulator, how much, when to stop and when to resume.

Numbers in, a decision out.  Knows neither Ray nor environments.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LabelPlan", "LabelSchedule", "ReplayFraction", "StepTrickle"]


@dataclass(frozen=True)
class LabelPlan:
    """What the next iteration buys.

    Args:
        replay_fraction: Share of the trajectories to replay whole, in [0, 1].
        num_step_labels: Single steps to label.
        refits: Whether the predictor is fitted to what comes back.
    """

    replay_fraction: float = 0.0
    num_step_labels: int = 0
    refits: bool = True


class LabelSchedule(ABC):
    """Decides, iteration by iteration, which labels to buy."""

    def observe(self, fresh_errors: NDArray[np.float64], iteration: int) -> None:  # noqa: B027
        """Take note of the errors on fresh labels, measured before they were fitted."""

    @abstractmethod
    def plan(self, iteration: int) -> LabelPlan:
        """Return what iteration number ``iteration`` (from 0) buys."""

    def get_state(self) -> dict[str, Any]:
        """Return what a resumed schedule must know."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Resume from :meth:`get_state`."""


@dataclass
class ReplayFraction(LabelSchedule):
    """Trajectory level: the first batch whole, then a share of the trajectories.

    ``fraction=1`` is Algorithm 2 of the paper as printed.
    """

    fraction: float
    first_fraction: float = 1.0

    def plan(self, iteration: int) -> LabelPlan:
        """Return the share of trajectories to replay."""
        return LabelPlan(replay_fraction=self.first_fraction if iteration == 0 else self.fraction)


@dataclass
class StepTrickle(LabelSchedule):
    """Sample level: some labels from the steps the policy visits, every iteration."""

    per_iteration: int

    def plan(self, iteration: int) -> LabelPlan:
        """Return the number of steps to label."""
        return LabelPlan(num_step_labels=self.per_iteration)
