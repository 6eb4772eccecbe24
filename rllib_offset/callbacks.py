"""The events: an episode ended, so ask for its replay; an iteration ended, so show the ledger."""

from typing import Any

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    EVALUATION_RESULTS,
)

from rllib_offset import metrics
from rllib_offset.env_runner import OffsetEnvRunner
from rllib_offset.figure_callback import add_figures
from rllib_offset.seeded_env_runner import SeededEnvRunner, evaluation_seeds

__all__ = ["OffsetCallback", "ScoreCallback", "beside"]


_EVALUATED = (
    metrics.CORRECTED_EPISODE_RETURN_MEAN,
    metrics.FIDELITY_GAP,
    metrics.NORMALISED_SCORE,
)


class ScoreCallback(RLlibCallback):
    """Adds the normalised score to an evaluation, where the environment knows its references.

    RLlib repeats the latest evaluation in the result of one more iteration, then as NaN; it is
    repeated here until the next one, with what this package adds to it.

    An environment may offer ``reference_returns(seeds) -> (random, optimal)``; the score of the
    evaluation's mean return is then 0 for a random agent and 1 for the best possible one.
    """

    @override(RLlibCallback)
    def on_evaluate_end(
        self, *, algorithm: Any, evaluation_metrics: dict[str, Any], **kwargs: Any
    ) -> None:
        """Compute the score from the mean return."""
        mean_return = evaluation_metrics.get(ENV_RUNNER_RESULTS, {}).get(EPISODE_RETURN_MEAN)
        seeds = evaluation_seeds(algorithm.config)
        if mean_return is None or not seeds:
            return
        group = algorithm.eval_env_runner_group or algorithm.env_runner_group
        references = group.foreach_env_runner(
            lambda runner: _references(runner, seeds), local_env_runner=True
        )
        known = [reference for reference in references if reference is not None]
        if known:
            random_return, optimal_return = (float(np.mean(returns)) for returns in known[0])
            score = (mean_return - random_return) / (optimal_return - random_return)
            evaluation_metrics[metrics.NORMALISED_SCORE] = score

    @override(RLlibCallback)
    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
        """Repeat the latest evaluation, and draw."""
        add_figures(algorithm, result, algorithm.config.get("figure_interval"))
        evaluation = result.get(EVALUATION_RESULTS)
        if evaluation is None:
            return
        fresh = {name: evaluation[name] for name in _EVALUATED if name in evaluation}
        self._latest = fresh or getattr(self, "_latest", {})
        evaluation.update(self._latest)
        truth = evaluation.get(ENV_RUNNER_RESULTS, {})
        if np.isfinite(truth.get(EPISODE_RETURN_MEAN, np.nan)):
            self._latest_truth = truth
        evaluation[ENV_RUNNER_RESULTS] = getattr(self, "_latest_truth", truth)


class OffsetCallback(ScoreCallback):
    """Asks for labels from within the environment runner, once there is something to label."""

    @override(RLlibCallback)
    def on_episode_end(
        self, *, episode: SingleAgentEpisode, env_runner: Any, **kwargs: Any
    ) -> None:
        """Ask for the slow replay of an episode that has just ended."""
        if isinstance(env_runner, OffsetEnvRunner) and env_runner.may_ask_for_labels:
            env_runner.request_trajectory()

    @override(RLlibCallback)
    def on_sample_end(self, *, env_runner: Any, **kwargs: Any) -> None:
        """Ask for the steps picked during the sample, and see that every request is queued."""
        if isinstance(env_runner, OffsetEnvRunner) and env_runner.may_ask_for_labels:
            env_runner.request_steps()
            env_runner.hand_in()

    @override(RLlibCallback)
    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
        """Show the ledger, evaluation of this iteration included."""
        super().on_train_result(algorithm=algorithm, result=result, **kwargs)
        if hasattr(algorithm, "ledger"):
            result.setdefault(metrics.SLOW, {}).update(algorithm.ledger.as_metrics())
            result[metrics.AT_A_GLANCE] = _at_a_glance(result)


def beside(ours: type[ScoreCallback], given: Any) -> Any:
    """Return the user's callbacks with ours before them, unless it is among them already.

    Args:
        ours: What the algorithm cannot do without.
        given: One class or several.
    """
    classes = list(given) if isinstance(given, list | tuple) else [given]
    if not any(isinstance(cls, type) and issubclass(cls, ours) for cls in classes):
        classes = [ours, *classes]
    return classes if len(classes) > 1 else classes[0]


def _at_a_glance(result: dict[str, Any]) -> dict[str, float]:
    """Return truth, promise and cost, as far as they are known."""
    evaluation = result.get(EVALUATION_RESULTS) or {}
    values = {
        metrics.TRUTH: evaluation.get(ENV_RUNNER_RESULTS, {}).get(EPISODE_RETURN_MEAN),
        metrics.PROMISE: evaluation.get(metrics.CORRECTED_EPISODE_RETURN_MEAN),
        metrics.SLOW_STEPS: result[metrics.SLOW][metrics.NUM_ENV_STEPS_LIFETIME],
    }
    return {name: value for name, value in values.items() if value is not None}


def _references(runner: Any, seeds: list[int]) -> Any:
    if isinstance(runner, SeededEnvRunner) and runner.env is not None:
        return runner.reference_returns(seeds)
    return None
