"""Rewards in another unit, everything else as it was."""

import gymnasium as gym
import numpy as np
import pytest

from rllib_offset.envs.scaled_reward import ScaledReward
from rllib_offset.pair import make_env


def test_only_the_rewards_change():
    plain = gym.make("Pendulum-v1", max_episode_steps=3)
    scaled = make_env(
        "rllib_offset.envs.scaled_reward.ScaledReward",
        {"id": "Pendulum-v1", "scale": 0.25, "max_episode_steps": 3},
    )
    np.testing.assert_array_equal(scaled.reset(seed=4)[0], plain.reset(seed=4)[0])
    for _ in range(3):
        expected, seen = plain.step(np.ones(1)), scaled.step(np.ones(1))
        np.testing.assert_array_equal(seen[0], expected[0])
        assert seen[1] == pytest.approx(0.25 * expected[1])
        assert seen[2:4] == expected[2:4]
    assert seen[3]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scale": 0.5}, "must name the environment's `id`"),
        ({"id": "Pendulum-v1", "scale": 0}, "`scale` must be a number > 0, got 0"),
        ({"id": "Pendulum-v1", "scale": "small"}, "got 'small'"),
    ],
)
def test_a_mistaken_config_is_explained(config, message):
    with pytest.raises(ValueError, match=message):
        ScaledReward(config)
