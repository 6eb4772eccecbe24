"""A configuration goes to a dict or to YAML and back, and is the same."""

import pytest
import yaml
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from rllib_offset import A2CConfig, OffsetA2CConfig, OffsetPPOConfig
from rllib_offset.callbacks import OffsetCallback, ScoreCallback

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIGS = [A2CConfig, OffsetA2CConfig, OffsetPPOConfig]


class Mine(RLlibCallback):
    """What a user adds."""


class Another(RLlibCallback):
    """More of it."""


def configured(cls):
    config = (
        cls()
        .environment("rllib_offset.envs:rllib_offset/PointMass-v0", env_config={"wall": [1, 2]})
        .training(lr=[[0, 0.1], [10, 0.2]], train_batch_size_per_learner=500, lambda_=0.9)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[8]))
        .evaluation(evaluation_interval=3, evaluation_config={"explore": True})
        .debugging(seed=3)
    )
    if cls is not A2CConfig:
        config.slow_simulator(env="rllib_offset/PointMass-v0", num_replay_workers=3)
        config.offset(targets=["reward"], hiddens=[32]).labels(level="sample", freeze_below=0.1)
    return config


def same(one, other):
    return repr(one.to_dict()) == repr(other.to_dict())


@pytest.mark.parametrize("cls", CONFIGS)
@pytest.mark.parametrize("callbacks", [None, Mine, [Mine, Another]], ids=["none", "one", "two"])
class TestRoundTrip:
    def test_through_a_dict(self, cls, callbacks):
        config = configured(cls)
        if callbacks is not None:
            config.callbacks(callbacks)
        assert same(cls.from_dict(config.to_dict()), config)
        assert same(cls().update_from_dict(config.to_dict()), config)

    def test_through_yaml(self, cls, callbacks):
        config = configured(cls).rl_module(model_config={"fcnet_hiddens": [8]})
        if callbacks is not None:
            config.callbacks(callbacks)
        again = cls.from_yaml(config.to_yaml())
        assert again.to_yaml() == config.to_yaml()
        assert again.callbacks_class == config.callbacks_class
        assert again.lambda_ == 0.9


def test_yaml_says_what_differs_by_the_names_that_a_user_knows():
    text = configured(OffsetPPOConfig).callbacks(Mine).to_yaml()
    written = yaml.safe_load(text)
    assert written["train_batch_size_per_learner"] == 500
    assert written["offset_targets"] == ["reward"]
    assert written["callbacks"][1] == f"{__name__}.Mine"
    assert written["model_config"]["fcnet_hiddens"] == [8]
    assert "gamma" not in written


def test_nothing_changed_is_nothing_written():
    assert OffsetA2CConfig().to_yaml() == "{}\n"


def test_what_a_file_cannot_hold_is_refused():
    config = A2CConfig().callbacks(on_train_result=lambda **_: None)
    with pytest.raises(ValueError, match="`callbacks_on_train_result` is <function"):
        config.to_yaml()


@pytest.mark.parametrize("given", ["nowhere.Mine", "Mine", f"{__name__}.Yours"])
def test_a_class_that_does_not_exist_is_refused(given):
    with pytest.raises(ValueError, match=f"`callbacks: {given}` is no class"):
        A2CConfig.from_yaml(f"callbacks: {given}")


def test_settings_must_be_a_mapping():
    with pytest.raises(ValueError, match="must be a mapping"):
        A2CConfig.from_yaml("[lr]")


@pytest.mark.parametrize(
    ("cls", "ours"), [(A2CConfig, ScoreCallback), (OffsetA2CConfig, OffsetCallback)]
)
def test_callbacks_of_the_user_stand_beside_ours(cls, ours):
    assert cls().callbacks_class is ours
    assert cls().callbacks(Mine).callbacks_class == [ours, Mine]
    assert cls().callbacks([ours, Mine]).callbacks_class == [ours, Mine]
    assert cls().callbacks(ours).callbacks_class is ours


def test_a_label_store_is_where_it_was_named_whatever_folder_tune_works_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path / "labels")
    config = configured(OffsetA2CConfig).labels(store="labels")
    assert config.to_dict()["label_store"] == here
    config.label_store = "labels"  # as from a dict
    config.validate()
    assert config.label_store == here
    assert config.labels(store="s3://bucket/labels").label_store == "s3://bucket/labels"
