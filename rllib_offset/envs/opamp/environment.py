"""The op-amp as a Gymnasium environment: one design, sized step by step."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import MultiDiscrete
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.opamp.design import PARAMETERS
from rllib_offset.envs.opamp.drawing import render_bode
from rllib_offset.envs.opamp.measurement import SPECS, Evaluation, from_learned, to_learned
from rllib_offset.envs.opamp.simulators import EngineName, Fidelity, Simulator, open_simulator
from rllib_offset.envs.opamp.task import OpAmpTask

__all__ = ["OpAmpEnv"]

Floats = NDArray[np.float64]
Observation = NDArray[np.float32]


class OpAmpEnv(gym.Env[Observation, NDArray[np.int64]]):
    """A two-stage operational amplifier is sized to meet four target specs.

    ## Description
    Analog sizing, the case that the paper was written for: an agent changes the seven sizes of a
    Miller-compensated op-amp step by step, until gain, bandwidth, phase margin and supply current
    meet targets that are drawn for each episode. Three fidelities judge the same design:

    | Id                  | What answers                                                          |
    |---------------------|-----------------------------------------------------------------------|
    | `OpAmpHand-v0`      | hand equations, microseconds; needs nothing installed                 |
    | `OpAmpSchematic-v0` | ngspice, ideal wires, about 4 ms                                      |
    | `OpAmpExtracted-v0` | ngspice, a synthetic layout with parasitics, about 240 ms (`group` 1) |

    The layout is generated from the sizes, deterministically, to behave as an extraction does; it
    is no foundry's, and neither are the model cards.

    ## Action Space
    `MultiDiscrete([7] * 7)`: per size an index into `increments`, by default
    ``(-10, -3, -1, 0, 1, 3, 10)``, which is added and the sum clipped to its bounds.

    | Num | Size                                            | Min | Max |
    |-----|-------------------------------------------------|-----|-----|
    | 0   | fingers of the mirror that loads the input pair | 2   | 100 |
    | 1   | fingers of the input pair                       | 2   | 100 |
    | 2   | fingers of the output driver                    | 2   | 100 |
    | 3   | fingers of the tail current source              | 2   | 100 |
    | 4   | fingers of the bias diode                       | 2   | 100 |
    | 5   | fingers of the output current sink              | 2   | 100 |
    | 6   | compensation capacitor (20 fF)                  | 1   | 100 |

    ## Observation Space
    `Box(-1, 1, (16,))`:

    | Num   | Observation                                                                       |
    |-------|-----------------------------------------------------------------------------------|
    | 0-3   | 3 * (spec - target) / (spec + target), clipped; the current's with the other sign |
    | 4-7   | the targets, their logarithms scaled to their range (0 where it is one value)     |
    | 8-14  | the sizes, scaled to their bounds                                                 |
    | 15    | steps taken / `horizon`                                                           |

    ## Rewards
    The sum of the relative shortfalls, ``(spec - target) / (spec + target)`` where that is negative
    (for the current, its opposite); +10 in place of it for a design that passes, whose sum is at
    least `pass_threshold`.

    ## Starting State
    The design ``(34, 34, 34, 34, 34, 15, 21)``, which meets no default target. Targets are
    log-uniform:

    | Spec         | Unit | Asked    | From   | To     |
    |--------------|------|----------|--------|--------|
    | gain         | V/V  | at least | 200    | 270    |
    | bandwidth    | Hz   | at least | 40e6   | 120e6  |
    | phase_margin | deg  | at least | 60     | 60     |
    | current      | A    | at most  | 100e-6 | 250e-6 |

    To choose, pass ``reset(options={"target": {...}, "start": (...)})``.

    ## Episode End
    Terminated as soon as a design passes; truncated after 30 steps.

    ## Info
    - `measurement`: ``(4,)``, ln(gain), ln(bandwidth), phase margin / 30 deg, ln(current) of the
      design reached, the scale on which the offset between two fidelities is learned.
    - `specs`: the same in V/V, Hz, deg and A.
    - `valid`: False where the simulator found no specs; they are then far from every target, and
      `failure` says why.

    ## Arguments
    - `target_range`, `target`, `increments`, `start`, `pass_threshold`, `success_reward`,
      `horizon`: see `rllib_offset.envs.opamp.task.OpAmpTask`.
    - `engine`, `group`, `segments`, `deadline_s`: see
      `rllib_offset.envs.opamp.simulators.open_simulator`. `group` makes `OpAmpExtracted-v0` faster
      and coarser: 64 ms at 5, 29 ms at 25.
    - `render_mode`: ``"rgb_array"`` draws the Bode plot of the design against its targets.

    ## Simulator State
    ``(7 sizes, 4 targets, steps taken)``, float64.

    ## Version History
    - v0: Initial version.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's form)

    def __init__(
        self,
        *,
        fidelity: Fidelity = "hand",
        engine: EngineName = "library",
        group: int = 1,
        segments: int = 12,
        deadline_s: float = 30.0,
        render_mode: str | None = None,
        **task: Any,
    ) -> None:
        self.task = OpAmpTask(**task)
        self.fidelity = fidelity
        self.render_mode = render_mode
        self.observation_space = self.task.observation_space
        self.action_space: MultiDiscrete = self.task.action_space  # type: ignore[assignment]
        self.simulator_state_space = self.task.simulator_state_space
        self._simulator: Simulator | None = open_simulator(
            fidelity, engine=engine, group=group, segments=segments, deadline_s=deadline_s
        )
        self._state = self.task.draw_state(np.random.default_rng(0))

    @property
    def simulator(self) -> Simulator:
        """What evaluates the designs.

        Raises:
            ValueError: If the environment is closed.
        """
        if self._simulator is None:
            raise ValueError("the environment is closed; make another")
        return self._simulator

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, with the ``"target"`` and the ``"start"`` of the options if given."""
        super().reset(seed=seed)
        options = options or {}
        self._state = self.task.state_with(
            self.task.draw_state(self.np_random),
            start=options.get("start"),
            target=options.get("target"),
        )
        info = _info(self._evaluate())
        return self.task.observe(info["measurement"], self._state), info

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Change the sizes and simulate the design."""
        before, self._state = self._state, self.task.move(self._state, action)
        info = _info(self._evaluate())
        obs, reward, terminated = self.task.outcome(info["measurement"], before, action)
        return obs, float(reward), bool(terminated), False, info

    def outcome(
        self, measurement: ArrayLike, state: Floats, action: ArrayLike | None
    ) -> tuple[Observation, Any, Any]:
        """Return observation, reward and termination of a step; also for batches of steps.

        Args:
            measurement: ``(..., 4)``, of the design reached.
            state: ``(..., 12)``, before the step.
            action: ``(..., 7)``; None where nothing moved, as at a reset.
        """
        return self.task.outcome(measurement, state, action)

    def predictor_inputs(
        self, measurement: ArrayLike, state: Floats, action: ArrayLike | None
    ) -> NDArray[np.float32]:
        """Return what the offset depends on, ``(..., 18)``, from the same arguments."""
        return self.task.predictor_inputs(measurement, state, action)

    def name_design(self, state: Floats, action: ArrayLike | None = None) -> dict[str, float]:
        """Return the sizes that an action leads to from a state ``(12,)``, by name."""
        reached = state if action is None else self.task.move(state, action)
        return dict(zip(PARAMETERS, map(float, self.task.designs(reached)), strict=True))

    def name_measurement(self, measurement: ArrayLike) -> dict[str, float]:
        """Return the specs of a measurement ``(4,)`` in V/V, Hz, deg and A, by name."""
        return dict(zip(SPECS, map(float, from_learned(measurement)), strict=True))

    def get_simulator_state(self) -> Floats:
        """Return a copy of sizes, targets and steps taken, ``(12,)``."""
        return self._state.copy()

    def set_simulator_state(self, state: ArrayLike) -> None:
        """Go to a design in the middle of an episode; nothing is simulated yet.

        Raises:
            ValueError: If the state has another shape, is not finite, or a target is not positive.
        """
        self._state = self.task.as_states(state, (12,))

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Draw the Bode plot of the design, ``(480, 480, 3)``; None without a render mode."""
        if self.render_mode is None:
            return None
        design = self.task.designs(self._state)
        evaluation = self._evaluate()
        response = self.simulator.response(design)
        target = self.task.targets(self._state)
        return render_bode(response, evaluation, target, f"{self.fidelity} {design.tolist()}")

    def close(self) -> None:
        """Let go of the simulator; its process ends with the last environment that uses it."""
        self._simulator = None

    def _evaluate(self) -> Evaluation:
        return self.simulator.evaluate(self.task.designs(self._state))


def _info(evaluation: Evaluation) -> dict[str, Any]:
    info: dict[str, Any] = {
        "measurement": to_learned(evaluation.specs),
        "specs": evaluation.specs.copy(),
        "valid": evaluation.is_valid,
    }
    return info if evaluation.is_valid else info | {"failure": evaluation.failure}
