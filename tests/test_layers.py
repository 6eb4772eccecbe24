"""Imports go down the floors only; see the list of parts in the design."""

import ast
from pathlib import Path

import pytest

import rllib_offset

PACKAGE = Path(rllib_offset.__file__).parent

FLOORS = (
    {"columns", "config_keys", "errors", "folder_checks", "metrics", "old_spellings", "ray_version"}
    | {"bounds", "row_statistics", "state_file", "timing", "value_rules"},
    {"envs", "numpy_predictor", "pair", "pair_facts", "paired_data", "simulator_state", "store"}
    | {"fingerprint", "label_index", "measurements", "results", "segment_reader", "store_report"}
    | {"tables"},
    {
        "conformal",
        "corrected_env",
        "correction",
        "ensemble_fit",
        "fidelity",
        "offset_trainer",
        "predictor",
    }
    | {"figures", "outside", "sampling", "timing_figures"},
    {
        "batch_time",
        "dynamics",
        "env_runner",
        "seeded_env_runner",
        "estimator",
        "held_labels",
        "initial_labels",
        "learner",
        "learner_batch",
        "ledger",
        "pair_check",
        "policy",
        "quick_logger",
        "quick_stats",
        "replay",
    },
    {"a2c", "algorithm", "batch_time_log", "callbacks", "config", "figure_callback"}
    | {"offset_state", "rollouts", "setting_rules", "slow_evaluation"},
    {
        "checkpoint_checks",
        "cli",
        "commands",
        "compare",
        "console",
        "evaluation",
        "experiment_checks",
        "experiment_storage",
        "experiments",
        "interruption",
        "launch",
        "page_figure",
        "paper",
        "paper_timings",
        "planner",
        "played_episodes",
        "proposals",
        "report",
        "report_answer",
        "report_claims",
        "report_figures",
        "report_times",
        "report_views",
        "reporting",
        "stop_rules",
        "user_errors",
    },
)
# Deferred imports that go up: `EnvPair.check()` replays, but a pair is built without replay.
UPWARDS = {("pair", "pair_check")}
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
# Part of the package -> what none of its modules may import, so that it starts fast.
LIGHT = {
    "replay": {"torch", "ray.rllib", "ray.tune"},
    "envs": {"torch", "ray"},
    "cli": {"ray", "torch"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(path):
    return set(imported_names(ast.parse(path.read_text(encoding="utf-8"))))


def starts_with(name, package):
    return f"{name}.".startswith(f"{package}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_from_its_own_floor_or_below(path):
    floor = FLOOR_OF[part_of(path)]  # a new part needs a floor
    names = [name.split(".") for name in imports_of(path)]
    parts = {name[1] for name in names if name[0] == PACKAGE.name and len(name) > 1}
    above = {part for part in parts if FLOOR_OF.get(part, -1) > floor}
    assert {(part_of(path), part) for part in above} <= UPWARDS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_ray_and_torch_first_appear_on_their_floors(path):
    floor = FLOOR_OF[part_of(path)]
    banned = LIGHT.get(part_of(path), set())
    banned = banned | ({"ray"} if floor < FLOOR_OF["replay"] else set())
    banned = banned | ({"torch"} if floor < FLOOR_OF["predictor"] else set())
    heavy = {name for name in imports_of(path) if any(starts_with(name, b) for b in banned)}
    assert not heavy
