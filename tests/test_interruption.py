"""Ctrl-C while training: what was learned is saved, and can be gone on from."""

import re
import signal
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from typer.testing import CliRunner

from rllib_offset import cli
from rllib_offset.interruption import SavedInterruption
from rllib_offset.reporting import StatusLines

FREQUENCY = 7


def trial_of(number, status=Trial.RUNNING):
    config = SimpleNamespace(checkpoint_frequency=FREQUENCY)
    manager = SimpleNamespace(checkpoint_config=config)
    metadata = SimpleNamespace(checkpoint_manager=manager)
    return SimpleNamespace(trial_id=str(number), status=status, run_metadata=metadata)


def frequency_of(trial):
    return trial.run_metadata.checkpoint_manager.checkpoint_config.checkpoint_frequency


@pytest.fixture
def stopped():
    """What Tune's handler would hear; Ctrl-C is left as it was."""
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append("stopped"))
    yield heard
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def callback(lines):
    return SavedInterruption(lines.append)


def test_the_run_stops_once_every_running_trial_is_saved(callback, stopped, lines):
    trials = [trial_of(0), trial_of(1), trial_of(2, status=Trial.PENDING)]
    callback.on_step_begin(0, trials)
    signal.raise_signal(signal.SIGINT)
    assert [frequency_of(trial) for trial in trials] == [1, 1, FREQUENCY]
    assert "once more stops at once" in lines[0]
    callback.on_checkpoint(1, trials, trials[0])
    callback.on_checkpoint(2, trials, trials[0])
    assert not stopped
    callback.on_trial_error(3, trials, trials[1])
    assert stopped == ["stopped"]
    assert [frequency_of(trial) for trial in trials] == [FREQUENCY] * 3


def test_a_second_ctrl_c_stops_at_once(callback, stopped):
    callback.on_step_begin(0, [trial_of(0)])
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert stopped == ["stopped"]


def test_where_nothing_runs_there_is_nothing_to_wait_for(callback, stopped):
    callback.on_step_begin(0, [trial_of(0, status=Trial.PENDING)])
    signal.raise_signal(signal.SIGINT)
    assert stopped == ["stopped"]


def test_afterwards_ctrl_c_is_what_it_was(callback, stopped):
    before = signal.getsignal(signal.SIGINT)
    callback.on_step_begin(0, [])
    callback.on_experiment_end([])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "noise_comes_back", "stopped")
@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_run_is_saved_and_resumed(tmp_path, monkeypatch):
    shows = StatusLines.on_trial_result

    def show_and_press(self, iteration, trials, trial, result, **info):
        shows(self, iteration, trials, trial, result, **info)
        if result["training_iteration"] == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(StatusLines, "on_trial_result", show_and_press)
    settings = ("num_env_runners=0", "train_batch_size_per_learner=100", "minibatch_size=50")
    words = ["train", "--algo", "PPO", "--env", "CartPole-v1", "--storage-path", str(tmp_path)]
    words += [word for setting in settings for word in ("--set", setting)]
    interrupted = CliRunner().invoke(cli.app, [*words, "--stop", "{training_iteration: 4}"])
    assert interrupted.exit_code == 130, interrupted.output
    assert "with --resume goes on" in interrupted.stderr
    assert len(list(tmp_path.glob("ppo-cartpole-v1/PPO_*/checkpoint_*"))) == 1
    resumed = CliRunner().invoke(cli.app, [*words, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    first, *_, last = re.findall(r"iter +(\d+)/4", resumed.stdout)
    assert (first, last) == ("3", "4")
