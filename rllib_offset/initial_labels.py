"""Labels bought before training, at well-spread states: the cheapest ones there are."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.stats import qmc

from rllib_offset.columns import (
    ACTION,
    MEASUREMENT,
    NEXT_STATE,
    OBS,
    PREV_OBS,
    REWARD,
    STATE,
    TERMINATED,
    TIME,
    VALID,
    Columns,
    slice_columns,
)
from rllib_offset.pair import EnvPair
from rllib_offset.pair_facts import PairFacts
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.sampling import label_hashes
from rllib_offset.simulator_state import get_simulator_state

__all__ = ["INITIAL_VERSION", "initial_requests"]

INITIAL_VERSION = -1  # first word of the keys: before every iteration

_STEPS_PER_LABEL = 20  # of the fast rollouts that states are drawn from
_EPISODE_STEPS = 200


def initial_requests(
    pair: EnvPair,
    facts: PairFacts,
    num_labels: int,
    *,
    seed: int,
    steps_per_request: int,
    version: int = INITIAL_VERSION,
    follow_episodes: bool = False,
) -> list[ReplayRequest]:
    """Return requests for single steps from well-spread states.

    States and actions are Sobol points where the state box is finite and the fast simulator can be
    put anywhere; otherwise they are drawn from rollouts of random actions in the fast simulator,
    fewer than ``num_labels`` if the simulator measures that rarely.  A step that is drawn again,
    as where states are few, is asked for once.
    ``version`` is the first word of the requests' keys; ``seed`` draws the points;
    ``follow_episodes`` takes rollouts anyway: a Sobol point has no time and no step before it.
    """
    if not follow_episodes and facts.has_bounded_states and facts.can_set_fast:
        steps = _distinct(_sobol_steps(facts, num_labels, seed))
        fast: Columns = {}  # the replay worker steps both simulators
    else:
        fast = _rollout_steps(pair, num_labels, seed, is_measured=facts.measurement_dim > 0)
        if not fast:
            return []
        steps = fast = _distinct(fast)
    return [
        ReplayRequest(
            key=(version, 0, first),
            kind="steps",
            actions=steps[ACTION][first : first + steps_per_request],
            states=steps[STATE][first : first + steps_per_request],
            fast=slice_columns(fast, slice(first, first + steps_per_request)),
        )
        for first in range(0, len(steps[ACTION]), steps_per_request)
    ]


def _distinct(steps: Columns) -> Columns:
    """Return each step once, where it was drawn first."""
    _, first = np.unique(label_hashes(steps[STATE], steps[ACTION]), return_index=True)
    return slice_columns(steps, np.sort(first))


def _sobol_steps(facts: PairFacts, num_labels: int, seed: int) -> Columns:
    """Spread (state, action) over the box, ``{state: (N, S), action: (N, ...)}``."""
    space = facts.state_space
    assert space is not None
    action_dim = _action_cube_dim(facts.action_space)
    sampler = qmc.Sobol(facts.state_dim + action_dim, rng=np.random.default_rng(seed))
    cube = sampler.random_base2(max(0, int(np.ceil(np.log2(num_labels)))))[:num_labels]
    low, high, shares = space.low, space.high, cube[:, : facts.state_dim]
    if np.issubdtype(space.dtype, np.integer):
        low, high = low.astype(np.float64), high.astype(np.float64)
        states = np.floor(low + shares * (high - low + 1))
    else:
        states = low + shares * (high - low)
    return {
        STATE: np.asarray(states, np.float64),
        ACTION: _actions_from_cube(facts.action_space, cube[:, facts.state_dim :]),
    }


def _action_cube_dim(space: spaces.Space[Any]) -> int:
    return 1 if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or (1,)))


def _actions_from_cube(space: spaces.Space[Any], cube: NDArray[np.float64]) -> NDArray[Any]:
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start + np.floor(cube[:, 0] * int(space.n)), space.dtype)
    shape = (len(cube), *(space.shape or ()))
    if isinstance(space, spaces.MultiDiscrete):
        widths = np.asarray(space.nvec, np.float64)
        return np.asarray(space.start + np.floor(cube.reshape(shape) * widths), space.dtype)
    assert isinstance(space, spaces.Box)
    low = np.where(space.bounded_above, space.high - 2.0, -1.0)
    low = np.where(space.bounded_below, space.low, low)
    high = np.where(space.bounded_above, space.high, low + 2.0)
    return np.asarray(low + cube.reshape(shape) * (high - low), space.dtype)


def _rollout_steps(pair: EnvPair, num_labels: int, seed: int, *, is_measured: bool) -> Columns:
    """Return steps spread over rollouts of random actions in the fast simulator, if any count."""
    env = pair.make_fast()
    rng = np.random.default_rng(seed)
    env.action_space.seed(int(rng.integers(2**31)))
    rows: list[dict[str, Any]] = []
    is_over, steps, prev_obs = True, 0, np.zeros(0)
    while len(rows) < num_labels * _STEPS_PER_LABEL:
        if is_over or steps == _EPISODE_STEPS:
            prev_obs, _ = env.reset(seed=int(rng.integers(2**31)))
            steps = 0
        state, action = get_simulator_state(env), env.action_space.sample()
        obs, reward, terminated, truncated, info = env.step(action)
        steps += 1
        row = {STATE: state, ACTION: action, OBS: obs, PREV_OBS: prev_obs}
        row |= {REWARD: np.float32(reward), TERMINATED: terminated, TIME: np.float32(steps)}
        row |= {NEXT_STATE: get_simulator_state(env)}
        told = (MEASUREMENT, VALID) if is_measured else (VALID,)
        row |= {name: info[name] for name in told if name in info}
        rows.append(row)
        prev_obs, is_over = obs, terminated or truncated
    env.close()  # type: ignore[no-untyped-call]
    if is_measured:  # then a step without one has nothing to compare
        rows = [row for row in rows if MEASUREMENT in row]
    if not rows:
        return {}
    if any(VALID in row for row in rows):
        rows = [{VALID: True} | row for row in rows]
    chosen = np.sort(rng.choice(len(rows), min(num_labels, len(rows)), replace=False))
    return {name: np.stack([rows[i][name] for i in chosen]) for name in rows[0]}
