"""Every row of `docs/errors.md`: wrong input is one line on standard error and exit code 2."""

import os
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rllib_offset import cli

DOCUMENT = Path(__file__).parents[1] / "docs" / "errors.md"
VALID = """
x:
  run: OffsetA2C
  env: rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0
  config: {slow_env: "rllib_offset.envs:rllib_offset/PointMass-v0", num_replay_workers: 0}
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

    def refuse(*args, **kwargs):
        raise AssertionError("it was not refused")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder, section, given):
    file = folder / "FILE.yaml"
    file.write_text(VALID)
    if section == "Files":
        text = "" if given == "nothing" else given.replace(r"\n", "\n").replace(r"\t", "\t")
        file.write_text(text)
        words = ["train", "file", "FILE.yaml"]
    elif section == "Settings":
        words = ["train", "file", "FILE.yaml", *shlex.split(given)]
    else:
        words = shlex.split(given)
    return CliRunner().invoke(cli.app, words)


@pytest.mark.parametrize(
    ("section", "number", "cells"), ROWS, ids=[cells[0].replace(" ", "-") for *_, cells in ROWS]
)
def test_wrong_input_is_answered_as_documented(folder, section, number, cells):
    _, given, answer = cells
    result = run(folder, section, given)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    if os.environ.get("REWRITE_ERRORS"):
        lines = DOCUMENT.read_text(encoding="utf-8").splitlines(keepends=True)
        lines[number] = lines[number].replace(answer, line.removeprefix("Error: "))
        DOCUMENT.write_text("".join(lines), encoding="utf-8")
    else:
        assert line == f"Error: {answer}"
    assert {path.name for path in folder.iterdir()} == {"FILE.yaml"}


def test_there_are_many_of_them():
    assert len(ROWS) >= 60
