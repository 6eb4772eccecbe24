"""From slow replays to a fitted correction, the driver's half of learning.  Knows no Ray."""

from itertools import groupby
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_offset.columns import REWARD, Columns, concat_columns, slice_columns
from rllib_offset.correction import OffsetCorrection, OffsetLayout
from rllib_offset.held_labels import HeldLabels
from rllib_offset.measurements import NO_READER, MeasurementReader
from rllib_offset.offset_trainer import FitResult, OffsetTrainer
from rllib_offset.replay.requests import ReplayResult, valid_rows

__all__ = ["OffsetEstimator"]

_RESULTS_AT_ONCE = 256  # taken in together; bounds the memory of a whole store
_LABELS_OF_A_RANGE = 5  # fewer slow rewards say little of their range


class OffsetEstimator:
    """Turns labels into the next :class:`~rllib_offset.correction.OffsetCorrection`.

    Args:
        layout: What the predictor reads and corrects.
        trainer: The predictor's trainer.
        obs_space: The slow environment's observation space; corrected observations stay within it.
        clip_rewards: Whether corrected rewards stay within the slow rewards observed.
        pessimism: Standard deviations of the ensemble subtracted from a corrected reward.
        reader: What the pair makes of a measurement.
    """

    def __init__(
        self,
        layout: OffsetLayout,
        trainer: OffsetTrainer,
        obs_space: spaces.Box,
        *,
        clip_rewards: bool = True,
        pessimism: float = 0.0,
        reader: MeasurementReader = NO_READER,
    ) -> None:
        self.layout = layout
        self.trainer = trainer
        self._obs_space = obs_space
        self._clip_rewards = clip_rewards
        self._pessimism = pessimism
        self._reader = reader
        self._reward_range = (np.inf, -np.inf)
        self._num_groups = 0
        self._held = HeldLabels(lambda fast: layout.identity(fast, reader))
        self._latest: list[ReplayResult] = []
        self._latest_rewards: list[float] = []  # lowest and highest
        self._latest_inside: list[NDArray[np.bool_]] = []
        self._latest_misses: list[NDArray[np.float64]] = []

    @property
    def has_labels(self) -> bool:
        """Whether there is anything to fit."""
        return self.trainer.buffer.num_train > 0

    @property
    def held_labels(self) -> NDArray[np.uint64]:
        """Sorted hashes of the single steps labelled so far, so that none is bought twice."""
        return self._held.steps

    def fresh(self, results: list[ReplayResult]) -> list[ReplayResult]:
        """Return the results without labels that are held already, or come a second time."""
        return self._held.left_out_of(results)

    def can_take(self, result: ReplayResult) -> bool:
        """Whether a label holds all that this layout reads and corrects."""
        return result.slow is not None and self.layout.is_told_by(result.slow, result.fast)

    def add(self, results: list[ReplayResult]) -> NDArray[np.float64]:
        """Take in labels.

        Returns:
            ``(N,)``, error of the present predictor on each label before it is fitted: root mean
            square over the targets in units of the offset's own spread; NaN before the first fit.
        """
        self._latest = results
        self._latest_rewards = []
        self._latest_inside = []
        self._latest_misses = []
        errors = []
        for are_steps, run in groupby(results, lambda result: result.request.kind == "steps"):
            alike = list(run)
            for first in range(0, len(alike), _RESULTS_AT_ONCE):
                part = alike[first : first + _RESULTS_AT_ONCE]
                errors.append(self._add_alike(part, are_steps=are_steps))
        return np.concatenate(errors) if errors else np.zeros(0)

    def _add_alike(self, results: list[ReplayResult], *, are_steps: bool) -> NDArray[np.float64]:
        """Take in single steps, or trajectories, all at once."""
        pairs = [pair for result in results if (pair := _valid(result))]
        if not pairs:
            return np.zeros(0)
        slow, fast = (concat_columns(list(side)) for side in zip(*pairs, strict=True))
        groups = None  # each row is a group of its own
        self._held.add(results)
        if not are_steps:
            lengths = [len(part[REWARD]) for part, _ in pairs]
            groups = np.repeat(self._num_groups + np.arange(len(pairs)), lengths)
            self._num_groups += len(pairs)
        features = self.layout.features(fast, self._reader)
        offsets = self.layout.offsets(slow, fast)
        predicted = self.trainer.numpy_predictor().predict(features)
        errors = self._errors(offsets, predicted[0])
        self._latest_inside.append(~self.trainer.is_outside(features, predicted=predicted))
        self.trainer.add(features, offsets, groups, predicted=predicted)
        low, high = self._reward_range
        latest = float(slow[REWARD].min()), float(slow[REWARD].max())
        self._reward_range = (min(low, latest[0]), max(high, latest[1]))
        self._latest_rewards += latest
        return errors

    def _errors(
        self, offsets: NDArray[np.float32], predicted: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        if not self.trainer.is_fitted:
            self._latest_misses.append(np.full(len(offsets), np.nan))
            return self._latest_misses[-1]
        missed = np.nan_to_num(offsets - predicted)
        self._latest_misses.append(np.sqrt(np.square(missed).mean(axis=1)))
        weighted = missed * self.trainer.spread_weights
        return np.asarray(np.linalg.norm(weighted, axis=1), np.float64)

    def drop_stale(self, num_kept: int) -> None:
        """Forget all labels but the latest ``num_kept``, those of the latest :meth:`add`."""
        self.trainer.drop_before(self.trainer.buffer.num_added - num_kept)
        self._held.forget()
        self._held.add(self._latest)
        rewards = self._latest_rewards
        self._reward_range = (min(rewards, default=np.inf), max(rewards, default=-np.inf))

    @property
    def latest_are_inside(self) -> NDArray[np.bool_]:
        """Which labels of the latest :meth:`add` lay within the labelled region, ``(N,)``."""
        return np.concatenate(self._latest_inside) if self._latest_inside else np.zeros(0, bool)

    @property
    def latest_misses(self) -> NDArray[np.float64]:
        """Error of the predictor on each label of the latest :meth:`add` before it is fitted.

        ``(N,)``, root mean square over the targets in their own units; NaN before the first fit.
        """
        return np.concatenate(self._latest_misses) if self._latest_misses else np.zeros(0)

    def fit(self, *, anew: bool = False) -> FitResult:
        """Fit the predictor to the labels held; ``anew`` takes as many steps as the first time."""
        return self.trainer.fit(self.trainer.initial_steps if anew else None)

    def correction(self) -> OffsetCorrection:
        """Return the correction as it stands; without a single fit it changes nothing."""
        fitted = self.trainer.is_fitted
        low, high = self._reward_range
        return OffsetCorrection(
            layout=self.layout,
            predictor=self.trainer.numpy_predictor() if fitted else None,
            reward_range=(low, high) if self._clip_rewards and self._knows_range else None,
            obs_low=self._obs_space.low,
            obs_high=self._obs_space.high,
            pessimism=self._pessimism,
            spread_weights=self.trainer.spread_weights,
            flag_threshold=self.trainer.flag_threshold if fitted else np.inf,
        )

    @property
    def _knows_range(self) -> bool:
        return self.trainer.buffer.num_train >= _LABELS_OF_A_RANGE

    def get_state(self) -> dict[str, Any]:
        """Return labels, predictor, optimizer and generators."""
        return {
            "trainer": self.trainer.get_state(),
            "reward_range": self._reward_range,
            "num_groups": self._num_groups,
            "held_labels": self.held_labels,
            "held_trajectories": self._held.trajectories,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`get_state`."""
        self.trainer.set_state(state["trainer"])
        low, high = state["reward_range"]
        self._reward_range = (float(low), float(high))
        self._num_groups = int(state["num_groups"])
        self._held.steps = np.array(state["held_labels"], np.uint64)
        whole = state.get("held_trajectories", ())  # older versions saved none
        self._held.trajectories = np.array(whole, np.uint64)


def _valid(result: ReplayResult) -> tuple[Columns, Columns] | None:
    if result.slow is None:
        return None
    valid = valid_rows(result)
    if not valid.any():
        return None
    return slice_columns(result.slow, valid), slice_columns(result.fast, valid)
