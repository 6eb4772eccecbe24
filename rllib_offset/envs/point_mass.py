"""PointMass: a point in a square moves to a target (section 2.1 of the paper).

One model, `PointMassModel`, holds the arithmetic; a scalar environment and a native vector
environment wrap it, and agree bit for bit.
"""

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.drawing import render_frame
from rllib_offset.envs.lanes import lane_mask, lane_seeds
from rllib_offset.envs.reward_maps import (
    TARGET,
    Distance,
    Noise,
    PseudoSparse,
    RewardMap,
    RewardOffset,
    Sparse,
    within_square,
)

__all__ = [
    "EPISODE_STEPS",
    "MAX_STEP",
    "PointMassEnv",
    "PointMassModel",
    "PointMassVectorEnv",
    "start_of_seed",
]

Floats = NDArray[np.float64]
Observation = NDArray[np.float32]

MAX_STEP = 0.1  # farthest move per axis and step
EPISODE_STEPS = 100
_ONE = np.array(1)  # a plain number costs twice as much


@dataclass(frozen=True)
class PointMassModel:
    """How the point moves and what its position is worth; the defaults are the slow simulator.

    Every argument acts on its own, so they combine: the reward is the distance map, shifted, then
    made sparse, then noisy.

    Args:
        target: Position of the highest reward of the distance map.
        shift: Shift of the reward map, see `RewardOffset`.
        threshold: Share of the cells whose reward is zeroed, see `Sparse`.
        mix: Weight of the sparse map against the dense one, see `PseudoSparse`.
        zero_to: Reward of zeroed cells, see `Sparse`.
        sigma: Standard deviation of the noise per cell, see `Noise`.
        cell: Side of the cells of the sparse and the noisy map.
        salt: Chooses among the sparse and noisy maps.
        rotation_deg: Angle by which a move is turned counter-clockwise.
        gain: Factor on a move.
        drift: Added to every move.

    Raises:
        ValueError: If an argument is outside its range.
    """

    target: Sequence[float] = TARGET
    shift: Sequence[float] = (0.0, 0.0)
    threshold: float = 0.0
    mix: float = 1.0
    zero_to: Literal["zero", "worst"] = "zero"
    sigma: float = 0.0
    cell: float = 0.05
    salt: int = 7
    rotation_deg: float = 0.0
    gain: float = 1.0
    drift: Sequence[float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("target", "shift", "drift"):
            _check_point(name, getattr(self, name))
        if not (math.isfinite(self.rotation_deg) and math.isfinite(self.gain)):
            raise ValueError(f"must be finite, got {self.rotation_deg=}, {self.gain=}")
        _ = self.reward_map  # the maps check their own arguments

    @cached_property
    def reward_map(self) -> RewardMap:
        """Rewards ``(...)`` of positions ``(..., 2)``."""
        reward_map: RewardMap = Distance(target=(self.target[0], self.target[1]))
        if any(self.shift):
            reward_map = RewardOffset(reward_map, shift=(self.shift[0], self.shift[1]))
        sparse = Sparse(reward_map, self.threshold, self.cell, self.salt, self.zero_to)
        pseudo_sparse = PseudoSparse(sparse, self.mix)
        if self.threshold > 0.0:
            reward_map = sparse if self.mix == 1.0 else pseudo_sparse
        noise = Noise(reward_map, self.sigma, self.cell, self.salt)
        return noise if self.sigma > 0.0 else reward_map

    @cached_property
    def observation_space(self) -> Box:
        """The square, and the range of the reward map."""
        low, high = self.reward_map.bounds
        return Box(np.array([-1, -1, low], np.float32), np.array([1, 1, high], np.float32))

    @cached_property
    def action_space(self) -> Box:
        """Moves in units of the farthest one."""
        return Box(-1.0, 1.0, (2,), np.float32)

    @cached_property
    def simulator_state_space(self) -> Box:
        """The square: the position is the whole state."""
        return Box(-1.0, 1.0, (2,), np.float64)

    def move(self, positions: Floats, actions: ArrayLike) -> Floats:
        """Return the positions after one step, each ``(..., 2)``."""
        pushes = within_square(np.asarray(actions, np.float64))
        along_x, along_y, drift = self._steering
        # products and a sum of two, not `@`: any batch shape gives the same bits
        moves = pushes[..., :1] * along_x
        moves += pushes[..., 1:] * along_y
        moves += drift
        moves += positions
        return within_square(moves)

    def observe(self, positions: Floats, rewards: Floats) -> Observation:
        """Join positions ``(..., 2)`` and rewards ``(...)`` to observations ``(..., 3)``."""
        observations = np.empty((*positions.shape[:-1], 3), np.float32)
        observations[..., :2] = positions
        observations[..., 2] = rewards
        return observations

    @cached_property
    def _steering(self) -> tuple[Floats, Floats, Floats]:
        """Where a push along x, one along y, and none move the point, each ``(2,)`` or zero."""
        angle = math.radians(self.rotation_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        scale = MAX_STEP * self.gain
        along_x, along_y = scale * np.array([cos, sin]), scale * np.array([-sin, cos])
        drift = np.array(self.drift, np.float64)
        return along_x, along_y, drift if drift.any() else np.zeros(())


class PointMassEnv(gym.Env[Observation, NDArray[np.float32]]):
    """A point in a square moves to a target.

    ## Description
    The test environment of the paper. A point in the square ``[-1, 1]^2`` is pushed towards a
    target, ``(0.4, 0.3)`` by default, that the agent is not told. ``rllib_offset/PointMass-v0`` is
    the slow simulator; its fast approximations move the point in the same way and misjudge what a
    position is worth. In ``DriftPointMass`` the slow simulator moves the point differently.

    ## Action Space
    The push per axis. Values outside the bounds are clipped.

    | Num | Action       | Min  | Max | Moves by    |
    |-----|--------------|------|-----|-------------|
    | 0   | push along x | -1.0 | 1.0 | 0.1 at most |
    | 1   | push along y | -1.0 | 1.0 | 0.1 at most |

    ## Observation Space
    | Num | Observation                    | Min                      | Max               |
    |-----|--------------------------------|--------------------------|-------------------|
    | 0   | x                              | -1.0                     | 1.0               |
    | 1   | y                              | -1.0                     | 1.0               |
    | 2   | reward at the position reached | of the map (-1.91 plain) | of the map (0.0)  |

    The reward is part of the observation (section 3.1 of the paper), so that an offset predictor
    sees both what it may depend on and what it has to correct.

    ## Rewards
    A function of the position reached, the map of the id:

    | Id                            | Reward                                   | Arguments   |
    |-------------------------------|------------------------------------------|-------------|
    | `PointMass`                   | `R(x) = -|x - target|`                   | `target`    |
    | `RewardOffsetPointMass`       | `R(clip(x - shift))`                     | `shift`     |
    | `SparsePointMass`             | `R_S(x)`: `R(x)`, but 0 in zeroed cells  | `threshold` |
    | `PseudoSparsePointMass`       | `mix R_S(x) + (1 - mix) R(x)`            | and `mix`   |
    | `NoisePointMass`              | `R(x)` + Gaussian noise fixed per cell   | `sigma`     |
    | `RuggedPointMass`             | `R(x)` + fine structure per cell         | `sigma`     |
    | `RewardOffsetRuggedPointMass` | shifted map + the same fine structure    | and `shift` |
    | `DriftPointMass`              | `R(x)`                                   |             |

    The maps are fixed functions of position: no reset, seed or process changes them. Rewards are
    negative, so a zeroed cell of the sparse map is as good as the target; see
    `rllib_offset.envs.reward_maps.Sparse` for this and for what is hashed.

    ## Starting State
    Uniform in the square, from the seed: `start_of_seed(seed)` tells where. To choose it, pass
    ``reset(options={"start": (x, y)})``. The first observation holds the reward of the start.

    ## Episode End
    Never terminated; truncated after 100 steps.

    ## Arguments
    - `target`, `shift`, `threshold`, `mix`, `zero_to`, `sigma`, `cell`, `salt`: the reward map.
    - `rotation_deg`, `gain`, `drift`: the dynamics (60 degrees, 0.8, (0.02, -0.01) in
      `DriftPointMass`).
    - `step_cost_s`: sleep this long in every step, to stand for a slow simulator.
    - `render_mode`: ``"rgb_array"`` draws path, start and target over the reward map.

    The first two groups are the arguments of `PointMassModel`, which explains them. All have the
    same meaning under every id; the id only sets defaults.

    ## Simulator State
    The position, float64, through `get_simulator_state` and `set_simulator_state`. Setting it does
    not touch the count of steps.

    ## Version History
    - v0: Initial version.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's form)

    def __init__(
        self, *, step_cost_s: float = 0.0, render_mode: str | None = None, **model: Any
    ) -> None:
        self.model = PointMassModel(**model)
        self.step_cost_s = _check_step_cost(step_cost_s)
        self.render_mode = render_mode
        self.observation_space = self.model.observation_space
        self.action_space = self.model.action_space
        self.simulator_state_space = self.model.simulator_state_space
        self._position = np.zeros(2)
        self._path: list[Floats] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode at the seed's position, or at ``options["start"]``."""
        super().reset(seed=seed)
        start = (options or {}).get("start")
        self._position = _draw_start(self.np_random) if start is None else _as_states(start, (2,))
        self._path = [self._position]
        return self.model.observe(self._position, self._reward()), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Push the point; the reward is that of the position reached."""
        self._position = self.model.move(self._position, action)
        reward = self._reward()
        if self.step_cost_s:
            time.sleep(self.step_cost_s)
        if self.render_mode is not None:
            self._path.append(self._position)
        return self.model.observe(self._position, reward), float(reward), False, False, {}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Draw the path since the last reset, ``(400, 400, 3)``; None without a render mode."""
        if self.render_mode is None:
            return None
        path = np.array(self._path or [self._position])
        return render_frame(self.model.reward_map, path, self.model.target)

    def get_simulator_state(self) -> Floats:
        """Return a copy of the position, ``(2,)``."""
        return self._position.copy()

    def set_simulator_state(self, state: ArrayLike) -> None:
        """Move the point to a position ``(2,)``, clipped to the square as a step would be.

        Raises:
            ValueError: If the state has another shape or is not finite.
        """
        self._position = _as_states(state, (2,))
        self._path[-1:] = [self._position]

    def reference_returns(self, seeds: Sequence[int]) -> tuple[Floats, Floats] | None:
        """Return the random and the optimal return per seed, or None where no formula is known.

        Under `DriftPointMass` both are those of the plain dynamics, as a common scale.
        """
        from rllib_offset.envs.scores import (
            reference_returns,
        )  # scores are computed with this model

        if not isinstance(self.model.reward_map, Distance):
            return None
        return reference_returns(seeds, target=self.model.target)

    def _reward(self) -> Floats:
        return self.model.reward_map(self._position)


class PointMassVectorEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """Many PointMass environments in one array; lane by lane equal to `PointMassEnv`.

    Lanes are not reset on their own: ``reset(seed=seeds, options={"reset_mask": mask})`` starts the
    masked ones, each where the scalar environment starts with that seed (an integer seed gives lane
    ``i`` the seed ``seed + i``; without seeds each lane draws on from its own generator). Stepping
    a finished lane is harmless: the point moves on and the lane stays truncated.

    Args:
        num_envs: Number of lanes.
        max_episode_steps: Steps after which a lane is truncated; None for never.
        step_cost_s: Sleep this long per lane and step: it stands for serial work.
        render_mode: ``"rgb_array"`` makes `render` return a picture per lane.
        **model: Arguments of `PointMassModel`.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's form)
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = EPISODE_STEPS,
        step_cost_s: float = 0.0,
        render_mode: str | None = None,
        **model: Any,
    ) -> None:
        self.model = PointMassModel(**model)
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.step_cost_s = _check_step_cost(step_cost_s)
        self.render_mode = render_mode
        self.single_observation_space = self.model.observation_space
        self.single_action_space = self.model.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.simulator_state_space = self.model.simulator_state_space
        self._positions = np.zeros((num_envs, 2))
        self._elapsed = np.zeros(num_envs, np.int64)
        self._last_step = np.array(np.inf if max_episode_steps is None else max_episode_steps)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._visited: deque[Floats] = deque(maxlen=(max_episode_steps or EPISODE_STEPS) + 1)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the lanes of ``options["reset_mask"]``, all of them by default.

        Args:
            seed: One per lane, or one integer; masked-out lanes ignore theirs.
            options: ``"reset_mask"``, bool ``(num_envs,)``, and ``"start"``, ``(num_envs, 2)``.

        Returns:
            The observations of all lanes, and an empty info.
        """
        options = options or {}
        mask = lane_mask(options.get("reset_mask"), self.num_envs)
        seeds = lane_seeds(seed, self.num_envs)
        starts = options.get("start")
        positions = self._positions.copy()
        for lane in np.flatnonzero(mask):
            rng = self._rngs[lane]
            if rng is None or seeds[lane] is not None:
                rng = self._rngs[lane] = seeding.np_random(seeds[lane])[0]
            if starts is None:
                positions[lane] = _draw_start(rng)
        if starts is not None:
            positions[mask] = _as_states(starts, (self.num_envs, 2))[mask]
        self._elapsed[mask] = 0
        self._place(positions)
        return self.model.observe(positions, self.model.reward_map(positions)), {}

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Push every point: actions ``(num_envs, 2)``, no loop over lanes."""
        self._positions = positions = self.model.move(self._positions, actions)
        rewards = self.model.reward_map(positions)
        self._elapsed += _ONE
        if self.step_cost_s:
            time.sleep(self.step_cost_s * self.num_envs)
        if self.render_mode is not None:
            self._visited.append(positions)
        observations = self.model.observe(positions, rewards)
        terminations = np.zeros(self.num_envs, np.bool_)
        return observations, rewards, terminations, self._elapsed >= self._last_step, {}

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:  # type: ignore[override]
        """Draw each lane's path since its reset; None without a render mode."""
        if self.render_mode is None:
            return None
        visited = np.array(self._visited or [self._positions])
        return tuple(
            render_frame(self.model.reward_map, visited[-steps - 1 :, lane], self.model.target)
            for lane, steps in enumerate(self._elapsed)
        )

    def get_simulator_state(self) -> Floats:
        """Return a copy of the positions, ``(num_envs, 2)``."""
        return self._positions.copy()

    def set_simulator_state(self, states: ArrayLike, mask: ArrayLike | None = None) -> None:
        """Move the points of the masked lanes, all by default, to ``states`` ``(num_envs, 2)``.

        Raises:
            ValueError: If states or mask have another shape, or a masked state is not finite.
        """
        kept = ~lane_mask(mask, self.num_envs)
        states = np.array(states, np.float64)
        if states.shape == self._positions.shape:
            states[kept] = self._positions[kept]
        self._place(_as_states(states, (self.num_envs, 2)))

    def reference_returns(self, seeds: Sequence[int]) -> tuple[Floats, Floats] | None:
        """Return the random and the optimal return per seed, or None where no formula is known.

        Under `DriftPointMass` both are those of the plain dynamics, as a common scale.
        """
        from rllib_offset.envs.scores import (
            reference_returns,
        )  # scores are computed with this model

        if not isinstance(self.model.reward_map, Distance):
            return None
        return reference_returns(seeds, target=self.model.target)

    def _place(self, positions: Floats) -> None:
        self._positions = positions
        if self.render_mode is not None:
            if self._visited:
                self._visited.pop()
            self._visited.append(positions)


def start_of_seed(seed: int) -> Floats:
    """Return the position ``(2,)`` at which ``reset(seed=seed)`` starts an episode."""
    return _draw_start(seeding.np_random(seed)[0])


def _draw_start(rng: np.random.Generator) -> Floats:
    return rng.uniform(-1.0, 1.0, 2)


def _as_states(states: ArrayLike, shape: tuple[int, ...]) -> Floats:
    positions = np.asarray(states, np.float64)
    if positions.shape != shape or not np.isfinite(positions).all():
        raise ValueError(f"positions must be finite and of shape {shape}, got {states!r}")
    return within_square(positions)


def _check_point(name: str, value: Sequence[float]) -> None:
    if len(value) != 2 or not all(math.isfinite(part) for part in value):
        raise ValueError(f"`{name}` must be two finite numbers, got {value}")


def _check_step_cost(step_cost_s: float) -> float:
    if not 0.0 <= step_cost_s < math.inf:
        raise ValueError(f"`step_cost_s` must be finite and >= 0, got {step_cost_s}")
    return step_cost_s
