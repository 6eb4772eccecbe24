"""Label schedules: what to replay in the slow simulator, how much, when to stop and when to resume.

Numbers in, a decision out.  Knows neither Ray nor environments.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rllib_offset.value_rules import check_values, number, whole

__all__ = [
    "FreezeBelow",
    "LabelPlan",
    "LabelRounds",
    "LabelSchedule",
    "ReplayFraction",
    "StepTrickle",
]


@dataclass(frozen=True)
class LabelPlan:
    """What the next iteration buys.

    Args:
        replay_fraction: Share of the trajectories to replay whole, in [0, 1].
        num_step_labels: Single steps to label.
        refits: Whether the predictor is fitted to what comes back.
        probes: Whether something checks the predictor, now or in a later iteration.
    """

    replay_fraction: float = 0.0
    num_step_labels: int = 0
    refits: bool = True
    probes: bool = True


class LabelSchedule(ABC):
    """Decides, iteration by iteration, which labels to buy."""

    is_frozen: bool = False
    reads_own_units: bool = False  # errors in the units of the targets, not in those of the offset
    fits_what_arrives: bool = False  # also labels that come between two fits that are planned
    burst_labels: int = 0  # to buy at well-spread states when `observe` says labels are stale

    @abstractmethod
    def plan(self, iteration: int) -> LabelPlan:
        """Return what iteration number ``iteration`` (from 0) buys."""

    def observe(self, errors: ArrayLike, is_inside: ArrayLike | None = None) -> bool:
        """Take note of the errors on fresh labels, measured before they were fitted.

        Args:
            errors: ``(N,)``, in units of the offset's own spread, or of the targets where
                ``reads_own_units`` says so.
            is_inside: ``(N,)``, which of them lie within the labelled region; all, if not given.

        Returns:
            Whether the labels bought before these are stale and must be dropped.
        """
        return False

    def get_state(self) -> dict[str, Any]:
        """Return what a resumed schedule must know."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:  # noqa: B027 (most have none)
        """Resume from :meth:`get_state`."""


@dataclass
class ReplayFraction(LabelSchedule):
    """Trajectory level: the first batch whole, then a share of the trajectories.

    ``fraction=1`` is Algorithm 2 of the paper as printed.
    """

    fraction: float
    first_fraction: float = 1.0

    def plan(self, iteration: int) -> LabelPlan:
        """Return the share of trajectories to replay."""
        fraction = self.first_fraction if iteration == 0 else self.fraction
        return LabelPlan(replay_fraction=fraction, probes=self.fraction > 0)


@dataclass
class StepTrickle(LabelSchedule):
    """Sample level: some labels from the steps the policy visits, every iteration.

    A number below one buys a label every so many iterations.
    """

    per_iteration: float

    def plan(self, iteration: int) -> LabelPlan:
        """Return the number of steps to label."""
        due = math.floor((iteration + 1) * self.per_iteration)
        before = math.floor(iteration * self.per_iteration)
        return LabelPlan(num_step_labels=due - before, probes=self.per_iteration > 0)


_FREEZE_RULES = {
    "tolerance": number(above=0),
    "window": whole(1),
    "gain": number(0),
    "min_labels": whole(0),
    "max_labels": whole(0),
    "probe_interval": whole(1),
    "probe_labels": whole(1),
    "unfreeze_factor": number(above=0),
    "burst_labels": whole(0),
}
_ROUND_RULES = {
    "labels": whole(1),
    "interval": whole(1),
    "tolerance": number(above=0),
    "probe_labels": whole(1),
}


@dataclass
class FreezeBelow(LabelSchedule):
    """Buy labels in proportion to the error, stop when it is small, probe, and start again.

    While learning, an iteration buys ``gain * error / tolerance`` labels, within bounds.  Once the
    error on the latest ``window`` fresh labels is below ``tolerance``, labelling and fitting stop.
    Frozen, a few probe labels are bought every ``probe_interval`` iterations.  An error above
    ``unfreeze_factor * tolerance`` starts the labelling again; if it lies *within* the labelled
    region, where the predictor was right before, the slow simulator has moved: the labels bought so
    far are stale, and ``burst_labels`` new ones are due at well-spread states.

    Errors are root mean squares in units of the offset's own spread.

    Args:
        tolerance: Error below which labelling stops.
        window: Fresh labels that it is measured on.
        gain: Labels per iteration at an error equal to the tolerance.
        min_labels: Fewest labels of an iteration while learning.
        max_labels: Most labels of an iteration while learning.
        probe_interval: Iterations between probes while frozen.
        probe_labels: Labels per probe.
        unfreeze_factor: Probe error, in tolerances, that starts the labelling again.
        burst_labels: Labels to buy when the slow simulator has moved.
    """

    tolerance: float
    window: int = 30
    gain: float = 4.0
    min_labels: int = 1
    max_labels: int = 20
    probe_interval: int = 10
    probe_labels: int = 4
    unfreeze_factor: float = 3.0
    burst_labels: int = 200
    is_frozen: bool = field(default=False, init=False)
    _errors: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        check_values(vars(self), _FREEZE_RULES)

    def plan(self, iteration: int) -> LabelPlan:
        """Return the number of steps to label."""
        if self.is_frozen:
            is_due = iteration % self.probe_interval == 0
            return LabelPlan(num_step_labels=self.probe_labels if is_due else 0, refits=False)
        recent = self._errors[-self.window :]
        wanted = self.gain * _rms(recent) / self.tolerance if recent else self.max_labels
        return LabelPlan(
            num_step_labels=int(np.clip(math.ceil(wanted), self.min_labels, self.max_labels))
        )

    def observe(self, errors: ArrayLike, is_inside: ArrayLike | None = None) -> bool:
        """Freeze, unfreeze or go on."""
        errors = np.ravel(np.asarray(errors, float))
        is_known = np.isfinite(errors)
        inside = np.ones(len(errors), bool) if is_inside is None else np.ravel(is_inside)
        within = errors[is_known & inside].tolist()
        fresh = errors[is_known].tolist()
        if not fresh:
            return False
        too_large = self.unfreeze_factor * self.tolerance
        if self.is_frozen:
            self.is_frozen = _rms(fresh) <= too_large
            has_moved = 2 * len(within) >= len(fresh) and _rms(within) > too_large
            self._errors = self._errors if self.is_frozen else []
            return has_moved
        self._errors = (self._errors + fresh)[-10 * self.window :]
        recent = self._errors[-self.window :]
        self.is_frozen = len(recent) == self.window and _rms(recent) < self.tolerance
        return False

    def get_state(self) -> dict[str, Any]:
        """Return errors and whether it is frozen."""
        return {
            "errors": list(self._errors),
            "is_frozen": self.is_frozen,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`get_state`."""
        self._errors = list(state["errors"])
        self.is_frozen = bool(state["is_frozen"])


@dataclass
class LabelRounds(LabelSchedule):
    """Buy labels in rounds, until the predictor is right where the policy leads; then only probe.

    An agent looks for whatever a predictor flatters, so labels bought beforehand say little of the
    error that counts.  Every ``interval`` iterations a round buys ``labels``, and the predictor is
    fitted once.  A round whose labels were predicted within ``tolerance`` is the last full one: the
    rounds that follow buy ``probe_labels``, until one of them is off again.

    Args:
        labels: Labels of a round.
        interval: Iterations between rounds.
        tolerance: Error on a round's labels before they are fitted below which labelling stops:
            root mean square, in the units of the targets (0.02 of a logarithm is 2 %).
        probe_labels: Labels of a round that only checks.
    """

    labels: int = 40
    interval: int = 8
    tolerance: float = 0.02
    probe_labels: int = 10
    reads_own_units: bool = field(default=True, init=False)
    fits_what_arrives: bool = field(default=True, init=False)  # a round may be late
    is_frozen: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_values(vars(self), _ROUND_RULES)

    def plan(self, iteration: int) -> LabelPlan:
        """Return a round's labels every ``interval`` iterations, nothing in between."""
        is_due = (iteration + 1) % self.interval == 0
        labels = self.probe_labels if self.is_frozen else self.labels
        return LabelPlan(
            num_step_labels=labels if is_due else 0,
            refits=is_due or iteration == 0,  # labels bought before training arrive at 0
        )

    def observe(self, errors: ArrayLike, is_inside: ArrayLike | None = None) -> bool:
        """Stop after a round that was predicted well, go on after one that was not."""
        errors = np.ravel(np.asarray(errors, float))
        fresh = errors[np.isfinite(errors)].tolist()
        if fresh:
            self.is_frozen = _rms(fresh) < self.tolerance
        return False

    def get_state(self) -> dict[str, Any]:
        """Return whether it only probes."""
        return {"is_frozen": self.is_frozen}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`get_state`."""
        self.is_frozen = bool(state["is_frozen"])


def _rms(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error * error for error in errors) / len(errors))
