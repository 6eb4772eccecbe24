"""Fits an offset predictor to labels, and calibrates it.

Knows nothing of Ray, environments or episodes: arrays in, arrays out.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rllib_offset.conformal import ConformalIntervals
from rllib_offset.ensemble_fit import EnsembleFit
from rllib_offset.numpy_predictor import NumpyPredictor
from rllib_offset.paired_data import PairedBuffer
from rllib_offset.predictor import OffsetPredictor, torch_threads
from rllib_offset.row_statistics import evenly, mean_std, nan_mean, percentile
from rllib_offset.state_file import read_state, write_state

__all__ = ["FitResult", "OffsetTrainer"]

_SPREAD_FLOOR = 1e-2  # of a target's scale: members that agree exactly are not exactly right
_FLAG_PERCENTILE, _FLAG_MARGIN = 90.0, 3.0  # measured on the half square: see tests
_DISTANCE_MARGIN = 2.0  # of a single member; likewise
_MAX_HOLDOUT_ROWS = 1000  # newest, for the calibration and `holdout_mae`
_MAX_SPREAD_ROWS = 512  # evenly over the labels, for the flag threshold
_STATISTICS_GROWTH = 1.1  # the normalisation follows when there are 10 % more labels
_RESTART_RATIO = 4.0  # a normalisation that was this far off served badly: begin again
_MINIBATCHES_AT_ONCE = 32  # drawn together; bounds the memory of a long fit
_STATE_FILE = "offset_trainer.npz"

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Prediction = tuple[Float32Array, Float32Array]  # mean and spread, each (B, K)


@dataclass(frozen=True)
class FitResult:
    """What one fit did; NaN where it cannot be known yet.

    Attributes:
        loss: Mean squared error over the minibatches of this fit, per target, in squared
            standard deviations of the targets.
        holdout_mae: Mean absolute error on held-out labels, in the physical units of each
            target, averaged over the targets.
        ensemble_std: Standard deviation between members on the labels, in the same units and
            averaged in the same way, so that the two can be compared.
        coverage: Share of the latest fresh measurements that fell inside the 90 % interval that
            held when they arrived, before they could influence it.
        num_labels: Labels kept, held-out ones included.
    """

    loss: float
    holdout_mae: float
    ensemble_std: float
    coverage: float
    num_labels: int


class OffsetTrainer:
    """Labels in, fitted and calibrated :class:`OffsetPredictor` out.

    Every random draw comes from ``seed`` and ``version``, so there is no generator to save: equal
    calls give equal bits, a restored trainer continues as if never interrupted, and the global
    generators are neither read nor moved. Fits run on one thread.

    **Normalisation** follows the labels as they grow, folded into the weights so that the fitted
    function stays what it was. Where it was wrong by more than a factor of 4, e.g. since the
    first labels covered a corner only, the ensemble begins again with ``initial_steps`` steps.

    **Calibration.** ``|error| <= intervals.scale * max(spread, floor)`` holds for 90 % of the
    labels never fitted: those held out, and 200 of the latest at the time they arrived, evenly
    spread over those that arrived together (split conformal). A row is *outside* of the labelled
    region where its spread, relative to the scale of each target, exceeds three times the 90th
    percentile over the labels: the geometric mean of the percentiles over fitted labels, where
    members agree too well, and over held-out ones, which are few. A single member has no spread:
    its distance to the nearest fitted label, in standard deviations of the inputs, stands in, and
    twice the 90th percentile over held-out labels (without these, among the fitted ones) is the
    limit. Targets that never were anything but zero have no say in flags or coverage.

    Shapes: ``B`` batch, ``N`` labels of one call, ``D`` inputs, ``K`` targets, ``M`` members.

    Args:
        input_dim: ``D``.
        output_dim: ``K``.
        ensemble_size: ``M``.
        hiddens: Width of each hidden layer.
        lr: Step size of Adam (which is AdamW without decay).
        minibatch_size: Labels per member and step, drawn with replacement.
        initial_steps: Steps of the first fit.
        steps_per_iteration: Steps of each later fit; 4 suffice for a few labels at a time, 8 to
            20 for whole trajectories.
        capacity: Most labels kept.
        holdout_fraction: Share of the label groups that is never fitted.
        seed: Non-negative.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> trainer = OffsetTrainer(input_dim=1, output_dim=1)
        >>> x = np.linspace(-1, 1, 60)[:, None]
        >>> error_before = trainer.add(x, 2 * x)
        >>> result = trainer.fit()
        >>> result.num_labels, bool(trainer.numpy_predictor()([[0.5]]) > 0.9)
        (60, True)
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        ensemble_size: int = 5,
        hiddens: Sequence[int] = (64, 64),
        lr: float = 3e-3,
        minibatch_size: int = 128,
        initial_steps: int = 600,
        steps_per_iteration: int = 20,
        capacity: int = 1_000_000,
        holdout_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        if min(minibatch_size, initial_steps, steps_per_iteration) < 1:
            raise ValueError(
                f"all must be >= 1, got {minibatch_size=}, {initial_steps=}, {steps_per_iteration=}"
            )
        if lr <= 0 or seed < 0:
            raise ValueError(f"`lr` must be > 0 and `seed` >= 0, got {lr=}, {seed=}")
        self._config: dict[str, Any] = {
            "input_dim": input_dim,
            "output_dim": output_dim,
            "ensemble_size": ensemble_size,
            "hiddens": list(hiddens),
            "lr": lr,
            "minibatch_size": minibatch_size,
            "initial_steps": initial_steps,
            "steps_per_iteration": steps_per_iteration,
            "capacity": capacity,
            "holdout_fraction": holdout_fraction,
            "seed": seed,
        }
        self.lr = lr
        self.minibatch_size = minibatch_size
        self.initial_steps = initial_steps
        self.steps_per_iteration = steps_per_iteration
        self.seed = seed
        self.version = 0  # number of fits
        self.buffer = PairedBuffer(
            input_dim, output_dim, capacity=capacity, holdout_fraction=holdout_fraction
        )
        self.predictor = OffsetPredictor(
            input_dim, output_dim, hiddens=hiddens, ensemble_size=ensemble_size
        )
        self._optimizer = EnsembleFit(self.predictor, lr=lr, minibatch_size=minibatch_size)
        self._restart()
        self._numpy = self.predictor.to_numpy()
        self._normalized_at = 0  # `buffer.num_added` when the normalisation was last computed
        self._input_varies = np.zeros(input_dim, np.bool_)
        self._target_is_active = np.zeros(output_dim, np.bool_)  # was ever anything but zero
        self._weigh_spreads()
        self.intervals = ConformalIntervals(output_dim)
        self.flag_threshold = math.nan

    @property
    def is_fitted(self) -> bool:
        """Whether the predictor has left the zero offset."""
        return self.version > 0

    def add(
        self,
        inputs: ArrayLike,
        offsets: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        predicted: Prediction | None = None,
    ) -> Float64Array:
        """Take in labels, as :meth:`PairedBuffer.add` does, to be fitted by the next ``fit``.

        Args:
            inputs: ``(N, D)``, finite.
            offsets: ``(N, K)``, slow minus fast; NaN where a target was not measured.
            groups: ``(N,)`` integers, e.g. one per trajectory; a group is held out whole.
            predicted: What the present predictor says of the inputs, if that is known already.

        Returns:
            ``(K,)``, mean absolute error of the present predictor on these labels, which it has
            not seen, in physical units; NaN where that is unknown.
        """
        held_out = self.buffer.add(inputs, offsets, groups)
        if not self.is_fitted or not len(held_out):
            return np.full(self.buffer.output_dim, np.nan)
        mean, spread = predicted or self._numpy.predict(inputs)
        error = np.abs(np.asarray(offsets, np.float32) - mean)
        scores = error / self._at_least_floor(spread)
        self.intervals.record(scores, held_out, self._target_is_active)
        return nan_mean(error)

    def fit(self, num_steps: int | None = None) -> FitResult:
        """Take optimizer steps on the labels, and calibrate.

        Args:
            num_steps: Minibatches per member; by default ``initial_steps`` the first time and
                ``steps_per_iteration`` afterwards. A restart (see the class) takes at least
                ``initial_steps``.

        Returns:
            See :class:`FitResult`. Without a label to train on nothing happens.
        """
        if num_steps is not None and num_steps < 1:
            raise ValueError(f"`num_steps` must be >= 1, got {num_steps}; skip the call instead")
        if not self.buffer.num_train:
            return FitResult(math.nan, math.nan, math.nan, math.nan, len(self.buffer))
        if num_steps is None:
            num_steps = self.steps_per_iteration if self.is_fitted else self.initial_steps
        if self._update_normalization():
            num_steps = max(num_steps, self.initial_steps)
        with torch_threads():
            loss = self._optimize(num_steps)
        self.version += 1
        fitted, _ = self.buffer.train()
        is_single = self.predictor.ensemble_size == 1
        self._numpy = self.predictor.to_numpy(
            evenly(fitted, _MAX_SPREAD_ROWS) if is_single else None
        )
        holdout_mae, spread = self._calibrate_intervals()
        ensemble_std = self._calibrate_flags(spread)
        return FitResult(
            loss=loss,
            holdout_mae=holdout_mae,
            ensemble_std=ensemble_std,
            coverage=self.intervals.coverage,
            num_labels=len(self.buffer),
        )

    def numpy_predictor(self) -> NumpyPredictor:
        """Return the predictor as of the last fit, frozen and free of torch."""
        return self._numpy

    def half_width(self, inputs: ArrayLike) -> Float64Array:
        """Return the half width of the 90 % interval around the mean: ``(B, D) -> (B, K)``.

        NaN before the first calibration.
        """
        _, spread = self._numpy.predict(inputs)
        return np.asarray(self.intervals.scale * self._at_least_floor(spread), np.float64)

    @property
    def spread_weights(self) -> Float64Array:
        """Weights ``(K,)`` such that the norm of a weighted spread is the relative spread.

        The relative spread is the root mean square over the targets, those that never were
        anything but zero left out, of spread over target scale.
        """
        return self._spread_weights

    def _weigh_spreads(self) -> None:
        active = self._target_is_active
        scale = self.predictor.output_scale.numpy().astype(np.float64) * math.sqrt(active.sum())
        self._spread_weights = np.divide(1.0, scale, out=np.zeros_like(scale), where=active)

    def is_outside(self, inputs: ArrayLike, *, predicted: Prediction | None = None) -> BoolArray:
        """Return which rows lie outside of the labelled region: ``(B, D) -> (B,)``.

        Before the first fit, all of them. ``predicted`` is as in :meth:`add`.
        """
        _, spread = predicted or self._numpy.predict(inputs)
        if not self.is_fitted:
            return np.ones(len(spread), np.bool_)
        return np.asarray(self._relative_spread(inputs, spread) > self.flag_threshold)

    def drop_before(self, number: int) -> None:
        """Drop the labels numbered below ``number`` and what is known of recent errors.

        For a slow simulator that has changed; ``buffer.num_added`` is the next number.
        """
        self.buffer.drop_before(number)
        self._normalized_at = 0  # the next fit follows the statistics of the labels that are left
        self.intervals.forget()

    # -- fitting ------------------------------------------------------------------------------

    def _restart(self) -> None:
        """Zero offset, new hidden weights, new optimizer."""
        seed = np.random.SeedSequence([self.seed, self.version, 0]).generate_state(1)
        self.predictor.reset(torch.Generator().manual_seed(int(seed[0])))
        self._optimizer.reset()

    def _optimize(self, num_steps: int) -> float:
        """Fit normalised offsets; each member sees minibatches of its own. Return the loss."""
        rng = np.random.default_rng([self.seed, self.version, 1])
        inputs, offsets = self.buffer.train()
        net = self.predictor
        losses = []
        for done in range(0, num_steps, _MINIBATCHES_AT_ONCE):
            steps = min(_MINIBATCHES_AT_ONCE, num_steps - done)
            index = rng.integers(
                len(inputs), size=(steps, net.ensemble_size, self.minibatch_size), dtype=np.int32
            )
            x = (torch.from_numpy(inputs.take(index, axis=0)) - net.input_mean) / net.input_std
            y = torch.from_numpy(offsets.take(index, axis=0))
            y = (y - net.output_mean) / net.output_scale
            is_measured = y.isfinite()
            losses.append(
                self._optimizer.minimize(x, y, None if bool(is_measured.all()) else is_measured)
            )
        total = float(np.cumsum(np.concatenate(losses))[-1])  # one after the other
        return total / (num_steps * net.ensemble_size * net.output_dim)

    def _update_normalization(self) -> bool:
        """Follow the statistics of the training labels. Return whether the net was restarted."""
        if self.is_fitted and self.buffer.num_added < self._normalized_at * _STATISTICS_GROWTH:
            return False
        self._normalized_at = self.buffer.num_added
        net = self.predictor
        inputs, offsets = self.buffer.train()
        input_mean, input_std = mean_std(inputs)
        output_mean, output_std = mean_std(offsets)
        # A constant input says nothing, whatever its rounding. A constant offset is all mean.
        input_varies = input_std > 1e-6 * np.abs(input_mean)
        output_scale = np.maximum(output_std, 1e-2 * np.abs(output_mean))
        target_is_active = output_scale > 0
        input_std = np.where(input_varies, input_std, net.input_std.numpy())
        output_scale = np.where(target_is_active, output_scale, net.output_scale.numpy())

        first_varies = torch.from_numpy(input_varies & ~self._input_varies)
        new_std = torch.from_numpy(input_std.astype(np.float32))
        net.input_std.copy_(torch.where(first_varies, new_std, net.input_std))  # had no effect yet
        ratios = np.concatenate(
            [
                input_std / net.input_std.numpy(),
                (output_scale / net.output_scale.numpy())[self._target_is_active],
            ]
        )
        moves = np.concatenate(
            [
                _move(input_mean, net.input_mean, input_std, net.input_std)[self._input_varies],
                _move(output_mean, net.output_mean, output_scale, net.output_scale)[
                    self._target_is_active
                ],
            ]
        )
        is_far_off = bool(
            np.abs(np.log(ratios)).max() > math.log(_RESTART_RATIO)
            or np.abs(moves).max(initial=0.0) > _RESTART_RATIO
        )
        self._input_varies |= input_varies
        self._target_is_active |= target_is_active

        statistics = [
            torch.from_numpy(values.astype(np.float32))
            for values in (input_mean, input_std, output_mean, output_scale)
        ]
        if self.is_fitted and not is_far_off:
            net.renormalize(*statistics)
            self._weigh_spreads()
            return False
        if self.is_fitted:
            self._restart()
        net.set_normalization(*statistics)
        self._weigh_spreads()
        return self.is_fitted

    # -- calibration --------------------------------------------------------------------------

    def _at_least_floor(self, spread: Float32Array) -> Float32Array:
        floor = _SPREAD_FLOOR * self.predictor.output_scale.numpy()
        return np.asarray(np.maximum(spread, floor), np.float32)

    def _relative_spread(self, inputs: ArrayLike, spread: Float32Array) -> Float32Array:
        """Root mean square over the active targets of spread over scale: ``(B, K) -> (B,)``."""
        if self._numpy.labelled is not None:
            return self._numpy.distance(inputs)
        return np.asarray(np.linalg.norm(spread * self.spread_weights, axis=1), np.float32)

    def _calibrate_intervals(self) -> tuple[float, Float32Array]:
        """Set the intervals. Return the mean absolute error on the hold-out, and its spread."""
        inputs, offsets = (rows[-_MAX_HOLDOUT_ROWS:] for rows in self.buffer.holdout())
        mean, spread = self._numpy.predict(inputs)
        error = np.abs(offsets - mean)
        self.intervals.fit(error / self._at_least_floor(spread))
        return float(nan_mean(nan_mean(error), axis=None)), spread

    def _calibrate_flags(self, known: Float32Array) -> float:
        """Set ``flag_threshold``. Return the mean spread on the labels, physical units.

        Args:
            known: Spread on the newest labels held out, of all if they are few.
        """
        if self._numpy.labelled is not None:
            self.flag_threshold = self._distance_threshold()
            return 0.0
        fitted, _ = self.buffer.train()
        held_out, _ = self.buffer.holdout()
        percentiles = []
        for inputs in (held_out, fitted) if len(held_out) else (fitted,):
            rows = evenly(inputs, _MAX_SPREAD_ROWS)
            spread = known if rows is held_out else self._numpy.predict(rows)[1]
            relative = self._relative_spread(rows, spread)
            percentiles.append(percentile(relative, _FLAG_PERCENTILE))
        self.flag_threshold = _FLAG_MARGIN * math.prod(percentiles) ** (1 / len(percentiles))
        return float(spread.mean())

    def _distance_threshold(self) -> float:
        """Return how far from the labels a single member may be asked."""
        held_out, _ = self.buffer.holdout()
        if len(held_out):
            distances = self._numpy.distance(evenly(held_out, _MAX_SPREAD_ROWS))
        else:
            distances = self._numpy.distance(self._labelled_rows(), to_another=True)
        return _DISTANCE_MARGIN * percentile(distances, _FLAG_PERCENTILE)

    # -- state --------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return everything needed to continue, as nested dicts of arrays and plain values."""
        return {
            "config": dict(self._config),
            "version": self.version,
            "normalized_at": self._normalized_at,
            "input_varies": self._input_varies.copy(),
            "target_is_active": self._target_is_active.copy(),
            **self.intervals.get_state(),
            "flag_threshold": self.flag_threshold,
            "labelled": self._labelled_rows(),
            "buffer": self.buffer.get_state(),
            "predictor": _to_arrays(self.predictor.state_dict()),
            "optimizer": self._optimizer.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` returned, bit for bit.

        Raises:
            ValueError: If the state belongs to a predictor of another shape.
        """
        for name in ("input_dim", "output_dim", "hiddens", "ensemble_size"):
            saved, own = state["config"][name], self._config[name]
            if list(np.ravel(saved)) != list(np.ravel(own)):
                raise ValueError(
                    f"`{name}` must equal that of the saved trainer, {saved}, got {own}; "
                    "build the trainer with the saved value"
                )
        self.seed = self._config["seed"] = int(state["config"]["seed"])
        self.version = int(state["version"])
        self._normalized_at = int(state["normalized_at"])
        self._input_varies = np.array(state["input_varies"])
        self._target_is_active = np.array(state["target_is_active"])
        self.intervals.set_state(state)
        self.flag_threshold = float(state["flag_threshold"])
        self.buffer.set_state(state["buffer"])
        self.predictor.load_state_dict(_to_tensors(state["predictor"]))
        self._weigh_spreads()
        self._optimizer.set_state(state["optimizer"])
        labelled = np.array(state.get("labelled", ()), np.float32)
        self._numpy = self.predictor.to_numpy(labelled if labelled.size else None)

    def _labelled_rows(self) -> Float32Array:
        labelled = self._numpy.labelled
        return np.zeros((0, 0), np.float32) if labelled is None else labelled.copy()

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the state to one file in ``directory``, in one move. Return its path."""
        path = Path(directory) / _STATE_FILE
        write_state(path, self.get_state())
        return path

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "OffsetTrainer":
        """Return a new trainer that continues the one saved in ``directory``."""
        state = read_state(Path(directory) / _STATE_FILE)
        state.setdefault("optimizer", {})  # empty before the first fit
        trainer = cls(**state["config"])
        trainer.set_state(state)
        return trainer


def _move(
    mean: NDArray[Any], old_mean: Tensor, scale: NDArray[Any], old_scale: Tensor
) -> NDArray[Any]:
    """Return how far means have moved, in the smaller of the two scales."""
    return np.asarray((mean - old_mean.numpy()) / np.minimum(scale, old_scale.numpy()))


def _to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def _to_tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.tensor(array) for name, array in arrays.items()}
