"""The paper's experiments, start to end: its arms over several seeds, its timings, its page.

Whatever is finished in the output folder is kept, so that an interrupted run goes on where it was:
trials, single timings and comparisons are each written down as soon as they are known.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rllib_offset.paper_timings import (
    TimingScale,
    expected_s,
    same_case,
    timed,
    wanted_timings,
    with_step_cost,
)
from rllib_offset.planner import Measurement, measure
from rllib_offset.report import COMPARISONS_NAME, PAPER_NAME, TIMINGS_NAME, write_report
from rllib_offset.report_claims import Timing
from rllib_offset.results import Arm, ResultsError, Trial, read_results

__all__ = ["ARMS", "FULL", "QUICK", "PaperError", "PaperRun", "Scale", "finished_seeds"]

OFFSET_ARM = "pointmass-offset"
ARMS = (
    "pointmass-baseline",
    "pointmass-transfer",
    "pointmass-offset-serial",
    OFFSET_ARM,
    "pointmass-offset-samples",  # beyond the paper: single steps in place of trajectories
)

_ITERATION_S, _START_S = 0.18, 12.0  # of a trial, for the time left
_TIMED_STEPS = 100  # of the slow simulator
_EPISODE_STEPS, _RESTORE_S = 100, 2.0  # of a comparison, for the time left
_SYNC_EVERY_S = 30  # what an interruption may lose


class PaperError(RuntimeError):
    """A trial of the paper failed."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run.

    Args:
        iterations: Of every trial.
        timings: Of figure 8.
        compared_episodes: Episodes of each comparison of evaluation times.
        compared_cost_s: Sleep of the slow simulator there.
    """

    iterations: int = 300
    timings: TimingScale = field(default_factory=TimingScale)
    compared_episodes: int = 10
    compared_cost_s: float = 0.01


FULL = Scale()
QUICK = Scale(
    iterations=60,
    timings=TimingScale(seeds=1, step_costs_s=(0.002,), planned_workers=(2, 8), iterations=1),
    compared_episodes=2,
)


@dataclass
class PaperRun:
    """One reproduction of the paper into one folder; Ray must be running.

    Args:
        out: Folder of the results.
        configs: YAML file of each arm, by name.
        seeds: Seeds 0 to ``seeds - 1`` of every arm.
        arms: Names of the arms.
        scale: How much is run.
        command: What was typed, for the page.
        line: Receives a line for each thing that is finished.
        progress: Receives the share of the work that is done.
    """

    out: Path
    configs: Mapping[str, Path]
    seeds: int = 5
    arms: Sequence[str] = ARMS
    scale: Scale = FULL
    command: str = "rllib paper"
    line: Callable[[str], None] = print
    progress: Callable[[float], None] = lambda fraction: None
    _done_s: float = 0.0
    _total_s: float = 1.0
    _started: float = field(default_factory=time.monotonic)

    def run(self) -> Path:
        """Train, time and compare whatever is missing, and write the page.

        Raises:
            PaperError: If a trial fails.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        cases = [case for case in wanted_timings(self.scale.timings) if not self._is_timed(case)]
        missing = self._missing_seeds()
        trial_s = (_START_S + self.scale.iterations * _ITERATION_S) / self._at_once
        self._total_s = sum(len(seeds) for seeds in missing.values()) * trial_s
        self._total_s += sum(expected_s(case, self.scale.timings) for case in cases)
        self._total_s += self.seeds * self._comparison_s
        self._write(PAPER_NAME, {"command": self.command, "facts": self._facts()})
        if missing:
            self._train(missing, trial_s)
        for case in cases:  # after the arms: nothing else may run meanwhile
            self._time(case)
        self._compare()
        page = write_report(self.out)
        self.progress(1.0)
        return page

    # --- the arms ---

    @property
    def _at_once(self) -> int:
        """Trials side by side: each keeps about one core busy."""
        return os.cpu_count() or 1

    def _missing_seeds(self) -> dict[str, list[int]]:
        missing = {}
        for name in self.arms:
            finished = finished_seeds(self.out / name, self.scale.iterations)
            missing[name] = [seed for seed in range(self.seeds) if seed not in finished]
        return {name: seeds for name, seeds in missing.items() if seeds}

    def _train(self, missing: Mapping[str, list[int]], trial_s: float) -> None:
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # before Tune is imported
        from ray import tune
        from ray.tune.experiment import Experiment, Trial

        from rllib_offset.experiment_storage import StoredExperiments
        from rllib_offset.reporting import root_cause

        for name in missing:
            _drop_unfinished(self.out / name, self.scale.iterations)
        arms = [Experiment.from_json(name, self._spec(name, missing[name])) for name in missing]
        watcher = self._watcher(trial_s / self.scale.iterations)
        analysis = tune.run(
            arms,
            callbacks=[StoredExperiments(arms), watcher],
            verbose=0,
            raise_on_failed_trial=False,
            max_concurrent_trials=self._at_once,
        )
        for trial in analysis.trials:
            if trial.status == Trial.ERROR:
                raise PaperError(f"{trial} failed: {root_cause(trial)}")
        if self._missing_seeds():
            raise KeyboardInterrupt  # Tune itself returns quietly after Ctrl-C

    def _spec(self, name: str, seeds: list[int]) -> dict[str, Any]:
        from ray.tune import SyncConfig

        spec = self._prepared(name)
        spec["config"]["seed"] = {"grid_search": seeds}
        spec["stop"] = {"training_iteration": self.scale.iterations}
        spec["storage_path"] = str(self.out.resolve())
        spec["sync_config"] = SyncConfig(sync_period=_SYNC_EVERY_S)
        return spec

    def _prepared(self, name: str) -> dict[str, Any]:
        from rllib_offset.experiments import load_experiments
        from rllib_offset.launch import prepare_experiment

        experiments, _ = load_experiments(self.configs[name])
        (spec,) = experiments.values()
        prepare_experiment(name, spec)
        return spec

    def _watcher(self, iteration_s: float) -> Any:
        from ray.tune import Callback

        run = self

        class Watcher(Callback):  # type: ignore[misc]
            def on_trial_result(self, result: dict[str, Any], **_: Any) -> None:
                run._advance(iteration_s)

            def on_trial_complete(self, trial: Any, **_: Any) -> None:
                name, seed = trial.storage.experiment_dir_name, trial.config.get("seed")
                seconds = trial.last_result.get("time_total_s", 0.0)
                run._say(f"{name}, seed {seed}: trained in {seconds:.0f} s")

        return Watcher()

    # --- figure 8 and `rllib plan` ---

    def _time(self, case: Timing) -> None:
        here = self._measurement(case.step_cost_s)
        timing = timed(case, self._pair_config(), here, self.scale.timings)
        stored = self._read(TIMINGS_NAME, {})
        stored["runs"] = [*stored.get("runs", []), asdict(timing)]
        self._write(TIMINGS_NAME, stored)
        self._advance(expected_s(case, self.scale.timings))
        self._say(
            f"{case.level}, n={case.workers}, {1e3 * case.step_cost_s:g} ms a slow step: "
            f"{timing.mean_s:.2f} s a batch, predicted {timing.predicted_s:.2f} s"
        )

    def _measurement(self, step_cost_s: float) -> Measurement:
        """The times of this machine, measured once for every cost of a slow step."""
        stored = self._read(TIMINGS_NAME, {})
        measured = stored.setdefault("measurements", {})
        name = f"{step_cost_s:g}"
        if name not in measured:
            config = with_step_cost(self._pair_config(), step_cost_s)
            known = [Measurement(**values) for values in measured.values()]
            if known:  # the driver's own work is the same at every cost
                here = known[0].with_slow_of(config, slow_steps=_TIMED_STEPS)
            else:
                here = measure(config, slow_steps=_TIMED_STEPS)
            measured[name] = asdict(here)
            self._write(TIMINGS_NAME, stored)
        return Measurement(**measured[name])

    def _pair_config(self) -> Any:
        from ray.tune.registry import get_trainable_cls

        spec = self._prepared(OFFSET_ARM)
        algorithm = get_trainable_cls(spec["run"])
        return algorithm.get_default_config().update_from_dict(spec["config"])

    def _is_timed(self, case: Timing) -> bool:
        runs = self._read(TIMINGS_NAME, {}).get("runs", [])
        return any(same_case(Timing(**run), case) for run in runs)

    # --- evaluation times ---

    @property
    def _comparison_s(self) -> float:
        """How long a comparison will roughly take, for the time left."""
        steps = _EPISODE_STEPS * self.scale.compared_episodes
        return _RESTORE_S + steps * self.scale.compared_cost_s

    def _compare(self) -> None:
        """Time evaluation in slow and in fast + offset, at the same cost of a slow step."""
        from rllib_offset.compare import compare

        episodes, cost_s = self.scale.compared_episodes, self.scale.compared_cost_s
        kept = []
        for trial in _finished(self.out / OFFSET_ARM, self.scale.iterations):
            assert trial.checkpoint is not None
            what = {"trial": trial.folder.name, "episodes": episodes, "step_cost_s": cost_s}
            known = [
                item for item in self._read(COMPARISONS_NAME, []) if what.items() <= item.items()
            ]
            if known:
                kept.append(known[0])
                self._advance(self._comparison_s)
                continue
            comparison = compare(
                trial.checkpoint, episodes=episodes, slow_env_config={"step_cost_s": cost_s}
            )
            kept.append(comparison.to_dict() | what)
            self._advance(self._comparison_s)
            self._say(
                f"evaluation, seed {trial.seed}: fast + offset is {comparison.speedup:.0f} times "
                f"faster, gap {comparison.gap:+.3f}"
            )
        self._write(COMPARISONS_NAME, kept)

    # --- bookkeeping ---

    def _facts(self) -> dict[str, str]:
        import ray

        return {
            "seeds": str(self.seeds),
            "machine": f"{os.cpu_count()} CPUs",
            "python": platform.python_version(),
            "ray": ray.__version__,
        }

    def _read(self, name: str, default: Any) -> Any:
        path = self.out / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default

    def _write(self, name: str, content: Any) -> None:
        """Write a file whole or not at all."""
        unfinished = self.out / f"{name}.part"
        unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
        unfinished.replace(self.out / name)

    def _advance(self, seconds: float) -> None:
        self._done_s += seconds
        self.progress(min(1.0, self._done_s / self._total_s))

    def _say(self, text: str) -> None:
        share = min(1.0, self._done_s / self._total_s)
        left_s = (time.monotonic() - self._started) * (1 / share - 1) if share > 0 else 0.0
        self.line(f"[{share:4.0%}, {left_s / 60:.0f} min left] {text}")


def finished_seeds(folder: Path, iterations: int) -> set[int]:
    """Seeds of the trials below ``folder`` that were trained to the end and saved."""
    return {trial.seed for trial in _finished(folder, iterations) if trial.seed is not None}


def _finished(folder: Path, iterations: int) -> list[Trial]:
    trials = [trial for arm in _arms(folder) for trial in arm.trials]
    return [t for t in trials if len(t.rows) >= iterations and t.checkpoint is not None]


def _arms(folder: Path) -> Sequence[Arm]:
    try:
        return read_results(folder)
    except ResultsError:
        return ()


def _drop_unfinished(folder: Path, iterations: int) -> None:
    """Remove the trials that an interruption cut off; they are trained again."""
    kept = {trial.folder for trial in _finished(folder, iterations)}
    for params in folder.glob("*/params.json"):
        if params.parent not in kept:
            shutil.rmtree(params.parent)
