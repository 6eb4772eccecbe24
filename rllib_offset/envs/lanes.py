"""What the lanes of a native vector environment are told: which to reset, from which seeds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["lane_mask", "lane_seeds"]


def lane_mask(mask: ArrayLike | None, num_envs: int) -> NDArray[np.bool_]:
    """Return a mask ``(num_envs,)``; None stands for all lanes.

    Raises:
        ValueError: If it is another type or shape.
    """
    if mask is None:
        return np.ones(num_envs, np.bool_)
    mask = np.asarray(mask)
    if mask.shape != (num_envs,) or mask.dtype != np.bool_:
        raise ValueError(
            f"a mask must be bool of shape ({num_envs},), got {mask.dtype} {mask.shape}"
        )
    return mask


def lane_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """Return one seed per lane; an integer is counted up from lane to lane, as in Gymnasium.

    Raises:
        ValueError: If there is another number of seeds than of lanes.

    Example:
        >>> lane_seeds(3, 2), lane_seeds([None, 7], 2)
        ([3, 4], [None, 7])
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, int | np.integer):
        return [int(seed) + lane for lane in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"`seed` must have one entry per lane, {num_envs}, got {seed}")
    return [None if lane_seed is None else int(lane_seed) for lane_seed in seed]
