"""The pages: every public name is in the reference, and they build without a dead link."""

import importlib.util
import re
import shlex
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


@pytest.mark.filterwarnings("ignore")
def test_defaults_are_those_of_the_code(hooks):
    table = hooks.defaults()
    assert "| `train_batch_size_per_learner` | `None` | `1000` | `1000` |" in table
    assert "| `callbacks_class` | `RLlibCallback` | `ScoreCallback` | `OffsetCallback` |" in table
    assert "num_replay_workers" not in table


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


def commands_in(text):
    """Every `rllib ...` line of the shell blocks of a page, continued lines joined."""
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("rllib "):
                yield line


COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line[:60]}")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for line in commands_in(page.read_text())
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_in_the_pages_is_one_that_the_verbs_understand(line):
    import typer

    from rllib_offset.cli import app

    command, (_, *words) = typer.main.get_command(app), shlex.split(line, comments=True)
    context = None
    while words and words[0] in getattr(command, "commands", {}):
        context = command.make_context("rllib", [], parent=context, resilient_parsing=True)
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words, parent=context)  # raises for what it does not know


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
