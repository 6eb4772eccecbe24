"""The cell as a Gymnasium environment: one design, changed step by step."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.battery.cell import (
    HIGH,
    LOW,
    PARAMETERS,
    SPECS,
    START,
    Discharge,
    Model,
    open_cell,
)

__all__ = ["DEFAULT_TARGETS", "EPISODE_STEPS", "CellEnv"]

Floats = NDArray[np.float64]
Observation = NDArray[np.float32]

EPISODE_STEPS = 12
INCREMENTS = np.array([-8, -2, -1, 0, 1, 2, 8])
DEFAULT_TARGETS: Mapping[str, Sequence[float]] = {"energy": (13.0, 15.5), "voltage": (3.32, 3.37)}
_DESIGN, _TARGET, _TIME = slice(0, 3), slice(3, 5), 5  # of a state
_UNITS = np.array([2.0, 0.05])  # Wh and V: what counts as a large difference


class CellEnv(gym.Env[Observation, NDArray[np.int64]]):
    """A lithium-ion cell is designed to deliver a target energy at a target voltage, fast.

    ## Description
    Pores are a compromise: each takes the place of active material, but ions reach the rest through
    them. At twice the current that empties the cell in an hour, a single-particle model, which
    ignores the electrolyte, knows the price of pores and not their worth; an agent trained on it
    alone closes them. The Doyle-Fuller-Newman model knows both, and its solver fails on some
    designs.

    | Id           | What answers                       | A design takes |
    |--------------|------------------------------------|----------------|
    | `CellSPM-v0` | PyBaMM's single-particle model     | about 4 ms     |
    | `CellDFN-v0` | PyBaMM's Doyle-Fuller-Newman model | 20 to 600 ms   |

    Both need `pip install 'rllib-offset[battery]'`. The other parameters are PyBaMM's `Chen2020`.

    ## Action Space
    `MultiDiscrete([7] * 3)`: per size an index into ``(-8, -2, -1, 0, 1, 2, 8)``, which is added
    and the sum clipped to its bounds.

    | Num | Size                                            | Min | Max |
    |-----|-------------------------------------------------|-----|-----|
    | 0   | pores of the negative electrode (% of volume)   | 4   | 60  |
    | 1   | pores of the positive electrode (% of volume)   | 4   | 60  |
    | 2   | salt in the electrolyte (100 mol/m^3)           | 2   | 12  |

    ## Observation Space
    `Box(-1, 1, (8,))`:

    | Num | Observation                                       |
    |-----|---------------------------------------------------|
    | 0-1 | (spec - target) / (2 Wh, 0.05 V), clipped         |
    | 2-3 | the targets, scaled to their range                |
    | 4-6 | the sizes, scaled to their bounds                 |
    | 7   | steps taken / 12                                  |

    ## Rewards
    The sum of the shortfalls, ``(spec - target) / (2 Wh, 0.05 V)`` where that is negative, each at
    least -1; +10 in place of it for a design that passes, whose sum is at least `pass_threshold`.

    ## Starting State
    The design ``(40, 40, 8)``. Targets are uniform: energy from 13 to 15.5 Wh, mean voltage from
    3.32 to 3.37 V, both "at least". To choose, pass ``reset(options={"target": (14.5, 3.35)})``.

    ## Episode End
    Terminated as soon as a design passes; truncated after 12 steps.

    ## Info
    - `measurement`: ``(2,)``, energy / 2 Wh and mean voltage / 0.05 V of the design reached.
    - `valid`: False where the solver failed; `failure` then says why.

    ## Arguments
    - `model`: ``"SPM"`` or ``"DFN"``.
    - `current_a`: discharge current (10 A; 5 A empty the reference cell in an hour).
    - `target`: one target for all episodes, ``{"energy": Wh, "voltage": V}``.
    - `pass_threshold`: 0.0; judging at -0.05, 0.1 Wh or 2.5 mV, forgives a predictor's error.

    ## Simulator State
    ``(3 sizes, 2 targets, steps taken)``, float64.

    ## Version History
    - v0: Initial version.
    """

    def __init__(
        self,
        *,
        model: Model = "SPM",
        current_a: float = 10.0,
        target: Mapping[str, float] | None = None,
        pass_threshold: float = 0.0,
        render_mode: None = None,
    ) -> None:
        if not -1.0 < pass_threshold <= 0.0:
            raise ValueError(f"`pass_threshold` must be in (-1, 0], got {pass_threshold}")
        self._bounds = np.array([DEFAULT_TARGETS[name] for name in SPECS])
        self._target = None if target is None else _as_target(target)
        self._pass_threshold = pass_threshold
        self._cell = open_cell(model, current_a)
        self.render_mode = render_mode
        self.observation_space = Box(-1.0, 1.0, (8,), np.float32)
        self.action_space = MultiDiscrete([len(INCREMENTS)] * len(LOW))  # type: ignore[assignment]
        low, high = self._bounds.T if self._target is None else (self._target, self._target)
        self.simulator_state_space = Box(
            np.concatenate([LOW, low, [0.0]]),
            np.concatenate([HIGH, high, [float(EPISODE_STEPS)]]),
            dtype=np.float64,
        )
        self._state = np.concatenate([START, low, [0.0]])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, with the ``"target"`` of the options if given."""
        super().reset(seed=seed)
        low, high = self._bounds.T
        target = low + (high - low) * self.np_random.random(len(SPECS))
        if self._target is not None:
            target = self._target
        if options and "target" in options:
            target = _as_target(options["target"])
        self._state = np.concatenate([START, target, [0.0]])
        info = self._info()
        return self._observe(info["measurement"], self._state), info

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Change the sizes and discharge the cell."""
        before, self._state = self._state, _reached(self._state, action)
        info = self._info()
        obs, reward, terminated = self.outcome(info["measurement"], before, action)
        return obs, float(reward), bool(terminated), False, info

    def outcome(
        self, measurement: ArrayLike, state: ArrayLike, action: ArrayLike | None
    ) -> tuple[Observation, Any, Any]:
        """Return what a step leads to, given what a simulator says of the design it reached.

        Args:
            measurement: ``(..., 2)``, fast, slow or corrected.
            state: ``(..., 6)``, before the step.
            action: ``(..., 3)``; None where nothing moved, as at a reset.

        Returns:
            Observations ``(..., 8)``, rewards ``(...)``, terminations ``(...)``.
        """
        reached = _reached(state, action)
        margins = _margins(measurement, reached)
        total = np.minimum(margins, 0.0).sum(axis=-1)
        passed = total >= self._pass_threshold
        return self._observe(measurement, reached), np.where(passed, 10.0, total)[()], passed

    def predictor_inputs(
        self, measurement: ArrayLike, state: ArrayLike, action: ArrayLike | None
    ) -> NDArray[np.float32]:
        """Return what the offset depends on, ``(..., 5)``: the sizes and the fast measurement."""
        sizes = _scaled(_reached(state, action)[..., _DESIGN])
        parts = (sizes, np.asarray(measurement, np.float64))
        return np.concatenate(parts, axis=-1).astype(np.float32)

    def name_design(self, state: Floats, action: ArrayLike | None = None) -> dict[str, float]:
        """Return the sizes that an action leads to from a state ``(6,)``, by name."""
        return dict(zip(PARAMETERS, _reached(state, action)[_DESIGN].tolist(), strict=True))

    def name_measurement(self, measurement: ArrayLike) -> dict[str, float]:
        """Return the specs of a measurement ``(2,)`` in Wh and V, by name."""
        specs = np.asarray(measurement, np.float64) * _UNITS
        return dict(zip(SPECS, specs.tolist(), strict=True))

    def get_simulator_state(self) -> Floats:
        """Return a copy of sizes, targets and steps taken, ``(6,)``."""
        return self._state.copy()

    def set_simulator_state(self, state: ArrayLike) -> None:
        """Go to a design in the middle of an episode; sizes are rounded and clipped.

        Raises:
            ValueError: If the state has another shape, is not finite, or a target is not positive.
        """
        values = np.array(state, np.float64)
        if values.shape != self._state.shape or not np.isfinite(values).all():
            raise ValueError(f"a state must be six finite numbers, got {state!r}")
        if (values[_TARGET] <= 0.0).any():
            raise ValueError(f"targets must be > 0, got {values[_TARGET].tolist()}")
        values[_DESIGN] = np.clip(np.rint(values[_DESIGN]), LOW, HIGH)
        self._state = values

    def _info(self) -> dict[str, Any]:
        found: Discharge = self._cell.evaluate(self._state[_DESIGN])
        info = {"measurement": found.specs / _UNITS, "valid": found.is_valid}
        return info if found.is_valid else info | {"failure": found.failure}

    def _observe(self, measurement: ArrayLike, states: Floats) -> Observation:
        low, high = self._bounds.T
        codes = 2.0 * (states[..., _TARGET] - low) / (high - low) - 1.0
        time = states[..., _TIME:] / EPISODE_STEPS
        sizes = _scaled(states[..., _DESIGN])
        parts = (_margins(measurement, states), codes, sizes, time)
        observed: Observation = np.concatenate(parts, axis=-1).astype(np.float32)
        return np.clip(observed, -1.0, 1.0)


def _reached(states: ArrayLike, actions: ArrayLike | None) -> Floats:
    reached = np.array(states, np.float64)
    if actions is None:
        return reached
    added = INCREMENTS[np.asarray(actions).astype(np.int64)]
    reached[..., _DESIGN] = np.clip(np.rint(reached[..., _DESIGN]) + added, LOW, HIGH)
    reached[..., _TIME] += 1.0
    return reached


def _margins(measurement: ArrayLike, states: Floats) -> Floats:
    """Return ``(spec - target) / unit``, within one: ``(..., 2)``."""
    margins: Floats = np.asarray(measurement, np.float64) - states[..., _TARGET] / _UNITS
    return np.clip(margins, -1.0, 1.0)


def _scaled(sizes: Floats) -> Floats:
    """Bring sizes to [-1, 1]."""
    scaled: Floats = 2.0 * (sizes - LOW) / (HIGH - LOW) - 1.0
    return scaled


def _as_target(target: Mapping[str, float] | Sequence[float]) -> Floats:
    if isinstance(target, Mapping):
        if set(target) != set(SPECS):
            raise ValueError(f"`target` needs {', '.join(SPECS)}, got {', '.join(target)}")
        target = [target[name] for name in SPECS]
    values = np.array(target, np.float64)
    if values.shape != (2,) or not (np.isfinite(values).all() and (values > 0.0).all()):
        raise ValueError(f"`target` must be two numbers above 0, {', '.join(SPECS)}; got {target}")
    return values
