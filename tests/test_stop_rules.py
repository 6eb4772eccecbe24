"""Criteria of `stop`: those that some result will hold, and no others."""

import pytest

from rllib_offset.stop_rules import check_stop
from tests.envs import CountingEnv

CALLBACK = {"callbacks_on_train_result": print}


@pytest.fixture(scope="module")
def config():
    from rllib_offset import OffsetA2CConfig

    config = OffsetA2CConfig().environment(CountingEnv).evaluation(evaluation_interval=1)
    config.slow_simulator(env=CountingEnv, num_replay_workers=0).labels(initial=2)
    return config.training(train_batch_size_per_learner=20)


@pytest.fixture
def check(config):
    def check(settings=None, config=config, **stop):
        algorithm = config.algo_class
        criteria = {name.replace("__", "/"): value for name, value in stop.items()}
        check_stop(criteria, algorithm, settings or {}, config)

    return check


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("training_iterations", "training_iteration"),
        ("episode_return_mean", "env_runners/episode_return_mean"),
        ("env_runners__episode_return_maen", "env_runners/episode_return_mean"),
        ("evaluation__env_runner__episode_return_mean", "evaluation/env_runners/"),
        ("slow__num_env_steps", "slow/num_env_steps_lifetime"),
        ("offset__holdout_mea", "offset/holdout_mae"),
        ("at_a_glance__thruth", "at_a_glance/truth"),
    ],
)
def test_a_name_that_no_result_holds_is_refused(check, name, nearest):
    with pytest.raises(ValueError, match=rf"in stop; the nearest valid key is '{nearest}"):
        check(**{name: 3})


def test_the_names_of_a_pair_are_unknown_to_a_plain_algorithm(check):
    from rllib_offset import A2CConfig

    with pytest.raises(ValueError, match="unknown key 'slow/num_env_steps_lifetime' in stop"):
        check(config=A2CConfig(), slow__num_env_steps_lifetime=3)


@pytest.mark.parametrize("value", ["ten", None, [1], float("nan")])
def test_a_value_that_is_no_number_is_refused(check, value):
    with pytest.raises(ValueError, match="`stop: training_iteration` must be a number"):
        check(training_iteration=value)


@pytest.mark.parametrize("name", ["evaluation__env_runners__episode_return_mean"])
def test_an_evaluation_that_never_comes_is_not_waited_for(check, config, name):
    without = config.copy(copy_frozen=False).evaluation(evaluation_interval=None)
    check(**{name: 3})
    with pytest.raises(ValueError, match="set `evaluation_interval`"):
        check(config=without, **{name: 3})


@pytest.mark.parametrize(
    "settings", [CALLBACK, {"evaluation_config": CALLBACK}, {"env_runner_cls": object}]
)
def test_what_reports_itself_may_report_anything(check, settings):
    check(settings, my_own_metric=3)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore")
def test_every_number_of_a_result_can_be_waited_for(check, config):
    from ray.tune.utils import flatten_dict

    algorithm = config.copy(copy_frozen=False).build_algo()
    result = algorithm.train()
    algorithm.stop()
    result.pop("config")
    texts = {"date", "hostname", "node_ip", "pid", "trial_id"}
    check(**dict.fromkeys(flatten_dict(result).keys() - texts, 1.0))
