"""Turn a slow replay that went its own way into one-step labels, without another slow step."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from rllib_offset.columns import ACTION, OBS, PREV_OBS, STATE, TIME
from rllib_offset.replay.requests import ReplayRequest, ReplayResult
from rllib_offset.replay.worker import replay

__all__ = ["resynchronised"]


def resynchronised(result: ReplayResult, fast_env: gym.Env[Any, Any]) -> ReplayResult:
    """Step the fast simulator from every state that the slow one was in.

    Args:
        result: A replay whose slow columns hold the states; single steps and resynchronised replays
            are returned as they are.
        fast_env: A fast simulator that can be put into a state.

    Returns:
        The same slow results, beside what the fast simulator makes of the same states and actions.
    """
    if result.slow is None or result.request.kind != "trajectory":
        return result
    actions, states = result.request.actions[result.index], result.slow[STATE]
    carried = {ACTION: actions}  # fast columns of its own: there is nothing else to step
    request = ReplayRequest(result.request.key, "steps", actions, states=states, fast=carried)
    fast = replay(request, fast_env).slow
    assert fast is not None  # a fast simulator that can be put anywhere answers everywhere
    known = {ACTION: actions, STATE: states}
    if TIME in result.fast:
        known[TIME] = result.fast[TIME]
    if PREV_OBS in result.fast:  # both start alike
        known[PREV_OBS] = np.concatenate([result.fast[PREV_OBS][:1], result.slow[OBS][:-1]])
    return replace(result, fast=fast | known)
