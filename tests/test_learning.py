"""A2C learns what an A2C must, with the tuned configs; the schedules it learns by."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rllib_offset import A2CConfig, OffsetA2CConfig, OffsetPPOConfig

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

CONFIGS = {"A2C": A2CConfig, "OffsetA2C": OffsetA2CConfig, "OffsetPPO": OffsetPPOConfig}
TUNED_CONFIGS = Path(__file__).parents[1] / "tuned_configs"
SCHEDULES: dict[str, Any] = {
    "lr": [[0, 0.01], [400, 0.002]],
    "entropy_coeff": [[0, 0.1], [400, 0.0]],
}


def test_learning_rate_and_entropy_coefficient_follow_their_schedules():
    config = A2CConfig().environment("CartPole-v1", env_config={"max_episode_steps": 10})
    config.training(train_batch_size_per_learner=100, **SCHEDULES).debugging(seed=0)
    algorithm = config.build_algo()
    rates, entropies, steps = [], [], []
    for _ in range(6):
        result = algorithm.train()
        rates.append(result["learners"]["default_policy"]["default_optimizer_learning_rate"])
        coefficient = algorithm.learner_group._learner._entropy_coeff
        entropies.append(float(coefficient.get_current_value()))
        steps.append(result["num_env_steps_sampled_lifetime"])
    algorithm.stop()
    expected = [0.01 - 0.008 * min(n, 400) / 400 for n in steps]
    assert rates == pytest.approx(expected, abs=1e-6)
    assert entropies == pytest.approx([0.1 - 0.1 * min(n, 400) / 400 for n in steps], abs=1e-6)


def tuned(experiment: str, **changes: Any) -> tuple[Any, dict[str, float]]:
    """Return the algorithm of a tuned config, and when its training stops."""
    (spec,) = yaml.safe_load((TUNED_CONFIGS / f"{experiment}.yaml").read_text()).values()
    config = CONFIGS[spec["run"]]().environment(spec["env"])
    return config.update_from_dict(spec["config"] | changes).build_algo(), spec["stop"]


def train(experiment: str, seed: int) -> tuple[float, int]:
    """Return the mean return of the last evaluation, and the steps trained."""
    algorithm, stop = tuned(experiment, seed=seed)
    threshold, max_steps = stop.values()
    mean_return, num_steps = -np.inf, 0
    while mean_return < threshold and num_steps < max_steps:
        result = algorithm.train()
        num_steps = int(result["num_env_steps_sampled_lifetime"])
        if "evaluation" in result:
            mean_return = float(result["evaluation"]["env_runners"]["episode_return_mean"])
    algorithm.stop()
    return mean_return, num_steps


@pytest.mark.learning
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("experiment", "threshold"), [("cartpole-a2c", 475), ("pendulum-a2c", -200)]
)
def test_a2c_learns(experiment, threshold, seed):
    mean_return, _ = train(experiment, seed)
    assert mean_return >= threshold


HERE: dict[str, Any] = {"num_env_runners": 0, "num_learners": 0, "num_replay_workers": 0}
APART: dict[str, Any] = {
    "num_env_runners": 2,
    "num_cpus_per_env_runner": 0.25,
    "num_envs_per_env_runner": 5,  # ten lanes in all, as with one runner
    "num_learners": 1,
    "num_cpus_per_learner": 0.25,
    "num_replay_workers": 2,
    "num_cpus_per_replay_worker": 0.25,
}


@pytest.mark.learning
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("placement", [HERE, APART], ids=["in-the-driver", "in-actors"])
@pytest.mark.parametrize(
    ("experiment", "num_labels"),
    [
        ("pointmass-offset-samples", 350),
        ("pointmass-offset", 300_000),
        ("pointmass-offset-ppo-samples", 110),
        ("pointmass-offset-ppo", 60_000),
    ],
)
def test_runners_learner_and_replays_in_other_processes_learn_the_same(
    experiment, num_labels, placement
):
    algorithm, stop = tuned(experiment, seed=0, **placement)
    for _ in range(stop["training_iteration"]):
        result = algorithm.train()
    algorithm.stop()
    assert result["evaluation"]["normalised_score"] >= 0.97
    assert result["slow"]["num_env_steps_lifetime"] == num_labels
    assert (
        result["env_runners"]["num_env_steps_sampled_lifetime"]
        == 1000 * result["training_iteration"]
    )
