"""Every row of `docs/errors.md`: wrong input is one line on standard error and exit code 2."""

import math
import os
import pickle
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rllib_offset import cli

DOCUMENT = Path(__file__).parents[1] / "docs" / "errors.md"
FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"
RLLIB = "from rllib_offset.cli import main; main()"
VALID = f"""
x:
  run: OffsetA2C
  env: {FAST}
  config: {{slow_env: "{SLOW}", num_replay_workers: 0}}
"""


def cells_of(line):
    return [cell.strip().removeprefix("`` ").removesuffix(" ``") for cell in line.split(" | ")]


def rows():
    """Yield (section, number of the line, cells) of every row of the document."""
    section = ""
    for number, line in enumerate(DOCUMENT.read_text(encoding="utf-8").splitlines()):
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| what"):
            yield section, number, cells_of(line.removeprefix("| ").removesuffix(" |"))


ROWS = list(rows())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in, where nothing may start."""
    import ray

    monkeypatch.syspath_prepend(DOCUMENT.parents[1])

    def refuse(*args, **kwargs):
        raise AssertionError("it was not refused")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_checkpoint(folder, algorithm, **settings):
    """Write what is read of a checkpoint before anything starts."""
    config = {"env": FAST, "slow_env": SLOW, "env_config": {}, "slow_env_config": {}} | settings
    folder.mkdir()
    content = {"class": algorithm, "ctor_args_and_kwargs": ((config,), {})}
    (folder / "class_and_ctor_args.pkl").write_bytes(pickle.dumps(content))
    (folder / "algorithm_state.pkl").write_bytes(pickle.dumps({"offset": {}}))
    return folder


def write_checkpoints(folder):
    from ray.rllib.algorithms.ppo import PPO

    from rllib_offset import OffsetA2C

    (folder / "empty").mkdir()
    write_checkpoint(folder / "whole", OffsetA2C)
    write_checkpoint(folder / "foreign", PPO)
    torn = write_checkpoint(folder / "torn", OffsetA2C) / "algorithm_state.pkl"
    torn.write_bytes(torn.read_bytes()[:-5])


def install_ray(monkeypatch, version):
    def found(name):
        if version == "nothing":
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", found)


def words_of(folder, section, given):
    """Write the file that the row is about, and return the command's words."""
    file = folder / "FILE.yaml"
    file.write_text(VALID)
    if section == "Commands":
        (folder / "setup.txt").write_text(VALID)
        return shlex.split(given)
    if section == "Files":
        file.write_text(
            "" if given == "nothing" else given.replace(r"\n", "\n").replace(r"\t", "\t")
        )
    options = [] if section in ("Files", "Installation") else shlex.split(given)
    return ["train", "file", "FILE.yaml", *options]


@pytest.mark.parametrize(
    ("section", "number", "cells"), ROWS, ids=[cells[0].replace(" ", "-") for *_, cells in ROWS]
)
def test_wrong_input_is_answered_as_documented(folder, monkeypatch, section, number, cells):
    _, given, answer = cells
    if section == "Checkpoints":
        write_checkpoints(folder)
    before = {"FILE.yaml", *(path.name for path in folder.iterdir())}
    before |= {"setup.txt"} if section == "Commands" else set()
    # a command has a process of its own, where no cluster runs yet that could be too small
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": math.inf})
    if section == "Installation":
        install_ray(monkeypatch, given)
    result = CliRunner().invoke(cli.app, words_of(folder, section, given))
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.replace(f"{folder}/", "").splitlines()
    if os.environ.get("REWRITE_ERRORS"):
        lines = DOCUMENT.read_text(encoding="utf-8").splitlines(keepends=True)
        lines[number] = lines[number].replace(answer, line.removeprefix("Error: "))
        DOCUMENT.write_text("".join(lines), encoding="utf-8")
    else:
        assert line == f"Error: {answer}"
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "cells"),
    [row[::2] for row in ROWS if row[0] not in ("Checkpoints", "Installation")][::12],
)
def test_a_command_answers_within_ten_seconds(tmp_path, section, cells):
    _, given, answer = cells
    words = [sys.executable, "-c", RLLIB, *words_of(tmp_path, section, given)]
    path = os.pathsep.join(filter(None, (str(DOCUMENT.parents[1]), os.environ.get("PYTHONPATH"))))
    start_s = time.monotonic()
    finished = subprocess.run(
        words,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - start_s
    print(f"{seconds:.1f} s", file=sys.stderr)
    assert (finished.returncode, finished.stderr) == (2, f"Error: {answer}\n")
    assert seconds < 10


def test_there_are_many_of_them():
    assert len(ROWS) >= 60
