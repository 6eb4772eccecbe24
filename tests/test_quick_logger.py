"""The quick logger is RLlib's in all that it returns, saves and refuses."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.rllib.utils.metrics.stats import MeanStats

import rllib_offset.envs  # noqa: F401
from rllib_offset import A2CConfig
from rllib_offset.quick_logger import QuickLoggerMixin, QuickMetricsLogger
from rllib_offset.quick_stats import QUICK_STATS

PATH = ("one", "two", "three")


@pytest.fixture(params=[MetricsLogger, QuickMetricsLogger])
def logger_class(request):
    return request.param


def fill(logger, *, offset=0.0):
    """What a component logs: values, nested ones, times, sums with a throughput."""
    logger.log_value("plain", 1.0 + offset, window=3)
    logger.log_value(PATH, torch.tensor(2.0 + offset), window=1)
    logger.log_value(["as", "list"], 3.0 + offset, reduce="max", window=2)
    logger.log_value((("nested", "tuple"), "end"), 4.0, reduce="lifetime_sum")
    logger.log_value("sum", 5 + offset, reduce="sum", with_throughput=True)
    logger.log_value("items", 6.0 + offset, reduce="item_series", window=4)
    logger.log_dict({"a": 1.0, "b": {"c": 2.0 + offset}}, key="dict", window=2)
    logger.log_dict({"d": 3.0}, key=("dict", "b"), reduce="min", window=2)
    logger.log_dict({"e": {"f": 4.0}})
    logger.log_dict({"g": 5.0}, key=["of", "list"])
    logger.log_dict({"h": []}, key="nothing")


def made(logger_class, *, root):
    return logger_class(root=root, stats_cls_lookup=QUICK_STATS)


def plain(nested):
    """Leaves as what they hold, times and rates apart, which are those of a clock."""
    if isinstance(nested, dict):
        return {
            key: plain(value) for key, value in nested.items() if not key.endswith("_throughput")
        }
    return nested if not hasattr(nested, "peek") else plain(nested.peek(compile=False))


def in_both(action):
    """Do something to a logger of each kind; what came of it must be the same."""
    theirs, ours = (action(logger_class) for logger_class in (MetricsLogger, QuickMetricsLogger))
    assert str(ours) == str(theirs)
    return ours


@pytest.mark.parametrize("compile", [False, True])
def test_what_a_component_reduces_to(compile):
    def action(logger_class):
        logger = made(logger_class, root=False)
        for offset in (0.0, 1.0, 0.5):
            fill(logger, offset=offset)
        first = plain(logger.reduce(compile=compile))
        fill(logger)
        return first, plain(logger.reduce(compile=compile))

    first, second = in_both(action)
    assert first["one"]["two"]["three"] != second["one"]["two"]["three"]


@pytest.mark.parametrize("key", [None, "all", ("all", "runners"), ["all", "runners"]])
def test_what_several_components_are_joined_to(key):
    def action(logger_class):
        root, leaves = made(logger_class, root=True), []
        for _ in range(2):
            leaves = [made(logger_class, root=False) for _ in range(3)]
            for number, leaf in enumerate(leaves):
                fill(leaf, offset=number)
            leaves[-1].log_value("its own", 7.0, window=1)
            root.aggregate([leaf.reduce() for leaf in leaves], key=key)
        peeked = plain(root.peek())
        results = root.compile()
        return sorted(str(peeked)), sorted(str(plain(results))), "sum_throughput" in str(results)

    assert in_both(action)[-1]


def test_a_metric_of_one_component_is_joined_under_a_key_of_its_own(logger_class):
    root, leaf = made(logger_class, root=True), made(logger_class, root=False)
    root.log_value("plain", 1.0, window=1)
    fill(leaf)
    with pytest.raises(AssertionError, match="key"):
        root.aggregate([leaf.reduce()])


def test_results_that_are_no_statistics_are_for_rllib_to_join():
    stats = MeanStats(window=1)
    stats.push(2.0)

    def action(logger_class):
        root = made(logger_class, root=True)
        root.aggregate([{"in a list": [stats]}, {"in a list": [stats]}])
        return root.peek("in a list")

    assert in_both(action) == 2.0


def test_looking_up():
    def action(logger_class):
        logger = made(logger_class, root=True)
        fill(logger)
        found = [
            key in logger
            for key in ("plain", PATH, PATH[:2], ["one", "two"], ("one", "no"), "no", ("no", "no"))
        ]
        found += [logger.peek(PATH), plain(logger.peek("dict")), logger.peek("no", default=9)]
        with logger.log_time(("timers", "wait"), reduce="mean", window=1):
            pass
        logger.delete(*PATH)
        logger.delete("no", key_error=False)
        return [*found, PATH in logger, ("timers", "wait") in logger]

    assert in_both(action)[-2:] == [False, True]


@pytest.mark.parametrize("key", ["no", ("one", "no"), ["one", "no"]])
def test_a_key_that_is_not_there(logger_class, key):
    logger = made(logger_class, root=True)
    fill(logger)
    with pytest.raises(KeyError, match="no"):
        logger.peek(key)


def test_a_value_that_cannot_be_reduced_is_named():
    logger = made(QuickMetricsLogger, root=True)  # RLlib's own fails once more, on its message
    for _ in range(2):
        logger.log_value(PATH, "text", window=2)
    with pytest.raises(ValueError, match="cannot reduce one/two/three"):
        logger.reduce(compile=True)


def test_each_continues_what_the_other_saved():
    for first, second in [(MetricsLogger, QuickMetricsLogger), (QuickMetricsLogger, MetricsLogger)]:
        saved, restored = made(first, root=True), made(second, root=True)
        fill(saved)
        restored.set_state(saved.get_state())
        assert plain(restored.reduce()) == plain(saved.reduce())


class _Component:
    def __init__(self, logger):
        self.metrics = logger


class _QuickComponent(QuickLoggerMixin, _Component):
    pass


def test_a_component_goes_on_with_what_was_logged():
    logger = MetricsLogger(root=True, stats_cls_lookup=QUICK_STATS)
    logger.log_value("key", 2.0, window=5)
    quick = _QuickComponent(logger).metrics
    assert type(quick) is QuickMetricsLogger
    quick.log_value("key", 4.0, window=5)
    assert quick.peek("key") == logger.peek("key") == 3.0
    assert quick.compile() == {"key": 3.0}


def test_a_users_own_logger_is_left_alone():
    class Own(MetricsLogger):
        pass

    own = Own()
    assert _QuickComponent(own).metrics is own


def test_a_learner_logs_to_it_also_when_it_is_built_again():
    env = gym.make("rllib_offset/PointMass-v0")
    learner = A2CConfig().environment(env.spec.id).build_learner(env=env)
    assert type(learner.metrics) is QuickMetricsLogger
    learner._reset()
    learner.build()
    assert type(learner.metrics) is QuickMetricsLogger
    np.testing.assert_equal(learner.metrics.stats_cls_lookup, QUICK_STATS)
