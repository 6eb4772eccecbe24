import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rllib_offset import cli

TUNED_CONFIGS = sorted((Path(__file__).parent.parent / "tuned_configs").glob("*.yaml"))
TINY_PPO = {
    "run": "PPO",
    "env": "CartPole-v1",
    "stop": {"training_iteration": 2},
    "config": {
        "num_env_runners": 0,
        "num_envs_per_env_runner": 1,
        "train_batch_size_per_learner": 100,
        "minibatch_size": 50,
        "num_epochs": 1,
        "model_config": {"fcnet_hiddens": [8]},
    },
}


@pytest.fixture(autouse=True)
def noise_comes_back(monkeypatch):
    """What the command silences is for its own process, and this one is pytest's."""
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    levels = {name: logging.getLogger(name).level for name in cli.NOISY_LOGGERS}
    with warnings.catch_warnings():
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def ray_must_not_start(monkeypatch):
    def start(*_args):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(cli, "_start_ray", start)


@pytest.fixture
def run_file(tmp_path):
    def run(content, *options):
        path = tmp_path / "experiment.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return CliRunner().invoke(cli.app, ["train", "file", str(path), *options])

    return run


def with_config(**config):
    return {"x": TINY_PPO | {"config": TINY_PPO["config"] | config}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("ray_must_not_start")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("x: [1, 2\ny", "not valid YAML: line 2", id="syntax"),
        pytest.param("- a\n- b", "must map experiment names", id="not-a-mapping"),
        pytest.param("", "must map experiment names", id="empty"),
        pytest.param("x: 3", "experiment 'x' must be a mapping", id="experiment-not-a-mapping"),
        pytest.param({"x": {"env": "CartPole-v1"}}, "add e.g. `run: OffsetA2C`", id="no-run"),
        pytest.param({"x": TINY_PPO | {"config": 1}}, "`config` of 'x'", id="config-not-a-mapping"),
        pytest.param({"x": TINY_PPO | {"sotp": {}}}, "'sotp' in experiment 'x'.*'stop'", id="key"),
        pytest.param(
            {"x": TINY_PPO | {"checkpoint_config": {"checkpoint_freq": 1}}},
            "'checkpoint_freq'.*'checkpoint_frequency'",
            id="checkpoint-key",
        ),
        pytest.param(
            {"x": TINY_PPO | {"run": "OfsetA2C"}},
            "algorithm 'OfsetA2C'; the nearest is 'OffsetA2C'",
            id="algorithm",
        ),
        pytest.param(
            with_config(num_env_runner=1), "'num_env_runner'.*'num_env_runners'", id="config-key"
        ),
        pytest.param(
            with_config(minibatch_size=999), r"`minibatch_size` \(999\) must be <=", id="value"
        ),
        pytest.param(
            with_config(minibatch_size={"grid_search": [50, 999]}),
            r"`minibatch_size` \(999\) must be <=",
            id="value-in-a-grid-search",
        ),
        pytest.param(
            {"x": TINY_PPO | {"env": "CartPol-v1"}},
            "environment 'CartPol-v1'; the nearest is 'CartPole-v1'",
            id="environment",
        ),
        pytest.param(
            {"x": TINY_PPO | {"env": "no_such_module:Thing-v0"}},
            "No module named 'no_such_module'",
            id="environment-module",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run_file, content, message):
    result = run_file(content)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    assert re.search(message, result.stderr)


def test_a_missing_file_is_named():
    result = CliRunner().invoke(cli.app, ["train", "file", "nowhere.yaml"])
    assert result.exit_code == 2
    assert result.stderr == "Error: no such file: nowhere.yaml\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stop", "3"), "--stop must be a mapping"),
        (("--set", "lr"), "--set takes KEY=VALUE"),
        (("--set", "lr.x=3"), "`lr` is 0.1, not a mapping"),
    ],
)
def test_a_mistaken_option_is_refused(run_file, options, message):
    result = run_file(with_config(lr=0.1), *options)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.fixture
def prepared(monkeypatch):
    """Run the command up to where Ray would start, and return the experiments."""
    seen = {}
    monkeypatch.setattr(cli, "_run_experiments", lambda experiments, **_: seen.update(experiments))
    return seen


def test_the_environment_moves_into_the_config(run_file, prepared):
    assert run_file({"x": TINY_PPO}).exit_code == 0
    assert prepared["x"]["config"]["env"] == "CartPole-v1"
    assert "env" not in prepared["x"]


@pytest.mark.parametrize(
    ("in_file", "options", "expected"),
    [
        pytest.param(None, (), True, id="default"),
        pytest.param(False, (), False, id="the-file-wins-over-the-default"),
        pytest.param(False, ("--checkpoint-at-end",), True, id="an-option-wins-over-the-file"),
        pytest.param(True, ("--no-checkpoint-at-end",), False, id="also-to-switch-off"),
    ],
)
def test_checkpoint_at_end(run_file, prepared, in_file, options, expected):
    section = {} if in_file is None else {"checkpoint_at_end": in_file}
    assert run_file({"x": TINY_PPO | {"checkpoint_config": section}}, *options).exit_code == 0
    assert prepared["x"]["checkpoint_config"]["checkpoint_at_end"] is expected


def test_options_override_the_file(run_file, prepared):
    options = ("--stop", "{training_iteration: 5}", "--num-samples", "3", "-n", "renamed")
    settings = ("--set", "lr=1e-3", "--set", "env_config.shift=[1, 2]")
    assert run_file({"x": TINY_PPO}, *options, *settings).exit_code == 0
    spec = prepared["renamed"]
    assert spec["stop"] == {"training_iteration": 5}
    assert spec["num_samples"] == 3
    assert spec["config"]["lr"] == 0.001
    assert spec["config"]["env_config"] == {"shift": [1, 2]}


def test_numbers_without_a_decimal_point_are_numbers(run_file, prepared):
    assert run_file("x: {run: PPO, env: CartPole-v1, config: {lr: 3e-4}}").exit_code == 0
    assert prepared["x"]["config"]["lr"] == 0.0003


def test_several_experiments_cannot_share_one_name(run_file):
    result = run_file({"x": TINY_PPO, "y": TINY_PPO}, "--experiment-name", "both")
    assert result.exit_code == 2
    assert "one experiment, got 2 (x, y)" in result.stderr


def test_help_does_not_import_ray():
    code = (
        "import sys; from typer.testing import CliRunner; from rllib_offset.cli import app;"
        "assert CliRunner().invoke(app, ['train', 'file', '--help']).exit_code == 0;"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", TUNED_CONFIGS, ids=lambda path: path.stem)
def test_every_tuned_config_is_valid(path):
    for name, spec in cli.load_experiments(path).items():
        cli.prepare_experiment(name, spec)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore")
class TestTraining:
    def test_one_line_per_iteration_then_a_summary(self, run_file, tmp_path):
        result = run_file({"tiny": TINY_PPO}, "--storage-path", str(tmp_path / "results"))
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert [line.split()[:2] for line in lines[:2]] == [["iter", "1/2"], ["iter", "2/2"]]
        assert "evaluation        -" in lines[0]
        assert "tiny: PPO" in lines
        (trial,) = (tmp_path / "results" / "tiny").glob("PPO_*")
        assert f"  results                 {trial}" in lines
        assert (trial / "checkpoint_000000").is_dir()
        assert list(trial.glob("events.out.tfevents.*"))

    def test_a_failed_trial_is_exit_code_1_with_its_cause(self, run_file, tmp_path):
        content = with_config(env_config={"nonsense": 1})
        result = run_file(content, "--storage-path", str(tmp_path / "results"))
        assert result.exit_code == 1
        cause, where = result.stderr.splitlines()[-2:]
        assert "TypeError: " in cause
        assert "nonsense" in cause
        assert "nonsense" in Path(where.removeprefix("The traceback is in ")).read_text()

    def test_more_than_the_cluster_has_is_refused(self, run_file):
        result = run_file(with_config(num_env_runners=500))
        assert result.exit_code == 2
        assert "needs 501 CPU" in result.stderr
