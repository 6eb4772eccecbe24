"""The hand equations for many lanes at once: the native vector form of ``OpAmpHand-v0``."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.lanes import lane_mask, lane_seeds
from rllib_offset.envs.opamp.drawing import render_bode
from rllib_offset.envs.opamp.hand import hand_specs
from rllib_offset.envs.opamp.measurement import to_learned
from rllib_offset.envs.opamp.simulators import HandSimulator
from rllib_offset.envs.opamp.task import EPISODE_STEPS, OpAmpTask

__all__ = ["OpAmpVectorEnv"]

Floats = NDArray[np.float64]
Observation = NDArray[np.float32]


class OpAmpVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Lanes of `OpAmpEnv` that the hand equations evaluate together.

    Lanes are reset by the caller, through ``options["reset_mask"]``; a lane that has ended goes on
    until then. Infos hold arrays over the lanes: `measurement` and `specs` ``(num_envs, 4)``,
    `valid` ``(num_envs,)``.

    Args:
        num_envs: Number of lanes.
        max_episode_steps: Steps after which a lane is truncated; None for never.
        fidelity: ``"hand"``, as no other is vectorised.
        render_mode: ``"rgb_array"`` makes `render` return a Bode plot per lane.
        **task: Arguments of `OpAmpTask`.

    Raises:
        ValueError: If another fidelity is asked for.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's form)
        "render_modes": ["rgb_array"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = EPISODE_STEPS,
        fidelity: Literal["hand"] = "hand",
        render_mode: str | None = None,
        **task: Any,
    ) -> None:
        if fidelity != "hand":
            raise ValueError(f"only the hand equations are vectorised, got {fidelity=}")
        self.task = OpAmpTask(**task)
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.single_observation_space = self.task.observation_space
        self.single_action_space = self.task.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.simulator_state_space = self.task.simulator_state_space
        self._states = np.tile(self.task.draw_state(np.random.default_rng(0)), (num_envs, 1))
        self._elapsed = np.zeros(num_envs, np.int64)
        self._last_step = np.inf if max_episode_steps is None else max_episode_steps
        self._rngs: list[np.random.Generator | None] = [None] * num_envs

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the lanes of ``options["reset_mask"]``, all of them by default.

        Args:
            seed: One per lane, or one integer; masked-out lanes ignore theirs.
            options: ``"reset_mask"``, bool ``(num_envs,)``; ``"start"`` and ``"target"`` as of
                `OpAmpEnv`, for all lanes that are reset.

        Returns:
            The observations of all lanes, and their infos.
        """
        options = options or {}
        mask = lane_mask(options.get("reset_mask"), self.num_envs)
        seeds = lane_seeds(seed, self.num_envs)
        states = self._states.copy()
        for lane in np.flatnonzero(mask):
            rng = self._rngs[lane]
            if rng is None or seeds[lane] is not None:
                rng = self._rngs[lane] = seeding.np_random(seeds[lane])[0]
            states[lane] = self.task.state_with(
                self.task.draw_state(rng),
                start=options.get("start"),
                target=options.get("target"),
            )
        self._states = states
        self._elapsed[mask] = 0
        infos = self._evaluate()
        return self.task.observe(infos["measurement"], states), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Change the sizes of every lane: actions ``(num_envs, 7)``, no loop over lanes."""
        before, self._states = self._states, self.task.move(self._states, actions)
        self._elapsed += 1
        infos = self._evaluate()
        obs, rewards, terminations = self.task.outcome(infos["measurement"], before, actions)
        return obs, rewards, terminations, self._elapsed >= self._last_step, infos

    def outcome(
        self, measurement: ArrayLike, state: Floats, action: ArrayLike | None
    ) -> tuple[Observation, Any, Any]:
        """Return observation, reward and termination, for one step or a batch; see `OpAmpEnv`."""
        return self.task.outcome(measurement, state, action)

    def predictor_inputs(
        self, measurement: ArrayLike, state: Floats, action: ArrayLike | None
    ) -> NDArray[np.float32]:
        """Return what the offset depends on, ``(..., 18)``, from the same arguments."""
        return self.task.predictor_inputs(measurement, state, action)

    def get_simulator_state(self) -> Floats:
        """Return a copy of sizes, targets and steps taken, ``(num_envs, 12)``."""
        return self._states.copy()

    def set_simulator_state(self, states: ArrayLike, mask: ArrayLike | None = None) -> None:
        """Put the masked lanes, all by default, into ``states`` ``(num_envs, 12)``.

        Raises:
            ValueError: If states or mask have another shape, or a masked state cannot be.
        """
        chosen = lane_mask(mask, self.num_envs)
        values = np.array(states, np.float64)
        if values.shape == self._states.shape:
            values[~chosen] = self._states[~chosen]
        self._states = self.task.as_states(values, self._states.shape)

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:  # type: ignore[override]
        """Draw the Bode plot of each lane's design; None without a render mode."""
        if self.render_mode is None:
            return None
        simulator = HandSimulator()
        return tuple(
            render_bode(
                simulator.response(design),
                simulator.evaluate(design),
                self.task.targets(state),
                f"hand {design.tolist()}",
            )
            for state, design in zip(self._states, self.task.designs(self._states), strict=True)
        )

    def _evaluate(self) -> dict[str, Any]:
        specs = hand_specs(self.task.designs(self._states))
        valid = np.ones(self.num_envs, np.bool_)
        return {"measurement": to_learned(specs), "specs": specs, "valid": valid}
