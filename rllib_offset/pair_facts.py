"""What must be known of a pair before training: widths, spaces, abilities.  Takes no slow step."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rllib_offset.columns import MEASUREMENT
from rllib_offset.pair import EnvPair
from rllib_offset.simulator_state import (
    can_get_simulator_state,
    can_set_simulator_state,
    get_simulator_state,
    simulator_state_space,
)

__all__ = ["PairFacts", "probe_pair"]


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

    @property
    def level(self) -> int:
        """0, 1 or 2: what the pair opens, as claimed; :meth:`EnvPair.check` tests the claims."""
        if not (self.can_set_slow and self.state_dim):
            return 0
        return 2 if self.can_set_fast else 1

    @property
    def has_bounded_states(self) -> bool:
        """Whether states can be spread over a finite box."""
        return self.state_space is not None and bool(self.state_space.is_bounded())


def probe_pair(pair: EnvPair) -> PairFacts:
    """Make both environments and look at the fast one for one reset and one step.

    Raises:
        ValueError: If the two environments' spaces differ.
    """
    fast, slow = pair.make_fast(), pair.make_slow()
    try:
        for name in ("observation_space", "action_space"):
            _check_alike(name, getattr(fast, name), getattr(slow, name))
        assert isinstance(slow.observation_space, spaces.Box)  # `make_env` flattens
        return PairFacts(
            obs_dim=spaces.flatdim(fast.observation_space),
            action_space=fast.action_space,
            slow_obs_space=slow.observation_space,
            measurement_dim=_measurement_dim(fast),
            state_dim=len(get_simulator_state(fast)) if can_get_simulator_state(fast) else 0,
            state_space=simulator_state_space(fast),
            can_set_slow=can_set_simulator_state(slow),
            can_set_fast=can_set_simulator_state(fast),
        )
    finally:
        fast.close()  # type: ignore[no-untyped-call]
        slow.close()  # type: ignore[no-untyped-call]


def _measurement_dim(fast: gym.Env[Any, Any]) -> int:
    fast.reset(seed=0)
    fast.action_space.seed(0)
    *_, info = fast.step(fast.action_space.sample())
    is_measured = MEASUREMENT in info and hasattr(fast.unwrapped, "outcome")
    return int(np.size(info[MEASUREMENT])) if is_measured else 0


def _check_alike(name: str, fast: spaces.Space[Any], slow: spaces.Space[Any]) -> None:
    alike = type(fast) is type(slow) and fast.shape == slow.shape
    if alike and not isinstance(fast, spaces.Box):
        alike = fast == slow
    if not alike:
        raise ValueError(
            f"fast and slow must have the same {name}, got {fast} and {slow}; wrap one of them"
        )
