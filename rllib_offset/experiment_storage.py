"""Keeps every experiment of a run in its own folder, not the first one only.

Tune was made for one experiment: it copies the staging folder (results, TensorBoard files) of the
first experiment to its storage path, and gives all trials that folder when a run is resumed.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Experiment, Trial

from rllib_offset.user_errors import UserError

__all__ = ["StoredExperiments"]


class StoredExperiments(Callback):
    """Tune callback that knows which experiment a trial belongs to, and keeps its results there.

    Args:
        experiments: All experiments of the run.
        resumes: Whether the run must be the continuation of an earlier one.

    Raises:
        UserError: If there is nothing to resume, where Tune would start anew without a word.
    """

    def __init__(self, experiments: Sequence[Experiment], *, resumes: bool = False) -> None:
        self._first = experiments[0].storage.experiment_dir_name
        self._folder = experiments[0].path
        self._resumes = resumes
        self._experiment_of: dict[str, str] = {}  # by trial id
        self._storage_of: dict[str, Any] = {}  # by experiment, all but the first

    def setup(self, **_: Any) -> None:
        """Look whether Tune has found what it should resume."""
        if self._resumes and not self._experiment_of:
            raise UserError(
                f"nothing to resume in {self._folder}; give the name and the storage path of the "
                "run that was interrupted, or leave out --resume"
            )

    def get_state(self) -> dict[str, Any]:
        """Return what a resumed run needs to know."""
        return {"experiment_of": dict(self._experiment_of)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Learn from the interrupted run whose trial is whose."""
        self._experiment_of = dict(state["experiment_of"])

    def on_step_begin(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Give each trial its own experiment's folder, before it is started."""
        for trial in trials:
            name = self._experiment_of.setdefault(trial.trial_id, trial.storage.experiment_dir_name)
            if trial.storage.experiment_dir_name != name:
                storage = copy.copy(trial.storage)
                storage.experiment_dir_name = name
                trial.set_storage(storage)
                trial.init_local_path()
            if name != self._first:
                self._storage_of.setdefault(name, trial.storage)

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Copy in the background, every few minutes (Tune's sync period)."""
        for storage in self._storage_of.values():
            storage.syncer.sync_up_if_needed(**_folders(storage))

    def on_experiment_end(self, trials: list[Trial], **_: Any) -> None:
        """Copy what is left, and wait until it is there."""
        self.on_step_begin(0, trials)  # a run that had finished before has no steps
        for storage in self._storage_of.values():
            storage.syncer.wait()
            if Path(storage.experiment_driver_staging_path).is_dir():
                storage.syncer.sync_up(**_folders(storage))
                storage.syncer.wait()


def _folders(storage: Any) -> dict[str, Any]:
    return {
        "local_dir": storage.experiment_driver_staging_path,
        "remote_dir": storage.experiment_fs_path,
        "exclude": ["*/checkpoint_*"],  # these are written to storage by the trials
    }
