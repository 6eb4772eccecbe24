"""Reads what Tune left on disk: trials, their progress, and the arms they repeat.

Takes the results folder of any ``rllib train`` or ``rllib paper``; starts nothing, imports no Ray.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset import metrics

__all__ = [
    "AGENT_VIEW_NAME",
    "FIGURE_NAME",
    "Arm",
    "Evaluations",
    "ResultsError",
    "Trial",
    "common_curve",
    "mean_and_interval",
    "read_results",
]

FIGURE_NAME = "trajectories.png"  # in a trial's folder
AGENT_VIEW_NAME = "trajectories.npz"  # in a checkpoint: see `rllib_offset.rollouts.AgentView`

_RESULT_NAME, _PARAMS_NAME = "result.json", "params.json"
_ENV_STEPS = ("num_env_steps_sampled_lifetime",)
_TRUTH = ("evaluation", "env_runners", "episode_return_mean")
_POLICY_VERSION = ("evaluation", "env_runners", "weights_seq_no")
_PROMISE = ("evaluation", metrics.CORRECTED_EPISODE_RETURN_MEAN)
_SCORE = ("evaluation", metrics.NORMALISED_SCORE)
_SLOW_STEPS = (metrics.SLOW, metrics.NUM_ENV_STEPS_LIFETIME)
_SLOW_TIME = (metrics.SLOW, metrics.SIM_TIME_S_LIFETIME)

Floats = NDArray[np.float64]
Row = Mapping[str, Any]


class ResultsError(ValueError):
    """A folder that holds no results, or results that cannot be read."""


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of one trial, oldest first; arrays ``(E,)``, NaN where not measured.

    Args:
        env_steps: Environment steps trained until then.
        slow_steps: Slow steps bought for training until then.
        truth: Mean return in the slow simulator.
        promise: Mean return in fast + offset, on the same seeds.
        score: The truth, 0 for a random agent and 1 for the best possible one.
    """

    env_steps: Floats
    slow_steps: Floats
    truth: Floats
    promise: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True)
class Trial:
    """One trial: its folder, its configuration and one row per training iteration."""

    folder: Path
    experiment: str
    config: Mapping[str, Any]
    rows: Sequence[Row]
    trains_on_slow: bool | None = None  # for a plain algorithm, once its pair is known

    @property
    def seed(self) -> int | None:
        """The seed it was given."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def has_pair(self) -> bool:
        """Whether it was trained on fast + offset."""
        return self.config.get("slow_env") is not None

    @property
    def checkpoint(self) -> Path | None:
        """Its newest checkpoint."""
        found = sorted(path for path in self.folder.glob("checkpoint_*") if path.is_dir())
        return found[-1] if found else None

    @property
    def agent_view(self) -> Path | None:
        """File of paths and predictions of the trained agent."""
        folders = (self.checkpoint, self.folder)
        files = (folder / AGENT_VIEW_NAME for folder in folders if folder is not None)
        return next((file for file in files if file.is_file()), None)

    def column(self, *path: str) -> Floats:
        """A metric over the iterations, NaN where a row does not have it."""
        return np.array([_number(row, *path) for row in self.rows])

    def last(self, *path: str) -> float:
        """The newest finite value of a metric, NaN if there is none."""
        values = self.column(*path)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if finite.size else float("nan")

    @cached_property
    def env_steps(self) -> Floats:
        """Environment steps until each iteration's end."""
        return self.column(*_ENV_STEPS)

    @cached_property
    def slow_steps(self) -> Floats:
        """Slow steps bought for training until each iteration's end."""
        if self.has_pair:
            return self.column(*_SLOW_STEPS)
        if self.trains_on_slow is None:
            return np.full(len(self.rows), np.nan)
        return self.env_steps if self.trains_on_slow else np.zeros(len(self.rows))

    @property
    def slow_time_s(self) -> float:
        """Seconds spent inside the slow simulator for labels, NaN where nobody measured it."""
        if self.trains_on_slow is False and not self.has_pair:
            return 0.0
        return self.last(*_SLOW_TIME)

    @property
    def wall_clock_s(self) -> float:
        """Seconds of training, evaluation included."""
        return self.last("time_total_s")

    @cached_property
    def evaluations(self) -> Evaluations:
        """Every evaluation once: RLlib repeats the last one in the rows that do not evaluate."""
        kept: list[int] = []
        before: tuple[float, float] | None = None
        for index, row in enumerate(self.rows):
            now = _number(row, *_TRUTH), _number(row, *_POLICY_VERSION)
            if np.isfinite(now[0]) and repr(now) != repr(before):
                kept.append(index)
                before = now
        columns = (self.column(*path)[kept] for path in (_TRUTH, _PROMISE, _SCORE))
        return Evaluations(self.env_steps[kept], self.slow_steps[kept], *columns)


@dataclass(frozen=True)
class Arm:
    """Trials that differ in nothing but their seed."""

    name: str
    trials: Sequence[Trial] = field(default_factory=tuple)

    @property
    def has_pair(self) -> bool:
        """Whether it was trained on fast + offset."""
        return self.trials[0].has_pair

    @property
    def is_serial(self) -> bool:
        """Whether the driver replays, one trajectory after the other (Algorithm 1)."""
        return self.has_pair and self.trials[0].config.get("num_replay_workers") == 0

    @property
    def trains_on_slow(self) -> bool | None:
        """For a plain algorithm: whether its environment is the slow simulator, if known."""
        return None if self.has_pair else self.trials[0].trains_on_slow

    @property
    def label(self) -> str:
        """What the arm is, in a few words."""
        if self.has_pair:
            workers = self.trials[0].config.get("num_replay_workers", 1)
            return "fast + offset, serial" if not workers else f"fast + offset, n={workers}"
        known = {True: "slow simulator only", False: "fast simulator only", None: "one simulator"}
        return known[self.trains_on_slow]

    def finals(self, quantity: str = "truth") -> Floats:
        """The last evaluation of each trial that has one, ``(S,)``."""
        evaluated = [trial.evaluations for trial in self.trials if len(trial.evaluations)]
        values: Floats = np.array([getattr(evaluations, quantity)[-1] for evaluations in evaluated])
        known: Floats = values[np.isfinite(values)]
        return known


def read_results(folder: Path) -> list[Arm]:
    """Read every trial below ``folder``, grouped into arms in order of name.

    Raises:
        ResultsError: If there is no trial, or a file of one cannot be read.
    """
    if not folder.is_dir():
        raise ResultsError(f"no such folder: {folder}; give a results folder of `rllib train`")
    files = sorted(folder.rglob(_RESULT_NAME))
    trials = [trial for file in files if (trial := _read_trial(file)) is not None]
    if not trials:
        raise ResultsError(
            f"{folder} holds no results (no {_RESULT_NAME} below it); "
            "give the folder that `rllib train` printed, e.g. ~/ray_results/demo"
        )
    return _arms(_with_pair_known(trials))


def mean_and_interval(values: Floats) -> tuple[float, float]:
    """Mean and half width of its 95 % interval over seeds (Student's t); NaN for one seed."""
    if not len(values):
        return float("nan"), float("nan")
    if len(values) == 1:
        return float(values[0]), float("nan")
    from scipy.stats import t

    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(t.ppf(0.975, len(values) - 1) * error)


def common_curve(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Put curves ``(x, y)`` of several seeds on one axis.

    Returns:
        Mean abscissas ``(E,)`` and the values ``(S, E)``, as far as every curve goes.
    """
    length = min((len(y) for _, y in curves), default=0)
    if not length:
        return np.zeros(0), np.zeros((len(curves), 0))
    x = np.mean([x[:length] for x, _ in curves], axis=0)
    return x, np.stack([y[:length] for _, y in curves])


def _read_trial(file: Path) -> Trial | None:
    params = file.parent / _PARAMS_NAME
    config = {}
    if params.is_file():
        try:
            config = json.loads(params.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ResultsError(f"{params} is damaged: {error}; train the trial again") from None
    rows = {
        int(row["training_iteration"]): row for row in _read_rows(file)
    }  # a resumed one repeats
    if not rows:
        return None
    return Trial(file.parent, file.parent.parent.name, config, [rows[key] for key in sorted(rows)])


def _read_rows(file: Path) -> Iterator[Row]:
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return  # being written, or cut off when the run was
            raise ResultsError(f"{file}, line {number} is damaged: {error}") from None
        row.pop("config", None)  # `params.json` has what was set, and it is a tenth of the size
        yield row


def _with_pair_known(trials: list[Trial]) -> list[Trial]:
    """Tell, for plain algorithms, whether they trained on the slow side of a pair seen here."""
    sides: dict[tuple[str, str], bool] = {}
    for trial in trials:
        if trial.has_pair:
            config = trial.config
            sides[_environment(trial)] = False
            sides[_simulator(config["slow_env"], config.get("slow_env_config"))] = True
    return [
        trial if trial.has_pair else replace(trial, trains_on_slow=sides.get(_environment(trial)))
        for trial in trials
    ]


def _environment(trial: Trial) -> tuple[str, str]:
    return _simulator(trial.config.get("env"), trial.config.get("env_config"))


def _simulator(env: Any, config: Any) -> tuple[str, str]:
    return str(env).rpartition(":")[2], json.dumps(config or {}, sort_keys=True, default=str)


def _arms(trials: list[Trial]) -> list[Arm]:
    experiments = list(dict.fromkeys(trial.experiment for trial in trials))
    prefix = _common_prefix(experiments)
    arms = []
    for experiment in experiments:
        members = [trial for trial in trials if trial.experiment == experiment]
        for variant in dict.fromkeys(_variant(trial, members) for trial in members):
            chosen = [trial for trial in members if _variant(trial, members) == variant]
            name = " ".join(filter(None, (experiment.removeprefix(prefix), variant)))
            arms.append(Arm(name, tuple(sorted(chosen, key=lambda trial: trial.seed or 0))))
    return arms


def _common_prefix(names: Sequence[str]) -> str:
    """The words that all experiment names start with: `pointmass-`."""
    words = [name.split("-")[:-1] for name in names]
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    return "".join(f"{column[0]}-" for column in shared) if len(names) > 1 else ""


def _variant(trial: Trial, members: Sequence[Trial]) -> str:
    """The settings, apart from the seed, in which the trials of an experiment differ."""
    settings = [_flat(member.config) for member in members]
    names = sorted({name for setting in settings for name in setting} - {"seed"})
    own = _flat(trial.config)
    differing = [n for n in names if len({setting.get(n) for setting in settings}) > 1]
    return ", ".join(f"{name}={own.get(name, '-')}" for name in differing)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value, default=str)
    return flat


def _number(row: Row, *path: str) -> float:
    value: Any = row
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return float("nan")
        value = value[key]
    return float(value) if isinstance(value, Real) else float("nan")
