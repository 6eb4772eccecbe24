"""The ledger: what the slow simulator was asked for and what came back."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from rllib_offset.columns import VALID
from rllib_offset.replay.requests import ReplayResult

__all__ = ["Ledger"]


@dataclass
class Ledger:
    """Lifetime counts of slow steps; every claim about slow cost is read from here.

    Attributes:
        num_env_steps: Slow steps bought for labels.
        num_eval_env_steps: Slow steps of evaluation.
        num_env_steps_reused: Labels that an earlier run had bought already.
        num_invalid: Steps that finished with a result that means nothing.
        num_replays_lost: Replays given up after their last retry.
        sim_time_s: Seconds spent inside the slow simulator for labels.
    """

    num_env_steps: int = 0
    num_eval_env_steps: int = 0
    num_env_steps_reused: int = 0
    num_invalid: int = 0
    num_replays_lost: int = 0
    sim_time_s: float = 0.0

    def enter(self, results: Iterable[ReplayResult]) -> None:
        """Count what came back from the slow simulator."""
        for result in results:
            self.num_env_steps += result.num_steps
            self.sim_time_s += result.sim_time_s
            self.num_replays_lost += result.error is not None
            if result.slow is not None:
                self.num_invalid += int(np.sum(~result.slow[VALID].astype(bool)))

    def as_metrics(self) -> dict[str, float]:
        """Return the counts under their metric names."""
        return {f"{name}_lifetime": value for name, value in asdict(self).items()}
