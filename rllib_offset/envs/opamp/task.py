"""Specs in, observation and reward out: what is asked of a design, and how well it does.

Everything works on any leading axes: one episode, the lanes of a vector environment, a batch of
labels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.opamp.design import HIGH, LOW, START, as_design
from rllib_offset.envs.opamp.measurement import SPECS, from_learned

__all__ = ["DEFAULT_TARGETS", "EPISODE_STEPS", "OpAmpTask"]

Floats = NDArray[np.float64]
Observation = NDArray[np.float32]

EPISODE_STEPS = 30
DEFAULT_TARGETS: Mapping[str, Sequence[float]] = {
    "gain": (200.0, 270.0),  # V/V, at least
    "bandwidth": (40e6, 120e6),  # Hz, at least
    "phase_margin": (60.0, 60.0),  # deg, at least
    "current": (100e-6, 250e-6),  # A, at most
}
_SIGN = np.array([1.0, 1.0, 1.0, -1.0])  # less current is better
_DESIGN, _TARGET, _TIME = slice(0, 7), slice(7, 11), 11  # of a state
_ZOOM = 3.0  # of the margins in an observation

Target = Mapping[str, float] | Sequence[float]


@dataclass(frozen=True)
class OpAmpTask:
    """Moves through the design space, judged against target specs.

    A state is ``(7 sizes, 4 targets, steps taken)``, ``(..., 12)``; a measurement is on the scale
    of `rllib_offset.envs.opamp.measurement.to_learned`.

    Args:
        target_range: Lowest and highest target per spec, drawn log-uniformly; specs left out keep
            the default range.
        target: One target for all episodes in place of drawn ones: by name, or in the order of
            `SPECS`.
        increments: What an action may add to a size.
        start: The design that episodes start from, or ``"random"``.
        pass_threshold: Sum of relative shortfalls from which a design passes. 0.0, for training,
            asks for all four specs; judging at -0.02 forgives a predictor's error.
        success_reward: Of the step that reaches a passing design.
        horizon: Steps of an episode, the unit of the observed time.

    Raises:
        ValueError: If an argument is outside its range.
    """

    target_range: Mapping[str, Sequence[float]] = field(default_factory=dict)
    target: Target | None = None
    increments: Sequence[int] = (-10, -3, -1, 0, 1, 3, 10)
    start: Sequence[int] | Literal["random"] = tuple(START.tolist())
    pass_threshold: float = 0.0
    success_reward: float = 10.0
    horizon: int = EPISODE_STEPS

    def __post_init__(self) -> None:
        _check_range(self.target_range)
        if self.target is not None:
            _as_target(self.target)
        if len(set(self.increments)) != len(self.increments) or not self.increments:
            raise ValueError(f"`increments` must be distinct numbers, got {self.increments}")
        if any(int(step) != step for step in self.increments):
            raise ValueError(f"`increments` must be whole numbers, got {self.increments}")
        if self.start != "random":
            as_design(self.start)
        if not -math.inf < self.pass_threshold <= 0.0 or not math.isfinite(self.success_reward):
            raise ValueError(
                "`pass_threshold` must be <= 0 and `success_reward` finite, "
                f"got {self.pass_threshold} and {self.success_reward}"
            )
        if self.horizon < 1:
            raise ValueError(f"`horizon` must be >= 1, got {self.horizon}")

    @cached_property
    def observation_space(self) -> Box:
        """Margins, targets, sizes and time, all within one."""
        return Box(-1.0, 1.0, (16,), np.float32)

    @cached_property
    def action_space(self) -> MultiDiscrete:
        """One increment per size."""
        return MultiDiscrete([len(self.increments)] * len(LOW))

    @cached_property
    def simulator_state_space(self) -> Box:
        """Sizes, targets and steps taken; sizes in between are rounded."""
        low, high = self._target_bounds
        if self.target is not None:
            low = high = _as_target(self.target)
        return Box(
            np.concatenate([LOW, low, [0.0]]),
            np.concatenate([HIGH, high, [float(self.horizon)]]),
            dtype=np.float64,
        )

    def draw_state(self, rng: np.random.Generator) -> Floats:
        """Return the state ``(12,)`` that an episode starts in."""
        low, high = self._target_bounds
        target = low * (high / low) ** rng.random(len(SPECS))
        if self.target is not None:
            target = _as_target(self.target)
        drawn = self.start == "random"
        design = rng.integers(LOW, HIGH, endpoint=True) if drawn else np.asarray(self.start)
        return np.concatenate([design, target, [0.0]])

    def state_with(
        self, state: Floats, *, start: ArrayLike | None = None, target: Target | None = None
    ) -> Floats:
        """Return a state ``(12,)`` with its design or its target replaced.

        Raises:
            ValueError: If they are not a design or a target.
        """
        state = state.copy()
        if start is not None:
            state[_DESIGN] = as_design(start)
        if target is not None:
            state[_TARGET] = _as_target(target)
        return state

    def as_states(self, states: ArrayLike, shape: tuple[int, ...]) -> Floats:
        """Return states as they can occur: sizes rounded and within their bounds.

        Raises:
            ValueError: If the shape is another, a value is not finite, or a target not positive.
        """
        values = np.array(states, np.float64)
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"states must be finite and of shape {shape}, got {states!r}")
        if (values[..., _TARGET] <= 0.0).any():
            raise ValueError(f"targets must be > 0, got {values[..., _TARGET].tolist()}")
        values[..., _DESIGN] = np.clip(np.rint(values[..., _DESIGN]), LOW, HIGH)
        return values

    def designs(self, states: Floats) -> NDArray[np.int64]:
        """Return the sizes of states: ``(..., 12) -> (..., 7)``."""
        return np.clip(np.rint(states[..., _DESIGN]), LOW, HIGH).astype(np.int64)

    def targets(self, states: Floats) -> Floats:
        """Return the targets of states: ``(..., 12) -> (..., 4)``."""
        return states[..., _TARGET]

    def move(self, states: Floats, actions: ArrayLike) -> Floats:
        """Return the states after actions ``(..., 7)``, indices of the increments."""
        added = self._increments[np.asarray(actions).astype(np.int64)]
        reached = np.array(states, np.float64)
        reached[..., _DESIGN] = np.clip(self.designs(reached) + added, LOW, HIGH)
        reached[..., _TIME] += 1.0
        return reached

    def margins(self, specs: ArrayLike, targets: ArrayLike) -> Floats:
        """Return ``(spec - target) / (spec + target)``, positive where met: ``(..., 4)``.

        It lies between -1 and 1; a phase margin so negative that the sum is no longer positive
        counts as -1.
        """
        specs, targets = np.asarray(specs, np.float64), np.asarray(targets, np.float64)
        total = np.maximum(specs + targets, 1e-300)
        margins: Floats = _SIGN * np.clip((specs - targets) / total, -1.0, 1.0)
        return margins

    def shortfall(self, specs: ArrayLike, targets: ArrayLike) -> Floats:
        """Return the sum of the negative margins, ``(...)``: 0.0 where every spec is met."""
        total: Floats = np.minimum(self.margins(specs, targets), 0.0).sum(axis=-1)
        return total

    def passes(self, specs: ArrayLike, targets: ArrayLike) -> NDArray[np.bool_]:
        """Tell whether specs ``(..., 4)`` pass: ``(...)``."""
        passed: NDArray[np.bool_] = self.shortfall(specs, targets) >= self.pass_threshold
        return passed

    def observe(self, measurement: ArrayLike, states: Floats) -> Observation:
        """Return what is observed in states ``(..., 12)``, ``(..., 16)``."""
        low, high = self._target_bounds
        targets = self.targets(states)
        margins = self.margins(from_learned(measurement), targets)
        width = np.where(high > low, np.log(high / low), np.inf)  # a fixed target is observed as 0
        codes = np.where(high > low, 2 * np.log(targets / low) / width - 1, 0.0)
        time = states[..., _TIME:] / self.horizon
        parts = (_ZOOM * margins, codes, _scaled(self.designs(states)), time)
        observed: Observation = np.concatenate(parts, axis=-1).astype(np.float32)
        return np.clip(observed, -1.0, 1.0)

    def outcome(
        self, measurement: ArrayLike, state: Floats, action: ArrayLike | None
    ) -> tuple[Observation, Any, Any]:
        """Return what a step leads to, given what the simulator says of the design it reached.

        Args:
            measurement: ``(..., 4)``, fast, slow or corrected.
            state: ``(..., 12)``, *before* the step.
            action: ``(..., 7)``; None where nothing moved, as at a reset.

        Returns:
            Observations ``(..., 16)``, rewards ``(...)``, terminations ``(...)``.
        """
        reached = self._reached(state, action)
        total = self.shortfall(from_learned(measurement), self.targets(reached))
        passed = total >= self.pass_threshold
        reward = np.where(passed, self.success_reward, total)[()]
        return self.observe(measurement, reached), reward, passed

    def predictor_inputs(
        self, measurement: ArrayLike, state: Floats, action: ArrayLike | None
    ) -> NDArray[np.float32]:
        """Return what an offset depends on, ``(..., 18)``, arguments as of `outcome`.

        The sizes reached, scaled; their logarithms; the fast measurement. Targets and time, which a
        simulator is not told, are left out.
        """
        designs = self.designs(self._reached(state, action))
        parts = (_scaled(designs), np.log(designs), np.asarray(measurement, np.float64))
        return np.concatenate(parts, axis=-1).astype(np.float32)

    def _reached(self, states: ArrayLike, actions: ArrayLike | None) -> Floats:
        states = np.asarray(states, np.float64)
        return states if actions is None else self.move(states, actions)

    @cached_property
    def _increments(self) -> NDArray[np.int64]:
        return np.array(self.increments, np.int64)

    @cached_property
    def _target_bounds(self) -> tuple[Floats, Floats]:
        bounds = np.array([{**DEFAULT_TARGETS, **self.target_range}[name] for name in SPECS], float)
        return bounds[:, 0], bounds[:, 1]


def _scaled(designs: NDArray[np.int64]) -> Floats:
    """Bring sizes to [-1, 1]."""
    scaled: Floats = 2.0 * (designs - LOW) / (HIGH - LOW) - 1.0
    return scaled


def _check_range(target_range: Mapping[str, Sequence[float]]) -> None:
    for name, bounds in target_range.items():
        if name not in SPECS:
            raise ValueError(f"`target_range` knows {', '.join(SPECS)}, got {name!r}")
        if len(bounds) != 2 or not 0.0 < bounds[0] <= bounds[1] < math.inf:
            raise ValueError(f"`target_range` of {name} is (low, high) above 0, got {bounds}")


def _as_target(target: Target) -> Floats:
    if isinstance(target, Mapping):
        if set(target) != set(SPECS):
            raise ValueError(f"`target` needs {', '.join(SPECS)}, got {', '.join(target)}")
        target = [target[name] for name in SPECS]
    values = np.array(target, np.float64)
    if values.shape != (4,) or not (np.isfinite(values).all() and (values > 0.0).all()):
        raise ValueError(f"`target` must be four numbers above 0, {', '.join(SPECS)}; got {target}")
    return values
