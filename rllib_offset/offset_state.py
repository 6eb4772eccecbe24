"""What a checkpoint holds of the offset, and how a run resumes exactly where it was."""

import random
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow.fs import LocalFileSystem
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_offset.corrected_env import save_correction
from rllib_offset.dynamics import DynamicsWatch
from rllib_offset.estimator import OffsetEstimator
from rllib_offset.fidelity import LabelSchedule
from rllib_offset.ledger import Ledger
from rllib_offset.replay.client import SlowReplay

__all__ = ["OffsetStateMixin", "label_store_of", "run_name"]


class OffsetStateMixin(Algorithm):
    """Saves labels, predictor, schedule, ledger and what is still outstanding with the rest."""

    estimator: OffsetEstimator
    dynamics: DynamicsWatch
    schedule: LabelSchedule
    ledger: Ledger
    replay: SlowReplay
    version: int

    def start_estimator(self, *, residual: bool) -> None:
        """Begin with an estimator that has learned nothing yet."""
        raise NotImplementedError

    def broadcast_offset(self, remote_worker_ids: list[int] | None = None) -> None:
        """Send the correction to the environment runners."""
        raise NotImplementedError

    @override(Algorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kw: Any) -> Any:
        state = super().get_state(components, not_components=not_components, **kw)
        if self._check_component("offset", components, not_components):
            state["offset"] = {
                "estimator": self.estimator.get_state(),
                "dynamics": self.dynamics.get_state(),
                "schedule": self.schedule.get_state(),
                "ledger": vars(self.ledger).copy(),
                "version": self.version,
                "run": self.replay.run,
                "residual": self.estimator.layout.resynchronises,
                "outstanding": self.replay.outstanding(),
                "global_rng": _global_rng(),
            }
        return state

    @override(Algorithm)
    def set_state(self, state: Any) -> None:
        super().set_state(state)
        if "offset" in state:
            offset = state["offset"]
            self.start_estimator(residual=offset["residual"])
            self.estimator.set_state(offset["estimator"])
            self.dynamics.set_state(offset.get("dynamics", {}))  # older versions saved none
            self.schedule.set_state(offset["schedule"])
            self.ledger = Ledger(**offset["ledger"])
            self.version = offset["version"]
            self.replay.restore(offset["run"], offset["outstanding"])
            _set_global_rng(offset["global_rng"])
        self.broadcast_offset()

    @override(Algorithm)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Save the state and, beside it, what :class:`CorrectedEnv` loads without Ray."""
        saved: str = super().save_to_path(path, **kwargs)
        if Path(saved).is_dir():
            config = self.config
            correction = self.estimator.correction()
            save_correction(saved, correction, config.env, dict(config.env_config))
        return saved

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        super().restore_from_path(path, *args, **kwargs)
        self.broadcast_offset()


def label_store_of(algorithm: Any) -> str | None:
    """Return the folder that keeps the labels: the one given, or the trial's own."""
    if algorithm.config.label_store is not None:
        return str(algorithm.config.label_store)
    storage = algorithm._storage
    if storage is None or storage.trial_dir_name is None:
        return None
    is_local = isinstance(storage.storage_filesystem, LocalFileSystem)
    folder = storage.trial_fs_path if is_local else algorithm.logdir
    return str(Path(folder) / "labels")


def run_name(trial_id: str) -> str:
    """Return whose account labels are bought on; it names files."""
    return re.sub(r"[^\w.-]", "-", trial_id) if trial_id != "default" else uuid.uuid4().hex


def _global_rng() -> dict[str, Any]:
    """State of the global generators; PPO, for one, shuffles with NumPy's."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (RLlib draws from it)
        "torch": torch.get_rng_state(),
    }


def _set_global_rng(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
