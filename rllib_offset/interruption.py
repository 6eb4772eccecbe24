"""Ctrl-C and SIGTERM save the agents before the run stops; a second one stops it at once.

Tune by itself saves which trials there are, but none of what they have learned since their last
checkpoint: without a checkpoint frequency, all of it.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

__all__ = ["SavedInterruption", "exit_on_sigterm"]

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block by ``SystemExit``; Ray's own handler aborts with a core dump.

    Ray puts in its handler when it starts, so the block begins after that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _exit(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)  # as a shell reports it


class SavedInterruption(Callback):
    """Tune callback that lets every running trial finish its iteration and save it.

    The trials stay unfinished, so that ``--resume`` goes on from there.

    Args:
        echo: Receives the one line that says what happens.

    Attributes:
        signal: Number of the signal that came first, None as long as there was none.
    """

    def __init__(self, echo: Callable[[str], None]) -> None:
        self.signal: int | None = None
        self._echo = echo
        self._before: Any = None  # what SIGTERM did
        self._stops: Any = None  # Tune's own handler, once it is in place
        self._trials: list[Trial] = []
        self._unsaved: set[str] = set()
        self._frequencies: list[tuple[Any, int]] = []  # of checkpoints, as they were

    def on_step_begin(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Take the place of Tune's handler, which is installed just before the first step."""
        self._trials = trials
        if self._stops is None and threading.current_thread() is threading.main_thread():
            self._stops = signal.getsignal(signal.SIGINT)
            self._before = signal.getsignal(signal.SIGTERM)
            self._listen(self._interrupt)

    def on_checkpoint(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Stop the run as soon as the last of its trials is saved."""
        self._is_safe(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """A failed trial saves nothing any more."""
        self._is_safe(trial)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        """A trial that came to its end has been saved as its experiment says."""
        self._is_safe(trial)

    def on_experiment_end(self, trials: list[Trial], **_: Any) -> None:
        """Leave Ctrl-C and SIGTERM as they were."""
        if self._stops is None:
            return
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, self._stops)
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def _listen(self, handle: Callable[[int, Any], Any]) -> None:
        for number in _NAMES:
            signal.signal(number, handle)

    def _interrupt(self, number: int, frame: Any) -> None:
        self.signal = number
        self._listen(self._stops)
        running = [trial for trial in self._trials if trial.status == Trial.RUNNING]
        self._unsaved = {trial.trial_id for trial in running}
        if not running:
            self._stop()
            return
        for trial in running:
            config = trial.run_metadata.checkpoint_manager.checkpoint_config
            self._frequencies.append((config, config.checkpoint_frequency))
            config.checkpoint_frequency = 1
        name = _NAMES[signal.Signals(number)]
        self._echo(f"{name}: saving after this iteration; once more stops at once")

    def _is_safe(self, trial: Trial) -> None:
        if trial.trial_id in self._unsaved:
            self._unsaved.remove(trial.trial_id)
            if not self._unsaved:
                self._stop()

    def _stop(self) -> None:
        for config, frequency in reversed(self._frequencies):  # trials may share one
            config.checkpoint_frequency = frequency
        self._stops(signal.SIGINT, None)
