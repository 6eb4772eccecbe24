"""Ctrl-C while training: what was learned is saved, and can be gone on from."""

import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial

from rllib_offset.interruption import SavedInterruption

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
def test_an_interrupted_run_is_saved_and_resumed(tmp_path):
    settings = ("num_env_runners=0", "train_batch_size_per_learner=200", "minibatch_size=100")
    words = ["train", "--algo", "PPO", "--env", "CartPole-v1", "--storage-path", str(tmp_path)]
    words += [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-c", "from rllib_offset.cli import main; main()", *words]
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    stop = ["--stop", "{training_iteration: 1000}"]
    text, code = interrupted_after("iter    2/", [*command, *stop], environment)
    assert code == 130, text
    assert "with --resume goes on" in text
    assert len(list(tmp_path.glob("ppo-cartpole-v1/PPO_*/checkpoint_*"))) == 1
    reached = max(iterations_in(text))
    text, _ = interrupted_after("iter ", [*command, "--resume"], environment)
    assert min(iterations_in(text)) == reached + 1


def interrupted_after(word, command, environment):
    """Press Ctrl-C when ``word`` is shown; return all that was, and the exit code."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        text = line = run.stdout.readline()
        while line and word not in line:
            line = run.stdout.readline()
            text += line
        run.send_signal(signal.SIGINT)
        text += run.stdout.read()
    return text, run.returncode


def iterations_in(text):
    return [int(number) for number in re.findall(r"iter +(\d+)/", text)]
