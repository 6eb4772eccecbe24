"""The code of the README runs as it is printed."""

import re
from pathlib import Path

import pytest

from rllib_offset import EnvPair

README = (Path(__file__).parents[1] / "README.md").read_text()
FIRST_RUN, PAIR = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_the_first_run_has_at_most_15_lines():
    assert len([line for line in FIRST_RUN.splitlines() if line]) <= 15


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore")
def test_the_first_run_trains_and_tells_what_it_says(tmp_path, capsys):
    short = FIRST_RUN.replace('"training_iteration": 60', '"training_iteration": 1')
    short = short.replace('"evaluation_interval": 10', '"evaluation_interval": 1')
    short = short.replace("    stop=", f"    storage_path={str(tmp_path)!r},\n    stop=")
    exec(compile(short, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.rsplit(" ", 1)[0] for line in lines] == ["truth", "slow steps"]
    assert float(lines[0].split()[-1]) < 0
    assert float(lines[1].split()[-1]) == 51  # 50 before training, one in the iteration


def test_the_pair_is_of_the_highest_level():
    names = {}
    exec(compile(PAIR, "README.md", "exec"), names)
    report = EnvPair(names["Beam"], names["Beam"], slow_config={"mesh": 64}).check()
    assert report.level == 2
    assert not report.problems
