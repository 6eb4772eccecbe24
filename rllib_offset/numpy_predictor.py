"""The offset ensemble in NumPy: for predicting a few rows at a time, where torch is not needed.

Holds finished weights and cannot be trained. It pickles, and importing it imports only NumPy.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["NumpyPredictor"]

# Hidden activations stay in cache, and OpenBLAS below the size at which it wakes its threads.
_CHUNK_ROWS = 64

Float32Array = NDArray[np.float32]

_ZERO = np.zeros((), np.float32)  # a plain 0 costs twice as much


@dataclass(frozen=True)
class _Constants:
    """What rows are combined with: once, or repeated for each of ``B`` rows."""

    input_mean: Float32Array  # (D,) or (B, D)
    input_gain: Float32Array  # likewise
    biases: list[Float32Array]  # of each layer, (M, 1, fan_out) or (M, B, fan_out)
    zeros: list[Float32Array]  # of each hidden layer, of no shape or likewise
    output_mean: Float32Array  # (K,) or (B, K)


class NumpyPredictor:
    """A trained :class:`~rllib_offset.predictor.OffsetPredictor`, frozen.

    Built by its ``to_numpy()``. Stateless, hence safe to share between threads.

    Shapes: ``B`` batch, ``D`` inputs, ``K`` targets, ``M`` members.

    Args:
        weights: Of each layer, ``(M, fan_in, fan_out)``.
        biases: Of each layer, ``(M, 1, fan_out)``.
        input_mean: ``(D,)``.
        input_std: ``(D,)``.
        output_mean: ``(K,)``, physical units.
        output_scale: ``(K,)``, physical units.
        labelled: ``(R, D)``, inputs of labels, for :meth:`distance`.
    """

    def __init__(
        self,
        weights: Sequence[Float32Array],
        biases: Sequence[Float32Array],
        *,
        input_mean: Float32Array,
        input_std: Float32Array,
        output_mean: Float32Array,
        output_scale: Float32Array,
        labelled: Float32Array | None = None,
    ) -> None:
        self.weights = [np.array(weight, np.float32) for weight in weights]
        self.biases = [np.array(bias, np.float32) for bias in biases]
        self.weights[-1] *= output_scale
        self.biases[-1] *= output_scale
        self.input_mean = np.array(input_mean, np.float32)
        self.input_gain = np.float32(1) / np.asarray(input_std, np.float32)
        self.output_mean = np.array(output_mean, np.float32)
        self.labelled = None if labelled is None else np.array(labelled, np.float32)
        self._share = np.array(1 / self.ensemble_size, np.float32)  # of one member in the mean
        self._constants = self._constants_once()
        self._num_repeated, self._repeated = 0, self._constants  # see `for_rows`

    @property
    def input_dim(self) -> int:
        """``D``."""
        return len(self.input_mean)

    @property
    def output_dim(self) -> int:
        """``K``."""
        return len(self.output_mean)

    @property
    def ensemble_size(self) -> int:
        """``M``."""
        return len(self.weights[0])

    def __call__(self, inputs: ArrayLike) -> Float32Array:
        """Return the mean offset of the members: ``(B, D) -> (B, K)``, physical units."""
        return self.mean_of(self.members(inputs))

    def predict(self, inputs: ArrayLike) -> tuple[Float32Array, Float32Array]:
        """Return mean and standard deviation over the members, each ``(B, K)``."""
        members = self.members(inputs)
        return self.mean_of(members), self.spread_of(members)

    def members(self, inputs: ArrayLike) -> Float32Array:
        """Predict with every member, less the common ``output_mean``: ``(B, D) -> (M, B, K)``."""
        x = np.asarray(inputs, np.float32)
        if x.ndim != 2 or x.shape[1] != self.input_dim:
            raise ValueError(f"`inputs` must be (B, {self.input_dim}), got {x.shape}; reshape them")
        if len(x) <= _CHUNK_ROWS:
            return self._network(x)
        starts = range(0, len(x), _CHUNK_ROWS)
        return np.concatenate([self._network(x[i : i + _CHUNK_ROWS]) for i in starts], axis=1)

    def mean_of(self, members: Float32Array) -> Float32Array:
        """Return the mean of what :meth:`members` gave: ``(M, B, K) -> (B, K)``."""
        mean = self._average(members)
        mean += self._for(mean).output_mean
        return mean

    def spread_of(self, members: Float32Array) -> Float32Array:
        """Return the standard deviation of what :meth:`members` gave: ``(M, B, K) -> (B, K)``."""
        deviations = members - self._average(members)
        deviations *= deviations
        variance = self._average(deviations)
        return np.sqrt(variance, out=variance)

    def distance(self, inputs: ArrayLike, *, to_another: bool = False) -> Float32Array:
        """Return the distance to the nearest label in standard deviations: ``(B, D) -> (B,)``.

        Of rows that are labels themselves, ``to_another`` gives the distance to the nearest other.
        """
        assert self.labelled is not None
        x, labels = (self._normalized(rows) for rows in (inputs, self.labelled))
        squares = (x * x).sum(axis=1)[:, None] + (labels * labels).sum(axis=1)
        squares -= 2 * x @ labels.T
        rank = min(int(to_another), len(labels) - 1)
        nearest = np.partition(squares, rank, axis=1)[:, rank]
        return np.asarray(np.sqrt(np.maximum(nearest, 0)), np.float32)

    def _normalized(self, inputs: ArrayLike) -> Float32Array:
        x: Float32Array = np.asarray(inputs, np.float32) - self.input_mean
        return x * self.input_gain

    def shifted(self, offsets: ArrayLike) -> "NumpyPredictor":
        """Return a predictor that says ``offsets``, ``(K,)``, more everywhere."""
        other = copy(self)
        other.output_mean = self.output_mean + np.asarray(offsets, np.float32)
        other._constants = other._constants_once()
        return other.for_rows(self._num_repeated)

    def for_rows(self, num_rows: int) -> "NumpyPredictor":
        """Return the same predictor, quicker if it is asked about exactly so many rows at a time.

        NumPy combines arrays of one shape in half the time of broadcast ones.
        """
        other, num_rows = copy(self), min(num_rows, _CHUNK_ROWS)
        biases = [bias.repeat(num_rows, axis=1) for bias in self.biases]
        constants = _Constants(
            input_mean=np.tile(self.input_mean, (num_rows, 1)),
            input_gain=np.tile(self.input_gain, (num_rows, 1)),
            biases=biases,
            zeros=[np.zeros_like(bias) for bias in biases[:-1]],
            output_mean=np.tile(self.output_mean, (num_rows, 1)),
        )
        other._num_repeated, other._repeated = num_rows, constants
        return other

    def _network(self, x: Float32Array) -> Float32Array:
        constants = self._for(x)
        x = x - constants.input_mean
        x *= constants.input_gain
        hidden = zip(self.weights[:-1], constants.biases[:-1], constants.zeros, strict=True)
        for weight, bias, zero in hidden:
            x = np.matmul(x, weight)  # all members at once; a (B, D) input is shared by them
            x += bias
            np.maximum(x, zero, out=x)
        x = np.matmul(x, self.weights[-1])
        x += constants.biases[-1]
        return x

    def _for(self, rows: Float32Array) -> _Constants:
        return self._repeated if len(rows) == self._num_repeated else self._constants

    def _constants_once(self) -> _Constants:
        zeros = [_ZERO] * (len(self.biases) - 1)
        return _Constants(self.input_mean, self.input_gain, self.biases, zeros, self.output_mean)

    def _average(self, members: Float32Array) -> Float32Array:
        total: Float32Array = np.add.reduce(members, axis=0)  # `mean` costs twice as much here
        total *= self._share
        return total
