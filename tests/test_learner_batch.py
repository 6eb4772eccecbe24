"""The short cuts from episodes to a gradient step give what RLlib's own pieces give."""

import numpy as np
import pytest
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.learner import LearnerConnectorPipeline
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets
from ray.rllib.utils.torch_utils import clip_gradients

from rllib_offset import A2CConfig
from rllib_offset.learner import A2CTorchLearner, _clip_gradients
from rllib_offset.learner_batch import CompleteEpisodesPipeline, _value_targets
from rllib_offset.policy import DiagonalGaussian


@pytest.fixture(params=["Pendulum-v1", "CartPole-v1"])
def learner(request):
    import gymnasium as gym

    config = A2CConfig().environment(request.param).debugging(seed=0)
    with gym.make(request.param) as env:
        built = config.build_learner(env=env)
    built.build()  # a second time, which changes nothing
    built.spaces = env.observation_space, env.action_space
    return built


def episode(spaces, length, *, terminated, seed):
    obs_space, action_space = spaces
    rng = np.random.default_rng(seed)
    obs_space.seed(seed)
    action_space.seed(seed)
    return SingleAgentEpisode(
        observations=np.stack([obs_space.sample() for _ in range(length + 1)]) / 1e3,
        actions=np.stack([action_space.sample() for _ in range(length)]),
        rewards=rng.normal(size=length).astype(np.float32),
        infos=[{}] * (length + 1),
        extra_model_outputs={
            "action_logp": rng.normal(size=length).astype(np.float32),
            "weights_seq_no": np.full(length, 3),
        },
        terminated=terminated,
        truncated=not terminated,
        observation_space=obs_space,
        action_space=action_space,
        t_started=0,
        len_lookback_buffer=0,
    )


def episodes_of(learner):
    ends = [(5, False), (1, True), (9, True), (1, False), (3, False)]
    return [
        episode(learner.spaces, length, terminated=terminated, seed=seed)
        for seed, (length, terminated) in enumerate(ends)
    ]


def batch_of(learner, pipeline, episodes):
    return pipeline(rl_module=learner.module, batch={}, episodes=episodes, shared_data={})


def by_rllib(learner, episodes):
    """What RLlib's pieces make of the episodes, which they also change."""
    pipeline = LearnerConnectorPipeline(connectors=learner._learner_connector.connectors)
    return batch_of(learner, pipeline, episodes)


def losses_of(learner, batch):
    """The losses of a batch, to which what it lacks is added."""
    learner.before_gradient_based_update(timesteps={})
    return learner.compute_losses(fwd_out=learner.module.forward_train(batch), batch=batch)


def test_a_batch_has_the_bits_of_rllibs_own_as_soon_as_the_critic_was_asked_for_the_loss(learner):
    expected = by_rllib(learner, episodes_of(learner))
    made = batch_of(learner, learner._learner_connector, episodes_of(learner))
    losses, expected_losses = losses_of(learner, made), losses_of(learner, expected)
    assert losses == expected_losses
    assert losses["default_policy"] != 0
    got, expected = made["default_policy"], expected["default_policy"]
    assert got.keys() == expected.keys()
    for name, column in expected.items():
        assert got[name].dtype == column.dtype
        assert torch.equal(got[name], column), name


def test_episodes_stay_as_they_are(learner):
    episodes = episodes_of(learner)
    batch_of(learner, learner._learner_connector, episodes)
    assert [len(episode) for episode in episodes] == [5, 1, 9, 1, 3]


def test_what_it_does_not_serve_goes_through_the_pieces(learner):
    pipeline = learner._learner_connector
    assert isinstance(pipeline, CompleteEpisodesPipeline)
    unfinished, same = episodes_of(learner), episodes_of(learner)
    unfinished[0].is_truncated = same[0].is_truncated = False
    expected = by_rllib(learner, same)["default_policy"]
    got = batch_of(learner, pipeline, unfinished)["default_policy"]
    assert len(unfinished[0]) == 6  # RLlib's piece adds a step
    assert torch.equal(got["advantages"], expected["advantages"])


def test_a_piece_of_the_users_is_called(learner):
    class Doubled(ConnectorV2):
        def __call__(self, *, batch, **kwargs):
            batch["default_policy"]["advantages"] *= 2
            return batch

    plain = by_rllib(learner, episodes_of(learner))["default_policy"]["advantages"]
    learner._learner_connector.append(Doubled())
    doubled = batch_of(learner, learner._learner_connector, episodes_of(learner))["default_policy"]
    assert torch.equal(doubled["advantages"], 2 * plain)


@pytest.mark.parametrize("several", [{"num_epochs": 2}, {"minibatch_size": 8}])
def test_several_steps_on_one_batch_are_refused(learner, several):
    with pytest.raises(ValueError, match="one gradient step per batch"):
        learner.update(episodes=episodes_of(learner), **several)


# --- the bits of RLlib's functions ---


def test_value_targets_have_the_bits_of_rllibs():
    rng, num_rows = np.random.default_rng(0), 400
    columns = [
        *rng.normal(size=(2, num_rows)).astype(np.float32),
        *(rng.random((2, num_rows)) < 0.05),
    ]
    expected = compute_value_targets(*columns, gamma=0.97, lambda_=0.9)
    targets = _value_targets(*columns, gamma=0.97, lambda_=0.9)
    assert targets.dtype == expected.dtype
    np.testing.assert_array_equal(targets, expected)


def test_a_gaussian_and_its_gradients_have_the_bits_of_rllibs():
    generator = torch.Generator().manual_seed(0)
    inputs, actions = (torch.randn(50, n, generator=generator) for n in (6, 3))
    made = []
    for kind in (TorchDiagGaussian.from_logits, DiagonalGaussian):
        leaf = inputs.clone().requires_grad_()
        distribution = kind(leaf)
        likelihoods, entropy = distribution.logp(actions), distribution.entropy()
        (likelihoods.mean() + 0.1 * entropy.mean()).backward()
        made.append((likelihoods, entropy, leaf.grad))
    for expected, own in zip(*made, strict=True):
        assert torch.equal(expected, own)


@pytest.mark.parametrize("grad_clip_by", ["global_norm", "norm", "value"])
@pytest.mark.parametrize("grad_clip", [0.5, 1e3, None])
@pytest.mark.parametrize("spoilt", [0.0, torch.nan, torch.inf])
def test_gradients_are_clipped_as_by_rllib(grad_clip, grad_clip_by, spoilt):
    def gradients():
        generator = torch.Generator().manual_seed(0)
        drawn = {name: torch.randn(4, 3, generator=generator) for name in "abc"}
        drawn["b"][0, 0] += spoilt
        return drawn

    expected, own = gradients(), gradients()
    norms = [
        clip(each, grad_clip=grad_clip, grad_clip_by=grad_clip_by)
        for clip, each in ((clip_gradients, expected), (_clip_gradients, own))
    ]
    assert (norms[0] is None) == (norms[1] is None)
    assert norms[0] is None or torch.equal(*norms)
    for name, gradient in expected.items():
        torch.testing.assert_close(own[name], gradient, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_gradient_step_is_that_of_rllib(learner, spoilt):
    twin = A2CConfig().environment(learner.config.env).debugging(seed=0)
    twin = twin.build_learner(spaces={"__env__": learner.spaces, "__env_single__": learner.spaces})
    twin.set_state(learner.get_state())
    for one, step in ((learner, A2CTorchLearner), (twin, TorchLearner)):
        gradients = {name: torch.ones_like(value) for name, value in one._params.items()}
        if spoilt:  # which RLlib sets to zero, with a warning
            next(iter(gradients.values())).view(-1)[0] = torch.nan
        step.apply_gradients(one, gradients)
    before, after = twin._params.values(), learner._params.values()
    for expected, own in zip(before, after, strict=True):
        assert torch.equal(expected, own)
        assert own.isfinite().all()
