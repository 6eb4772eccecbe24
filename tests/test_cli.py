import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rllib_offset import cli, launch
from rllib_offset.commands import train
from rllib_offset.experiment_checks import prepare_experiment
from rllib_offset.experiments import load_experiments
from rllib_offset.user_errors import UserError
from tests.battery import needs_pybamm
from tests.opamp import needs_library

TUNED_CONFIGS = sorted((Path(__file__).parent.parent / "tuned_configs").glob("*.yaml"))
SIMULATORS = {"opamp": needs_library, "cell": needs_pybamm}
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


pytestmark = pytest.mark.usefixtures("noise_comes_back")


@pytest.fixture
def ray_must_not_start(monkeypatch):
    def start(*_args):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(launch, "start_ray", start)


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
            with_config(minibatch_size=999), r"`minibatch_size` must be at most", id="value"
        ),
        pytest.param(
            with_config(minibatch_size={"grid_search": [50, 999]}),
            r"`minibatch_size` must be at most",
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
    monkeypatch.setattr(train, "run_experiments", lambda experiments, *_: seen.update(experiments))
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


def test_options_alone_describe_an_experiment(prepared):
    words = ("--run", "PPO", "-e", "CartPole-v1", "-c", "{lr: 3e-4}", "-s", "{timesteps_total: 9}")
    result = CliRunner().invoke(cli.app, ["train", *words, "--set", "model.fcnet_hiddens=[8]"])
    assert result.exit_code == 0, result.output
    spec = prepared["ppo-cartpole-v1"]
    assert spec["run"] == "PPO"
    assert spec["stop"] == {"num_env_steps_sampled_lifetime": 9}
    assert spec["config"] == {
        "env": "CartPole-v1",
        "lr": 0.0003,
        "model_config": {"fcnet_hiddens": [8]},
    }
    assert "Note: `model` is now `model_config`\n" in result.stderr


def test_options_that_the_old_command_needed_are_left_out_with_a_note(prepared):
    words = ("--algo", "PPO", "--env", "CartPole-v1", "--framework", "torch", "--no-ray-ui")
    result = CliRunner().invoke(cli.app, ["train", *words])
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [
        "Note: --framework is left out: there is only torch",
        "Note: --no-ray-ui is left out: it has no meaning any more",
    ]
    assert prepared["ppo-cartpole-v1"]["run"] == "PPO"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--framework=tf2", "--algo", "PPO"], "there is only torch"),
        (["train", "file", "x.yaml", "--resources-per-trial", "{}"], "set `num_env_runners`"),
        (["evaluate", "x", "--save-info"], "use --out PATH"),
    ],
)
def test_an_option_that_is_gone_is_refused_with_its_successor(words, message):
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert " is gone: " in result.stderr
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_an_algorithm_there_is_nothing_to_train():
    result = CliRunner().invoke(cli.app, ["train", "--env", "CartPole-v1"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: no algorithm; give e.g. --algo")


def test_an_option_before_the_file_is_refused(prepared):
    result = CliRunner().invoke(cli.app, ["train", "--stop", "{}", "file", "x.yaml"])
    assert result.exit_code == 2
    assert "--stop comes after the file" in result.stderr


@pytest.mark.parametrize(
    ("in_file", "options", "expected"),
    [
        pytest.param({}, (), {"checkpoint_at_end": True}, id="default"),
        pytest.param(
            {"checkpoint_frequency": 5, "num_to_keep": 2},
            (),
            {"checkpoint_at_end": True, "checkpoint_frequency": 5, "num_to_keep": 2},
            id="the-file-is-kept",
        ),
        pytest.param(
            {"checkpoint_frequency": 5},
            ("--checkpoint-freq", "1", "--keep-checkpoints-num", "3"),
            {"checkpoint_at_end": True, "checkpoint_frequency": 1, "num_to_keep": 3},
            id="an-option-wins",
        ),
        pytest.param(
            {},
            ("--checkpoint-score-attr", "min-episode_len_mean"),
            {
                "checkpoint_at_end": True,
                "checkpoint_score_attribute": "env_runners/episode_len_mean",
                "checkpoint_score_order": "min",
            },
            id="old-score",
        ),
    ],
)
def test_checkpoint_options(run_file, prepared, in_file, options, expected):
    assert run_file({"x": TINY_PPO | {"checkpoint_config": in_file}}, *options).exit_code == 0
    assert prepared["x"]["checkpoint_config"] == expected


OLD_LAYOUT = """
cartpole-ppo:
    env: CartPole-v1
    run: PPO
    stop: {episode_reward_mean: 150, timesteps_total: 100000}
    config:
        framework: torch
        num_workers: 0
        num_sgd_iter: 6
        sgd_minibatch_size: 128
        train_batch_size: 4000
        observation_filter: MeanStdFilter
        model: {fcnet_hiddens: [32], fcnet_activation: linear}
        vf_share_layers: true
"""


@pytest.mark.filterwarnings("ignore")
def test_an_old_file_runs_with_one_note_per_key(run_file, monkeypatch):
    seen = {}
    monkeypatch.setattr(launch, "start_ray", lambda *_: None)
    monkeypatch.setattr(launch, "_prepare_for_tune", lambda experiments: seen.update(experiments))
    monkeypatch.setattr(launch, "_tune", lambda *_: ([], None, None))
    monkeypatch.setattr(launch, "_finish", lambda *_: None)
    result = run_file(OLD_LAYOUT)
    assert result.exit_code == 0, result.output
    spec = seen["cartpole-ppo"]
    assert spec["stop"] == {
        "env_runners/episode_return_mean": 150,
        "num_env_steps_sampled_lifetime": 100000,
    }
    assert spec["config"].pop("_env_to_module_connector")().__class__.__name__ == "MeanStdFilter"
    assert spec["config"] == {
        "env": "CartPole-v1",
        "num_env_runners": 0,
        "num_epochs": 6,
        "minibatch_size": 128,
        "train_batch_size_per_learner": 4000,
        "_model_config": {
            "fcnet_hiddens": [32],
            "fcnet_activation": "linear",
            "vf_share_layers": True,
        },
    }
    notes = result.stderr.splitlines()
    assert len(notes) == 10
    assert all(note.startswith("Note: `") for note in notes)


PYTHON_FILE = """
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

config = (
    PPOConfig()
    .environment("CartPole-v1")
    .training(lr=tune.grid_search([0.001, 0.01]), minibatch_size=50)
)
stop = {"training_iteration": 2}
"""


@pytest.mark.filterwarnings("ignore")
def test_a_python_file_defines_config_and_stop(tmp_path, prepared):
    (tmp_path / "mine.py").write_text(PYTHON_FILE)
    result = CliRunner().invoke(cli.app, ["train", "file", str(tmp_path / "mine.py")])
    assert result.exit_code == 0, result.output
    spec = prepared["mine"]
    assert spec["stop"] == {"training_iteration": 2}
    assert spec["config"] == {
        "env": "CartPole-v1",
        "lr": {"grid_search": [0.001, 0.01]},
        "minibatch_size": 50,
    }
    prepare_experiment("mine", spec)


@pytest.mark.filterwarnings("ignore")
def test_a_configuration_goes_to_yaml_and_back(tmp_path, run_file, prepared):
    (tmp_path / "mine.py").write_text(
        "from rllib_offset import OffsetA2CConfig\n"
        "config = OffsetA2CConfig().environment('CartPole-v1').slow_simulator(\n"
        "    env='CartPole-v1', num_replay_workers=3\n"
        ").labels(level='sample', initial=7)\n"
    )
    assert CliRunner().invoke(cli.app, ["train", "file", str(tmp_path / "mine.py")]).exit_code == 0
    config = prepared["mine"]["config"]
    assert yaml.safe_load(yaml.safe_dump(config)) == config
    assert run_file({"again": {"run": "OffsetA2C", "config": config}}).exit_code == 0
    assert prepared["again"]["config"] == config
    assert config["initial_labels"] == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = 1", "must define `config`"), ("1 / 0", "raised ZeroDivisionError")],
)
def test_a_mistaken_python_file_is_one_line(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    result = CliRunner().invoke(cli.app, ["train", "file", str(tmp_path / "mine.py")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.filterwarnings("ignore")
def test_samplers_can_be_written_in_a_file():
    spec = {"run": "PPO", "config": {"env": "CartPole-v1", "lr": {"loguniform": [1e-4, 1e-2]}}}
    prepare_experiment("x", spec)
    assert 1e-4 <= spec["config"]["lr"].sample() <= 1e-2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("written", ["labels", {"grid_search": ["labels"]}], ids=["one", "search"])
def test_a_label_store_in_a_file_is_in_the_folder_that_the_command_was_given_in(
    tmp_path, monkeypatch, written
):
    monkeypatch.chdir(tmp_path)
    spec = {"run": "OffsetA2C", "config": {"env": "CartPole-v1", "slow_env": "CartPole-v1"}}
    spec["config"]["label_store"] = written
    prepare_experiment("x", spec)
    here = str(tmp_path / "labels")
    assert spec["config"]["label_store"] in (here, {"grid_search": [here]})


@pytest.mark.filterwarnings("ignore")
def test_a_mistaken_sampler_is_refused():
    spec = {"run": "PPO", "config": {"lr": {"loguniform": [1e-4, 1e-2, 3, 4, 5]}}}
    with pytest.raises(UserError, match="loguniform"):
        prepare_experiment("x", spec)


@pytest.mark.usefixtures("ray_must_not_start")
@pytest.mark.filterwarnings("ignore")
def test_an_unknown_scheduler_is_refused_with_the_nearest_one(run_file):
    result = run_file({"x": TINY_PPO}, "--scheduler", "AHSA")
    assert result.exit_code == 2
    assert "--scheduler AHSA: unknown scheduler" in result.stderr


def test_resuming_says_what_it_does_not_read(run_file, prepared):
    given = ("--resume", "--stop", "{}", "--set", "lr=1")
    result = run_file({"x": TINY_PPO}, *given)
    assert result.exit_code == 0
    assert "--stop, --set is not read" in result.stderr
    assert "no `stop`" not in result.stderr


def with_its_simulators(path):
    marks = [mark for name, mark in SIMULATORS.items() if path.stem.startswith(f"{name}-")]
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", [with_its_simulators(path) for path in TUNED_CONFIGS])
def test_every_tuned_config_is_valid(path):
    experiments, notes = load_experiments(path)
    assert not notes
    for name, spec in experiments.items():
        prepare_experiment(name, spec)


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
        assert "CartPole" not in trial.name  # short enough to be typed
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

    def test_experiments_run_together_keep_their_results_and_resume(self, run_file, tmp_path):
        """Tune by itself keeps the results of the first experiment only."""
        place = ("--storage-path", str(tmp_path / "results"))
        result = run_file({"first": TINY_PPO, "second": TINY_PPO}, *place)
        assert result.exit_code == 0, result.output
        for name in ("first", "second"):
            (trial,) = (tmp_path / "results" / name).glob("PPO_*")
            assert (trial / "result.json").read_text().count("\n") == 2
        assert "  try the agent       rllib evaluate " in result.stdout
        again = run_file({"first": TINY_PPO, "second": TINY_PPO}, *place, "--resume")
        assert again.exit_code == 0, again.output
        assert again.stdout.count("  iterations              2 in ") == 2
        second = tmp_path / "results" / "second"
        assert f"  results                 {second}" in again.stdout

    def test_nothing_to_resume_is_one_line(self, run_file, tmp_path):
        place = ("--storage-path", str(tmp_path / "results"))
        result = run_file({"new": TINY_PPO}, *place, "--resume")
        assert result.exit_code == 2
        assert "nothing to resume" in result.stderr


@pytest.mark.parametrize(
    ("cluster", "address"),
    [
        pytest.param(launch.Cluster(), None, id="any"),
        pytest.param(launch.Cluster(num_cpus=2), "local", id="sized"),
        pytest.param(launch.Cluster(address="ray://there:1"), "ray://there:1", id="named"),
    ],
)
def test_a_cluster_of_a_given_size_is_started_beside_any_that_runs(monkeypatch, cluster, address):
    import ray

    asked = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    launch.start_ray(cluster)
    assert (asked["address"], asked.get("num_cpus")) == (address, cluster.num_cpus)
