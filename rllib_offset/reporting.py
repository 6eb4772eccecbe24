"""What a training run tells the person watching: lines, how far it is, a summary, what to do next.

Results in, text out; :class:`StatusLines` ties both to a Tune run.  A metric that a result does
not have is shown as ``-``.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from numbers import Real
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from rllib_offset import metrics
from rllib_offset.results import FIGURE_NAME

__all__ = [
    "FIGURE_NAME",
    "StatusLines",
    "TrialReport",
    "best_trial",
    "error_file",
    "find_metric",
    "fraction_done",
    "next_commands",
    "root_cause",
    "status_line",
    "summary",
]


_EVALUATION = "evaluation"
_RETURN = ("env_runners", "episode_return_mean")
_ENV_STEPS = ("num_env_steps_sampled_lifetime",)
_TRUTH = (_EVALUATION, *_RETURN)
_PROMISE = (_EVALUATION, metrics.CORRECTED_EPISODE_RETURN_MEAN)
_GAP = (_EVALUATION, metrics.FIDELITY_GAP)
_SCORE = (_EVALUATION, metrics.NORMALISED_SCORE)
_HOLDOUT = (metrics.OFFSET, metrics.HOLDOUT_MAE)
_EXPLOITATION = (metrics.OFFSET, metrics.EXPLOITATION)
_SLOW_STEPS = (metrics.SLOW, metrics.NUM_ENV_STEPS_LIFETIME)
_SLOW_TIME = (metrics.SLOW, metrics.SIM_TIME_S_LIFETIME)
_LOST = (metrics.SLOW, metrics.NUM_LABELS_LOST_LIFETIME)
# Criteria of `stop` that only grow: how far a trial is can be told from them.
_GROWING = ("training_iteration", "time_total_s")
_GROWING_SUFFIX = "_lifetime"  # RLlib's and our own counters


@dataclass
class TrialReport:
    """What is known of one trial: its latest result, and the latest value of each metric.

    RLlib reports an evaluation only in the iterations that evaluate; ``latest`` remembers it.
    """

    tag: str
    last_result: Mapping[str, Any] = field(default_factory=dict)
    latest: dict[tuple[str, ...], float] = field(default_factory=dict)
    steps_per_s: float | None = None
    fraction: float = 0.0
    is_evaluated: bool = False
    is_complete: bool = False

    def update(self, result: Mapping[str, Any]) -> None:
        """Take in one result."""
        self.steps_per_s = self._steps_per_s(result)
        # RLlib attaches the latest evaluation to every iteration until the next one.
        evaluation, attached_before = _evaluation(result), _evaluation(self.last_result)
        self.is_evaluated = bool(evaluation) and evaluation != attached_before
        self.last_result = result
        for path in (_RETURN, _TRUTH, _PROMISE, _GAP, _SCORE, _SLOW_STEPS, _SLOW_TIME, _LOST):
            if (value := find_metric(result, *path)) is not None:
                self.latest[path] = value

    def _steps_per_s(self, result: Mapping[str, Any]) -> float | None:
        now, seconds = find_metric(result, *_ENV_STEPS), find_metric(result, "time_this_iter_s")
        before = find_metric(self.last_result, *_ENV_STEPS)
        if before is None and find_metric(result, "training_iteration") in (1, None):
            before = 0.0
        if now is None or before is None or not seconds:
            return None
        return (now - before) / seconds

    @property
    def has_slow_simulator(self) -> bool:
        """Whether the algorithm is one of a pair, by what it reports."""
        return metrics.SLOW in self.last_result or metrics.OFFSET in self.last_result


class StatusLines(Callback):
    """Tune callback that prints one line per iteration of each trial.

    Args:
        echo: Receives each line.
        shows_experiment: Start each line with the experiment's name.
        on_progress: Receives the fraction of the run that is done, between 0 and 1.
    """

    def __init__(
        self,
        echo: Callable[[str], None],
        *,
        shows_experiment: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> None:
        self._echo = echo
        self._shows_experiment = shows_experiment
        self._on_progress = on_progress
        self._num_trials = 1
        self._has_begun = False
        self.reports: dict[str, TrialReport] = {}

    def setup(self, *args: Any, total_num_samples: int | None = None, **info: Any) -> None:
        """Learn from Tune how many trials there will be."""
        self._num_trials = total_num_samples or 1

    def on_step_begin(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """At first, see which trials a resumed run had finished before."""
        if self._has_begun:
            return
        self._has_begun = True
        for trial in trials:
            if trial.status == Trial.TERMINATED:
                self.report_of(trial).update(trial.last_result or {})
                self._complete(trial)

    def on_experiment_end(self, trials: list[Trial], **_: Any) -> None:
        """A resumed run may have nothing left to do, and so no step."""
        self.on_step_begin(0, trials)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Print the line of one iteration."""
        report = self.report_of(trial)
        report.update(result)
        self._echo(status_line(report, _planned_iterations(trial)))
        report.fraction = fraction_done(result, trial.stopping_criterion)
        self._report_progress()

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        """Remember that the trial reached its end; to Tune, interrupted ones look alike."""
        self._complete(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Where other trials go on, say at once that this one has failed, and why."""
        if self._num_trials > 1:
            self._echo(f"{self.report_of(trial).tag}  failed: {root_cause(trial)}")

    def _complete(self, trial: Trial) -> None:
        report = self.report_of(trial)
        report.is_complete, report.fraction = True, 1.0
        self._report_progress()

    def _report_progress(self) -> None:
        if self._on_progress is not None:
            done = sum(report.fraction for report in self.reports.values())
            self._on_progress(done / max(self._num_trials, len(self.reports)))

    def report_of(self, trial: Trial) -> TrialReport:
        """The report of ``trial``, a new one at first."""
        if trial.trial_id not in self.reports:
            self.reports[trial.trial_id] = TrialReport(tag=self._tag(trial))
        return self.reports[trial.trial_id]

    def _tag(self, trial: Trial) -> str:
        parts = [trial.storage.experiment_dir_name] if self._shows_experiment else []
        if self._num_trials > 1:
            params = trial.evaluated_params or {}
            names = [f"{name.removeprefix('config/')}={_short(v)}" for name, v in params.items()]
            parts.append(" ".join(names) or f"#{trial.experiment_tag}")
        return " ".join(parts)


def status_line(report: TrialReport, planned_iterations: int | None = None) -> str:
    """One iteration in one line."""
    result = report.last_result
    iteration = _number(find_metric(result, "training_iteration"), 0)
    if planned_iterations:
        iteration = f"{iteration:>{len(str(planned_iterations))}}/{planned_iterations}"
    truth = find_metric(result, *_TRUTH) if report.is_evaluated else None
    cells = [
        f"iter {iteration:>4}",
        f"{_number(report.steps_per_s, 0):>7} steps/s",
    ]
    if report.has_slow_simulator:
        cells += [
            f"corrected {_number(find_metric(result, *_RETURN), 2):>8}",
            f"slow {_number(truth, 2):>8}",
            f"hold-out {_number(find_metric(result, *_HOLDOUT), 4):>7}",
            f"slow steps {_number(find_metric(result, *_SLOW_STEPS), 0):>9}",
        ]
        if find_metric(result, *_EXPLOITATION):
            cells.append("may be exploiting the predictor")
    else:
        cells += [
            f"return {_number(find_metric(result, *_RETURN), 2):>8}",
            f"evaluation {_number(truth, 2):>8}",
        ]
    return "  ".join([report.tag, *cells] if report.tag else cells)


def summary(trial: Trial, report: TrialReport) -> str:
    """What a trial reached, what it cost, and where everything is."""
    latest = report.latest
    iterations = _number(find_metric(report.last_result, "training_iteration"), 0)
    seconds = find_metric(report.last_result, "time_total_s")
    experiment = trial.storage.experiment_dir_name
    title = experiment if experiment in report.tag else f"{experiment} {report.tag}".strip()
    rows = [("iterations", f"{iterations} in {_duration(seconds)}")]
    if report.has_slow_simulator:
        rows += [
            ("truth (slow simulator)", _number(latest.get(_TRUTH), 2)),
            ("promise (fast + offset)", _number(latest.get(_PROMISE), 2)),
            ("gap (promise - truth)", _number(latest.get(_GAP), 2)),
            ("normalised score", _number(latest.get(_SCORE), 3)),
            ("slow steps bought", _number(latest.get(_SLOW_STEPS), 0)),
            ("slow seconds", _number(latest.get(_SLOW_TIME), 1)),
        ]
        if lost := latest.get(_LOST):
            rows.append(("labels lost", f"{_number(lost, 0)}, failed in every attempt"))
    else:
        rows.append(("return while training", _number(latest.get(_RETURN), 2)))
        rows.append(("return in evaluation", _number(latest.get(_TRUTH), 2)))
        if _SCORE in latest:
            rows.append(("normalised score", _number(latest[_SCORE], 3)))
    folder = Path(trial.path)
    rows.append(("checkpoint", trial.checkpoint.path if trial.checkpoint else "-"))
    if (folder / FIGURE_NAME).exists():
        rows.append(("figure", str(folder / FIGURE_NAME)))
    rows.append(("results", str(folder)))
    lines = [f"{title}: {trial.trainable_name}", *(f"  {name:<24}{text}" for name, text in rows)]
    return "\n".join(lines)


def fraction_done(result: Mapping[str, Any], stop: Mapping[str, Any]) -> float:
    """How far a trial is, by the criterion that is nearest; 0 if none tells.

    Example:
        >>> fraction_done({"training_iteration": 3}, {"training_iteration": 12})
        0.25
    """
    fractions = [0.0]
    for name, target in stop.items():
        grows = name in _GROWING or name.endswith(_GROWING_SUFFIX)
        reached = find_metric(result, *name.split("/"))
        if grows and reached is not None and isinstance(target, int | float) and target > 0:
            fractions.append(min(1.0, reached / target))
    return max(fractions)


def best_trial(trials: Sequence[Trial], status: StatusLines) -> Trial | None:
    """The trial with the highest return, of those that have a checkpoint; None if none has."""
    saved = [trial for trial in trials if trial.checkpoint is not None]
    return max(saved, key=lambda trial: _best_known_return(status.report_of(trial)), default=None)


def _best_known_return(report: TrialReport) -> float:
    latest = report.latest
    return latest.get(_TRUTH, latest.get(_RETURN, float("-inf")))


def next_commands(trial: Trial) -> list[tuple[str, str]]:
    """What to type after training: what each command is for, and the command."""
    folder = Path(trial.path)
    experiment = _typed(folder.parent)
    return [
        ("try the agent", f"rllib evaluate {_typed(folder)}"),
        ("read about the run", f"rllib report {experiment}"),
        ("watch the curves", f"tensorboard --logdir {experiment}"),
    ]


def _typed(path: Path) -> str:
    """A path as one types it: from ``~`` on, quoted where a shell wants it."""
    if path.is_relative_to(Path.home()):
        return f"~/{shlex.quote(str(path.relative_to(Path.home())))}"
    return shlex.quote(str(path))


def error_file(trial: Trial) -> Path | None:
    """Where a failed trial's traceback lies: in its results folder, once Tune has copied it."""
    candidates = [Path(trial.path) / "error.txt", Path(trial.error_file or ".")]
    return next((path for path in candidates if path.is_file()), None)


def root_cause(trial: Trial) -> str:
    """Last line of a failed trial's traceback that names an exception: what started it all."""
    path = error_file(trial)
    if path is None:
        return "no error file was written"
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
    named = [line for line in lines if _names_an_exception(line)]
    return (named or [line for line in lines if line] or ["the error file is empty"])[-1]


def find_metric(result: Mapping[str, Any], *path: str) -> float | None:
    """The number at ``path`` of a nested result; None if it is absent or not a number."""
    value: Any = result
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    if not isinstance(value, Real) or isnan(value):
        return None
    return float(value)


def _evaluation(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an evaluation found, without counts and rates of a lifetime.

    Those RLlib adds up once more when it attaches the evaluation to a later iteration.
    """
    found = result.get(_EVALUATION, {}).get(_RETURN[0]) or {}
    return {name: value for name, value in found.items() if "lifetime" not in name}


def _names_an_exception(line: str) -> bool:
    name = line.split(":", 1)[0].rsplit(".", 1)[-1]
    return name.isidentifier() and name.endswith(("Error", "Exception", "Exit", "Interrupt"))


def _planned_iterations(trial: Trial) -> int | None:
    planned = trial.stopping_criterion.get("training_iteration")
    return int(planned) if planned else None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
