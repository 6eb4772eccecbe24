import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_offset.timing import Join, TimingModel, WorkerRange

LEVELS = ("trajectory", "sample")
times_s = st.floats(0.0, 10.0, allow_subnormal=False)
counts = st.integers(1, 300)
batches = st.integers(1, 5000)


@st.composite
def models(draw, *, has_overheads):
    overhead_s = times_s if has_overheads else st.just(0.0)
    fast_step_s = draw(st.floats(0.0, 1.0, allow_subnormal=False))
    return TimingModel(
        slow_step_s=fast_step_s + draw(times_s),
        fast_step_s=fast_step_s,
        trajectory_steps=draw(counts),
        call_overhead_s=draw(overhead_s),
        dispatch_s=draw(overhead_s),
        steps_per_call=draw(st.none() | counts) if has_overheads else None,
        policy_update_s=draw(overhead_s),
        fit_s=draw(overhead_s),
        join=draw(st.sampled_from(Join)),
        collects_first=draw(st.booleans()) if has_overheads else False,
    )


@pytest.mark.parametrize(
    ("workers", "expected_s"),
    [
        pytest.param(8, 125.0, id="fewer-workers-than-trajectories"),
        pytest.param(64, 100.0, id="idle-workers-do-not-help"),
    ],
)
def test_trajectory_level_batch_time_follows_the_paper(workers, expected_s):
    plan = TimingModel(slow_step_s=1.0, fast_step_s=0.01, trajectory_steps=100)
    assert plan.batch_time_s(steps=1000, workers=workers) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("workers", "expected_s"),
    [
        pytest.param(8, 125.0, id="steps-are-shared-out"),
        pytest.param(64, 15.625, id="more-workers-than-trajectories-help"),
        pytest.param(1000, 10.0, id="the-fast-simulator-is-the-bottleneck"),
    ],
)
def test_sample_level_batch_time_follows_the_paper(workers, expected_s):
    plan = TimingModel(slow_step_s=1.0, fast_step_s=0.01, trajectory_steps=100)
    sample_s = plan.batch_time_s(steps=1000, workers=workers, level="sample")
    assert sample_s == pytest.approx(expected_s)


def test_serial_batch_time_is_the_sum_of_both_simulators():
    plan = TimingModel(slow_step_s=1.0, fast_step_s=0.01, trajectory_steps=100)
    assert plan.serial_batch_time_s(steps=1000) == pytest.approx(1010.0)
    assert plan.slow_only_batch_time_s(steps=1000) == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("workers", "expected", "faster"),
    [
        (9, WorkerRange.FEWER_THAN_TRAJECTORIES, None),
        (10, WorkerRange.FEWER_THAN_STEPS, "sample"),
        (999, WorkerRange.FEWER_THAN_STEPS, "sample"),
        (1000, WorkerRange.ONE_PER_STEP, "sample"),
    ],
)
def test_the_three_ranges_of_workers_meet_at_the_trajectories_and_the_steps(
    workers, expected, faster
):
    plan = TimingModel(slow_step_s=1.0, fast_step_s=0.0, trajectory_steps=100)
    assert plan.worker_range(steps=1000, workers=workers) is expected
    assert plan.printed_faster_level(steps=1000, workers=workers) == faster


def test_ten_trajectories_on_eight_workers_take_two_rounds():
    plan = TimingModel(slow_step_s=0.01, fast_step_s=0.0, trajectory_steps=100)
    assert plan.corrected_batch_time_s(steps=1000, workers=8) == pytest.approx(2.0)
    assert plan.corrected_batch_time_s(steps=1000, workers=10) == pytest.approx(1.0)


def test_chunked_calls_pay_the_overhead_once_per_worker():
    every_step, chunked = (
        TimingModel(
            slow_step_s=0.01,
            fast_step_s=0.0,
            trajectory_steps=100,
            call_overhead_s=0.005,
            steps_per_call=steps_per_call,
        ).corrected_batch_time_s(steps=1000, workers=8, level="sample")
        for steps_per_call in (1, None)
    )
    assert every_step == pytest.approx(125 * 0.015)
    assert chunked == pytest.approx(1.25 + 0.005)


def test_each_later_join_hides_more_of_the_driver_behind_the_replays():
    barrier_s, overlapped_s, lagged_s = (
        TimingModel(
            slow_step_s=0.002,
            fast_step_s=0.0,
            trajectory_steps=100,
            policy_update_s=0.15,
            fit_s=0.1,
            join=join,
        ).corrected_batch_time_s(steps=1000, workers=10)
        for join in Join
    )
    assert (barrier_s, overlapped_s, lagged_s) == pytest.approx((0.45, 0.3, 0.25))


def test_no_workers_means_serial():
    plan = TimingModel(slow_step_s=0.01, fast_step_s=0.001, trajectory_steps=100, fit_s=0.5)
    assert plan.corrected_batch_time_s(steps=1000, workers=0) == pytest.approx(11.5)


def test_a_batch_without_labels_costs_no_slow_time():
    plan = TimingModel(slow_step_s=1.0, fast_step_s=0.001, trajectory_steps=100)
    without_s = plan.corrected_batch_time_s(steps=1000, workers=4, replayed_steps=0)
    assert without_s == pytest.approx(1.0)


def test_a_negative_time_is_refused():
    with pytest.raises(ValueError, match="times must be >= 0"):
        TimingModel(slow_step_s=-1.0, fast_step_s=0.0, trajectory_steps=1)


def test_a_batch_on_no_workers_has_no_printed_time():
    plan = TimingModel(slow_step_s=1.0, fast_step_s=0.0, trajectory_steps=1)
    with pytest.raises(ValueError, match="`workers` must be >= 1, got 0"):
        plan.batch_time_s(steps=10, workers=0)


@given(model=models(has_overheads=True), steps=batches, workers=counts)
def test_the_corrected_time_is_never_below_the_printed_one(model, steps, workers):
    for level in LEVELS:
        printed_s = model.batch_time_s(steps=steps, workers=workers, level=level)
        corrected_s = model.corrected_batch_time_s(steps=steps, workers=workers, level=level)
        assert corrected_s >= printed_s * (1 - 1e-12)


@given(
    model=models(has_overheads=False),
    trajectories_per_worker=st.integers(1, 20),
    workers=st.integers(1, 50),
)
def test_both_are_equal_when_work_divides_evenly_and_all_else_is_free(
    model, trajectories_per_worker, workers
):
    steps = trajectories_per_worker * workers * model.trajectory_steps
    for level in LEVELS:
        printed_s = model.batch_time_s(steps=steps, workers=workers, level=level)
        corrected_s = model.corrected_batch_time_s(steps=steps, workers=workers, level=level)
        assert corrected_s == pytest.approx(printed_s)
    assert model.corrected_serial_batch_time_s(steps=steps) == pytest.approx(
        model.serial_batch_time_s(steps=steps)
    )


@given(model=models(has_overheads=True), steps=batches, extra=st.integers(0, 100))
def test_sample_level_is_never_slower_with_a_worker_for_every_step(model, steps, extra):
    workers = steps + extra
    sample_s, trajectory_s = (
        model.batch_time_s(steps=steps, workers=workers, level=level)
        for level in ("sample", "trajectory")
    )
    assert sample_s <= trajectory_s


@given(model=models(has_overheads=False), steps=batches, workers=counts)
def test_printed_levels_are_identical_with_fewer_workers_than_trajectories(model, steps, workers):
    if model.worker_range(steps=steps, workers=workers) is WorkerRange.FEWER_THAN_TRAJECTORIES:
        assert model.faster_level(steps=steps, workers=workers, corrected=False) is None


@given(model=models(has_overheads=False), steps=batches, workers=counts)
def test_the_words_of_the_paper_agree_with_its_formulas_up_to_ties(model, steps, workers):
    words = model.printed_faster_level(steps=steps, workers=workers)
    formulas = model.faster_level(steps=steps, workers=workers, corrected=False)
    assert words != "trajectory"
    assert formulas in (words, None)


@given(model=models(has_overheads=True), steps=batches, workers=counts)
def test_more_workers_never_take_longer_for_trajectories(model, steps, workers):
    fewer_s, more_s = (
        model.corrected_batch_time_s(steps=steps, workers=n) for n in (workers, workers + 1)
    )
    assert more_s <= fewer_s


@given(model=models(has_overheads=False), steps=batches, workers=counts)
def test_parallel_is_never_slower_than_serial_when_overheads_are_free(model, steps, workers):
    serial_s = model.corrected_serial_batch_time_s(steps=steps)
    for level in LEVELS:
        parallel_s = model.corrected_batch_time_s(steps=steps, workers=workers, level=level)
        assert parallel_s <= serial_s * (1 + 1e-12)


def test_speedup_is_serial_over_parallel():
    plan = TimingModel(slow_step_s=0.01, fast_step_s=0.0, trajectory_steps=100)
    assert plan.speedup(steps=1000, workers=10) == pytest.approx(10.0)
