"""A driver without workers replays in groups what it may, and alone what failed so."""

import numpy as np
import pytest

from rllib_offset import OffsetA2CConfig
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.fingerprint import label_location
from rllib_offset.pair import EnvPair, make_env
from rllib_offset.replay.client import SlowReplay
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.worker import ReplayWorker, replay
from tests.test_side_by_side import (
    FAST,
    PAIR,
    SLOW,
    assert_as_alone,
    assert_same,
    single_steps,
    trajectory,
)

pytestmark = pytest.mark.ray


@pytest.fixture
def location(tmp_path):
    return label_location(PAIR, str(tmp_path / "labels"))


@pytest.fixture
def client_of(ray_cluster):
    made = []

    def make(pair=PAIR, **options):
        options = {"num_envs_per_worker": 3} | options
        made.append(SlowReplay(pair, num_workers=0, **options))
        return made[-1]

    yield make
    for client in made:
        client.shutdown()


def test_a_driver_replays_in_groups_and_hands_out_in_order(client_of, monkeypatch):
    sizes = []
    whole = ReplayWorker.replay_side_by_side

    def counted(worker, requests, *args):
        sizes.append(len(requests))
        return whole(worker, requests, *args)

    monkeypatch.setattr(ReplayWorker, "replay_side_by_side", counted)
    client = client_of()
    requests = [trajectory(k) for k in range(7)]
    client.submit(requests[::-1])
    results = client.gather(1)
    assert [result.request.key for result in results] == [request.key for request in requests]
    assert_as_alone(results, make_env(SLOW))
    assert sizes == [3, 3]  # and one alone


def test_what_fails_side_by_side_is_replayed_alone(client_of):
    client = client_of(EnvPair(FAST, "tests.envs:tests/Brittle-v0"), max_retries=0)
    requests = [trajectory(0, length=2), trajectory(1), trajectory(2)]
    client.submit(requests)
    results = client.gather(1)
    assert [result.error for result in results] == [None] * 3
    assert [result.num_steps for result in results] == [2, 2 + 6, 2 + 6]
    assert [result.num_wasted for result in results] == [0, 2, 2]
    assert client.stats()["num_retries"] == 0
    for result in results:
        alone = replay(result.request, make_env(SLOW))
        np.testing.assert_array_equal(result.slow["obs"], alone.slow["obs"])


@pytest.mark.parametrize("fault", ["make", "reset"])
def test_without_lanes_everything_is_replayed_alone(client_of, monkeypatch, fault):
    client = client_of(max_retries=0)
    if fault == "make":
        client._worker._lanes = None
        monkeypatch.setattr(EnvPair, "make_slow_lanes", lambda *_: 1 / 0)
    else:
        monkeypatch.setattr(client._worker._lanes, "reset", lambda **_: 1 / 0)
    requests = [trajectory(0), trajectory(1)]
    client.submit(requests)
    assert_as_alone(client.gather(1), make_env(SLOW))


def test_a_simulator_that_always_fails_is_noticed_in_the_middle_of_a_group(client_of):
    pair = EnvPair(FAST, "tests.envs:tests/Broken-v0")
    client = client_of(pair, max_retries=0, max_failure_rate=0.5, num_envs_per_worker=30)
    client.submit([trajectory(k) for k in range(30)])
    with pytest.raises(SlowSimulatorError, match="10 of the last 10 slow labels failed"):
        client.gather(1)
    assert len(client.outstanding()) == 30  # ten of them with an answer already


@pytest.mark.parametrize("at_step", [1, 100])
def test_single_steps_are_taken_together_and_alone_what_failed(client_of, at_step):
    config = {"at_step": at_step}
    client = client_of(EnvPair(FAST, "tests.envs:tests/Brittle-v0", {}, config))
    requests = [
        single_steps(7, brings_fast=False),
        trajectory(0),
        single_steps(1, brings_fast=True),
    ]
    client.submit(requests)
    results = client.gather(2)
    assert client.stats()["num_retries"] == 0
    for result in results:
        assert (result.error, result.num_steps) == (None, len(result.request))
        alone = replay(result.request, make_env(SLOW), make_env(FAST))
        assert_same(result, alone)


def test_nothing_is_bought_twice(client_of, location):
    twins = [trajectory(0), ReplayRequest((1, 9), "trajectory", trajectory(0).actions, seed=0)]
    first = client_of(labels=location, run="first", is_shared=True)
    first.submit([*twins, trajectory(1)])
    assert sum(result.num_steps for result in first.gather(1)) == 2 * 6
    second = client_of(labels=location, run="second", is_shared=True)
    second.submit([trajectory(k) for k in range(3)])
    results = second.gather(1)
    assert [result.num_steps for result in results] == [0, 0, 6]
    assert [result.num_reused for result in results] == [6, 6, 0]


@pytest.mark.parametrize(
    ("pair", "num_workers", "message"),
    [
        (PAIR, 2, "use `num_replay_workers=0`"),
        (
            EnvPair("Pendulum-v1", "Pendulum-v1"),
            0,
            "side by side need a native vector form of 'Pendulum-v1'",
        ),
    ],
)
def test_what_cannot_be_replayed_side_by_side_is_refused(ray_cluster, pair, num_workers, message):
    with pytest.raises(ValueError, match=message):
        SlowReplay(pair, num_workers=num_workers, num_envs_per_worker=2)


def test_training_is_the_same_whatever_is_replayed_together(ray_cluster):
    def weights_and_cost(num_envs):
        config = OffsetA2CConfig().environment(FAST).debugging(seed=0)
        config.slow_simulator(
            env=SLOW, num_replay_workers=0, num_envs_per_replay_worker=num_envs
        ).labels(level="trajectory", replay_fraction=0.5)
        algorithm = config.build_algo()
        steps = [algorithm.train()["slow"]["num_env_steps_lifetime"] for _ in range(3)]
        state = algorithm.get_module().get_state()
        algorithm.stop()
        return state, steps

    (alone, alone_cost), (together, cost) = weights_and_cost(1), weights_and_cost(4)
    assert cost == alone_cost == [1000, 1500, 2000]
    for name, weight in alone.items():
        np.testing.assert_array_equal(weight, together[name], err_msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_replay_workers": 2}, "use `num_replay_workers=0`"),
        ({"num_envs_per_replay_worker": 0}, "must be a whole number >= 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    config = OffsetA2CConfig().environment(FAST)
    config.slow_simulator(**{"env": SLOW, "num_envs_per_replay_worker": 10} | settings)
    with pytest.raises(ValueError, match=message):
        config.validate()
