"""The sampler: seeded, replayable, complete episodes, corrected while they are sampled.  No Ray."""

import random
from dataclasses import replace as replaced
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_offset import OffsetA2CConfig
from rllib_offset.correction import OffsetCorrection
from rllib_offset.env_runner import OffsetBroadcast, OffsetEnvRunner
from rllib_offset.learner import A2CTorchLearner
from rllib_offset.numpy_predictor import NumpyPredictor
from rllib_offset.pair import LaneVectorEnv
from rllib_offset.pair_facts import probe_pair
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.worker import replay
from tests import envs

POINT_MASS = "rllib_offset.envs:rllib_offset/PointMass-v0"
REWARD_OFFSET = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
VARIABLE = {"length": 9, "limit": 2.0}  # ends when the actions have led far enough, or at 9 steps


class SkewedActionEnv(envs.CountingEnv):
    """Actions with bounds that are neither symmetric nor one, so that they must be unsquashed."""

    def __init__(self, config=None):
        super().__init__(config)
        low, high = np.array([-3.0, 0.5], np.float32), np.array([-1.0, 4.5], np.float32)
        self.action_space = spaces.Box(low, high)


ENVIRONMENTS = [
    pytest.param(envs.CountingEnv, VARIABLE, id="box"),
    pytest.param(SkewedActionEnv, VARIABLE, id="bounded-box"),
    pytest.param(envs.CountingEnv, {"action": "discrete", **VARIABLE}, id="discrete"),
    pytest.param(envs.CountingEnv, {"action": "multi_discrete", **VARIABLE}, id="multi-discrete"),
    pytest.param(envs.DictObservationEnv, VARIABLE, id="dict-observation"),
    pytest.param("CartPole-v1", {}, id="cartpole"),
    pytest.param("Pendulum-v1", {"max_episode_steps": 15}, id="pendulum"),
    pytest.param("MountainCarContinuous-v0", {"max_episode_steps": 15}, id="mountain-car"),
    pytest.param(REWARD_OFFSET, {"max_episode_steps": 15}, id="native-vector"),
]


def configured(env: Any, env_config: dict[str, Any], **slow_config: Any) -> OffsetA2CConfig:
    config = OffsetA2CConfig().environment(env, env_config=env_config).debugging(seed=7)
    config.slow_simulator(env=env, env_config={**env_config, **slow_config})
    config.offset(inputs=("obs",), targets=("obs", "reward"))
    return config.env_runners(num_envs_per_env_runner=4)


def make_runner(config: OffsetA2CConfig, worker_index: int = 0, **kwargs: Any) -> OffsetEnvRunner:
    return OffsetEnvRunner(config=config, worker_index=worker_index, **kwargs)


def make_evaluation_runner(config: OffsetA2CConfig, **kwargs: Any) -> OffsetEnvRunner:
    evaluation = config.copy(copy_frozen=False)
    evaluation.in_evaluation = True
    return make_runner(evaluation, **kwargs)


def replayed(env_or_pair: Any, episode: Any) -> Any:
    data = episode.custom_data
    request = ReplayRequest((0,), "trajectory", data["env_actions"], seed=data["seed"])
    return replay(request, env_or_pair)


def bits(episodes: list[Any]) -> list[bytes]:
    arrays = [
        (e.get_observations(), e.get_actions(), e.get_rewards(), e.custom_data["env_actions"])
        for e in episodes
    ]
    return [np.asarray(array).tobytes() for arrays_ in arrays for array in arrays_]


def test_episodes_that_do_not_end_are_told_of_once(monkeypatch, caplog):
    monkeypatch.setattr("rllib_offset.seeded_env_runner._ENDLESS_TICKS", 30)
    make_runner(configured(envs.CountingEnv, {"length": 29})).sample(num_timesteps=300)
    assert "has ended" not in caplog.text
    make_runner(configured(envs.CountingEnv, {"length": 100})).sample(num_episodes=4)
    (told,) = (message for message in caplog.messages if "has ended" in message)
    assert "within 30 steps" in told
    assert "`max_episode_steps`" in told


# --- replay ---


@pytest.mark.parametrize(("env", "env_config"), ENVIRONMENTS)
def test_a_replay_in_the_fast_simulator_reproduces_every_episode_exactly(env, env_config):
    config = configured(env, env_config)
    runner = make_runner(config)
    simulator = config.pair().make_fast()
    episodes = runner.sample(num_timesteps=60)
    assert sum(len(episode) for episode in episodes) >= 60
    for episode in episodes:
        result = replayed(simulator, episode)
        assert result.error is None
        assert len(result.index) == len(episode)
        np.testing.assert_array_equal(result.slow["obs"], episode.custom_data["fast_obs"])
        np.testing.assert_array_equal(result.slow["obs"], episode.get_observations()[1:])
        np.testing.assert_array_equal(result.slow["reward"], episode.custom_data["fast_rewards"])
        np.testing.assert_array_equal(result.slow["reward"], episode.get_rewards())
        first, _ = simulator.reset(seed=episode.custom_data["seed"])
        np.testing.assert_array_equal(first, episode.get_observations()[0])
        assert bool(result.slow["terminated"][-1]) == episode.is_terminated
        assert not result.slow["terminated"][:-1].any()


@pytest.mark.parametrize(("env", "env_config"), ENVIRONMENTS)
def test_the_environment_receives_actions_of_its_own_space(env, env_config):
    runner = make_runner(configured(env, env_config))
    space = runner.env.single_action_space
    for episode in runner.sample(num_timesteps=40):
        sent = episode.custom_data["env_actions"]
        assert sent.dtype == space.dtype
        assert all(space.contains(action) for action in sent)
        if isinstance(space, spaces.Box):
            half = (space.high - space.low) / 2
            unsquashed = space.low + (episode.get_actions() + 1.0) * half
            np.testing.assert_allclose(
                sent, unsquashed.clip(space.low, space.high), rtol=1e-5, atol=1e-5
            )
        else:
            np.testing.assert_array_equal(sent, episode.get_actions())


def test_random_actions_can_be_replayed_too():
    config = configured(SkewedActionEnv, VARIABLE)
    simulator = config.pair().make_fast()
    for episode in make_runner(config).sample(num_timesteps=30, random_actions=True):
        result = replayed(simulator, episode)
        np.testing.assert_array_equal(result.slow["obs"], episode.custom_data["fast_obs"])


# --- lanes and episodes ---


def test_episodes_of_any_length_end_by_themselves_as_terminated_or_truncated():
    runner = make_runner(configured(envs.CountingEnv, VARIABLE))
    episodes = runner.sample(num_timesteps=200)
    for episode in episodes:
        positions, counts = episode.get_observations()[1:].T
        np.testing.assert_array_equal(counts, np.arange(1, len(episode) + 1))
        assert (np.abs(positions[:-1]) <= 2.0).all()
        assert episode.is_terminated == (abs(positions[-1]) > 2.0)
        assert episode.is_truncated == (len(episode) == 9 and not episode.is_terminated)
        assert episode.is_done
    assert len({len(episode) for episode in episodes}) > 2
    assert {episode.is_terminated for episode in episodes} == {True, False}


def test_a_sample_ends_with_the_episodes_it_has_started():
    runner = make_runner(configured(envs.CountingEnv, {"length": 10}))
    assert [len(episode) for episode in runner.sample(num_timesteps=41)] == [10] * 8
    assert [len(episode) for episode in runner.sample(num_timesteps=40)] == [10] * 4
    assert [len(episode) for episode in runner.sample(num_timesteps=1)] == [10] * 4


@pytest.mark.parametrize("num_episodes", [1, 3, 4, 7])
def test_as_many_episodes_as_asked_for_with_more_or_fewer_lanes(num_episodes):
    runner = make_runner(configured(envs.CountingEnv, VARIABLE))
    episodes = runner.sample(num_episodes=num_episodes)
    assert len(episodes) == num_episodes
    assert len({episode.custom_data["seed"] for episode in episodes}) == num_episodes
    assert runner.get_metrics()["num_episodes"].peek() == num_episodes


def test_without_a_number_a_runner_samples_its_share_of_the_batch():
    config = configured(envs.CountingEnv, {"length": 5}).training(train_batch_size_per_learner=70)
    config.env_runners(num_env_runners=2)
    episodes = make_runner(config, 1, num_workers=2).sample()
    assert sum(len(episode) for episode in episodes) == 40  # 35, in whole rounds of 4 lanes


def test_a_native_vector_environment_is_used_as_such():
    native = make_runner(configured(POINT_MASS, {})).env
    assert not isinstance(native, LaneVectorEnv)
    assert native.num_envs == 4
    assert isinstance(make_runner(configured("CartPole-v1", {})).env, LaneVectorEnv)


def test_native_and_scalar_lanes_sample_the_same_episodes(monkeypatch):
    config = configured(REWARD_OFFSET, {"max_episode_steps": 12})
    native = make_runner(config).sample(num_timesteps=60)
    monkeypatch.setattr("rllib_offset.pair._make_native", lambda *_: None)
    scalar = make_runner(config)
    assert isinstance(scalar.env, LaneVectorEnv)
    scalar.set_state(make_runner(config).get_state())
    assert bits(scalar.sample(num_timesteps=60)) == bits(native)


def test_steps_and_returns_are_counted():
    runner = make_runner(configured(envs.CountingEnv, {"length": 10, "bonus": 3.0}))
    episodes = runner.sample(num_timesteps=50)
    results = runner.get_metrics()
    assert results["num_env_steps_sampled"].peek() == sum(len(e) for e in episodes) == 80
    returns = np.mean([episode.get_return() for episode in episodes])
    assert results["episode_return_mean"].peek() == pytest.approx(returns)
    assert results["fast_episode_return_mean"].peek() == pytest.approx(returns)


@pytest.mark.parametrize("smoothing", [100, 3])  # more episodes than there are, fewer
def test_the_metrics_of_episodes_are_those_of_rllib(smoothing):
    config = configured(envs.CountingEnv, VARIABLE)
    config.reporting(metrics_num_episodes_for_smoothing=smoothing)
    runner, twin = make_runner(config), make_runner(config)
    for each in (runner, twin):
        each.sample(num_timesteps=50)
    assert len(twin._done_episodes_for_metrics) > 3
    own = runner.get_metrics()
    expected = SingleAgentEnvRunner.get_metrics(twin)
    assert own.keys() == expected.keys()
    for name in (name for name in expected if name.startswith("episode_")):
        is_time = "duration" in name
        assert own[name].peek() == pytest.approx(expected[name].peek(), rel=1 if is_time else 1e-6)
    assert own["agent_episode_return_mean"]["default_agent"].peek() == own["episode_return_mean"]
    assert not runner._done_episodes_for_metrics
    assert not runner._ongoing_episodes_for_metrics


def test_the_likelihood_of_actions_is_told_where_a_learner_may_read_it():
    class ReadingLearner(A2CTorchLearner):
        reads_likelihoods = True

    ours = configured(POINT_MASS, {"max_episode_steps": 5})
    configs = {
        "A2C": (ours, False),
        "PPO": (ours.copy(copy_frozen=False), True),
        "a learner of one's own": (ours.copy(copy_frozen=False), True),
        "a piece of one's own": (ours.copy(copy_frozen=False), True),
    }
    configs["PPO"][0]._learner_class = PPOTorchLearner
    configs["a learner of one's own"][0]._learner_class = ReadingLearner
    configs["a piece of one's own"][0].training(learner_connector=lambda *_: [])
    for name, (config, is_told) in configs.items():
        for episode in make_runner(config).sample(num_timesteps=20):
            assert ("action_logp" in episode.extra_model_outputs) == is_told, name
            assert "action_dist_inputs" in episode.extra_model_outputs


def test_weights_taken_from_a_learner_are_those_that_rllib_sets():
    config = configured(POINT_MASS, {"max_episode_steps": 5})
    runner, twin = make_runner(config), make_runner(config)
    spaces_ = (runner.env.single_observation_space, runner.env.single_action_space)
    learner = config.build_learner(spaces={"__env__": spaces_, "__env_single__": spaces_})
    for version in (1, 2):
        with torch.no_grad():
            for parameter in learner.module["default_policy"].parameters():
                parameter += version
        runner.take_weights(learner.module["default_policy"], version)
        state = learner.get_state(components="rl_module", inference_only=True)
        twin.set_state(state | {"weights_seq_no": version})
        assert bits(runner.sample(num_timesteps=20)) == bits(twin.sample(num_timesteps=20))
        assert runner.module.state_dict().keys() == twin.module.state_dict().keys()


# --- randomness ---


def test_a_sample_is_a_function_of_the_weights_and_the_runner_index():
    config = configured(envs.CountingEnv, VARIABLE)
    runner = make_runner(config)
    state = runner.get_state()
    first = runner.sample(num_timesteps=50)
    second = runner.sample(num_timesteps=50)
    same, other = make_runner(config), make_runner(config, 2, num_workers=2)
    same.set_state(state)
    other.set_state(state)
    assert bits(same.sample(num_timesteps=50)) == bits(first) != bits(second)
    assert bits(same.sample(num_timesteps=50)) == bits(second)
    assert bits(other.sample(num_timesteps=50)) != bits(first)


def test_another_seed_of_the_configuration_gives_other_episodes():
    config = configured(envs.CountingEnv, VARIABLE)
    first = make_runner(config).sample(num_episodes=3)
    other = make_runner(config.copy(copy_frozen=False).debugging(seed=8)).sample(num_episodes=3)
    seeds = [{e.custom_data["seed"] for e in episodes} for episodes in (first, other)]
    assert not seeds[0] & seeds[1]


@pytest.mark.parametrize("env", ["CartPole-v1", POINT_MASS])
def test_sampling_leaves_the_global_generators_as_they_were(env):
    runner = make_runner(configured(env, {"max_episode_steps": 10}))

    def states() -> tuple[Any, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    runner.sample(num_timesteps=30)
    runner.sample(num_timesteps=30, random_actions=True)
    runner.sample(num_episodes=2, explore=False)
    assert states() == before


def test_the_state_of_the_global_generators_does_not_matter():
    config = configured(envs.CountingEnv, VARIABLE)
    runner = make_runner(config)
    same = make_runner(config)
    same.set_state(runner.get_state())
    expected = bits(runner.sample(num_timesteps=50))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        assert bits(same.sample(num_timesteps=50)) == expected


def test_evaluation_starts_from_the_same_seeds_every_time():
    runner = make_evaluation_runner(configured(envs.CountingEnv, VARIABLE))
    samples = [runner.sample(num_episodes=6, explore=False) for _ in range(2)]
    for episodes in samples:
        seeds = sorted(episode.custom_data["seed"] for episode in episodes)
        assert seeds == list(range(10_000, 10_006))
    assert bits(samples[0]) == bits(samples[1])


def test_evaluation_seeds_are_shared_out_over_the_runners():
    config = configured(envs.CountingEnv, VARIABLE)
    runners = [make_evaluation_runner(config, worker_index=i, num_workers=3) for i in (1, 2, 3)]
    shares = [
        [episode.custom_data["seed"] for episode in runner.sample(num_episodes=count)]
        for runner, count in zip(runners, (3, 2, 2), strict=True)
    ]
    assert sorted(seed for share in shares for seed in share) == list(range(10_000, 10_007))


# --- correction ---


def fitted(config: OffsetA2CConfig, num_steps: int = 80) -> tuple[OffsetEnvRunner, Any]:
    """Return a runner that samples fast + offset, fitted to the slow replays of one sample."""
    config.offset(ensemble_size=2, hiddens=(16,), initial_steps=150)
    runner = make_runner(config)
    estimator = config.offset_estimator(probe_pair(config.pair()))
    slow = config.pair().make_slow()
    for i, episode in enumerate(runner.sample(num_timesteps=num_steps)):
        data = episode.custom_data
        obs, start = data["fast_obs"], episode.get_observations()[:1]
        fast = {
            "obs": obs,
            "prev_obs": np.concatenate([start, obs[:-1]]),
            "action": data["env_actions"],
            "reward": data["fast_rewards"],
            "time": np.arange(1, len(obs) + 1, dtype=np.float32),
        }
        request = ReplayRequest(
            (0, i), "trajectory", data["env_actions"], seed=data["seed"], fast=fast
        )
        estimator.add([replay(request, slow)])
    estimator.fit()
    correction = estimator.correction()
    runner.set_offset(OffsetBroadcast(version=1, correction=correction))
    return runner, correction


@pytest.mark.parametrize(
    "inputs", [("obs",), ("prev_obs", "action", "time")], ids=["as-printed", "action"]
)
@pytest.mark.parametrize(
    ("env", "env_config", "slow_config"),
    [
        pytest.param(envs.CountingEnv, VARIABLE, {"bonus": 0.5}, id="box"),
        pytest.param(envs.CountingEnv, {"action": "discrete"}, {"gain": 1.1}, id="discrete"),
        pytest.param(
            envs.CountingEnv, {"action": "multi_discrete"}, {"gain": 1.1}, id="multi-discrete"
        ),
        pytest.param(envs.DictObservationEnv, {}, {"bonus": 0.5}, id="dict-observation"),
        pytest.param(POINT_MASS, {"shift": (0.2, 0.1)}, {"shift": (0.0, 0.0)}, id="native"),
    ],
)
def test_what_the_agent_sees_is_fast_plus_the_predicted_offset(
    env, env_config, slow_config, inputs
):
    config = configured(env, env_config, **slow_config).offset(inputs=inputs)
    runner, correction = fitted(config)
    low, high = correction.reward_range
    for episode in runner.sample(num_timesteps=40):
        data, seen = episode.custom_data, episode.get_observations()
        fast_start, _ = config.pair().make_fast().reset(seed=data["seed"])
        columns = {
            "obs": data["fast_obs"],
            "prev_obs": np.concatenate([fast_start[None], data["fast_obs"][:-1]]),
            "action": data["env_actions"],
            "time": np.arange(1, len(episode) + 1, dtype=np.float32),
        }
        offsets, _ = correction.predictor.predict(correction.layout.features(columns))
        obs = (data["fast_obs"] + offsets[:, :-1]).clip(correction.obs_low, correction.obs_high)
        np.testing.assert_allclose(seen[1:], obs, rtol=1e-5, atol=1e-5)
        rewards = (data["fast_rewards"] + offsets[:, -1]).clip(low, high)
        np.testing.assert_allclose(episode.get_rewards(), rewards, rtol=1e-5, atol=1e-5)
        if inputs == ("obs",):
            start, _ = correction.predictor.predict(fast_start[None])
            fast_start = (fast_start + start[0, :-1]).clip(correction.obs_low, correction.obs_high)
        np.testing.assert_allclose(seen[0], fast_start, rtol=1e-5, atol=1e-5)
        replay_result = replayed(config.pair().make_fast(), episode)
        np.testing.assert_array_equal(replay_result.slow["obs"], data["fast_obs"])


def test_evaluation_in_the_slow_simulator_is_not_corrected():
    config = configured(envs.CountingEnv, VARIABLE, bonus=0.5)
    _, correction = fitted(config)
    runner = make_runner(config.get_evaluation_config_object())
    runner.set_offset(OffsetBroadcast(version=1, correction=correction))
    assert runner.env.envs[0].unwrapped.config["bonus"] == 0.5
    for episode in runner.sample(num_episodes=3, explore=False):
        np.testing.assert_array_equal(episode.get_rewards(), episode.custom_data["fast_rewards"])


def test_promised_returns_are_those_of_the_seeds_asked_for_and_disturb_nothing():
    config = configured(envs.CountingEnv, VARIABLE, bonus=0.5)
    runner, correction = fitted(config)
    untouched = make_runner(config)
    untouched.set_state(runner.get_state())
    untouched.set_offset(OffsetBroadcast(version=1, correction=correction))
    untouched.sample(num_timesteps=80)
    runner.get_metrics()
    returns = runner.corrected_returns([5, 6, 7])
    assert not runner.get_metrics()["num_env_steps_sampled"].peek() > 0
    assert runner.corrected_returns([7, 5]) == pytest.approx([returns[2], returns[0]], abs=1e-5)
    assert bits(runner.sample(num_timesteps=40)) == bits(untouched.sample(num_timesteps=40))


class Measured(envs.OutcomeEnv):
    """Ends beyond 2 by its own measurement; the slow one measures `bias` more."""

    def _info(self):
        position = self.position + self.config.get("bias", 0.0)
        return {"measurement": np.array([position]), "valid": True}


@pytest.mark.parametrize("bias", [1.0, -1.0], ids=["earlier", "later"])
def test_an_episode_ends_where_the_corrected_measurement_says_so(bias):
    config = configured(Measured, {"length": 30})
    config.offset(inputs=("time",), targets=("measurement",))
    layout = config.offset_estimator(probe_pair(config.pair())).layout
    nothing = [np.zeros((2, 1, 1))]
    always_bias = NumpyPredictor(
        nothing, nothing, input_mean=[0], input_std=[1], output_mean=[bias], output_scale=[1]
    )
    runner = make_runner(config)
    runner.set_offset(OffsetBroadcast(version=1, correction=OffsetCorrection(layout, always_bias)))
    episodes = runner.sample(num_timesteps=300)
    assert any(episode.is_terminated for episode in episodes)
    for episode in episodes:
        positions = episode.custom_data["fast_obs"][:, 0] + bias
        assert (positions[:-1] <= 2.0).all()
        assert episode.is_terminated == (positions[-1] > 2.0)
        np.testing.assert_allclose(episode.get_observations()[1:, 0], positions, rtol=1e-5)


class UnmeasuredEnv(envs.FailureTellingEnv):
    """Has another thing of the name `measurement`, now and then, and no `outcome`."""

    outcome = None

    def _info(self):
        told = {name: value for name, value in super()._info().items() if name == "valid"}
        return told | ({"measurement": "by hand"} if self.count % 2 else {})


@pytest.mark.parametrize(
    ("env", "target"),
    [(envs.FailureTellingEnv, "measurement"), (UnmeasuredEnv, "obs")],
    ids=["measured", "unmeasured"],
)
@pytest.mark.parametrize("is_silent", [False, True], ids=["", "silent"])
def test_a_fast_simulator_may_speak_of_validity_only_where_there_is_none(
    monkeypatch, env, target, is_silent
):
    config = configured(env, {"length": 9, "invalid_above": 0.7, "is_silent": is_silent})
    config.offset(inputs=("time",), targets=(target,))
    layout = config.offset_estimator(probe_pair(config.pair())).layout
    nothing = [np.zeros((2, 1, layout.output_dim))]
    mean, scale = np.full(layout.output_dim, 0.5), np.ones(layout.output_dim)
    half = NumpyPredictor(
        nothing, nothing, input_mean=[0], input_std=[1], output_mean=mean, output_scale=scale
    )
    runner, queue = make_runner(config), Queue()
    monkeypatch.setattr("rllib_offset.env_runner.ray.get", lambda _: [])
    runner.set_offset(
        OffsetBroadcast(
            1, OffsetCorrection(layout, half), queue, replay_fraction=1.0, num_step_labels=40
        )
    )
    episodes = {e.custom_data["seed"]: e for e in runner.sample(num_timesteps=200)}
    told = set()
    for request in queue.requests:
        position = request.fast["obs"][:, 0]
        valid = request.fast.get("valid", np.ones(len(request), bool))
        np.testing.assert_array_equal(valid, position <= np.float32(0.7))
        told |= {(request.kind, is_valid) for is_valid in valid.tolist()}
        if request.kind == "trajectory":
            seen = episodes[request.seed].get_observations()[1:, 0]
            np.testing.assert_allclose(seen, position + 0.5 * valid, atol=1e-6)
    # a single step that is invalid here is not even asked for
    assert told == {("trajectory", True), ("trajectory", False), ("steps", True)}


# --- asking for labels ---


class Queue:
    """Stands in for the coordinator: keeps what it is given."""

    def __init__(self) -> None:
        self.requests: list[ReplayRequest] = []
        self.submit = SimpleNamespace(remote=self.requests.extend)


def asking(monkeypatch: Any, config: OffsetA2CConfig, **plan: Any) -> tuple[OffsetEnvRunner, Queue]:
    queue, runner = Queue(), make_runner(config)
    monkeypatch.setattr("rllib_offset.env_runner.ray.get", lambda _: [])
    correction = config.offset_estimator(probe_pair(config.pair())).correction()
    runner.set_offset(OffsetBroadcast(3, correction, queue, **plan))
    return runner, queue


@pytest.mark.parametrize(("fraction", "expected"), [(1.0, 8), (0.5, 4), (0.125, 1), (0.0, 0)])
def test_a_fraction_of_the_episodes_is_asked_for_each_the_moment_it_ends(
    monkeypatch, fraction, expected
):
    config = configured(envs.CountingEnv, {"length": 10})
    runner, queue = asking(monkeypatch, config, replay_fraction=fraction)
    episodes = {e.custom_data["seed"]: e for e in runner.sample(num_timesteps=80)}
    assert len(episodes) == 8
    assert len({request.key for request in queue.requests}) == expected
    for request in queue.requests:
        episode = episodes[request.seed]
        assert request.key[0] == 3
        np.testing.assert_array_equal(request.actions, episode.custom_data["env_actions"])
        np.testing.assert_array_equal(request.fast["obs"], episode.custom_data["fast_obs"])


def test_single_steps_are_asked_for_exactly_and_reproduce_the_fast_step(monkeypatch):
    config = configured(envs.StatefulEnv, VARIABLE)
    runner, queue = asking(monkeypatch, config, num_step_labels=21, steps_per_request=8)
    runner.sample(num_timesteps=60)
    assert [len(request) for request in queue.requests] == [8, 8, 5]
    simulator = config.pair().make_fast()
    for request in queue.requests:
        result = replay(request, simulator)
        for name in ("obs", "reward", "terminated"):
            np.testing.assert_array_equal(result.slow[name], request.fast[name])


def test_single_steps_are_asked_for_as_soon_as_all_candidates_were_seen(monkeypatch):
    config = configured(envs.StatefulEnv, VARIABLE)
    runner, queue = asking(monkeypatch, config, num_step_labels=2)
    ended = []
    monkeypatch.setattr(queue.submit, "remote", lambda _: ended.append(runner._ended.ordinal))
    episodes = runner.sample(num_timesteps=400)
    assert len(ended) == 1
    assert 0 < ended[0] < len(episodes) - 4


@pytest.mark.parametrize("num_step_labels", [0, 10])
def test_evaluation_asks_for_nothing(monkeypatch, num_step_labels):
    config = configured(envs.StatefulEnv, VARIABLE).copy(copy_frozen=False)
    config.in_evaluation = True
    runner, queue = asking(
        monkeypatch, config, replay_fraction=1.0, num_step_labels=num_step_labels
    )
    runner.sample(num_episodes=5)
    assert not queue.requests


@pytest.mark.parametrize(
    "plan", [{"replay_fraction": 1.0}, {"num_step_labels": 21}], ids=["trajectory", "sample"]
)
def test_the_budget_of_a_broadcast_is_that_of_all_samples_until_the_next(monkeypatch, plan):
    config = configured(envs.StatefulEnv, VARIABLE)
    runner, queue = asking(monkeypatch, config, max_slow_steps=25, **plan)
    for _ in range(3):
        runner.sample(num_timesteps=60)
    assert sum(map(len, queue.requests)) == 25
    runner.set_offset(replaced(runner.offset, version=4, max_slow_steps=5))
    runner.sample(num_timesteps=60)
    assert sum(map(len, queue.requests)) == 30
