"""Read and write the state of a simulator, so that one step can be taken from anywhere.

An environment offers ``unwrapped.get_simulator_state()`` and ``unwrapped.set_simulator_state(s)``;
Gymnasium's classic control and MuJoCo environments need nothing, their adapters are here.  The
state is what the next step depends on: a wrapper's count of steps (``TimeLimit``) is not in it.
"""

import sys
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "StateRange",
    "can_get_simulator_state",
    "can_get_simulator_states",
    "can_set_simulator_state",
    "can_set_simulator_states",
    "get_simulator_state",
    "get_simulator_states",
    "set_simulator_state",
    "set_simulator_states",
    "simulator_state_space",
    "state_divergence",
    "state_reader",
    "state_writer",
]

AnyEnv = gym.Env[Any, Any]

_SMALLEST_RANGE = 1e-3  # of the values; float32 rounds them by a ten-thousandth of this


def get_simulator_state(env: AnyEnv) -> NDArray[np.float64]:
    """Return a copy of the simulator's state, ``(S,)``.

    Raises:
        ValueError: If the environment offers no state, or was never reset.

    Example:
        >>> env = gym.make("CartPole-v1")
        >>> _ = env.reset(seed=1)
        >>> get_simulator_state(env).shape
        (4,)
    """
    return state_reader(env)()


def state_reader(env: AnyEnv) -> Callable[[], NDArray[np.float64]]:
    """Return :func:`get_simulator_state` of an environment that is looked into only once.

    Raises:
        ValueError: If the environment offers no state.
    """
    read = getattr(_adapter(env), "get_simulator_state", None)
    if not callable(read):
        raise ValueError(f"{_name(env)} offers no state; add `get_simulator_state()` to the class")
    return lambda: np.array(read(), dtype=np.float64).reshape(-1)


def set_simulator_state(env: AnyEnv, state: ArrayLike) -> None:
    """Put the simulator into ``state``, ``(S,)``, as if an episode had led there.

    Raises:
        ValueError: If the environment cannot be set, or the state has the wrong width.
    """
    state_writer(env)(state)


def state_writer(env: AnyEnv) -> Callable[[ArrayLike], None]:
    """Return :func:`set_simulator_state` of an environment that is looked into only once.

    Raises:
        ValueError: If the environment cannot be set.
    """
    write = getattr(_adapter(env), "set_simulator_state", None)
    if not callable(write):
        raise ValueError(
            f"{_name(env)} cannot be set; add `set_simulator_state(state)` to the class"
        )
    return lambda state: write(np.array(state, dtype=np.float64).reshape(-1))


def can_get_simulator_state(env: AnyEnv) -> bool:
    """Whether :func:`get_simulator_state` works on this environment."""
    return callable(getattr(_adapter(env), "get_simulator_state", None))


def can_set_simulator_state(env: AnyEnv) -> bool:
    """Whether :func:`set_simulator_state` works on this environment."""
    return callable(getattr(_adapter(env), "set_simulator_state", None))


def simulator_state_space(env: AnyEnv) -> spaces.Box | None:
    """Return the box that states are drawn from, or None if the environment names none.

    Its bounds may be infinite (the velocities of CartPole), and an episode may leave it (the angle
    of Pendulum is not wrapped).
    """
    space = getattr(_adapter(env), "simulator_state_space", None)
    return space if isinstance(space, spaces.Box) else None


def can_get_simulator_states(env: Any) -> bool:
    """Whether :func:`get_simulator_states` works on this vector environment."""
    if hasattr(env.unwrapped, "envs"):
        return can_get_simulator_state(env.unwrapped.envs[0])
    return callable(getattr(env.unwrapped, "get_simulator_state", None))


def can_set_simulator_states(env: Any) -> bool:
    """Whether :func:`set_simulator_states` works on this vector environment."""
    if hasattr(env.unwrapped, "envs"):
        return can_set_simulator_state(env.unwrapped.envs[0])
    return callable(getattr(env.unwrapped, "set_simulator_state", None))


def get_simulator_states(env: Any) -> NDArray[np.float64]:
    """Return the states of all lanes of a vector environment, ``(lanes, S)``."""
    if hasattr(env.unwrapped, "envs"):
        return np.stack([get_simulator_state(lane) for lane in env.unwrapped.envs])
    states: NDArray[np.float64] = env.unwrapped.get_simulator_state()
    return states


def set_simulator_states(env: Any, states: NDArray[Any], lanes: NDArray[np.bool_]) -> None:
    """Put the lanes in the mask ``lanes`` into their rows of ``states``, ``(lanes, S)``."""
    if hasattr(env.unwrapped, "envs"):
        for lane in np.flatnonzero(lanes):
            set_simulator_state(env.unwrapped.envs[lane], states[lane])
    else:
        env.unwrapped.set_simulator_state(states, lanes)


class StateRange:
    """How far each component of the state goes, over all states seen so far.

    Args:
        space: Gives the range of bounded components; of the others it is the one seen.

    Attributes:
        seen: Lowest and highest values, ``(2, S)``; None before the first state.
    """

    def __init__(self, space: spaces.Space[Any] | None = None) -> None:
        self.seen: NDArray[np.float64] | None = None
        self._space = space

    def see(self, states: NDArray[Any]) -> None:
        """Take note of states, ``(N, S)``; those that are not finite tell nothing."""
        states = np.asarray(states, np.float64)
        states = states[np.isfinite(states).all(axis=1)]
        if self.seen is not None:
            states = np.concatenate([self.seen, states])
        if len(states):
            self.seen = np.stack([states.min(axis=0), states.max(axis=0)])

    @property
    def width(self) -> NDArray[np.float64]:
        """Highest minus lowest, ``(S,)``; where nothing moves, what is beyond rounding."""
        if self.seen is None:
            return np.ones(1)
        low, high = self.seen
        width: NDArray[np.float64] = np.maximum(
            high - low, _SMALLEST_RANGE * np.abs(self.seen).max(axis=0)
        )
        space = self._space
        if isinstance(space, spaces.Box) and space.shape == width.shape:
            bounded = space.bounded_below & space.bounded_above
            width = np.where(bounded, space.high - space.low, width)
        width[width == 0] = 1.0
        return width


def state_divergence(slow: NDArray[Any], fast: NDArray[Any], width: NDArray[np.float64]) -> float:
    """Return the mean over steps of the largest difference, each component divided by its range.

    Args:
        slow: ``(N, S)``, states that the slow simulator reached.
        fast: ``(N, S)``, states that the fast one reached.
        width: ``(S,)``, that of a :class:`StateRange` which has seen them.
    """
    return float(np.mean(np.max(np.abs(slow - fast) / width, axis=1)))


class _Adapter(Protocol):
    """What an environment offers by itself, or an adapter in its place."""

    def get_simulator_state(self) -> ArrayLike: ...
    def set_simulator_state(self, state: NDArray[np.float64]) -> None: ...


def _adapter(env: AnyEnv) -> _Adapter:
    base: Any = env.unwrapped
    if hasattr(base, "get_simulator_state") or hasattr(base, "set_simulator_state"):
        return base  # type: ignore[no-any-return]
    if isinstance(base, tuple(_CLASSIC_CONTROL)):
        return _ClassicControl(base)
    mujoco = sys.modules.get("mujoco")  # a MuJoCo environment has imported it
    if mujoco is not None and isinstance(getattr(base, "data", None), mujoco.MjData):
        return _MuJoCo(base, mujoco)
    return base  # type: ignore[no-any-return]


def _name(env: AnyEnv) -> str:
    return type(env.unwrapped).__name__


def _check_width(env: AnyEnv, state: NDArray[np.float64], width: int) -> None:
    if state.shape != (width,):
        raise ValueError(f"a state of {_name(env)} has {width} values, got {state.size}")


class _ClassicControl:
    def __init__(self, env: Any) -> None:
        self.env = env

    def get_simulator_state(self) -> ArrayLike:
        state: ArrayLike | None = getattr(self.env, "state", None)
        if state is None:
            raise ValueError(f"{_name(self.env)} has no state yet; call `env.reset()` first")
        return state

    def set_simulator_state(self, state: NDArray[np.float64]) -> None:
        _check_width(self.env, state, self.simulator_state_space.shape[0])
        self.env.state = state
        if isinstance(self.env, CartPoleEnv):
            self.env.steps_beyond_terminated = None
        elif isinstance(self.env, PendulumEnv):
            self.env.last_u = None  # drawn, never simulated
        elif isinstance(self.env, Continuous_MountainCarEnv):
            self.env.state = _narrowed(state)

    @property
    def simulator_state_space(self) -> spaces.Box:
        high_of = next(
            high for kind, high in _CLASSIC_CONTROL.items() if isinstance(self.env, kind)
        )
        low, high = high_of(self.env)
        return spaces.Box(
            np.asarray(low, np.float64), np.asarray(high, np.float64), dtype=np.float64
        )


def _narrowed(state: NDArray[np.float64]) -> NDArray[Any]:
    """Return the state in the precision it came in: float32 from the first step of an episode on.

    ``Continuous_MountainCarEnv`` computes in the precision of its state, so it matters.
    """
    narrow = state.astype(np.float32)
    return narrow if np.array_equal(narrow, state) else state


def _symmetric(*high: float) -> tuple[list[float], list[float]]:
    return [-h for h in high], list(high)


def _mountain_car_bounds(env: Any) -> tuple[list[float], list[float]]:
    return [env.min_position, -env.max_speed], [env.max_position, env.max_speed]


_CLASSIC_CONTROL: dict[type, Any] = {
    AcrobotEnv: lambda env: _symmetric(np.pi, np.pi, env.MAX_VEL_1, env.MAX_VEL_2),
    CartPoleEnv: lambda env: _symmetric(
        env.x_threshold, np.inf, env.theta_threshold_radians, np.inf
    ),
    Continuous_MountainCarEnv: _mountain_car_bounds,
    MountainCarEnv: _mountain_car_bounds,
    PendulumEnv: lambda env: _symmetric(np.pi, env.max_speed),
}


class _MuJoCo:
    """Time, positions, velocities, actuators and the solver's warm start.

    Positions of bodies lag one substep behind the joints after a step.  Ant and Humanoid measure
    their progress from them *before* they step, so for these two the bodies are part of the state.
    """

    def __init__(self, env: Any, mujoco: Any) -> None:
        self.env, self.mujoco = env, mujoco
        self.parts = int(mujoco.mjtState.mjSTATE_FULLPHYSICS | mujoco.mjtState.mjSTATE_WARMSTART)
        names = {kind.__name__ for kind in type(env).__mro__}
        self.bodies = [env.data.xpos] if "AntEnv" in names else []
        self.bodies += [env.data.xipos] if "HumanoidEnv" in names else []

    def get_simulator_state(self) -> ArrayLike:
        physics = np.empty(self._physics_width())
        self.mujoco.mj_getState(self.env.model, self.env.data, physics, self.parts)
        return np.concatenate([physics, *(body.ravel() for body in self.bodies)])

    def set_simulator_state(self, state: NDArray[np.float64]) -> None:
        width = self._physics_width()
        _check_width(self.env, state, width + sum(body.size for body in self.bodies))
        model, data = self.env.model, self.env.data
        self.mujoco.mj_setState(model, data, state[:width], self.parts)
        self.mujoco.mj_forward(model, data)  # everything that is derived from the joints
        self.mujoco.mj_setState(model, data, state[:width], self.parts)  # the warm start, again
        for body in self.bodies:
            body[:] = state[width : width + body.size].reshape(body.shape)
            width += body.size

    def _physics_width(self) -> int:
        return int(self.mujoco.mj_stateSize(self.env.model, self.parts))
