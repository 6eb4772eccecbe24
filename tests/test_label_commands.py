"""`rllib labels` and `rllib replay-one`, as plain functions on an app of their own."""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rllib_offset.commands.labels import labels
from rllib_offset.commands.replay_one import replay_one
from rllib_offset.fingerprint import label_location
from rllib_offset.pair import EnvPair
from rllib_offset.replay.known import KnownLabels
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.worker import ReplayWorker

app = typer.Typer()
app.command("labels")(labels)
app.command("replay-one")(replay_one)


def run(*words):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture
def store(tmp_path):
    """A folder with five labels, two more of an attempt that failed, and that failure."""
    flag = tmp_path / "flag"
    flag.touch()
    config = {"flag": str(flag), "at_step": 2, "how": "raise"}
    pair = EnvPair("tests.envs.StatefulEnv", "tests.envs.FaultyEnv", {}, config)
    location = label_location(pair, str(tmp_path / "labels"))
    known = KnownLabels(location)
    worker = ReplayWorker(pair, location)
    request = ReplayRequest((1, 0), "trajectory", np.zeros((5, 2), np.float32), seed=1)
    known.with_failure_noted(worker.replay(request, "a", "p"), "a")
    flag.unlink()
    worker.replay(request, "a", "q")
    worker.close()
    flag.touch()
    return known.store


def test_a_traceback_that_every_step_repeats_is_shown_once(tmp_path):
    config = {"flag": str(tmp_path / "flag"), "at_step": 0, "how": "raise"}
    (tmp_path / "flag").touch()
    pair = EnvPair("tests.envs.StatefulEnv", "tests.envs.FaultyEnv", {}, config)
    location = label_location(pair, str(tmp_path / "labels"))
    known = KnownLabels(location)
    actions = np.zeros((5, 2), np.float32)
    request = ReplayRequest(
        (1, 0), "steps", actions, states=np.zeros((5, 2)), fast={"action": actions}
    )
    worker = ReplayWorker(pair, location)
    known.with_failure_noted(worker.replay(request, "a", "p"), "a")
    worker.close()
    path = str(tmp_path / "labels")
    own = ("--slow", "tests.envs.FaultyEnv", "--fast", "tests.envs.StatefulEnv")
    again = run("replay-one", path, run("replay-one", path).output.split()[0], *own)
    assert again.exit_code == 1
    assert "0 of 5 steps finished" in again.output
    assert again.output.count("in _fail") == 1


@pytest.fixture
def path(store):
    return store.folder.rpartition("/")[0]


def test_a_summary_counts_what_was_bought(path):
    result = run("labels", path)
    assert result.exit_code == 0
    assert "tests.envs.StatefulEnv / tests.envs.FaultyEnv" in result.output
    assert "7 slow steps (7 trajectory)" in result.output
    assert "2 segments, 0 damaged" in result.output


def test_verify_says_what_is_wrong_and_fails_where_a_segment_is_damaged(path, store):
    result = run("labels", "verify", path)
    assert (result.exit_code, "0 bought twice" in result.output) == (0, True)
    assert "2 of attempts that broke off" in result.output
    assert "run a: 7 slow steps" in result.output
    name = store.segment_names()[0]
    with open(f"{store.folder}/{name}", "ab") as file:
        file.write(b"x")
    result = run("labels", "verify", path)
    assert result.exit_code == 1
    assert f"{name}: its checksum is" in result.output


def test_an_export_writes_what_it_is_asked_for(path, tmp_path):
    result = run("labels", "export", path, "--csv", tmp_path / "a.csv")
    assert result.exit_code == 0
    assert "a.csv: 7 slow steps" in result.output
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 8


def test_replay_one_lists_what_failed_and_replays_it_alone(path, tmp_path):
    listed = run("replay-one", path)
    assert "1 requests failed" in listed.output
    name = listed.output.split()[0]
    own = ("--slow", "tests.envs.FaultyEnv", "--fast", "tests.envs.StatefulEnv")
    again = run("replay-one", path, name, *own)
    assert again.exit_code == 1
    assert "2 of 5 steps finished" in again.output
    assert "It failed again: the slow simulator raised ArithmeticError" in again.output
    assert "in _fail" in again.output  # the simulator's own traceback
    (tmp_path / "flag").unlink()
    assert run("replay-one", path, name, *own).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["labels", "/nowhere"], "no labels in '/nowhere'", id="no-folder"),
        pytest.param(["labels", "export", "PATH"], "add --csv FILE or --parquet", id="no-file"),
        pytest.param(["labels", "drop", "PATH"], "got 'drop PATH'", id="no-action"),
        pytest.param(["labels", "export"], "and a folder, got 'export'", id="no-path"),
        pytest.param(["labels", "PATH", "--csv", "x"], "belong to `rllib labels exp", id="csv"),
        pytest.param(
            ["labels", "export", "PATH", "--csv", "/proc/x"],
            "cannot write /proc/x",
            id="unwritable",
        ),
        pytest.param(["replay-one", "PATH", "x"], "no failed request 'x'", id="no-request"),
        pytest.param(["replay-one", "/nowhere"], "no labels in", id="no-store"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(path, words, message):
    result = run(*[path if word == "PATH" else word for word in words])
    assert result.exit_code == 2
    assert message.replace("PATH", path) in result.output
    assert len(result.output.splitlines()) == 1


def test_a_simulator_is_only_imported_where_the_user_names_it(path):
    name = run("replay-one", path).output.split()[0]
    result = run("replay-one", path, name)
    assert result.exit_code == 2
    assert "name it yourself: --fast tests.envs.StatefulEnv" in result.output
