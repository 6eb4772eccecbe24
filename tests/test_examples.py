"""Every example runs, and answers the question at its head."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rllib_offset import EnvPair
from tests.battery import needs_pybamm
from tests.opamp import needs_library

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_asks_one_question_in_less_than_60_lines(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    question = ast.get_docstring(ast.parse(text)).splitlines()[0]
    assert question.endswith("?")


def test_every_example_is_run_below():
    tests = Path(__file__).read_text()
    assert not [path.stem for path in EXAMPLES if f'"{path.stem}"' not in tests]


def test_each_level_of_a_pair_is_reached():
    example = load("bring_your_own_pair")
    reports = [EnvPair(fast, slow).check() for fast, slow in example.PAIRS]
    assert [report.level for report in reports] == [0, 1, 2]
    assert not any(report.problems for report in reports)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "external_simulator",
        "ledger_with_pandas",
        "offset_under_ppo",
        "population_based_training",
        "quickstart",
        "resume_after_a_crash",
        "several_nodes",
        "tune_search_with_asha",
    ],
)
def test_an_example_runs_as_a_script_and_says_something(name, tmp_path):
    """As a user runs it: in a process of its own, with results out of the way."""
    lines = run_script(name, tmp_path)
    assert lines
    if name == "resume_after_a_crash":
        without, after = (float(word.rstrip(",")) for word in lines[-1].split() if "." in word)
        assert without == after
    if name == "several_nodes":
        assert lines[-1] == "2000 slow steps on 2 nodes"
    if name == "ledger_with_pandas":
        assert lines[-1].split()[1] == "58"  # 50 before training, then 2 in each iteration


@pytest.mark.slow
def test_the_corrected_environment_trains_agents_of_other_libraries(tmp_path):
    pytest.importorskip("stable_baselines3")
    (line,) = run_script("corrected_env_with_sb3", tmp_path)
    promise, truth = map(float, re.findall(r"-?\d+\.\d", line))
    assert truth > -15  # measured: -4.3; a random agent has -88, the best possible one -3.3
    assert abs(promise - truth) < 15


@pytest.mark.slow
@needs_library
def test_a_design_is_proposed_after_a_training_cut_short():
    example = load("opamp_design")
    small = {"train_batch_size_per_learner": 600, "minibatch_size": 300, "num_epochs": 1}
    small |= {"num_envs_per_env_runner": 20, "num_replay_workers": 0, "initial_labels": 4}
    small |= {"offset_initial_steps": 5, "slow_env_config": {"group": 25}}
    (proposal,) = example.main(2, small)  # too short to pass, long enough to be verified
    assert 1 <= proposal.slow_steps <= 3
    assert set(proposal.attempts[0].verified) >= set(example.REQUEST)


@pytest.mark.slow
@needs_pybamm
def test_a_cell_is_proposed_after_a_training_cut_short(capsys):
    example = load("battery_cell")
    small = {"num_replay_workers": 0, "initial_labels": 6, "offset_initial_steps": 5}
    (proposal,) = example.main(1, small)
    assert capsys.readouterr().out.startswith("6 labels")
    assert 1 <= proposal.slow_steps <= 3
    assert set(proposal.attempts[0].verified) >= set(example.REQUEST)


def run_script(name, home):
    # what Ray has told this process of its own cluster's token means nothing in another home
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", str(FOLDER / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=120,  # on 2 cores with nothing else to do
        check=False,
        env={**inherited, "HOME": str(home), "PYTHONPATH": str(FOLDER.parent)},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout.splitlines()
