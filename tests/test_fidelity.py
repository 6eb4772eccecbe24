"""Label schedules: numbers in, a decision out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_offset.fidelity import FreezeBelow, LabelRounds, ReplayFraction, StepTrickle


def test_the_paper_replays_every_trajectory():
    schedule = ReplayFraction(1.0)
    assert [schedule.plan(i).replay_fraction for i in range(4)] == [1.0] * 4


def test_after_a_first_batch_that_is_replayed_whole_a_fraction_is():
    schedule = ReplayFraction(0.1)
    assert [schedule.plan(i).replay_fraction for i in range(3)] == [1.0, 0.1, 0.1]
    assert all(schedule.plan(i).num_step_labels == 0 for i in range(3))


@given(per_iteration=st.integers(0, 50), iteration=st.integers(0, 1000))
def test_a_trickle_buys_as_many_single_steps_in_every_iteration(per_iteration, iteration):
    plan = StepTrickle(per_iteration).plan(iteration)
    assert plan.num_step_labels == per_iteration
    assert plan.replay_fraction == 0


@pytest.mark.parametrize("schedule", [ReplayFraction(0.5), StepTrickle(3)], ids=["replay", "steps"])
def test_a_resumed_schedule_plans_the_same(schedule):
    schedule.observe(np.array([0.1, np.nan]))
    plans = [schedule.plan(i) for i in range(5)]
    schedule.set_state(schedule.get_state())
    assert [schedule.plan(i) for i in range(5)] == plans
    assert all(plan.refits for plan in plans)


@given(errors=st.lists(st.floats(0, 10), min_size=1, max_size=60), tolerance=st.floats(1e-3, 1))
def test_labels_grow_with_the_error_within_their_bounds(errors, tolerance):
    schedule = FreezeBelow(tolerance, window=1000)
    schedule.observe(errors)
    labels = schedule.plan(1).num_step_labels
    assert schedule.min_labels <= labels <= schedule.max_labels
    schedule.observe([10 * max(errors) + 1] * 1000)
    assert schedule.plan(2).num_step_labels >= labels


def frozen(**options):
    schedule = FreezeBelow(0.1, window=5, **options)
    schedule.observe([0.01] * 5)
    assert schedule.is_frozen
    return schedule


def test_below_the_tolerance_labelling_and_fitting_stop_and_probes_go_on():
    schedule = frozen(probe_interval=4, probe_labels=3)
    plans = [schedule.plan(iteration) for iteration in range(8)]
    assert [plan.num_step_labels for plan in plans] == [3, 0, 0, 0, 3, 0, 0, 0]
    assert not any(plan.refits for plan in plans)
    assert all(plan.probes for plan in plans)


def test_a_few_small_errors_are_not_enough_to_stop():
    schedule = FreezeBelow(0.1, window=5)
    schedule.observe([0.01] * 4)
    assert not schedule.is_frozen


def test_a_large_error_within_the_labelled_region_means_that_labels_are_stale():
    schedule = frozen()
    assert not schedule.observe([0.2])  # within three tolerances
    assert schedule.is_frozen
    assert schedule.observe([0.5, 0.4], [True, True])
    assert not schedule.is_frozen


def test_a_large_error_outside_of_it_only_starts_the_labelling_again():
    schedule = frozen()
    assert not schedule.observe([0.5, 0.4, 0.01], [False, False, True])
    assert not schedule.is_frozen
    assert schedule.plan(1).num_step_labels == schedule.max_labels


def test_a_frozen_schedule_is_resumed_frozen():
    resumed = FreezeBelow(0.1, window=5)
    resumed.set_state(frozen().get_state())
    assert resumed.is_frozen
    assert resumed.plan(1) == frozen().plan(1)


def test_errors_that_are_not_known_yet_decide_nothing():
    schedule = FreezeBelow(0.1, window=2)
    assert not schedule.observe([float("nan")] * 5)
    assert not schedule.is_frozen


@pytest.mark.parametrize("per_iteration", [0.5, 1, 2.5])
def test_a_trickle_buys_its_rate_on_average(per_iteration):
    schedule = StepTrickle(per_iteration)
    assert sum(schedule.plan(i).num_step_labels for i in range(40)) == 40 * per_iteration


def test_rounds_come_at_an_interval_and_the_predictor_is_fitted_then():
    schedule = LabelRounds(labels=40, interval=8)
    plans = [schedule.plan(i) for i in range(16)]
    assert [i for i, plan in enumerate(plans) if plan.num_step_labels] == [7, 15]
    assert [i for i, plan in enumerate(plans) if plan.refits] == [0, 7, 15]
    assert all(plan.probes for plan in plans)


def test_rounds_become_probes_once_one_was_predicted_well_and_grow_when_one_was_not():
    schedule = LabelRounds(labels=40, interval=1, tolerance=0.02, probe_labels=10)
    bought = []
    for error in (np.nan, 0.05, 0.01, 0.015, 0.03, 0.01):
        bought.append(schedule.plan(0).num_step_labels)
        schedule.observe([error] * bought[-1])
    assert bought == [40, 40, 40, 10, 10, 40]


def test_one_design_that_is_far_off_is_enough_to_go_on_with_rounds():
    schedule = LabelRounds(tolerance=0.02)
    schedule.observe([0.0] * 39 + [0.5])
    assert not schedule.is_frozen


def test_resumed_rounds_know_whether_they_only_probe():
    schedule, resumed = LabelRounds(), LabelRounds()
    schedule.observe([0.001])
    resumed.set_state(schedule.get_state())
    assert resumed.plan(7) == schedule.plan(7)


@pytest.mark.parametrize("wrong", [{"labels": 0}, {"tolerance": 0.0}, {"interval": 0.5}])
def test_rounds_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LabelRounds(**wrong)
