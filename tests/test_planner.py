from dataclasses import replace

import pytest

from rllib_offset.planner import Measurement, best_row, config_for, plan

WAITING = Measurement(
    slow_step_s=0.01,
    slow_reset_s=0.001,
    fast_step_s=5e-5,
    trajectory_steps=100,
    call_overhead_s=0.004,
    policy_update_s=0.02,
    fit_s=0.03,
    cpu_share=0.0,
    num_cpus=2,
    replays_single_steps=True,
)


def test_serial_replay_takes_every_step_one_after_the_other():
    # 1000 fast and slow steps, ten resets, both updates; the driver calls nobody
    expected_s = 1000 * (0.01 + 5e-5) + 10 * 0.001 + 0.02 + 0.03
    assert WAITING.batch_time_s(steps=1000, workers=0) == pytest.approx(expected_s)


def test_ten_trajectories_take_eight_workers_two_rounds():
    (row,) = plan(WAITING, steps=1000, workers=[8])
    assert row.trajectory_s == pytest.approx(0.05 + 2 * (1.0 + 0.005) + 0.03)
    assert row.sample_s == pytest.approx(0.05 + 1.25 + 0.005 + 0.03)
    assert row.faster_level == "sample"
    assert 6 < row.speedup < 8


def test_a_simulator_that_computes_gains_nothing_beyond_the_cpus():
    computing = replace(WAITING, cpu_share=1.0)
    two, eight = plan(computing, steps=1600, workers=[2, 8])
    assert eight.best_s == pytest.approx(two.best_s, rel=0.02)
    assert best_row([two, eight]) is two


def test_fewer_workers_are_named_where_more_bring_nothing():
    rows = plan(replace(WAITING, replays_single_steps=False), steps=1000, workers=[5, 8, 10, 32])
    assert [row.sample_s for row in rows] == [None] * 4
    assert best_row(rows).workers == 10  # one round; 32 workers have no more to do


@pytest.fixture
def config():
    from rllib_offset import OffsetA2CConfig

    return (
        OffsetA2CConfig()
        .environment(
            "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0",
            env_config={"max_episode_steps": 20},
        )
        .slow_simulator(
            env="rllib_offset.envs:rllib_offset/PointMass-v0",
            env_config={"max_episode_steps": 20, "step_cost_s": 0.002},
        )
        .training(train_batch_size_per_learner=200)
    )


def test_the_timed_experiment_replays_every_step_and_leaves_the_original_alone(config):
    samples = config_for(config, level="sample", workers=8)
    assert (samples.label_level, samples.labels_per_iteration) == ("sample", 200)
    assert samples.num_replay_workers == 8
    serial = config_for(config, level="serial", workers=0)
    assert (serial.num_replay_workers, serial.replay_fraction) == (0, 1.0)
    assert config.num_replay_workers == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_times_of_a_pair_are_measured(config):
    from rllib_offset.planner import measure

    found = measure(config, slow_steps=5)
    assert found.slow_step_s >= 0.002
    assert found.trajectory_steps == 20
    assert found.cpu_share < 0.9
    assert found.replays_single_steps
    assert 0 < found.fast_step_s < 0.01
    assert found.call_overhead_s > 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_predicted_batch_times_are_measured_ones(config, workers):
    """At 10 ms a slow step; needs a machine that does nothing else."""
    from rllib_offset.planner import iteration_times_s, measure

    config.slow_simulator(env_config={"step_cost_s": 0.01})
    config.environment(env_config={}).training(train_batch_size_per_learner=1000)
    (row,) = plan(measure(config), steps=1000, workers=[workers])
    times = {}
    for level, predicted_s in (("trajectory", row.trajectory_s), ("sample", row.sample_s)):
        seconds = iteration_times_s(config_for(config, level=level, workers=workers))
        times[level] = sum(seconds) / len(seconds)
        assert predicted_s == pytest.approx(times[level], rel=0.15)
    if abs(times["sample"] - times["trajectory"]) > 0.05 * times["trajectory"]:
        assert row.faster_level == min(times, key=times.get)
