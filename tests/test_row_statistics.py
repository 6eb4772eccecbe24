"""Statistics over rows are those of NumPy."""

import numpy as np
import pytest

from rllib_offset.row_statistics import evenly, nan_mean, percentile


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("q", [0.0, 37.3, 50.0, 90.0, 100.0])
def test_a_percentile_has_the_bits_of_numpys(q, dtype):
    rng = np.random.default_rng(0)
    for num_values in (1, 2, 3, 10, 511, *rng.integers(1, 600, 100)):
        values = rng.normal(size=num_values).astype(dtype)
        assert percentile(values, q) == float(np.percentile(values, q))


def test_what_is_unknown_does_not_count():
    values = np.array([[1.0, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(nan_mean(values), [2.0, np.nan])


def test_rows_are_chosen_evenly():
    assert evenly(np.arange(10), 4).tolist() == [0, 2, 5, 7]
    assert evenly(np.arange(3), 4).tolist() == [0, 1, 2]
