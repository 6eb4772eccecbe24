"""What is built holds everything, and works where the repository is not."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUNED_CONFIGS = {path.name for path in (ROOT / "tuned_configs").glob("*.yaml")}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, built from the sdist as an installer would, and the sdist."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    build = ["-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    run(sys.executable, *build)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def run(*command, cwd=None):
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=alone
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


def configs_in(names, folder):
    paths = [Path(name) for name in names]
    return {path.name for path in paths if path.parent.as_posix().endswith(folder)}


@pytest.mark.slow
def test_the_wheel_holds_the_examples_and_the_types(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
    assert configs_in(names, "rllib_offset/tuned_configs") == TUNED_CONFIGS
    assert "rllib_offset/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "docs", "examples"))]


@pytest.mark.slow
def test_a_type_checker_finds_a_misspelt_argument(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "mine.py").write_text(
        "from rllib_offset import OffsetA2CConfig\n"
        "config = OffsetA2CConfig().environment('x').slow_simulator(num_replay_workers=3)\n"
        "config.labels(level='sample').offset(ensemble_size=2)\n"
        "config.slow_simulator(num_replay_worker=3)\n"
        "config.labels(level='samples')\n"
    )
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "mine.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    finished = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    errors = [line for line in finished.stdout.splitlines() if ": error: " in line]
    assert [line.split(":")[:2] for line in errors] == [["mine.py", "4"], ["mine.py", "5"]]
    assert "num_replay_workers" in errors[0]


@pytest.mark.slow
def test_the_sdist_holds_the_examples_and_the_tests(built):
    with tarfile.open(built[1]) as sdist:
        names = sdist.getnames()
    assert configs_in(names, "/tuned_configs") >= TUNED_CONFIGS
    for folder in ("tests", "examples", "docs"):
        assert configs_in(names, f"/{folder}")


@pytest.mark.slow
def test_the_command_works_from_an_installed_wheel(built, tmp_path):
    """The dependencies are borrowed from this environment; the package is not."""
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run(str(scripts / "python"), "-m", "pip", "install", "-q", "--no-deps", str(built[0]))
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    dependencies = Path(pytest.__file__).parents[1]
    (site / "dependencies.pth").write_text(f"{dependencies}\n")

    rllib = str(scripts / "rllib")
    listed = run(rllib, "example", "list", cwd=tmp_path)
    assert {f"{line.split()[0]}.yaml" for line in listed.splitlines()} == TUNED_CONFIGS
    assert run(rllib, "example", "get", "demo", cwd=tmp_path).startswith("# Algorithm 2")
    where = run(
        str(scripts / "python"),
        "-c",
        "import rllib_offset; print(rllib_offset.__file__)",
        cwd=tmp_path,
    )
    assert str(site) in where
    point_mass = "rllib_offset.envs:rllib_offset/PointMass-v0"
    assert "level 2" in run(rllib, "check", point_mass, point_mass, cwd=tmp_path)
