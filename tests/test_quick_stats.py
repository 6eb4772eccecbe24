"""Metrics are what RLlib's own statistics make of the same values."""

import math

import numpy as np
import pytest
import torch
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_offset import A2CConfig, OffsetPPOConfig
from rllib_offset.quick_stats import QUICK_STATS

VALUES = [
    pytest.param([3.0], id="one"),
    pytest.param([np.float32(0.1), 2, np.float64(-7.5)], id="several"),
    pytest.param([1e-3 * k for k in range(20)], id="many"),
    pytest.param([math.nan], id="unknown"),
    pytest.param([1.0, math.nan, 5.0], id="partly-unknown"),
    pytest.param([torch.tensor(0.25, requires_grad=True)], id="tensor"),
    pytest.param([torch.tensor(1.5), torch.tensor(0.5)], id="tensors"),
    pytest.param([True, False], id="booleans"),
]


def reduced(stats, values, reduce):
    """What a root logger reports of a leaf that was reduced twice."""
    leaf = MetricsLogger(stats_cls_lookup=stats, root=False)
    root = MetricsLogger(stats_cls_lookup=stats, root=True)
    window = {} if reduce == "ema" else {"window": 100}
    for part in (values, values[:1]):
        for value in part:
            leaf.log_value(("nested", "key"), value, reduce=reduce, **window)
        root.aggregate([leaf.reduce()], key="leaf")
    return root.peek(("leaf", "nested", "key")), root.reduce(compile=True)["leaf"]["nested"]["key"]


@pytest.mark.parametrize("reduce", ["mean", "min", "max", "ema"])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # RLlib's own
def test_a_metric_is_that_of_rllib(values, reduce):
    expected = reduced(MetricsLogger().stats_cls_lookup, values, reduce)
    np.testing.assert_allclose(reduced(QUICK_STATS, values, reduce), expected, rtol=1e-6)


def test_a_saved_logger_goes_on_where_it_was():
    logger, other = (MetricsLogger(stats_cls_lookup=QUICK_STATS, root=True) for _ in range(2))
    logger.log_value("key", 2.0, window=5)
    other.set_state(logger.get_state())
    other.log_value("key", 4.0, window=5)
    assert other.peek("key") == 3.0


@pytest.mark.parametrize("config_class", [A2CConfig, OffsetPPOConfig])
def test_the_users_own_statistics_take_precedence(config_class):
    assert config_class().stats_cls_lookup is QUICK_STATS
    own = QUICK_STATS | {"mine": QUICK_STATS["mean"]}
    assert config_class().reporting(custom_stats_cls_lookup=own).stats_cls_lookup is own
