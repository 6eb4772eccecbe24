"""Any environment with its rewards in another unit: small values are learned sooner."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TransformReward

__all__ = ["ScaledReward"]


class ScaledReward(TransformReward[Any, Any]):
    """An environment whose rewards are multiplied by a factor; all else stays as it is.

    To train with; evaluate in the environment itself, as ``tuned_configs/pendulum-a2c.yaml`` does.

    Args:
        config: ``id`` of the environment, ``scale`` of its rewards, and what else the environment
            is made with, as in RLlib's ``env_config``.

    Raises:
        ValueError: If ``id`` is missing, or ``scale`` is not a positive number.

    Example:
        >>> env = ScaledReward({"id": "CartPole-v1", "scale": 0.5, "max_episode_steps": 50})
        >>> _ = env.reset(seed=0)
        >>> env.step(0)[1]
        0.5
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        options = dict(config)
        env_id, scale = options.pop("id", None), options.pop("scale", 1.0)
        if env_id is None:
            raise ValueError(f"`env_config` must name the environment's `id`, got {config}")
        if not (isinstance(scale, int | float) and scale > 0):
            raise ValueError(f"`scale` must be a number > 0, got {scale!r}")
        super().__init__(gym.make(env_id, **options), lambda reward: scale * float(reward))
