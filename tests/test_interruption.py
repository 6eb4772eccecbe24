"""Ctrl-C and SIGTERM while training: what was learned is saved, and can be gone on from."""

import re
import signal
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from typer.testing import CliRunner

from rllib_offset import cli
from rllib_offset.interruption import SavedInterruption, exit_on_sigterm
from rllib_offset.reporting import StatusLines

FREQUENCY = 7
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def trial_of(number, status=Trial.RUNNING):
    config = SimpleNamespace(checkpoint_frequency=FREQUENCY)
    manager = SimpleNamespace(checkpoint_config=config)
    metadata = SimpleNamespace(checkpoint_manager=manager)
    return SimpleNamespace(trial_id=str(number), status=status, run_metadata=metadata)


def frequency_of(trial):
    return trial.run_metadata.checkpoint_manager.checkpoint_config.checkpoint_frequency


@pytest.fixture
def stopped():
    """What Tune's handler would hear; both signals are left as they were."""
    heard = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, lambda *_: heard.append("stopped"))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def callback(lines):
    return SavedInterruption(lines.append)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_run_stops_once_every_running_trial_is_saved(callback, stopped, lines, number):
    trials = [trial_of(0), trial_of(1), trial_of(2, status=Trial.PENDING)]
    callback.on_step_begin(0, trials)
    signal.raise_signal(number)
    assert callback.signal == number
    assert [frequency_of(trial) for trial in trials] == [1, 1, FREQUENCY]
    assert "once more stops at once" in lines[0]
    callback.on_checkpoint(1, trials, trials[0])
    callback.on_checkpoint(2, trials, trials[0])
    assert not stopped
    callback.on_trial_error(3, trials, trials[1])
    assert stopped == ["stopped"]
    assert [frequency_of(trial) for trial in trials] == [FREQUENCY] * 3


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_stops_at_once(callback, stopped, first, second):
    callback.on_step_begin(0, [trial_of(0)])
    signal.raise_signal(first)
    signal.raise_signal(second)
    assert stopped == ["stopped"]


def test_where_nothing_runs_there_is_nothing_to_wait_for(callback, stopped):
    callback.on_step_begin(0, [trial_of(0, status=Trial.PENDING)])
    signal.raise_signal(signal.SIGINT)
    assert stopped == ["stopped"]


@pytest.mark.parametrize("number", SIGNALS)
def test_afterwards_a_signal_does_what_it_did(callback, stopped, number):
    before = signal.getsignal(number)
    callback.on_step_begin(0, [])
    callback.on_experiment_end([])
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("stopped")
def test_before_the_first_step_sigterm_ends_with_its_code():
    with pytest.raises(SystemExit) as ended, exit_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "noise_comes_back", "stopped")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_saved_and_resumed(tmp_path, monkeypatch, number, code):
    shows = StatusLines.on_trial_result

    def show_and_press(self, iteration, trials, trial, result, **info):
        shows(self, iteration, trials, trial, result, **info)
        if result["training_iteration"] == 2:
            signal.raise_signal(number)

    monkeypatch.setattr(StatusLines, "on_trial_result", show_and_press)
    settings = ("num_env_runners=0", "train_batch_size_per_learner=100", "minibatch_size=50")
    words = ["train", "--algo", "PPO", "--env", "CartPole-v1", "--storage-path", str(tmp_path)]
    words += [word for setting in settings for word in ("--set", setting)]
    interrupted = CliRunner().invoke(cli.app, [*words, "--stop", "{training_iteration: 4}"])
    assert interrupted.exit_code == code, interrupted.output
    assert "with --resume goes on" in interrupted.stderr
    assert len(list(tmp_path.glob("ppo-cartpole-v1/PPO_*/checkpoint_*"))) == 1
    resumed = CliRunner().invoke(cli.app, [*words, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    first, *_, last = re.findall(r"iter +(\d+)/4", resumed.stdout)
    assert (first, last) == ("3", "4")
