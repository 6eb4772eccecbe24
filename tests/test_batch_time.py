"""The prediction of section 3.4, made from what an iteration measured."""

from dataclasses import replace

import pytest

from rllib_offset.batch_time import BatchTime

TIME = BatchTime(  # ten trajectories of 100 steps, a second each slow step, eight workers
    batch_s=231.0,
    sampling_s=10.0,
    wait_s=199.0,
    fit_s=1.0,
    env_steps=1000,
    trajectory_steps=100.0,
    slow_steps=1000,
    slow_s=1000.0,
    workers=8,
    level="trajectory",
)


@pytest.mark.parametrize(
    ("changes", "expected_s"),
    [
        pytest.param({}, 10 + 200 + 1, id="two-rounds-hide-the-policy-update"),
        pytest.param({"workers": 10}, 10 + 100 + 1, id="a-worker-for-each-trajectory"),
        pytest.param({"level": "sample"}, 10 + 125 + 1, id="single-steps-are-shared-evenly"),
        pytest.param({"slow_steps": 0, "slow_s": 0.0}, 10 + 21 + 1, id="nothing-bought"),
        pytest.param({"max_replay_lag": None}, 200, id="labels-may-be-late"),
        pytest.param(
            {"workers": 0, "slow_steps": 3, "slow_s": 3.0, "wait_s": 3.0, "batch_s": 35.0},
            10 + 3 + 21 + 1,
            id="the-driver-replays-single-steps-one-after-the-other",
        ),
    ],
)
def test_the_prediction_is_that_of_section_3_4(changes, expected_s):
    assert replace(TIME, **changes).predicted_s == pytest.approx(expected_s)


def test_workers_are_used_as_far_as_they_simulate():
    assert TIME.utilization == pytest.approx(1000 / (231 * 8))
    assert replace(TIME, workers=0, slow_s=115.5).utilization == pytest.approx(0.5)
