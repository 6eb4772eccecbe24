"""What a setting may be is said once, for every setting of ours."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_offset.value_rules import NONE, check_values, choice, number, whole


@pytest.fixture(scope="module", params=["OffsetA2CConfig", "OffsetPPOConfig", "A2CConfig"])
def config(request):
    algorithm = pytest.importorskip("rllib_offset.algorithm")
    return getattr(algorithm, request.param)()


def test_every_setting_of_ours_has_a_rule(config):
    from ray.rllib.algorithms.ppo import PPOConfig

    from rllib_offset.setting_rules import RULES

    assert vars(config).keys() - vars(PPOConfig()).keys() <= RULES.keys()


def test_every_rule_is_about_a_setting():
    from rllib_offset.algorithm import OffsetPPOConfig
    from rllib_offset.setting_rules import RULES

    config = OffsetPPOConfig()
    assert [name for name in RULES if not hasattr(config, name)] == []


def test_defaults_keep_their_rules(config):
    from rllib_offset.setting_rules import RULES, check_settings

    check_settings({name: getattr(config, name) for name in RULES if hasattr(config, name)})


def test_what_is_set_by_a_method_is_checked_before_anything_is_built(config):
    config = config.copy(copy_frozen=False).environment("CartPole-v1").training(gamma="high")
    with pytest.raises(ValueError, match=r"`gamma` must be a number within \[0, 1\], got 'high'"):
        config.validate()


def test_a_sampler_of_a_search_is_left_to_its_draws(config):
    from ray import tune

    config.copy(copy_frozen=False).update_from_dict(
        {"gamma": tune.uniform(0.9, 1.0), "lr": tune.grid_search([1e-3])}
    )


@given(value=st.one_of(st.text(), st.booleans(), st.none(), st.lists(st.floats())))
def test_only_a_number_is_a_number(value):
    assert not number().holds(value)
    assert not whole().holds(value)


@given(low=st.integers(-5, 5), value=st.floats(allow_nan=True, allow_infinity=True))
def test_a_number_keeps_its_range(low, value):
    assert number(low).holds(value) == (math.isfinite(value) and value >= low)
    assert number(above=low).holds(value) == (math.isfinite(value) and value > low)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (number(), "a number"),
        (number(0), "a number >= 0"),
        (number(above=0), "a number > 0"),
        (number(above=0, high=1), "a number within (0, 1]"),
        (number(0, below=1), "a number within [0, 1)"),
        (whole(1) | NONE, "a whole number >= 1, or None"),
        (choice("a", "b") | NONE, "one of ['a', 'b'], or None"),
    ],
)
def test_a_rule_says_what_it_wants(rule, text):
    with pytest.raises(ValueError, match="`x` must be") as caught:
        check_values({"x": "?"}, {"x": rule})
    assert str(caught.value) == f"`x` must be {text}, got '?'"


def test_a_misspelt_part_of_the_network_is_refused(config):
    config = config.copy(copy_frozen=False).rl_module(model_config={"fcnet_hidens": [8]})
    with pytest.raises(ValueError, match="in model_config; the nearest valid key is 'fcnet_hid"):
        config.validate()


def test_the_network_of_a_module_of_ones_own_may_have_any_parts(config):
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from rllib_offset.setting_rules import check_model

    config = config.copy(copy_frozen=False)
    check_model(config.rl_module(model_config={"depth": 3}, rl_module_spec=RLModuleSpec()))


def test_the_defaults_of_a_network_keep_their_rules():
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    from rllib_offset.setting_rules import check_model

    config = DQNConfig()
    check_model(config.rl_module(model_config=vars(DefaultModelConfig()) | {"v_min": -1.0}))
