"""The paper's experiments, start to end: its arms over several seeds, its timings, its page.

Whatever is finished in the output folder is kept, so that an interrupted run goes on where it was:
trials, single timings and comparisons are each written down as soon as they are known.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rllib_offset.planner import Measurement, config_for, iteration_times_s, measure
from rllib_offset.report import COMPARISONS_NAME, PAPER_NAME, TIMINGS_NAME, write_report
from rllib_offset.report_claims import LevelName, Timing
from rllib_offset.results import Arm, ResultsError, Trial, read_results
from rllib_offset.timing import Level

__all__ = ["ARMS", "FULL", "QUICK", "PaperRun", "Scale", "finished_seeds"]

OFFSET_ARM = "pointmass-offset"
ARMS = (
    "pointmass-baseline",
    "pointmass-transfer",
    "pointmass-offset-serial",
    OFFSET_ARM,
    "pointmass-offset-samples",  # beyond the paper: single steps in place of trajectories
)
_TIMED_ARMS = ("pointmass-offset-serial", OFFSET_ARM)  # one trial at a time: figure 8

_BATCH_STEPS = 1000
_ITERATION_S, _START_S = 0.18, 12.0  # of a trial, for the time left
_ALGORITHM_START_S = 10.0


class PaperError(RuntimeError):
    """A trial of the paper failed."""


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Args:
        iterations: Of every trial.
        timing_seeds: Seeds of the timings of figure 8.
        step_costs_s: Sleeps of the slow simulator in figure 8.
        most_workers: Parallel workers of figure 8, the paper's n.
        planned_workers: Workers at which `rllib plan` is checked, at the largest cost, one seed.
        timed_iterations: Iterations timed each, after one to warm up.
        compared_episodes: Episodes of each comparison of evaluation times.
        compared_cost_s: Sleep of the slow simulator there.
    """

    iterations: int = 300
    timing_seeds: int = 3
    step_costs_s: tuple[float, ...] = (0.002, 0.01)
    most_workers: int = 8
    planned_workers: tuple[int, ...] = (1, 2, 4, 8)
    timed_iterations: int = 2
    compared_episodes: int = 10
    compared_cost_s: float = 0.01


FULL = Scale()
QUICK = Scale(
    iterations=60,
    timing_seeds=1,
    step_costs_s=(0.002,),
    planned_workers=(2, 8),
    timed_iterations=1,
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
        cases = [case for case in self._cases() if not self._is_timed(case)]
        missing = {name: self._missing_seeds(name) for name in self.arms}
        trial_s = _START_S + self.scale.iterations * _ITERATION_S
        self._total_s = sum(len(seeds) for seeds in missing.values()) * trial_s
        self._total_s += sum(self._expected_s(case) for case in cases) + 1.0
        self._write(PAPER_NAME, {"command": self.command, "facts": self._facts()})
        for name, seeds in missing.items():
            if seeds:
                self._train(name, seeds, trial_s)
        for case in cases:
            self._time(case)
        self._compare()
        page = write_report(self.out)
        self.progress(1.0)
        return page

    # --- the arms ---

    def _missing_seeds(self, name: str) -> list[int]:
        finished = finished_seeds(self.out / name, self.scale.iterations)
        return [seed for seed in range(self.seeds) if seed not in finished]

    def _train(self, name: str, seeds: list[int], trial_s: float) -> None:
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # before Tune is imported
        from ray import tune
        from ray.tune.experiment import Experiment, Trial

        from rllib_offset.experiments import load_experiments
        from rllib_offset.launch import prepare_experiment
        from rllib_offset.reporting import root_cause

        _drop_unfinished(self.out / name, self.scale.iterations)
        experiments, _ = load_experiments(self.configs[name])
        (spec,) = experiments.values()
        spec["config"]["seed"] = {"grid_search": seeds}
        spec["stop"] = {"training_iteration": self.scale.iterations}
        spec["storage_path"] = str(self.out.resolve())
        prepare_experiment(name, spec)
        analysis = tune.run(
            [Experiment.from_json(name, spec)],
            callbacks=[self._watcher(trial_s / self.scale.iterations)],
            verbose=0,
            raise_on_failed_trial=False,
            max_concurrent_trials=1 if name in _TIMED_ARMS else None,
        )
        for trial in analysis.trials:
            if trial.status == Trial.ERROR:
                raise PaperError(f"{trial} failed: {root_cause(trial)}")
        if self._missing_seeds(name):
            raise KeyboardInterrupt  # Tune itself returns quietly after Ctrl-C

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

    def _cases(self) -> Iterator[Timing]:
        """Every timing that is wanted, with nothing measured yet."""
        largest = max(self.scale.step_costs_s)
        for seed in range(self.scale.timing_seeds):
            for cost_s in self.scale.step_costs_s:
                yield _case("serial", 0, cost_s, seed)
                for level in ("trajectory", "sample"):
                    yield _case(level, self.scale.most_workers, cost_s, seed)
        for workers in self.scale.planned_workers:
            for level in ("trajectory", "sample"):
                if workers != self.scale.most_workers:  # timed above
                    yield _case(level, workers, largest, 0)

    def _time(self, case: Timing) -> None:
        config = self._timed_config(case)
        measurement = self._measurement()
        seconds = iteration_times_s(
            config_for(config, level=case.level, workers=case.workers),
            iterations=self.scale.timed_iterations,
        )
        level: Level = "sample" if case.level == "sample" else "trajectory"
        slow_step_s = case.step_cost_s + self._sleep_overhead_s(measurement)
        model = replace(measurement, slow_step_s=slow_step_s)
        printed = model.model()
        timing = replace(
            case,
            seconds=seconds,
            predicted_s=model.batch_time_s(steps=_BATCH_STEPS, workers=case.workers, level=level),
            printed_s=printed.serial_batch_time_s(steps=_BATCH_STEPS)
            if case.workers == 0
            else printed.batch_time_s(steps=_BATCH_STEPS, workers=case.workers, level=level),
        )
        stored = self._read(TIMINGS_NAME, {})
        stored["runs"] = [*stored.get("runs", []), asdict(timing)]
        self._write(TIMINGS_NAME, stored)
        self._advance(self._expected_s(case))
        self._say(
            f"{case.level}, n={case.workers}, {1e3 * case.step_cost_s:g} ms a slow step: "
            f"{timing.mean_s:.2f} s a batch, predicted {timing.predicted_s:.2f} s"
        )

    def _measurement(self) -> Measurement:
        """The times of this machine, measured once at the largest cost of a slow step."""
        stored = self._read(TIMINGS_NAME, {})
        if "measurement" not in stored:
            case = _case("serial", 0, max(self.scale.step_costs_s), 0)
            stored["measurement"] = asdict(measure(self._timed_config(case), slow_steps=100))
            self._write(TIMINGS_NAME, stored)
        return Measurement(**stored["measurement"])

    def _sleep_overhead_s(self, measurement: Measurement) -> float:
        """What a slow step takes beyond its sleep."""
        return max(0.0, measurement.slow_step_s - max(self.scale.step_costs_s))

    def _timed_config(self, case: Timing) -> Any:
        config = self._config(OFFSET_ARM)
        config.slow_simulator(env=config.slow_env, env_config={"step_cost_s": case.step_cost_s})
        return config.debugging(seed=case.seed)

    def _config(self, name: str) -> Any:
        from ray.tune.registry import get_trainable_cls

        from rllib_offset.experiments import load_experiments
        from rllib_offset.launch import prepare_experiment

        experiments, _ = load_experiments(self.configs[name])
        (spec,) = experiments.values()
        prepare_experiment(name, spec)
        algorithm = get_trainable_cls(spec["run"])
        return algorithm.get_default_config().update_from_dict(spec["config"])

    def _is_timed(self, case: Timing) -> bool:
        runs = [Timing(**run) for run in self._read(TIMINGS_NAME, {}).get("runs", [])]
        wanted = replace(case, seconds=(), predicted_s=0.0, printed_s=0.0)
        return any(replace(r, seconds=(), predicted_s=0.0, printed_s=0.0) == wanted for r in runs)

    def _expected_s(self, case: Timing) -> float:
        share = max(case.workers, 1)
        batch_s = _BATCH_STEPS * case.step_cost_s / share
        return _ALGORITHM_START_S + (1 + self.scale.timed_iterations) * batch_s

    # --- evaluation times ---

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
                continue
            comparison = compare(
                trial.checkpoint, episodes=episodes, slow_env_config={"step_cost_s": cost_s}
            )
            kept.append(comparison.to_dict() | what)
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


def _case(level: LevelName | str, workers: int, cost_s: float, seed: int) -> Timing:
    return Timing(
        level=level,  # type: ignore[arg-type]
        workers=workers,
        step_cost_s=cost_s,
        seed=seed,
        seconds=(),
        predicted_s=0.0,
        printed_s=0.0,
    )
