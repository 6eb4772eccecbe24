"""Labels as arrays: pairs of predictor input and measured offset, with a hold-out split.

Holds data for a regression and nothing else. It is no replay buffer of experience, knows no
episodes, and does not care where a label came from.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PairedBuffer"]

_GOLDEN = (5**0.5 - 1) / 2  # multiples modulo one fill the unit interval evenly, in no period
_FIRST_ALLOCATION = 256

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class PairedBuffer:
    """The newest ``capacity`` labels, each either for training or held out.

    A label is a row of inputs with the row of offsets ``slow - fast`` measured there. NaN in an
    offset means "not measured": that target of that row is to be ignored by a loss. Labels are
    numbered from zero in order of arrival, over the life of the buffer.

    About every ``1 / holdout_fraction``-th group is held out whole, by its order of first
    appearance alone, so that neighbouring steps of one trajectory never sit on both sides. The
    first group always trains. Both sides are kept as contiguous arrays that double when full.

    Shapes: ``N`` labels of one call, ``D`` inputs, ``K`` targets.

    Args:
        input_dim: ``D``.
        output_dim: ``K``.
        capacity: Most labels kept, both sides together; the oldest are dropped beyond it.
        holdout_fraction: Share of the groups that is held out, from 0 to 0.5.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> labels = PairedBuffer(input_dim=2, output_dim=1)
        >>> held_out = labels.add(np.zeros((20, 2)), np.ones((20, 1)))
        >>> len(labels), labels.num_holdout
        (20, 1)
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        capacity: int = 1_000_000,
        holdout_fraction: float = 0.1,
    ) -> None:
        if min(input_dim, output_dim, capacity) < 1:
            raise ValueError(f"all must be >= 1, got {input_dim=}, {output_dim=}, {capacity=}")
        if not 0.0 <= holdout_fraction <= 0.5:
            raise ValueError(f"`holdout_fraction` must be in [0, 0.5], got {holdout_fraction}")
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.capacity = capacity
        self.holdout_fraction = holdout_fraction
        self.clear()

    def clear(self) -> None:
        """Forget every label, every group and the numbering."""
        self.num_added = 0
        self._num_groups = 0
        self._is_held_out: dict[int, bool] = {}  # by group id; ungrouped rows need no entry
        self._train = _Rows(self.input_dim, self.output_dim)
        self._holdout = _Rows(self.input_dim, self.output_dim)

    def __len__(self) -> int:
        return len(self._train) + len(self._holdout)

    @property
    def num_train(self) -> int:
        """Labels kept for training."""
        return len(self._train)

    @property
    def num_holdout(self) -> int:
        """Labels kept, but never trained on."""
        return len(self._holdout)

    def add(
        self, inputs: ArrayLike, offsets: ArrayLike, groups: ArrayLike | None = None
    ) -> BoolArray:
        """Append labels.

        Args:
            inputs: ``(N, D)``, finite.
            offsets: ``(N, K)``, slow minus fast; NaN where a target was not measured.
            groups: ``(N,)`` integers; rows that share one, also across calls, stay on one side.
                Without it each row is a group of its own.

        Returns:
            ``(N,)``, True where the row was held out.

        Raises:
            ValueError: If a shape is wrong, an input is not finite, or an offset is infinite.
        """
        inputs, offsets = self.check(inputs, offsets)
        held_out = self._assign(len(inputs), groups)
        numbers = self.num_added + np.arange(len(inputs))
        for rows, chosen in ((self._train, ~held_out), (self._holdout, held_out)):
            rows.append(inputs[chosen], offsets[chosen], numbers[chosen])
        self.num_added += len(inputs)
        self.drop_before(self.num_added - self.capacity)
        return held_out

    def check(self, inputs: ArrayLike, offsets: ArrayLike) -> tuple[Float32Array, Float32Array]:
        """Return both as float32 arrays, or raise the ``ValueError`` that ``add`` would raise."""
        with np.errstate(over="ignore"):  # what overflows float32 is reported below as infinite
            x = np.asarray(inputs, np.float32)
            y = np.asarray(offsets, np.float32)
        if x.ndim != 2 or x.shape[1] != self.input_dim:
            raise ValueError(f"`inputs` must be (N, {self.input_dim}), got {x.shape}; reshape them")
        if y.shape != (len(x), self.output_dim):
            expected = (len(x), self.output_dim)
            raise ValueError(f"`offsets` must be {expected}, got {y.shape}; reshape them")
        if not np.isfinite(x).all():
            row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
            raise ValueError(
                f"`inputs` must be finite, got {x[row]} in row {row}; "
                "leave such rows out, e.g. with the VALID column"
            )
        if np.isinf(y).any():
            row = int(np.flatnonzero(np.isinf(y).any(axis=1))[0])
            raise ValueError(
                f"`offsets` must not be infinite, got {y[row]} in row {row}; "
                "use NaN for a target without a measurement"
            )
        return x, y

    def train(self) -> tuple[Float32Array, Float32Array]:
        """Return inputs ``(n, D)`` and offsets ``(n, K)`` to train on, oldest first.

        Both are read-only views into the buffer, valid until labels are next added or dropped.
        """
        return self._train.view()

    def holdout(self) -> tuple[Float32Array, Float32Array]:
        """Return the held-out inputs and offsets, as :meth:`train` does."""
        return self._holdout.view()

    def drop_before(self, index: int) -> None:
        """Drop the labels numbered below ``index``, e.g. a ``num_added`` noted down earlier."""
        self._train.drop_before(index)
        self._holdout.drop_before(index)

    def get_state(self) -> dict[str, Any]:
        """Return everything kept, as arrays and integers."""
        return {
            "num_added": self.num_added,
            "num_groups": self._num_groups,
            "group_ids": np.fromiter(self._is_held_out, np.int64),
            "group_is_held_out": np.fromiter(self._is_held_out.values(), np.bool_),
            "train": self._train.get_state(),
            "holdout": self._holdout.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` returned."""
        self.clear()
        self._train.append(**state["train"])
        self._holdout.append(**state["holdout"])
        self.num_added = int(state["num_added"])
        self._num_groups = int(state["num_groups"])
        ids, flags = state["group_ids"].tolist(), state["group_is_held_out"].tolist()
        self._is_held_out = dict(zip(ids, flags, strict=True))

    def _assign(self, num_rows: int, groups: ArrayLike | None) -> BoolArray:
        """Decide which rows are held out: ``(N,)``."""
        if groups is None:
            order = self._num_groups + np.arange(num_rows)
            self._num_groups += num_rows
            return self._falls_in_holdout(order)
        ids = np.asarray(groups)
        if ids.shape != (num_rows,) or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"`groups` must be ({num_rows},) integers, got {ids.dtype} {ids.shape}; "
                "give each trajectory a number of its own"
            )
        unique, first_row, inverse = np.unique(ids, return_index=True, return_inverse=True)
        for group in unique[np.argsort(first_row)].tolist():
            if group not in self._is_held_out:
                self._is_held_out[group] = bool(self._falls_in_holdout(self._num_groups))
                self._num_groups += 1
        flags = [self._is_held_out[group] for group in unique.tolist()]
        return np.array(flags, np.bool_)[inverse]

    def _falls_in_holdout(self, order: ArrayLike) -> BoolArray:
        position = np.asarray(order) * _GOLDEN % 1.0  # zero for the first group
        return np.asarray(position >= 1.0 - self.holdout_fraction)


class _Rows:
    """Growable rows of (inputs, offsets, number): append at the end, drop at the start."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        self._inputs = np.empty((0, input_dim), np.float32)
        self._offsets = np.empty((0, output_dim), np.float32)
        self._numbers = np.empty(0, np.int64)
        self._start = 0
        self._stop = 0

    def __len__(self) -> int:
        return self._stop - self._start

    def append(
        self, inputs: Float32Array, offsets: Float32Array, numbers: NDArray[np.int64]
    ) -> None:
        if self._stop + len(inputs) > len(self._numbers):
            self._make_room(len(inputs))
        new = slice(self._stop, self._stop + len(inputs))
        self._inputs[new], self._offsets[new], self._numbers[new] = inputs, offsets, numbers
        self._stop = new.stop

    def _make_room(self, num_new: int) -> None:
        """Move the live rows to the front, of larger arrays unless a quarter then stays free."""
        live = slice(self._start, self._stop)
        needed = len(self) + num_new
        fits = 4 * needed <= 3 * len(self._numbers)
        size = len(self._numbers) if fits else max(_FIRST_ALLOCATION, 2 * needed)
        for name in ("_inputs", "_offsets", "_numbers"):  # one after the other: lower peak
            old = getattr(self, name)
            new = old if fits else np.empty((size, *old.shape[1:]), old.dtype)
            new[: len(self)] = old[live]
            setattr(self, name, new)
        self._start, self._stop = 0, len(self)

    def drop_before(self, number: int) -> None:
        live = self._numbers[self._start : self._stop]
        self._start += int(np.searchsorted(live, number))

    def view(self) -> tuple[Float32Array, Float32Array]:
        live = slice(self._start, self._stop)
        inputs, offsets = self._inputs[live], self._offsets[live]
        inputs.flags.writeable = offsets.flags.writeable = False
        return inputs, offsets

    def get_state(self) -> dict[str, NDArray[Any]]:
        live = slice(self._start, self._stop)
        return {
            "inputs": self._inputs[live].copy(),
            "offsets": self._offsets[live].copy(),
            "numbers": self._numbers[live].copy(),
        }
