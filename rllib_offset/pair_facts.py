"""What must be known of a pair before training: widths, spaces, abilities.  Takes no slow step."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rllib_offset.columns import MEASUREMENT
from rllib_offset.measurements import MeasurementReader
from rllib_offset.pair import EnvPair
from rllib_offset.simulator_state import (
    can_get_simulator_state,
    can_set_simulator_state,
    get_simulator_state,
    simulator_state_space,
)

__all__ = ["PairFacts", "probe_pair"]

_MAX_PROBED_STEPS = 50  # of a fast simulator that may be silent in some steps


@dataclass(frozen=True)
class PairFacts:
    """Widths, spaces and abilities of a pair.

    Args:
        obs_dim: Width of a flat observation.
        action_space: Of both simulators.
        slow_obs_space: Flat observation space of the slow simulator.
        state_dim: Width of the simulator state; 0 if the fast one does not tell it.
        state_space: Where states are drawn from, if the fast simulator says so.
        measurement_dim: Width of ``info["measurement"]``; 0 unless the fast one has ``outcome``.
        predictor_inputs_dim: Width of the fast one's ``predictor_inputs``; 0 unless it is measured.
        measures_resets: A reset's observation follows from its measurement.
        can_set_slow: Single steps of the slow simulator can be bought.
        can_set_fast: The fast simulator can follow a corrected state.
    """

    obs_dim: int
    action_space: spaces.Space[Any]
    slow_obs_space: spaces.Box
    state_dim: int
    state_space: spaces.Box | None
    measurement_dim: int
    can_set_slow: bool
    can_set_fast: bool
    can_get_slow: bool
    predictor_inputs_dim: int = 0
    measures_resets: bool = False

    @property
    def level(self) -> int:
        """0, 1 or 2: what the pair opens, as claimed; :meth:`EnvPair.check` tests the claims."""
        if not (self.can_set_slow and self.state_dim):
            return 0
        return 2 if self.can_set_fast and self.can_get_slow else 1

    @property
    def has_bounded_states(self) -> bool:
        """Whether states can be spread over a finite box."""
        return self.state_space is not None and bool(self.state_space.is_bounded())


def probe_pair(pair: EnvPair) -> PairFacts:
    """Make both environments and look at the fast one: a reset, and steps until one is measured.

    Raises:
        ValueError: If the two environments' spaces differ.
    """
    fast, slow = pair.make_fast(), pair.make_slow()
    try:
        for name in ("observation_space", "action_space"):
            _check_alike(name, getattr(fast, name), getattr(slow, name))
        assert isinstance(slow.observation_space, spaces.Box)  # `make_env` flattens
        measured = _measurement_facts(fast)  # resets it, without which it may have no state
        return PairFacts(
            obs_dim=spaces.flatdim(fast.observation_space),
            action_space=fast.action_space,
            slow_obs_space=slow.observation_space,
            state_dim=len(get_simulator_state(fast)) if can_get_simulator_state(fast) else 0,
            state_space=simulator_state_space(fast),
            can_set_slow=can_set_simulator_state(slow),
            can_set_fast=can_set_simulator_state(fast),
            can_get_slow=can_get_simulator_state(slow),
            **measured,
        )
    finally:
        fast.close()  # type: ignore[no-untyped-call]
        slow.close()  # type: ignore[no-untyped-call]


def _measurement_facts(fast: gym.Env[Any, Any]) -> dict[str, Any]:
    obs, at_reset = fast.reset(seed=0)
    has_state = can_get_simulator_state(fast)
    start = state = get_simulator_state(fast) if has_state else np.zeros(0)
    fast.action_space.seed(0)
    reader = MeasurementReader.of(fast)
    for _ in range(_MAX_PROBED_STEPS if reader.outcome is not None else 1):
        action = fast.action_space.sample()
        *_, terminated, truncated, info = fast.step(action)
        if MEASUREMENT in info:
            break
        if terminated or truncated:
            fast.reset()
        state = get_simulator_state(fast) if has_state else state
    if MEASUREMENT not in info or reader.outcome is None:
        return {"measurement_dim": 0}
    facts: dict[str, Any] = {"measurement_dim": int(np.size(info[MEASUREMENT]))}
    if has_state and reader.predictor_inputs is not None:
        facts["predictor_inputs_dim"] = int(
            np.size(reader.predictor_inputs(info[MEASUREMENT], state, action))
        )
    if has_state and MEASUREMENT in at_reset:
        facts["measures_resets"] = reader.explains_reset(obs, at_reset[MEASUREMENT], start)
    return facts


def _check_alike(name: str, fast: spaces.Space[Any], slow: spaces.Space[Any]) -> None:
    alike = type(fast) is type(slow) and fast.shape == slow.shape
    if alike and not isinstance(fast, spaces.Box):
        alike = fast == slow
    if not alike:
        raise ValueError(
            f"fast and slow must have the same {name}, got {fast} and {slow}; wrap one of them"
        )
