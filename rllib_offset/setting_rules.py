"""What each setting must be: one rule for every setting of ours, and for those of RLlib we rely on.

RLlib takes most values in silence and fails later, in another process.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from rllib_offset.config_keys import check_keys
from rllib_offset.correction import INPUTS, TARGETS
from rllib_offset.value_rules import (
    ENVIRONMENT,
    FLAG,
    INFINITY,
    MAPPING,
    NONE,
    SCHEDULE,
    TEXT,
    WIDTHS,
    Rule,
    check_values,
    choice,
    names_among,
    number,
    whole,
)

__all__ = ["RULES", "check_model", "check_settings"]

_SHARE = number(0, 1)
_MODEL = MAPPING | Rule("a DefaultModelConfig", is_dataclass)

_OF_RLLIB: dict[str, Rule] = {
    "clip_param": number(above=0),
    "entropy_coeff": number(0) | SCHEDULE,
    "custom_resources_per_env_runner": MAPPING,
    "env": ENVIRONMENT | NONE,
    "env_config": MAPPING,
    "evaluation_config": MAPPING | NONE,
    "evaluation_duration": whole(1) | choice("auto"),
    "evaluation_interval": whole(0) | NONE,
    "evaluation_num_env_runners": whole(0),
    "explore": FLAG,
    "framework_str": choice("torch"),
    "gamma": _SHARE,
    "grad_clip": number(above=0) | NONE,
    "kl_coeff": number(0),
    "kl_target": number(0),
    "lambda_": _SHARE,
    "lr": number(above=0) | SCHEDULE,
    "minibatch_size": whole(1) | NONE,
    "model_config": _MODEL,
    "num_cpus_for_main_process": number(0),
    "num_cpus_per_env_runner": number(0),
    "num_cpus_per_learner": number(0) | choice("auto"),
    "num_env_runners": whole(0),
    "num_envs_per_env_runner": whole(1),
    "num_epochs": whole(1),
    "num_gpus_per_env_runner": number(0),
    "num_gpus_per_learner": number(0),
    "num_learners": whole(0),
    "rollout_fragment_length": whole(1) | choice("auto"),
    "sample_timeout_s": number(above=0) | NONE,
    "seed": whole(0) | NONE,
    "train_batch_size": whole(1),
    "train_batch_size_per_learner": whole(1),
    "use_critic": FLAG,
    "use_kl_loss": FLAG,
    "vf_clip_param": number(above=0) | INFINITY,
    "vf_loss_coeff": number(0),
}
_OURS: dict[str, Rule] = {
    "correct": FLAG,
    "figure_interval": whole(1) | NONE,
    "wait_for_cpus": FLAG,
    # slow simulator
    "slow_env": ENVIRONMENT | NONE,
    "slow_env_config": MAPPING,
    "num_replay_workers": whole(0),
    "num_cpus_per_replay_worker": number(0),
    "step_timeout_s": number(above=0) | NONE,
    "max_replay_retries": whole(0),
    "max_replays_per_worker": whole(1) | NONE,
    "max_failure_rate": number(above=0, high=1),
    "max_concurrent_replays": whole(1) | NONE,
    "num_envs_per_replay_worker": whole(1),
    # offset
    "offset_inputs": names_among(*INPUTS) | NONE,
    "offset_targets": names_among(*TARGETS) | NONE,
    "offset_dynamics": choice("auto", "same", "different"),
    "offset_dynamics_tolerance": number(0),
    "offset_ensemble_size": whole(1),
    "offset_hiddens": WIDTHS,
    "offset_lr": number(above=0),
    "offset_minibatch_size": whole(1),
    "offset_initial_steps": whole(1),
    "offset_steps_per_iteration": whole(1) | NONE,
    "offset_holdout_fraction": number(0, 0.5),
    "offset_max_labels": whole(1),
    "offset_clip_rewards": FLAG,
    "offset_pessimism": number(0),
    # labels
    "label_level": choice("auto", "trajectory", "sample"),
    "label_store": TEXT | NONE,
    "initial_labels": whole(0),
    "labels_per_iteration": number(0),
    "replay_fraction": _SHARE,
    "max_replay_lag": whole(0) | NONE,
    "label_choice": choice("uniform", "uncertain", "ends"),
    "candidates_per_label": whole(1) | NONE,
    "freeze_below": number(above=0) | NONE,
    "freeze_options": MAPPING,
    "label_rounds": MAPPING | NONE,
    "max_slow_steps": whole(0) | NONE,
    "exploitation_threshold": _SHARE,
}
RULES = _OF_RLLIB | _OURS
_BY_ANY_NAME = RULES | {
    "_model_config": RULES["model_config"],
    "framework": RULES["framework_str"],
    "_train_batch_size_per_learner": RULES["train_batch_size_per_learner"],
    "lambda": RULES["lambda_"],
    "num_workers": RULES["num_env_runners"],
}
_OF_MODELS: dict[str, Rule] = {
    "conv_activation": TEXT | NONE,
    "fcnet_activation": TEXT | NONE,
    "fcnet_hiddens": WIDTHS,
    "fcnet_use_layernorm": FLAG,
    "free_log_std": FLAG,
    "head_fcnet_activation": TEXT | NONE,
    "head_fcnet_hiddens": WIDTHS,
    "head_fcnet_use_layernorm": FLAG,
    "log_std_clip_param": number(above=0) | INFINITY,
    "lstm_cell_size": whole(1),
    "lstm_use_prev_action": FLAG,
    "lstm_use_prev_reward": FLAG,
    "max_seq_len": whole(1),
    "use_lstm": FLAG,
    "vf_share_layers": FLAG,
}


def check_model(config: Any) -> None:
    """Check the names and values of an algorithm's ``model_config``.

    A module or an algorithm of the user's own may read others.

    Raises:
        ValueError: One line: the name or value that is wrong, and what it must be.
    """
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    given = config._model_config
    is_known = type(config).__module__.startswith(("ray.rllib.", "rllib_offset."))
    if not is_known or config._rl_module_spec is not None or not isinstance(given, Mapping):
        return
    known = {field.name for field in fields(DefaultModelConfig)}
    check_keys(known | config._model_config_auto_includes.keys(), given, where="model_config")
    check_values(given, _OF_MODELS)


def check_settings(given: Mapping[str, Any]) -> None:
    """Check every setting that has a rule, whichever way it is spelt.

    Raises:
        ValueError: One line: the rule that is broken and the value received.

    Example:
        >>> check_settings({"lambda": 2})
        Traceback (most recent call last):
            ...
        ValueError: `lambda` must be a number within [0, 1], got 2
    """
    check_values(given, _BY_ANY_NAME)
