"""From slow replays to a fitted correction, the driver's half of learning.  Knows no Ray."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_offset.columns import MEASUREMENT, REWARD, VALID, Columns, slice_columns
from rllib_offset.correction import OffsetCorrection, OffsetLayout
from rllib_offset.pair import EnvPair
from rllib_offset.predictor import FitResult, OffsetTrainer
from rllib_offset.replay.requests import ReplayResult
from rllib_offset.simulator_state import can_get_simulator_state, get_simulator_state

__all__ = ["OffsetEstimator", "probe_layout"]


class OffsetEstimator:
    """Turns labels into the next :class:`~rllib_offset.correction.OffsetCorrection`.

    Args:
        layout: What the predictor reads and corrects.
        trainer: The predictor's trainer.
        obs_space: The slow environment's observation space; corrected observations stay within it.
        clip_rewards: Whether corrected rewards stay within the slow rewards observed.
        pessimism: Standard deviations of the ensemble subtracted from a corrected reward.
    """

    def __init__(
        self,
        layout: OffsetLayout,
        trainer: OffsetTrainer,
        obs_space: spaces.Box,
        *,
        clip_rewards: bool = True,
        pessimism: float = 0.0,
    ) -> None:
        self.layout = layout
        self.trainer = trainer
        self._obs_space = obs_space
        self._clip_rewards = clip_rewards
        self._pessimism = pessimism
        self._reward_range = (np.inf, -np.inf)
        self._num_groups = 0

    @property
    def has_labels(self) -> bool:
        """Whether there is anything to fit."""
        return self.trainer.buffer.num_train > 0

    def add(self, results: list[ReplayResult]) -> NDArray[np.float64]:
        """Take in labels; returns the error on them before they are fitted, one mean per result."""
        errors = []
        for result in results:
            labels = _valid_rows(result)
            if labels is None:
                continue
            slow, fast = labels
            num_rows = len(slow[REWARD])
            first, single_steps = self._num_groups, result.request.kind == "steps"
            groups = first + (np.arange(num_rows) if single_steps else np.zeros(num_rows, int))
            self._num_groups = int(groups[-1]) + 1
            fresh = self.trainer.add(
                self.layout.features(fast), self.layout.offsets(slow, fast), groups
            )
            errors.append(float(np.nanmean(fresh)) if np.isfinite(fresh).any() else np.nan)
            low, high = self._reward_range
            rewards = slow[REWARD]
            self._reward_range = (min(low, float(rewards.min())), max(high, float(rewards.max())))
        return np.asarray(errors)

    def fit(self) -> FitResult:
        """Fit the predictor to the labels held."""
        return self.trainer.fit()

    def correction(self) -> OffsetCorrection:
        """Return the correction as it stands; without a single fit it changes nothing."""
        fitted = self.trainer.is_fitted
        low, high = self._reward_range
        return OffsetCorrection(
            layout=self.layout,
            predictor=self.trainer.numpy_predictor() if fitted else None,
            reward_range=(low, high) if self._clip_rewards and low <= high else None,
            obs_low=self._obs_space.low,
            obs_high=self._obs_space.high,
            pessimism=self._pessimism,
        )

    def get_state(self) -> dict[str, Any]:
        """Return labels, predictor, optimizer and generators."""
        return {
            "trainer": self.trainer.get_state(),
            "reward_range": self._reward_range,
            "num_groups": self._num_groups,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`get_state`."""
        self.trainer.set_state(state["trainer"])
        low, high = state["reward_range"]
        self._reward_range = (float(low), float(high))
        self._num_groups = int(state["num_groups"])


def _valid_rows(result: ReplayResult) -> tuple[Columns, Columns] | None:
    if result.slow is None:
        return None
    valid = result.slow[VALID].astype(bool)
    if not valid.any():
        return None
    return slice_columns(result.slow, valid), slice_columns(result.fast, valid)


def probe_layout(
    pair: EnvPair, inputs: tuple[str, ...], targets: tuple[str, ...]
) -> tuple[OffsetLayout, spaces.Box]:
    """Look at the fast simulator, one reset and one step, for the widths of everything.

    Returns:
        The layout, and the slow environment's observation space.

    Raises:
        ValueError: If the two environments' spaces differ.
    """
    fast, slow = pair.make_fast(), pair.make_slow()
    try:
        for name in ("observation_space", "action_space"):
            _check_alike(name, getattr(fast, name), getattr(slow, name))
        fast.reset(seed=0)
        fast.action_space.seed(0)
        *_, info = fast.step(fast.action_space.sample())
        measured = MEASUREMENT in info and hasattr(fast.unwrapped, "outcome")
        layout = OffsetLayout(
            inputs,
            targets,
            obs_dim=spaces.flatdim(fast.observation_space),
            action_space=fast.action_space,
            state_dim=len(get_simulator_state(fast)) if can_get_simulator_state(fast) else 0,
            measurement_dim=np.size(info[MEASUREMENT]) if measured else 0,
        )
        assert isinstance(slow.observation_space, spaces.Box)  # `make_env` flattens
        return layout, slow.observation_space
    finally:
        fast.close()  # type: ignore[no-untyped-call]
        slow.close()  # type: ignore[no-untyped-call]


def _check_alike(name: str, fast: spaces.Space[Any], slow: spaces.Space[Any]) -> None:
    alike = type(fast) is type(slow) and fast.shape == slow.shape
    if alike and not isinstance(fast, spaces.Box):
        alike = fast == slow
    if not alike:
        raise ValueError(
            f"fast and slow must have the same {name}, got {fast} and {slow}; wrap one of them"
        )
