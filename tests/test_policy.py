"""What the sampler asks of a policy equals what RLlib's module and distributions say."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.spaces.space_utils import clip_action, unsquash_action

from rllib_offset.policy import SamplingPolicy, _layers_of, env_actions_of

BOX = spaces.Box(-1, 1, (2,))
MODELS = [
    pytest.param({"vf_share_layers": False}, BOX, id="gaussian"),
    pytest.param({"vf_share_layers": True, "fcnet_hiddens": [8]}, BOX, id="shared-layers"),
    pytest.param({"fcnet_activation": "relu", "log_std_clip_param": 0.1}, BOX, id="clipped-spread"),
    pytest.param({"free_log_std": True}, BOX, id="a-head-of-another-kind"),
    pytest.param({}, spaces.Discrete(3), id="categorical"),
    pytest.param({}, spaces.MultiDiscrete([2, 3]), id="multi-categorical"),
]


def make_module(model, action_space):
    torch.manual_seed(0)
    module = RLModuleSpec(
        module_class=DefaultPPOTorchRLModule,
        observation_space=spaces.Box(-1, 1, (4,)),
        action_space=action_space,
        model_config=model,
    ).build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.rand_like(parameter)  # no bias is zero, no spread is small
    return module


@pytest.mark.parametrize(("model", "action_space"), MODELS)
@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("lanes", [1, 10, 100])  # torch draws fewer than 16 numbers differently
def test_actions_are_those_of_the_module(model, action_space, explore, lanes):
    module = make_module(model, action_space)
    obs = np.random.default_rng(0).normal(size=(lanes, 4)).astype(np.float32)
    forward = module.forward_exploration if explore else module.forward_inference
    inputs = forward({"obs": torch.from_numpy(obs)})["action_dist_inputs"]
    distribution = module.get_exploration_action_dist_cls().from_logits(inputs)
    torch.manual_seed(1)
    expected = (distribution if explore else distribution.to_deterministic()).sample()

    policy = SamplingPolicy(module)
    torch.manual_seed(1)
    actions, outputs = policy.act(obs, explore=explore)

    # the sums of a layer are rounded in another order where NumPy computes them, or a part of rows
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if policy.computes_in_numpy(lanes) else {"rtol": 0}
    np.testing.assert_allclose(actions, expected.numpy(), **tolerance)
    np.testing.assert_allclose(outputs["action_dist_inputs"], inputs.numpy(), **tolerance)
    likelihoods = policy.log_likelihoods(outputs["action_dist_inputs"], actions)
    sampled = type(distribution).from_logits(torch.from_numpy(outputs["action_dist_inputs"]))
    expected_likelihoods = sampled.logp(torch.from_numpy(actions)).numpy()
    np.testing.assert_allclose(likelihoods, expected_likelihoods, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "action_space", "most_rows"),
    [
        pytest.param({"fcnet_hiddens": [64, 64]}, BOX, 64, id="small-and-gaussian"),
        pytest.param({"fcnet_hiddens": [256, 256]}, BOX, 4, id="larger"),
        pytest.param({"fcnet_hiddens": [400, 400]}, BOX, 0, id="too-large"),
        pytest.param({"fcnet_activation": "silu"}, BOX, 0, id="another-activation"),
        pytest.param({}, spaces.Discrete(3), 0, id="categorical"),
    ],
)
def test_few_rows_of_a_small_gaussian_policy_need_no_torch(model, action_space, most_rows):
    policy = SamplingPolicy(make_module(model, action_space))
    assert policy.computes_in_numpy(most_rows) or not most_rows
    assert not any(policy.computes_in_numpy(most_rows + more) for more in (1, 2))


def test_what_is_drawn_decides_neither_the_spread_nor_the_next_mean():
    policy, obs = SamplingPolicy(make_module({}, BOX)), np.ones((10, 4), np.float32)
    drawn, outputs = policy.act(obs, explore=True)
    again, outputs_again = policy.act(obs, explore=True)
    assert (drawn != again).all()
    np.testing.assert_array_equal(*(o["action_dist_inputs"] for o in (outputs, outputs_again)))
    np.testing.assert_array_equal(obs, 1)


def test_the_layers_of_the_default_network_are_called_alone():
    assert _layers_of(make_module({"vf_share_layers": False}, BOX)) is not None


def test_of_a_single_row_less_is_computed_in_numpy():
    policies = [
        SamplingPolicy(make_module({"fcnet_hiddens": [width] * 2}, BOX)) for width in (96, 97)
    ]
    assert [policy.computes_in_numpy(1) for policy in policies] == [True, False]
    assert all(policy.computes_in_numpy(2) for policy in policies)


@pytest.mark.parametrize("rows", [2, 100])
def test_a_policy_follows_the_bound_of_its_module(rows):
    module, obs = make_module({"log_std_clip_param": 0.1}, BOX), np.ones((rows, 4), np.float32)
    policy, other = SamplingPolicy(module), make_module({"log_std_clip_param": 0.01}, BOX)
    for expected in (0.1, 0.01):
        _, outputs = policy.act(obs, explore=True)
        assert np.abs(outputs["action_dist_inputs"][:, 2:]).max() == np.float32(expected)
        module.set_state(other.get_state())


@pytest.mark.parametrize(("model", "action_space"), MODELS)
def test_a_policy_for_so_many_rows_has_the_same_bits(model, action_space):
    module, obs = make_module(model, action_space), np.ones((10, 4), np.float32)
    policy = SamplingPolicy(module)
    quick = policy.for_rows(10)
    made = []
    for each in (policy, quick):
        torch.manual_seed(0)
        actions, outputs = each.act(obs, explore=True)
        made.append((actions, outputs["action_dist_inputs"]))
    for expected, own in zip(*made, strict=True):
        np.testing.assert_array_equal(own, expected)
    np.testing.assert_array_equal(
        *(each.act(obs[:3], explore=False)[0] for each in (policy, quick.for_rows(3)))
    )


def test_a_policy_follows_the_weights_of_its_module():
    module, obs = make_module({}, BOX), np.ones((2, 4), np.float32)
    policy = SamplingPolicy(module)
    before, _ = policy.act(obs, explore=False)
    module.set_state({name: value * 0 for name, value in module.get_state().items()})
    after, _ = policy.act(obs, explore=False)
    assert before.any()
    assert not after.any()


@pytest.mark.parametrize(
    "space",
    [
        pytest.param(spaces.Box(-3, 1, (2,)), id="bounded"),
        pytest.param(spaces.Box(-np.inf, np.inf, (2,)), id="unbounded"),
        pytest.param(spaces.Box(-3, 1, (2,), np.float64), id="float64"),
        pytest.param(spaces.Box(2, 5, (2,), np.int64), id="integers"),
    ],
)
@pytest.mark.parametrize("is_normalized", [True, False])
def test_the_environment_receives_what_rllib_would_give_it(space, is_normalized):
    actions = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    if np.issubdtype(space.dtype, np.integer):
        actions = np.abs(actions).astype(space.dtype)
    rule = unsquash_action if is_normalized else clip_action
    expected = np.asarray(rule(actions, space), space.dtype)
    to_env = env_actions_of(space, is_normalized=is_normalized, is_clipped=not is_normalized)
    np.testing.assert_array_equal(to_env(actions), expected)
    assert to_env(actions).dtype == space.dtype
