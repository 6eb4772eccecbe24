"""Corrections outside of the labelled region are counted as they would be one tick at a time."""

import numpy as np
import pytest
from gymnasium import spaces

from rllib_offset.correction import OffsetCorrection, OffsetLayout
from rllib_offset.numpy_predictor import NumpyPredictor
from rllib_offset.outside import OutsideCounter

LANES = 4


def random_correction(rng, labelled=None):
    predictor = NumpyPredictor(
        [rng.normal(size=(3, 2, 8)), rng.normal(size=(3, 8, 3))],
        [rng.normal(size=(3, 1, 8)), rng.normal(size=(3, 1, 3))],
        input_mean=np.zeros(2),
        input_std=np.ones(2),
        output_mean=np.zeros(3),
        output_scale=np.ones(3),
        labelled=labelled,
    )
    layout = OffsetLayout(("obs",), ("obs", "reward"), 2, spaces.Discrete(2))
    threshold = 4.0 if labelled is None else 1.0
    return OffsetCorrection(layout, predictor, spread_weights=np.ones(3), flag_threshold=threshold)


@pytest.mark.parametrize("num_ticks", [3, 300])
@pytest.mark.parametrize("is_single", [False, True])  # by spread, by distance to the labels
def test_the_fraction_is_that_of_all_running_lanes(num_ticks, is_single):
    rng = np.random.default_rng(0)
    correction = random_correction(rng, np.zeros((1, 2)) if is_single else None)
    counter, num_outside, num_steps = OutsideCounter(), 0, 0
    fast = {"obs": np.zeros((LANES, 2), np.float32), "reward": np.zeros(LANES, np.float32)}
    for _ in range(num_ticks):
        fast["obs"][:] = rng.normal(size=(LANES, 2))  # a simulator may use its arrays again
        running = rng.random(LANES) < 0.7
        counter.note(correction, correction.predicted(fast), running)
        outside = correction.relative_spread(fast) > correction.flag_threshold
        num_outside += int(outside[running].sum())
        num_steps += int(running.sum())
    assert 0 < num_outside < num_steps
    assert counter.fraction() == num_outside / num_steps


def test_there_is_no_fraction_of_nothing():
    assert OutsideCounter().fraction() is None
