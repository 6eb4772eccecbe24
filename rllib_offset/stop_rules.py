"""Criteria of `stop`: which names a result may ever hold, and what their values must be.

Tune waits without a word for a criterion that no result holds, and so trains without end.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rllib_offset import metrics
from rllib_offset.config_keys import check_keys
from rllib_offset.value_rules import FLAG, check_value, number

__all__ = ["check_stop"]

_AT_THE_TOP = (
    "done",
    "iterations_since_restore",
    "mean_num_episode_lists_received",
    "mean_num_learner_group_update_called",
    "mean_num_training_step_calls_since_last_synch_worker_weights",
    "num_env_steps_sampled_lifetime",
    "num_training_step_calls_per_iteration",
    "num_weight_broadcasts",
    "time_since_restore",
    "time_this_iter_s",
    "time_total_s",
    "timestamp",
    "training_iteration",
)
_OF_RUNNERS = (
    "env_reset_timer",
    "env_runner_state_server_pull",
    "env_step_timer",
    "env_to_module_sum_episodes_length_in",
    "env_to_module_sum_episodes_length_out",
    "episode_duration_sec_mean",
    "episode_len_max",
    "episode_len_mean",
    "episode_len_min",
    "episode_return_max",
    "episode_return_mean",
    "episode_return_min",
    "mean_num_episode_lists_received",
    "num_env_steps_sampled",
    "num_env_steps_sampled_lifetime",
    "num_episodes",
    "num_episodes_lifetime",
    "rlmodule_inference_timer",
    "sample",
    "time_between_sampling",
    "weights_seq_no",
)
_OF_EVALUATION = (
    "actor_manager_num_outstanding_async_reqs",
    "num_env_runners_dropped_lifetime",
    "num_healthy_workers",
    "num_remote_worker_restarts",
    metrics.NORMALISED_SCORE,
)
# Below these lie names of agents, modules, timers and losses, which differ by algorithm.
_OPEN = (
    "aggregator_actors",
    "differentiable_learners",
    "env_runner_group",
    "fault_tolerance",
    "learner_group",
    "learners",
    "perf",
    "replay_buffer",
    "timers",
)
_OPEN_OF_RUNNERS = (
    "agent_episode_return_mean",
    "agent_steps",
    "env_to_module_connector",
    "module_episode_return_mean",
    "module_to_env_connector",
    "num_agent_steps_sampled",
    "num_agent_steps_sampled_lifetime",
    "num_env_steps_sampled_lifetime_throughput",
    "num_module_steps_sampled",
    "num_module_steps_sampled_lifetime",
)
_OWN_OF_RUNNERS = (
    metrics.FAST_EPISODE_RETURN_MEAN,
    metrics.OUTSIDE_FRACTION,
    metrics.SAMPLING_TIME_S,
)
_OWN_OF_EVALUATION = (metrics.CORRECTED_EPISODE_RETURN_MEAN, metrics.FIDELITY_GAP)
_OWN = {
    metrics.AT_A_GLANCE: (metrics.TRUTH, metrics.PROMISE, metrics.SLOW_STEPS),
    metrics.OFFSET: (
        metrics.LOSS,
        metrics.HOLDOUT_MAE,
        metrics.FRESH_ERROR,
        metrics.FRESH_RMSE,
        metrics.ENSEMBLE_STD,
        metrics.COVERAGE,
        metrics.DIVERGENCE,
        metrics.IS_FROZEN,
        metrics.VERSION,
        metrics.NUM_LABELS,
        metrics.EXPLOITATION,
    ),
    metrics.SLOW: (
        metrics.NUM_ENV_STEPS_LIFETIME,
        metrics.NUM_EVAL_ENV_STEPS_LIFETIME,
        metrics.NUM_ENV_STEPS_REUSED_LIFETIME,
        metrics.NUM_ENV_STEPS_WASTED_LIFETIME,
        metrics.NUM_INVALID_LIFETIME,
        metrics.NUM_LABELS_LOST_LIFETIME,
        metrics.NUM_REPLAYS_LOST_LIFETIME,
        metrics.SIM_TIME_S_LIFETIME,
        metrics.REPLAY_WAIT_S,
        metrics.UTILIZATION,
    ),
}
_OF_AN_EVALUATION = (
    "evaluation/",
    f"{metrics.AT_A_GLANCE}/{metrics.TRUTH}",
    f"{metrics.AT_A_GLANCE}/{metrics.PROMISE}",
)
# Settings through which results may hold anything; their names have one of these in them.
_REPORTING = ("callback", "connector", "env_runner_cls", "learner_class", "rl_module_spec")


def check_stop(
    stop: Mapping[str, Any], algorithm: type, settings: Mapping[str, Any], config: Any
) -> None:
    """Check criteria of ``stop``, nested ones written with slashes.

    Args:
        stop: Names and values.
        algorithm: What is trained.
        settings: What the experiment sets, by name.
        config: The algorithm's configuration with these.

    Raises:
        ValueError: One line: the name or value that is wrong, and what it must be.
    """
    for name, value in stop.items():
        check_value(f"stop: {name}", value, number() | FLAG)
    is_known = algorithm.__module__.startswith(("ray.rllib.", "rllib_offset."))
    if is_known and not _may_report_anything(settings):
        has_pair = hasattr(config, "offset_estimator")
        groups = _open_groups()
        check_keys(
            _known_names(has_pair=has_pair),
            [name for name in stop if not name.startswith(groups)],
            where="stop",
        )
    evaluates = config.evaluation_interval or config.offline_evaluation_interval
    waiting = [name for name in stop if name.startswith(_OF_AN_EVALUATION)]
    if waiting and not evaluates:
        raise ValueError(
            f"`stop: {waiting[0]}` waits for an evaluation, and there is none; "
            "set `evaluation_interval`, e.g. to 10"
        )


def _may_report_anything(settings: Mapping[str, Any]) -> bool:
    names = [*settings, *(settings.get("evaluation_config") or {})]
    return any(part in name for name in names for part in _REPORTING)


def _known_names(*, has_pair: bool) -> Iterable[str]:
    of_runners = (*_OF_RUNNERS, *_OWN_OF_RUNNERS)
    names = [*_AT_THE_TOP, *(f"env_runners/{name}" for name in of_runners)]
    names += [f"evaluation/env_runners/{name}" for name in of_runners]
    names += [f"evaluation/{name}" for name in _OF_EVALUATION]
    if has_pair:
        names += [f"evaluation/{name}" for name in _OWN_OF_EVALUATION]
        names += [f"{group}/{name}" for group, below in _OWN.items() for name in below]
    return names


def _open_groups() -> tuple[str, ...]:
    of_runners = [f"env_runners/{name}" for name in _OPEN_OF_RUNNERS]
    of_evaluation = [f"evaluation/{name}" for name in (*of_runners, "offline_eval_runners")]
    return tuple(f"{name}/" for name in (*_OPEN, *of_runners, *of_evaluation))
