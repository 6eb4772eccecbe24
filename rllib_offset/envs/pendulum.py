"""Gymnasium's Pendulum with mass, friction and a simulator state: a pair whose dynamics differ."""

import math
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv, angle_normalize
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray

__all__ = ["DampedPendulumEnv"]


class DampedPendulumEnv(PendulumEnv):
    """Gymnasium's inverted pendulum, with a mass to choose and friction in the joint.

    ## Description
    With the default arguments it is Gymnasium's ``Pendulum-v1``: the fast simulator,
    ``rllib_offset/Pendulum-v0``. ``rllib_offset/DampedPendulum-v0`` is the slow one: mass 1.15 and
    damping 0.1, so that both drift apart when the same torques are replayed.

    ## Action Space
    | Num | Action         | Min  | Max |
    |-----|----------------|------|-----|
    | 0   | torque (`N m`) | -2.0 | 2.0 |

    ## Observation Space
    | Num | Observation                    | Min  | Max |
    |-----|--------------------------------|------|-----|
    | 0   | cos(theta)                     | -1.0 | 1.0 |
    | 1   | sin(theta)                     | -1.0 | 1.0 |
    | 2   | angular velocity (`rad s^-1`)  | -8.0 | 8.0 |

    ## Rewards
    Gymnasium's: ``-(theta^2 + 0.1 theta_dot^2 + 0.001 torque^2)``, of the state before the step.

    ## Starting State
    Gymnasium's: theta uniform in ``[-pi, pi]``, theta_dot in ``[-1, 1]``.

    ## Episode End
    Never terminated; truncated after 200 steps.

    ## Arguments
    - `mass`: in kg; scales what a torque can do (1.0).
    - `damping`: torque of the friction per angular velocity, in `N m s` (0.0).
    - `g`, `render_mode`: Gymnasium's.

    ## Simulator State
    ``(theta, theta_dot)``, float64. The angle is brought back to ``[-pi, pi]`` at the *start* of
    a step that begins outside, where Gymnasium lets it grow: the state stays in a bounded box, yet
    the angle never jumps within a step, so the difference of two next states from the same state
    is small.

    ## Version History
    - v0: Initial version.
    """

    def __init__(
        self,
        *,
        mass: float = 1.0,
        damping: float = 0.0,
        render_mode: str | None = None,
        g: float = 10.0,
    ) -> None:
        if not (0.0 < mass < math.inf and 0.0 <= damping < math.inf):
            raise ValueError(f"`mass` must be > 0 and `damping` >= 0, got {mass=}, {damping=}")
        super().__init__(render_mode=render_mode, g=g)
        self.m = mass
        self.damping = damping
        high = np.array([np.pi + self.max_speed * self.dt, self.max_speed])
        self.simulator_state_space = Box(-high, high, dtype=np.float64)

    def step(
        self, u: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply a torque for one time step: Gymnasium's equations, with friction."""
        theta, theta_dot = self.state
        angle = angle_normalize(theta)  # type: ignore[no-untyped-call]
        if abs(theta) > np.pi:
            theta = angle
        torque = np.clip(u, -self.max_torque, self.max_torque)[0]
        self.last_u = torque  # for rendering
        cost = angle**2 + 0.1 * theta_dot**2 + 0.001 * (torque**2)

        gravity = 3 * self.g / (2 * self.l) * np.sin(theta)
        per_torque = 3.0 / (self.m * self.l**2)
        # the friction apart, so that without it the sum has the same bits as Gymnasium's
        acceleration = gravity + per_torque * torque - per_torque * self.damping * theta_dot
        theta_dot = theta_dot + acceleration * self.dt
        theta_dot = np.clip(theta_dot, -self.max_speed, self.max_speed)
        self.state = np.array([theta + theta_dot * self.dt, theta_dot])

        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        observation = self._get_obs()  # type: ignore[no-untyped-call]
        return observation, float(-cost), False, False, {}

    def get_simulator_state(self) -> NDArray[np.float64]:
        """Return a copy of ``(theta, theta_dot)``."""
        return np.array(self.state, np.float64)

    def set_simulator_state(self, state: ArrayLike) -> None:
        """Set ``(theta, theta_dot)``; the velocity is clipped as a step would clip it.

        Raises:
            ValueError: If the state has another shape or is not finite.
        """
        values = np.array(state, np.float64)
        if values.shape != (2,) or not np.isfinite(values).all():
            raise ValueError(f"a state must be two finite numbers, got {state!r}")
        values[1] = np.clip(values[1], -self.max_speed, self.max_speed)
        self.state = values
        self.last_u = None
