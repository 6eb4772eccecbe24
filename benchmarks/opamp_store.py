"""The extracted op-amp with its results in a file, so that no benchmark simulates a design twice.

Results repeat bit for bit, so the file saves time and changes nothing: the ledger of a run counts
every slow step it asks for, whoever simulated the design before.
"""

import sqlite3
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike

from rllib_offset.envs.opamp.design import as_design, design_key
from rllib_offset.envs.opamp.engine import AcResult
from rllib_offset.envs.opamp.environment import OpAmpEnv
from rllib_offset.envs.opamp.measurement import Evaluation
from rllib_offset.envs.opamp.simulators import Simulator
from rllib_offset.envs.opamp.task import EPISODE_STEPS

STORED = "opamp_store:StoredOpAmp-v0"

_REPEATABLE = ("the gain", "no supply")  # failures of the design, not of a process


class StoredSimulator(Simulator):
    """Asks another simulator for what the file does not hold."""

    def __init__(self, simulator: Simulator, path: Path) -> None:
        self._simulator = simulator
        self._db = sqlite3.connect(path, timeout=60.0, isolation_level=None)
        self._db.execute(
            "create table if not exists designs (key text primary key, specs blob, failure text)"
        )

    def evaluate(self, design: ArrayLike) -> Evaluation:
        """Return the specs of a design ``(7,)``."""
        sizes = as_design(design)
        key = repr(design_key(sizes))
        row = self._db.execute(
            "select specs, failure from designs where key = ?", (key,)
        ).fetchone()
        if row is not None:
            return Evaluation(np.frombuffer(row[0]).copy(), row[1])
        found = self._simulator.evaluate(sizes)
        if found.is_valid or found.failure.startswith(_REPEATABLE):
            self._db.execute(
                "insert or ignore into designs values (?, ?, ?)",
                (key, np.asarray(found.specs).tobytes(), found.failure),
            )
        return found

    def response(self, design: ArrayLike) -> AcResult:
        """Return the frequency response; not kept."""
        return self._simulator.response(design)


class StoredOpAmp(OpAmpEnv):
    """`OpAmpEnv` of the extracted simulation, with its results in the file ``store``."""

    def __init__(self, *, store: str, **arguments: Any) -> None:
        super().__init__(fidelity="extracted", **arguments)
        self._simulator = StoredSimulator(self.simulator, Path(store))


gym.register(id=STORED.partition(":")[2], entry_point=StoredOpAmp, max_episode_steps=EPISODE_STEPS)
