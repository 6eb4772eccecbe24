"""What is read is never executed, and what is written belongs to the user alone."""

import ast
import os
from pathlib import Path

import numpy as np
import pytest

import rllib_offset
from rllib_offset.config_keys import translate_keys
from rllib_offset.offset_trainer import OffsetTrainer
from rllib_offset.pair import make_env
from rllib_offset.store import LabelStore, StoreLocation

MODULES = sorted(Path(rllib_offset.__file__).parent.rglob("*.py"))
UNPICKLES_CHECKPOINTS_OF_RLLIB = {"checkpoint_checks.py", "evaluation.py", "rollouts.py"}


def calls_of(path):
    """Yield every call as (dotted name, names of its keyword arguments)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


CALLS = [(path, *call) for path in MODULES for call in calls_of(path)]


def test_yaml_is_loaded_safely_only():
    loaders = {name for _, name, _ in CALLS if name.startswith("yaml.") and "load" in name}
    assert loaders == {"yaml.safe_load"}


def test_nothing_but_checkpoints_of_rllib_is_unpickled():
    unpickling = {path.name for path, name, _ in CALLS if name.startswith("pickle.load")}
    assert unpickling <= UNPICKLES_CHECKPOINTS_OF_RLLIB


def test_arrays_are_loaded_without_pickles_and_torch_loads_nothing():
    assert not [path for path, name, _ in CALLS if name == "torch.load"]
    for path, name, keywords in CALLS:
        assert name != "np.load" or keywords.get("allow_pickle") == "False", path


def test_no_shell_and_no_evaluated_text():
    assert not [
        (path.name, name)
        for path, name, keywords in CALLS
        if name in ("eval", "exec", "os.system", "os.popen") or "shell" in keywords
    ]


@pytest.mark.parametrize(
    "name", ["subprocess.Popen", "os.system", "shutil.rmtree", "builtins.eval"]
)
def test_a_file_names_environments_and_can_call_nothing_else(name, tmp_path):
    target = tmp_path / "made"
    with pytest.raises(ValueError, match=r"must be a subclass of gymnasium\.Env"):
        make_env(name, {"touch": 1, str(target): 2})
    assert not target.exists()


@pytest.mark.parametrize("key", ["callbacks", "callbacks_class", "env_runner_cls", "learner_class"])
@pytest.mark.parametrize("name", ["subprocess.Popen", "os.getcwd", "gymnasium.Env"])
def test_a_file_names_classes_of_rllib_and_can_call_nothing_else(key, name):
    for value in (name, [name]):
        with pytest.raises(ValueError, match=f"`_?{key}` must name a subclass of .*, got {name}"):
            translate_keys({key: value})


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_follow_the_umask_of_the_user(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        store = LabelStore(StoreLocation(str(tmp_path / "labels"), "0f"))
        rows = {"identity": ["a"], "purchase": ["p"], "step": [0], "is_end": [True]}
        store.append({name: np.array(value) for name, value in rows.items()}, is_precious=True)
        trainer = OffsetTrainer(2, 1)
        trainer.add(np.zeros((20, 2)), np.ones((20, 1)))
        trainer.fit()
        trainer.save(tmp_path / "predictor")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}
