"""The pages: every public name is in the reference, and they build without a dead link."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rllib_offset

ROOT = Path(__file__).parents[1]
REFERENCE = "\n".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", rllib_offset.__all__)
@pytest.mark.filterwarnings("ignore")
def test_every_public_name_has_a_docstring_and_a_place_in_the_reference(name):
    thing = getattr(rllib_offset, name)
    assert (thing.__doc__ or "").strip()
    assert re.search(rf"^::: rllib_offset\.(\w+\.)*{name}$", REFERENCE, flags=re.M)


@pytest.mark.filterwarnings("ignore")
def test_every_setting_is_explained(hooks):
    table = hooks.settings()
    assert table.count("\n| `") > 30
    assert "| `num_replay_workers` | `num_replay_workers` | `1` | Ray actors" in table


def test_every_metric_is_in_its_table(hooks):
    assert "| `holdout_mae` |" in hooks.metrics()


def test_every_environment_is_in_its_table(hooks):
    table = hooks.environments()
    assert "| `rllib_offset/PointMass-v0` | `PointMassEnv` | 100 |" in table


def test_every_verb_is_in_the_reference(hooks):
    from rllib_offset.cli import app

    verbs = {command.name for command in app.registered_commands}
    text = hooks.commands()
    assert not [verb for verb in verbs if f"## rllib {verb}\n" not in text]


@pytest.mark.slow
def test_the_pages_build_and_load_nothing_from_the_network(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    loading = re.compile(r'<(?:script|img|iframe)[^>]+src="https?:|<link[^>]+href="https?:')
    assert not [page for page in pages if loading.search(page.read_text(encoding="utf-8"))]
