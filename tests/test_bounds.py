"""Clipping a few rows gives what NumPy's own function gives."""

import numpy as np
import pytest

from rllib_offset.bounds import Bounds

ROWS = np.random.default_rng(0).normal(size=(7, 3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bounds", [(-0.5, 0.3), ([-1.0, 0.0, -np.inf], [np.inf, 0.2, 0.0])])
def test_rows_are_clipped_as_by_numpy(bounds, dtype):
    clipper, low, high = Bounds(*bounds), *(np.array(part, dtype) for part in bounds)
    for rows in (ROWS, ROWS[:2], ROWS):  # as many as before, fewer, more
        rows = rows.astype(dtype)
        clipped = clipper.clip(rows)
        np.testing.assert_array_equal(clipped, np.clip(rows, low, high))
        assert clipped.dtype == dtype


def test_bounds_of_all_serve_rows_of_numbers():
    np.testing.assert_array_equal(Bounds(-0.5, 0.3).clip(ROWS[:, 0]), ROWS[:, 0].clip(-0.5, 0.3))


def test_rows_are_clipped_where_they_are_on_demand_only():
    rows = ROWS.copy()
    assert Bounds(0, 1).clip(rows) is not rows
    np.testing.assert_array_equal(rows, ROWS)
    assert Bounds(0, 1).clip(rows, out=rows) is rows
    assert rows.min() == 0
