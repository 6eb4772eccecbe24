"""How good a return on PointMass is: 0 is a random agent, 1 the best possible one.

For the plain dynamics and the distance map: the optimum is known in closed form.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rllib_offset.envs.point_mass import EPISODE_STEPS, MAX_STEP, PointMassModel, start_of_seed
from rllib_offset.envs.reward_maps import TARGET

__all__ = [
    "EVALUATION_STARTS",
    "normalised_score",
    "optimal_return",
    "random_return",
    "reference_returns",
]

Floats = NDArray[np.float64]

EVALUATION_STARTS: Floats = np.random.default_rng(123).uniform(-1.0, 1.0, (64, 2))
EVALUATION_STARTS.setflags(write=False)


def optimal_return(starts: ArrayLike, *, target: Sequence[float] = TARGET) -> Floats:
    """Return the highest return of an episode from each start: ``(..., 2) -> (...)``.

    Each axis moves to the target at full speed: at every step that makes both distances, and so
    their norm, as small as any agent can.
    """
    reach = MAX_STEP * np.arange(1, EPISODE_STEPS + 1)
    distances = np.abs(np.asarray(starts, np.float64) - target)
    left = np.maximum(distances[..., None, :] - reach[:, None], 0.0)
    returns: Floats = -np.linalg.norm(left, axis=-1).sum(axis=-1)
    return returns


def random_return(
    starts: ArrayLike, seed: int = 5, *, repeats: int = 20, target: Sequence[float] = TARGET
) -> Floats:
    """Return the mean return of uniform actions from each start: ``(..., 2) -> (...)``.

    Args:
        starts: Positions at which the episodes start.
        seed: Seed of the actions.
        repeats: Episodes averaged per start.
        target: Position of the highest reward.
    """
    model, positions = PointMassModel(target=target), np.asarray(starts, np.float64)
    shape = (repeats, EPISODE_STEPS, *positions.shape)
    actions = np.random.default_rng(seed).uniform(-1.0, 1.0, shape)
    returns = np.zeros((repeats, *positions.shape[:-1]))
    for step in range(EPISODE_STEPS):
        positions = model.move(positions, actions[:, step])
        returns += model.reward_map(positions)
    means: Floats = returns.mean(axis=0)
    return means


def normalised_score(
    returns: ArrayLike,
    starts: ArrayLike = EVALUATION_STARTS,
    *,
    target: Sequence[float] = TARGET,
) -> float:
    """Return ``(R - R_random) / (R_opt - R_random)``, each the mean over the starts.

    Args:
        returns: Return of one episode per start, or their mean.
        starts: Where the episodes started, ``(..., 2)``; by default the 64 fixed ones.
        target: Position of the highest reward.
    """
    worst = random_return(starts, target=target).mean()
    best = optimal_return(starts, target=target).mean()
    return float((np.asarray(returns, np.float64).mean() - worst) / (best - worst))


def reference_returns(
    seeds: Sequence[int], *, target: Sequence[float] = TARGET
) -> tuple[Floats, Floats]:
    """Return what a random and the best agent get from the starts of ``seeds``, each ``(B,)``."""
    starts = np.stack([start_of_seed(seed) for seed in seeds])
    return random_return(starts, target=target), optimal_return(starts, target=target)
