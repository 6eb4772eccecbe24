import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_offset.config_keys import (
    CHECKPOINT_KEYS,
    EXPERIMENT_KEYS,
    check_config_keys,
    check_keys,
    check_name,
    translate_keys,
    valid_config_keys,
)


@pytest.fixture(scope="module")
def ppo_config():
    return pytest.importorskip("ray.rllib.algorithms.ppo").PPOConfig()


def test_every_key_that_rllib_writes_is_accepted(ppo_config):
    check_config_keys(ppo_config, ppo_config.to_dict())


@pytest.mark.parametrize("key", ["lambda", "lambda_", "model_config", "num_workers", "callbacks"])
def test_documented_spellings_are_accepted(ppo_config, key):
    check_config_keys(ppo_config, {key: None})


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [
        ("num_env_runner", "num_env_runners"),
        ("gama", "gamma"),
        ("train_batch_size_per_lerner", "train_batch_size_per_learner"),
        ("evaluation_intervall", "evaluation_interval"),
        ("Lr", "lr"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_one(ppo_config, misspelt, nearest):
    with pytest.raises(ValueError, match=f"'{misspelt}' in config.* '{nearest}'$"):
        check_config_keys(ppo_config, {"lr": 0.1, misspelt: 1})


def test_free_form_settings_are_not_checked_inside(ppo_config):
    check_config_keys(ppo_config, {"env_config": {"any": 1}, "model_config": {"thing": 2}})


def test_the_evaluation_config_is_checked_as_a_config(ppo_config):
    with pytest.raises(ValueError, match=r"'exploore' in config\.evaluation_config.* 'explore'"):
        check_config_keys(ppo_config, {"evaluation_config": {"exploore": False}})


def test_tunes_own_keys_may_pass(ppo_config):
    check_config_keys(ppo_config, {"__trial_info__": object()})


def test_several_unknown_keys_are_named_in_one_line():
    with pytest.raises(ValueError, match=r"^unknown keys in config: 'a1' .*'b2'") as error:
        check_config_keys({"a", "b"}, {"a1": 0, "b2": 0})
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(
        ValueError, match="unknown algorithm 'ofseta2c'; the nearest is 'OffsetA2C'"
    ):
        check_name(["A2C", "OffsetA2C", "PPO"], "ofseta2c", what="algorithm")


def test_method_arguments_are_translated_to_stored_names(ppo_config):
    given = translate_keys({"model_config": {"fcnet_hiddens": [7]}, "lambda_": 0.5})
    config = ppo_config.copy(copy_frozen=False).update_from_dict(given)
    assert config.model_config["fcnet_hiddens"] == [7]
    assert config.lambda_ == 0.5


def test_experiment_keys_are_those_of_tune():
    experiment = pytest.importorskip("ray.tune.experiment").Experiment
    arguments = set(inspect.signature(experiment.__init__).parameters)
    assert arguments >= EXPERIMENT_KEYS - {"env"}


def test_checkpoint_keys_are_those_of_tune():
    checkpoint_config = pytest.importorskip("ray.tune").CheckpointConfig
    assert set(checkpoint_config.__dataclass_fields__) >= CHECKPOINT_KEYS


@given(valid=st.sets(st.text(min_size=1), min_size=1), data=st.data())
def test_valid_keys_always_pass(valid, data):
    check_keys(valid, data.draw(st.lists(st.sampled_from(sorted(valid)))), where="config")


@given(key=st.text(max_size=20).filter(lambda key: not key.startswith("__")) | st.integers())
def test_an_unknown_key_of_any_type_gives_one_line(key):
    with pytest.raises(ValueError, match=r"\Aunknown key .*'learning_rate'\Z"):
        check_keys({"learning_rate"}, [key], where="config")


def test_valid_keys_hold_both_spellings(ppo_config):
    assert {"lambda", "lambda_"} <= valid_config_keys(ppo_config)
