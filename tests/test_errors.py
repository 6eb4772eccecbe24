"""Every row of `docs/errors.md`: wrong input is one line on standard error and exit code 2."""

import math
import os
import pickle
import shlex
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rllib_offset import cli

DOCUMENT = Path(__file__).parents[1] / "docs" / "errors.md"
FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"
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


def run(folder, section, given, monkeypatch):
    file = folder / "FILE.yaml"
    file.write_text(VALID)
    if section == "Files":
        text = "" if given == "nothing" else given.replace(r"\n", "\n").replace(r"\t", "\t")
        file.write_text(text)
        words = ["train", "file", "FILE.yaml"]
    elif section == "Installation":
        install_ray(monkeypatch, given)
        words = ["train", "file", "FILE.yaml"]
    elif section != "Commands":
        words = ["train", "file", "FILE.yaml", *shlex.split(given)]
    else:
        words = shlex.split(given)
    return CliRunner().invoke(cli.app, words)


@pytest.mark.parametrize(
    ("section", "number", "cells"), ROWS, ids=[cells[0].replace(" ", "-") for *_, cells in ROWS]
)
def test_wrong_input_is_answered_as_documented(folder, monkeypatch, section, number, cells):
    _, given, answer = cells
    if section == "Checkpoints":
        write_checkpoints(folder)
    before = {"FILE.yaml", *(path.name for path in folder.iterdir())}
    # a command has a process of its own, where no cluster runs yet that could be too small
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": math.inf})
    result = run(folder, section, given, monkeypatch)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    if os.environ.get("REWRITE_ERRORS"):
        lines = DOCUMENT.read_text(encoding="utf-8").splitlines(keepends=True)
        lines[number] = lines[number].replace(answer, line.removeprefix("Error: "))
        DOCUMENT.write_text("".join(lines), encoding="utf-8")
    else:
        assert line == f"Error: {answer}"
    assert {path.name for path in folder.iterdir()} == before


def test_there_are_many_of_them():
    assert len(ROWS) >= 60
