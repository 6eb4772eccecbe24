import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_offset.old_spellings import (
    translate_config,
    translate_experiment,
    translate_metric,
    translate_score,
    translate_stop,
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"num_workers": 2}, {"num_env_runners": 2}),
        ({"num_rollout_workers": 2}, {"num_env_runners": 2}),
        ({"num_envs_per_worker": 5}, {"num_envs_per_env_runner": 5}),
        ({"train_batch_size": 400}, {"train_batch_size_per_learner": 400}),
        (
            {"train_batch_size": 400, "num_learners": 2},
            {"train_batch_size_per_learner": 200, "num_learners": 2},
        ),
        ({"sgd_minibatch_size": 64, "num_sgd_iter": 3}, {"minibatch_size": 64, "num_epochs": 3}),
        ({"lr_schedule": [[0, 0.1]]}, {"lr": [[0, 0.1]]}),
        (
            {"model": {"fcnet_hiddens": [8], "post_fcnet_hiddens": [4]}},
            {"model_config": {"fcnet_hiddens": [8], "head_fcnet_hiddens": [4]}},
        ),
        (
            {"model": {"fcnet_hiddens": [8]}, "vf_share_layers": True},
            {"model_config": {"fcnet_hiddens": [8], "vf_share_layers": True}},
        ),
        ({"framework": "torch"}, {}),
        ({"enable_connectors": True}, {}),
        ({"num_gpus": 0}, {}),
        ({"num_gpus": 1}, {"num_gpus_per_learner": 1}),
        (
            {"evaluation_config": {"num_workers": 1}},
            {"evaluation_config": {"num_env_runners": 1}},
        ),
    ],
)
def test_old_keys_of_a_config_are_translated_with_a_note(old, new):
    translated, notes = translate_config(old)
    assert translated == new
    assert notes
    assert not any("\n" in note for note in notes)


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ({"framework": "tf2"}, "only torch"),
        ({"horizon": 10}, "max_episode_steps"),
        ({"num_gpus": 2}, "num_learners: 2"),
        ({"model": {"custom_model": "mine"}}, "RLModule"),
        ({"num_workers": 1, "num_env_runners": 2}, "both mean `num_env_runners`"),
    ],
)
def test_what_has_no_successor_is_refused_with_what_to_use(old, message):
    with pytest.raises(ValueError, match=message):
        translate_config(old)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("episode_reward_mean", "env_runners/episode_return_mean"),
        ("sampler_results/episode_reward_mean", "env_runners/episode_return_mean"),
        ("env_runners/episode_reward_mean", "env_runners/episode_return_mean"),
        (
            "evaluation/sampler_results/episode_reward_mean",
            "evaluation/env_runners/episode_return_mean",
        ),
        ("timesteps_total", "num_env_steps_sampled_lifetime"),
        ("episodes_total", "env_runners/num_episodes_lifetime"),
    ],
)
def test_old_metrics_are_translated(old, new):
    translated, notes = translate_metric(old)
    assert translated == new
    assert notes == [f"`{old}` is now `{new}`"]


@pytest.mark.parametrize(
    "name",
    [
        "training_iteration",
        "env_runners/episode_return_mean",
        "env_runners/num_episodes",
        "num_env_steps_sampled_lifetime",
    ],
)
def test_new_metrics_stay_without_a_note(name):
    assert translate_metric(name) == (name, [])


def test_two_stops_that_mean_the_same_are_refused():
    with pytest.raises(ValueError, match="both mean"):
        translate_stop({"timesteps_total": 1, "num_env_steps_sampled_lifetime": 2})


def test_a_score_may_ask_for_the_lowest():
    score, notes = translate_score("min-episode_len_mean")
    assert score == {
        "checkpoint_score_attribute": "env_runners/episode_len_mean",
        "checkpoint_score_order": "min",
    }
    assert len(notes) == 1


def test_old_keys_of_an_experiment_are_translated():
    spec, notes = translate_experiment(
        {
            "run": "PPO",
            "local_dir": "/x",
            "checkpoint_freq": 5,
            "keep_checkpoints_num": 2,
            "checkpoint_score_attr": "min-loss",
            "stop": {"timesteps_total": 9},
            "config": {"num_workers": 0},
        }
    )
    assert spec == {
        "run": "PPO",
        "storage_path": "/x",
        "checkpoint_config": {
            "checkpoint_frequency": 5,
            "num_to_keep": 2,
            "checkpoint_score_attribute": "loss",
            "checkpoint_score_order": "min",
        },
        "stop": {"num_env_steps_sampled_lifetime": 9},
        "config": {"num_env_runners": 0},
    }
    assert len(notes) == 6


def test_resources_per_trial_are_refused_with_what_decides_them():
    with pytest.raises(ValueError, match="num_env_runners"):
        translate_experiment({"run": "PPO", "resources_per_trial": {"cpu": 2}})


@given(st.dictionaries(st.sampled_from(["lr", "gamma", "seed", "env_config"]), st.integers()))
def test_present_keys_pass_untouched(config):
    assert translate_config(config) == (config, [])
