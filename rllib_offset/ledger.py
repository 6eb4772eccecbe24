"""The ledger: what the slow simulator was asked for and what came back."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from rllib_offset.replay.requests import ReplayResult, valid_rows

__all__ = ["Ledger"]


@dataclass
class Ledger:
    """Lifetime counts of slow steps; every claim about slow cost is read from here.

    Attributes:
        num_env_steps: Slow steps bought for labels, those of failed attempts included.
        num_eval_env_steps: Slow steps of evaluation.
        num_env_steps_reused: Labels taken from the store that another request had paid for.
        num_env_steps_wasted: Of the steps bought, those that had to be bought again, as a
            trajectory that broke off is only bought whole, and those of no use since the dynamics
            turned out to differ.
        num_invalid: Steps that finished with a result that means nothing.
        num_labels_lost: Labels asked for that no attempt could give.
        num_replays_lost: Replays given up after their last retry.
        sim_time_s: Seconds spent inside the slow simulator for labels.

    Invariant, see :meth:`imbalance`: bought + reused = fitted + held out + invalid + wasted.
    """

    num_env_steps: int = 0
    num_eval_env_steps: int = 0
    num_env_steps_reused: int = 0
    num_env_steps_wasted: int = 0
    num_invalid: int = 0
    num_labels_lost: int = 0
    num_replays_lost: int = 0
    sim_time_s: float = 0.0

    def enter(self, results: Iterable[ReplayResult]) -> None:
        """Count what came back from the slow simulator."""
        for result in results:
            self.num_env_steps += result.num_steps
            self.sim_time_s += result.sim_time_s
            self.num_env_steps_reused += result.num_reused
            self.num_env_steps_wasted += result.num_wasted
            self.num_labels_lost += result.num_missing
            self.num_replays_lost += result.error is not None
            self.num_invalid += int(np.sum(~valid_rows(result)))

    def imbalance(self, num_labels: int) -> int:
        """Return how many slow steps the books cannot explain; 0 at every moment.

        Args:
            num_labels: Labels that were taken in, fitted or held out, those that have been dropped
                from a full buffer included (``PairedBuffer.num_added``).

        Example:
            >>> Ledger(num_env_steps=10, num_env_steps_reused=5, num_invalid=1).imbalance(14)
            0
        """
        came_in = self.num_env_steps + self.num_env_steps_reused
        return came_in - num_labels - self.num_invalid - self.num_env_steps_wasted

    def as_metrics(self) -> dict[str, float]:
        """Return the counts under their metric names."""
        return {f"{name}_lifetime": value for name, value in asdict(self).items()}
