"""Steps into trajectories, and which of them are to be labelled."""

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_offset.correction import OffsetCorrection, OffsetLayout
from rllib_offset.env_runner import falls_on
from rllib_offset.sampling import EndPicker, Lanes, Recorder, StepPicker, label_hashes, share_of
from tests.envs import ACTION_SPACES

LAYOUT = OffsetLayout(("obs",), ("reward",), 1, ACTION_SPACES["box"])
NOTHING_LEARNED = OffsetCorrection(LAYOUT)


def test_a_lane_whose_episode_has_ended_rests_until_another_starts():
    lanes, seeds = Lanes(3), iter(range(10, 20))
    np.testing.assert_array_equal(lanes.start(2, tick=0, seeds=seeds), [True, True, False])
    lanes.times += 1
    ended = np.array([True, False, False])
    assert lanes.end(ended, tick=1) == [
        {"lane": 0, "steps": slice(0, 1), "seed": 10, "ordinal": 0},
    ]
    assert (lanes.num_running, lanes.num_started) == (1, 2)
    np.testing.assert_array_equal(lanes.start(5, tick=1, seeds=seeds), [True, False, True])
    lanes.times += 1
    np.testing.assert_array_equal(lanes.times, [1, 2, 1])
    np.testing.assert_array_equal(lanes.seeds, [12, 11, 13])
    assert [episode["ordinal"] for episode in lanes.end(lanes.running.copy(), tick=2)] == [2, 1, 3]
    assert (lanes.num_running, lanes.num_started) == (0, 4)


def test_a_trajectory_is_the_steps_of_one_lane():
    recorder = Recorder(lanes=3, ticks=2)
    for tick in range(5):  # more than it was made for: the arrays double
        obs = np.array([[10.0 * lane + tick] for lane in range(3)], np.float32)
        recorder.put(
            tick,
            fast={"reward": obs[:, 0]},
            seen={"prev_obs": obs, "obs": obs + 0.5, "reward": -obs[:, 0], "action": obs + 100},
            outputs={"logp": obs[:, 0]},
        )
    trajectory = recorder.trajectory(
        1, slice(1, 4), seed=3, ordinal=4, terminated=True, truncated=False
    )
    np.testing.assert_array_equal(trajectory.obs[:, 0], [11, 12, 13, 13.5])
    np.testing.assert_array_equal(trajectory.rewards, [-11, -12, -13])
    np.testing.assert_array_equal(trajectory.actions[:, 0], [111, 112, 113])
    np.testing.assert_array_equal(trajectory.outputs["logp"], [11, 12, 13])
    np.testing.assert_array_equal(trajectory.fast["reward"], [11, 12, 13])
    assert (trajectory.seed, trajectory.ordinal, trajectory.lane) == (3, 4, 1)
    assert trajectory.terminated
    assert not trajectory.truncated


def test_a_trajectory_is_a_copy():
    recorder = Recorder(lanes=1, ticks=1)
    columns = {name: np.zeros((1, 1), np.float32) for name in ("prev_obs", "obs", "action")}
    recorder.put(0, fast={}, seen={**columns, "reward": np.zeros(1)}, outputs={})
    facts = {"seed": 0, "ordinal": 0, "terminated": False, "truncated": True}
    trajectory = recorder.trajectory(0, slice(0, 1), **facts)
    recorder.put(0, fast={}, seen={**columns, "reward": np.ones(1)}, outputs={})
    assert trajectory.rewards == [0.0]


def run_lanes(picker, lengths, num_lanes):
    """Step lanes whose episodes have the given lengths; return the numbers of the steps picked."""
    left, number = list(lengths), 0
    lanes = [left.pop(0) if left else 0 for _ in range(num_lanes)]
    while any(lanes):
        running = np.array([steps > 0 for steps in lanes])
        numbers = np.full(num_lanes, -1)
        numbers[running] = number + np.arange(running.sum())
        if picker.wants(running):
            rows = numbers[:, None].astype(np.float64)
            picker.pick({"state": rows, "action": rows, "obs": rows, "reward": rows[:, 0]}, running)
        picker.advance(running)
        number += int(running.sum())
        lanes = [max(0, steps - 1) for steps in lanes]
        lanes = [left.pop(0) if steps == 0 and left else steps for steps in lanes]
    chosen = picker.chosen(NOTHING_LEARNED)
    return chosen["reward"].astype(int).tolist() if chosen else []


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    num_lanes=st.integers(1, 5),
    quota=st.integers(0, 12),
    candidates=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_exactly_the_quota_of_distinct_steps_is_picked_whatever_lanes_run(
    lengths, num_lanes, quota, candidates, seed
):
    rng = np.random.default_rng(seed)
    picker = StepPicker.draw(rng, sum(lengths), quota, candidates)
    steps = run_lanes(picker, lengths, num_lanes)
    assert len(set(steps)) == len(steps) == min(quota, sum(lengths))
    assert steps == sorted(steps)
    assert all(0 <= step < sum(lengths) for step in steps)


def test_every_step_is_as_likely_to_be_picked():
    counts = np.zeros(20)
    for seed in range(400):
        picker = StepPicker.draw(np.random.default_rng(seed), 20, 5, 2)
        counts[run_lanes(picker, [5, 3, 7, 5], 3)] += 1
    assert counts.sum() == 400 * 5
    assert np.abs(counts - 100).max() < 45  # five standard deviations


def test_no_picker_picks_nothing():
    picker = StepPicker.none()
    running = np.ones(4, bool)
    assert not picker.wants(running)
    picker.advance(running)
    assert picker.chosen(NOTHING_LEARNED) == {}


@given(total=st.integers(0, 1000), num_workers=st.integers(1, 20))
def test_shares_of_the_runners_add_up_and_differ_by_one_at_most(total, num_workers):
    shares = [share_of(total, index, num_workers) for index in range(1, num_workers + 1)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


@given(fraction=st.floats(0, 1), phase=st.floats(0, 1, exclude_max=True), count=st.integers(1, 200))
def test_a_fraction_of_the_episodes_is_spread_evenly(fraction, phase, count):
    chosen = [falls_on(ordinal, fraction, phase) for ordinal in range(count)]
    assert abs(sum(chosen) - fraction * count) <= 1 + 1e-9


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.999])
def test_the_whole_and_the_empty_fraction_are_exact(phase):
    assert all(falls_on(ordinal, 1.0, phase) for ordinal in range(50))
    assert not any(falls_on(ordinal, 0.0, phase) for ordinal in range(50))


def episodes_taken(quota, lengths):
    """Let episodes of the given lengths end; step `s` of episode `e` has the state `[e, s]`."""
    picker = EndPicker(np.random.default_rng(0), quota)
    for number, length in enumerate(lengths):
        state = np.array([[number, step] for step in range(length)], np.float64)
        picker.take({"state": state, "action": state, "obs": state, "reward": state[:, 0]})
    return picker


def test_six_labels_in_ten_are_where_episodes_end_the_others_among_the_first_steps():
    picked = episodes_taken(10, [30] * 50).chosen(NOTHING_LEARNED)["state"]
    ends = picked[:, 1] == 29
    assert (ends.sum(), (~ends).sum()) == (6, 4)
    assert (picked[~ends, 1] < 8).all()


def test_an_end_that_is_labelled_already_is_left_to_another_episode():
    picker = episodes_taken(10, [30] * 8)
    held = np.array([[number, 29] for number in range(5)], np.float64)
    hashes = np.sort(label_hashes(held, held))
    picked = picker.chosen(NOTHING_LEARNED, held_labels=hashes)["state"]
    ends = picked[picked[:, 1] == 29]
    assert sorted(ends[:, 0]) == [5, 6, 7]
    assert len(picked) == 10  # steps on the way fill up


@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_a_hash_is_that_of_the_bytes_of_a_row(num_rows):
    """Checkpoints hold hashes: they must not become others."""
    rng = np.random.default_rng(0)
    columns = (
        rng.normal(size=(num_rows, 4))[:, ::2],
        rng.normal(size=(num_rows, 2, 3)).astype(np.float32).transpose(0, 2, 1),
        rng.integers(5, size=num_rows),
        rng.integers(2, size=num_rows).astype(bool),
    )
    rows = [b"".join(column[i].tobytes() for column in columns) for i in range(num_rows)]
    expected = [blake2b(row, digest_size=8).digest() for row in rows]
    assert [hash_.tobytes() for hash_ in label_hashes(*columns)] == expected


def test_an_episode_of_one_step_gives_one_label():
    assert len(episodes_taken(5, [1]).chosen(NOTHING_LEARNED)["state"]) == 1


def test_no_episode_gives_no_label():
    assert episodes_taken(5, []).chosen(NOTHING_LEARNED) == {}
