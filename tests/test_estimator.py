"""Labels in, a fitted correction out."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from rllib_offset.correction import OffsetLayout
from rllib_offset.estimator import OffsetEstimator
from rllib_offset.ledger import Ledger
from rllib_offset.offset_trainer import OffsetTrainer
from rllib_offset.replay.requests import ReplayRequest, ReplayResult

SPACE = spaces.Box(-10.0, 10.0, (2,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)


def estimator(inputs=("obs",), *, clip_rewards=True, pessimism=0.0, holdout_fraction=0.2, seed=0):
    layout = OffsetLayout(inputs, ("obs", "reward"), 2, ACTIONS, state_dim=1)
    trainer = OffsetTrainer(
        layout.input_dim,
        layout.output_dim,
        ensemble_size=2,
        hiddens=(16,),
        initial_steps=300,
        holdout_fraction=holdout_fraction,
        seed=seed,
    )
    return OffsetEstimator(layout, trainer, SPACE, clip_rewards=clip_rewards, pessimism=pessimism)


def label(number, *, kind="trajectory", length=10, valid=True, offset=1.0):
    """A result in which the slow simulator returns `offset` more than the fast one, everywhere."""
    rng = np.random.default_rng(number)
    fast = {
        "obs": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        "reward": rng.uniform(-1, 1, length).astype(np.float32),
        "action": rng.uniform(-1, 1, (length, 1)).astype(np.float32),
        "state": rng.uniform(-1, 1, (length, 1)),
    }
    slow = {name: fast[name] + np.float32(offset) for name in ("obs", "reward")}
    slow["valid"] = np.broadcast_to(valid, length).copy()
    states = fast["state"] if kind == "steps" else None
    request = ReplayRequest((0, number), kind, fast["action"], seed=1, states=states, fast=fast)
    return ReplayResult(request, slow, fast, 0.1, length, None, np.arange(length))


def lost(number):
    request = label(number).request
    return ReplayResult(request, None, {}, 0.0, 3, "it hangs", np.arange(0))


def fast_columns(num=5):
    return label(99, length=num).fast | {"terminated": np.zeros(num, bool)}


def test_nothing_is_corrected_before_the_first_fit():
    given = estimator()
    assert not given.has_labels
    assert given.correction().predictor is None
    given.add([label(i) for i in range(5)])
    assert given.has_labels
    assert given.correction().predictor is None


def test_a_constant_offset_is_learned_from_whole_trajectories():
    given = estimator(clip_rewards=False)
    given.add([label(i) for i in range(10)])
    fit = given.fit()
    assert fit.num_labels == 100
    assert fit.holdout_mae < 0.05
    columns = fast_columns()
    seen = given.correction().steps(columns)
    np.testing.assert_allclose(seen["obs"], columns["obs"] + 1, atol=0.05)
    np.testing.assert_allclose(seen["reward"], columns["reward"] + 1, atol=0.05)


def test_corrected_rewards_stay_within_the_slow_rewards_observed():
    given = estimator()
    results = [label(i) for i in range(10)]
    given.add(results)
    given.fit()
    rewards = np.concatenate([result.slow["reward"] for result in results])
    assert given.correction().reward_range == (rewards.min(), rewards.max())
    columns = fast_columns() | {"reward": np.full(5, 50.0, np.float32)}
    assert (given.correction().steps(columns)["reward"] == rewards.max()).all()
    assert estimator(clip_rewards=False).correction().reward_range is None


def test_corrected_observations_stay_within_the_slow_space():
    given = estimator()
    given.add([label(i, offset=20.0) for i in range(5)])
    given.fit()
    np.testing.assert_array_equal(
        given.correction().steps(fast_columns())["obs"], np.full((5, 2), 10)
    )


def test_invalid_and_lost_results_are_kept_out():
    given = estimator(holdout_fraction=0.0)
    valid = np.arange(10) % 2 == 0
    broken = label(0, valid=valid)
    broken.slow["reward"][~valid] = np.nan
    given.add([broken, lost(1), label(2, valid=False)])
    assert len(given.trainer.buffer) == 5
    assert np.isfinite(given.correction().reward_range).all()
    assert np.isfinite(given.fit().loss)


def test_only_invalid_results_are_no_labels():
    given = estimator()
    assert given.add([label(0, valid=False), lost(1)]).size == 0
    assert not given.has_labels
    assert given.correction().reward_range is None


@pytest.mark.parametrize(("kind", "num_groups"), [("trajectory", 20), ("steps", 200)])
def test_a_trajectory_is_held_out_whole_and_single_steps_one_by_one(kind, num_groups):
    given = estimator(holdout_fraction=0.3)
    given.add([label(i, kind=kind) for i in range(20)])
    held_out, _ = given.trainer.buffer.holdout()
    assert 0 < len(held_out) < 200
    of_result = [label(i).fast["obs"] for i in range(20)]
    shares = {sum((row == obs).all(1).any() for row in held_out) for obs in of_result}
    assert (shares <= {0, 10}) == (num_groups == 20)


def test_errors_on_fresh_labels_are_measured_before_they_are_fitted():
    given = estimator()
    assert np.isnan(given.add([label(i) for i in range(10)])).all()
    given.fit()
    small = given.add([label(20)])
    large = given.add([label(21, offset=3.0)])
    assert np.isfinite(small).all()
    assert small.mean() * 10 < large.mean()


def test_a_saved_estimator_goes_on_exactly_as_the_original():
    original, resumed = estimator(seed=3), estimator(seed=4)
    original.add([label(i, kind="steps") for i in range(10)])
    original.fit()
    resumed.set_state(original.get_state())
    for given in (original, resumed):
        given.add([label(i, kind="steps", offset=2.0) for i in range(10, 15)])
        given.fit()
    columns = fast_columns()
    expected, seen = (given.correction().steps(columns) for given in (original, resumed))
    for name in ("obs", "reward"):
        np.testing.assert_array_equal(seen[name], expected[name])
    assert resumed.correction().reward_range == original.correction().reward_range
    np.testing.assert_array_equal(resumed.held_labels, original.held_labels)


def test_single_steps_bought_are_remembered_and_trajectories_are_not():
    given = estimator()
    given.add([label(0), label(1, kind="steps")])
    assert len(given.held_labels) == 10
    assert (np.diff(given.held_labels.astype(object)) > 0).all()


@pytest.mark.parametrize("kind", ["steps", "trajectory"])
def test_what_is_held_is_neither_fitted_nor_counted_again(kind):
    given, ledger = estimator(), Ledger()
    for numbers in ([0, 1, 1], [0, 2], [2]):
        free = {"num_steps": 0, "num_reused": 10}
        results = [replace(label(n, kind=kind), **(free if n else {})) for n in numbers]
        fresh = given.fresh(results)
        ledger.enter(fresh)
        given.add(fresh)
    inputs = np.concatenate([given.trainer.buffer.train()[0], given.trainer.buffer.holdout()[0]])
    assert len(inputs) == len(np.unique(inputs, axis=0)) == 30
    assert (ledger.num_env_steps, ledger.num_env_steps_wasted) == (20, 10)  # 0 was bought twice
    assert ledger.num_env_steps_reused == 20
    assert ledger.imbalance(given.trainer.buffer.num_added) == 0


@pytest.mark.parametrize("others_between", [False, True])
def test_labels_looked_at_before_are_held_as_any_other(others_between):
    given, plain = estimator(), estimator()
    results = [label(0, kind="steps"), label(1), label(2, kind="steps")]
    fresh = given.fresh(results)
    if others_between:
        given.fresh([label(3, kind="steps")])
    given.add(fresh)
    plain.add(results)
    np.testing.assert_array_equal(given.held_labels, plain.held_labels)
    assert not any(len(result.index) for result in given.fresh(results))


def test_only_the_steps_held_are_left_out_of_a_request():
    given, whole = estimator(), label(0, kind="steps")
    given.add([replace(whole, request=whole.request.rows(np.arange(4)), **rows_of(whole, 4))])
    lacking = replace(whole, error="it hangs", **rows_of(whole, 7))
    (fresh,) = given.fresh([lacking])
    assert fresh.index.tolist() == [0, 1, 2]
    assert (len(fresh.request), fresh.num_missing) == (6, 3)
    np.testing.assert_array_equal(fresh.fast["obs"], whole.fast["obs"][4:7])
    np.testing.assert_array_equal(fresh.request.states, whole.request.states[4:])


def rows_of(result, number):
    columns = {
        name: {k: v[:number] for k, v in getattr(result, name).items()} for name in ("slow", "fast")
    }
    return columns | {"index": np.arange(number)}
