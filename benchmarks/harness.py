"""Train arms over seeds, some at a time, and keep each run's curve in a file of its own.

A run that has its file is not trained again, so an interrupted benchmark goes on where it stopped.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import yaml
from scipy import stats

from rllib_offset.config_keys import translate_keys, valid_config_keys

EVALUATION = {"explore": False, "num_envs_per_env_runner": 64}  # all starts side by side

TUNED_CONFIGS = Path(__file__).parents[1] / "tuned_configs"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        name: Of the arm, and of its results.
        tuned: Name of the tuned config that it starts from.
        overrides: Config keys that differ from it.
        iterations: Training iterations; ``None`` takes those of the tuned config.
        is_slow_only: Whether the training environment is the slow simulator itself, so that every
            sampled step is a slow one.
        move_target_at: Iteration at which the slow simulator's target moves, if ever.
    """

    name: str
    tuned: str
    overrides: dict[str, Any] = field(default_factory=dict)
    iterations: int | None = None
    is_slow_only: bool = False
    move_target_at: int | None = None


@dataclass(frozen=True)
class Run:
    """The curve of one run: an entry per evaluation; of ``outside`` and ``warned``, per iteration.

    ``outside`` is the share of corrections outside of the labelled region, ``warned`` 1.0 where the
    run reported that the predictor may be exploited.
    """

    arm: str
    seed: int
    iterations: list[int]
    returns: list[float]
    scores: list[float]
    promises: list[float]
    slow_steps: list[float]
    env_steps: list[float]
    holdout_mae: list[float]
    wall_s: float
    slow_s: float
    residual: bool | None
    outside: list[float] = field(default_factory=list)
    warned: list[float] = field(default_factory=list)
    cpu_s: float = float("nan")

    @property
    def final(self) -> float:
        """Last score, or last return where there is no score."""
        return self.scores[-1] if np.isfinite(self.scores[-1]) else self.returns[-1]

    def slow_steps_to(self, threshold: float) -> float:
        """Slow steps at the first evaluation that reached a score; NaN if none did."""
        reached = np.flatnonzero(np.asarray(self.scores) >= threshold)
        return self.slow_steps[int(reached[0])] if reached.size else float("nan")


def run_all(
    arms: list[Arm], seeds: range, folder: Path, *, at_once: int = 2
) -> dict[str, list[Run]]:
    """Train whatever has no file yet; returns the runs by arm, in the order of the arms."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {(arm.name, seed): folder / f"{arm.name}-{seed}.json" for arm in arms for seed in seeds}
    missing = [(arm, seed) for seed in seeds for arm in arms if not paths[arm.name, seed].exists()]
    if missing:
        _train_missing(missing, paths, at_once)
    return {
        arm.name: [Run(**json.loads(paths[arm.name, seed].read_text())) for seed in seeds]
        for arm in arms
    }


def _train_missing(
    missing: list[tuple[Arm, int]], paths: dict[tuple[str, int], Path], at_once: int
) -> None:
    ray.init(num_cpus=at_once, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    train = ray.remote(num_cpus=1, max_retries=0)(train_arm)
    queue, running = list(missing), {}
    start, done = time.monotonic(), 0
    while queue or running:
        while queue and len(running) < at_once:  # Ray lends out the CPU of a task that waits
            arm, seed = queue.pop(0)
            running[train.remote(arm, seed)] = (arm, seed)
        (finished,), _ = ray.wait(list(running), num_returns=1)
        arm, seed = running.pop(finished)
        run = ray.get(finished)
        paths[arm.name, seed].write_text(json.dumps(asdict(run)))
        done += 1
        left_s = (time.monotonic() - start) / done * (len(queue) + len(running))
        print(
            f"{arm.name} seed {seed}: {run.final:.3f}, {run.slow_steps[-1]:.0f} slow steps, "
            f"{run.wall_s:.0f} s; {len(queue) + len(running)} runs left, "
            f"about {left_s / 60:.0f} min",
            flush=True,
        )
    ray.shutdown()


def train_arm(arm: Arm, seed: int) -> Run:
    """Train one arm with one seed, in this process."""
    from pairs import MovingPointMass

    import rllib_offset

    rllib_offset.register()
    spec = next(iter(yaml.safe_load((TUNED_CONFIGS / f"{arm.tuned}.yaml").read_text()).values()))
    overrides = dict(arm.overrides)
    algorithm_class = ray.tune.registry.get_trainable_cls(overrides.pop("run", spec["run"]))
    config = {**spec["config"], "env": spec["env"], "seed": seed, **overrides}
    if issubclass(algorithm_class, rllib_offset.OffsetMixin):
        config |= {"num_replay_workers": 0, **overrides}
    elif algorithm_class.__name__ == "PPO":
        config = _on_our_runner(algorithm_class, config)
    config["evaluation_config"] = {**spec["config"].get("evaluation_config", {}), **EVALUATION}
    MovingPointMass.has_moved = False  # in this process, by the run before
    algorithm = algorithm_class(config=translate_keys(config))
    curve: dict[str, list[float]] = {key: [] for key in _COLUMNS}
    outside: list[float] = []
    warned: list[float] = []
    start, cpu_start = time.monotonic(), time.process_time()
    iterations = arm.iterations or spec["stop"]["training_iteration"]
    interval = algorithm.config.evaluation_interval
    for iteration in range(1, iterations + 1):
        MovingPointMass.has_moved = (
            arm.move_target_at is not None and iteration >= arm.move_target_at
        )
        result = algorithm.train()
        outside.append(float(result["env_runners"].get("outside_fraction", 0.0)))
        warned.append(float(result.get("offset", {}).get("exploitation", 0.0)))
        if iteration % interval == 0:
            for key, value in _entries(result, arm.is_slow_only).items():
                curve[key].append(float(value))
    estimator = getattr(algorithm, "estimator", None)
    run = Run(
        arm=arm.name,
        seed=seed,
        iterations=[interval * (i + 1) for i in range(len(curve["returns"]))],
        wall_s=time.monotonic() - start,
        cpu_s=time.process_time() - cpu_start,
        slow_s=float(result.get("slow", {}).get("sim_time_s_lifetime", 0.0)),
        outside=outside,
        warned=warned,
        residual=None if estimator is None else estimator.layout.resynchronises,
        **curve,
    )
    algorithm.stop()
    return run


_COLUMNS = ("returns", "scores", "promises", "slow_steps", "env_steps", "holdout_mae")


def _entries(result: dict[str, Any], is_slow_only: bool) -> dict[str, float]:
    evaluation, nan = result["evaluation"], float("nan")
    env_steps = result["env_runners"]["num_env_steps_sampled_lifetime"]
    bought = result.get("slow", {}).get("num_env_steps_lifetime", 0.0)
    return {
        "returns": evaluation["env_runners"]["episode_return_mean"],
        "scores": evaluation.get("normalised_score", nan),
        "promises": evaluation.get("corrected_episode_return_mean", nan),
        "slow_steps": env_steps if is_slow_only else bought,
        "env_steps": env_steps,
        "holdout_mae": result.get("offset", {}).get("holdout_mae", nan),
    }


def _on_our_runner(algorithm_class: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Let RLlib's own PPO sample and evaluate as the others do, without what only they know."""
    from rllib_offset.callbacks import ScoreCallback
    from rllib_offset.env_runner import OffsetEnvRunner

    known = valid_config_keys(algorithm_class.get_default_config())
    return {name: value for name, value in config.items() if name in known} | {
        "env_runner_cls": OffsetEnvRunner,
        "callbacks_class": ScoreCallback,
        "batch_mode": "complete_episodes",
        "rollout_fragment_length": "auto",
        "correct": True,
    }


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval (Student's t) over seeds."""
    array = np.asarray(values, float)
    if len(array) < 2:
        return float(array.mean()), float("nan")
    half = stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return float(array.mean()), float(half)


def table(
    runs: dict[str, list[Run]], columns: dict[str, Callable[[list[Run]], str]]
) -> list[list[str]]:
    """Return the rows of a table, its header first."""
    header = ["method", *columns]
    return [header, *[[name, *[cell(r) for cell in columns.values()]] for name, r in runs.items()]]


def markdown(rows: list[list[str]]) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
