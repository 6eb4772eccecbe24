"""Evaluation: truth in the slow simulator, promise in fast + offset, on the same seeds."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
)

from rllib_offset import metrics
from rllib_offset.errors import SlowSimulatorError, kind_and_message
from rllib_offset.ledger import Ledger
from rllib_offset.seeded_env_runner import evaluation_seeds

__all__ = ["SlowEvaluationMixin", "has_env"]

logger = logging.getLogger(__name__)


class SlowEvaluationMixin(Algorithm):
    """Never evaluates in the fast simulator: truth and promise, and the gap between them."""

    eval_env_runner_group: EnvRunnerGroup | None
    ledger: Ledger

    @override(Algorithm)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Evaluate in the slow simulator, and in fast + offset on the same seeds."""
        self._ensure_slow_evaluation()
        results = dict(self._evaluate_patiently(parallel_train_future))
        truth = results.get(ENV_RUNNER_RESULTS, {})
        if self.evaluation_config.env == self.config.slow_env:  # another one costs nothing here
            self.ledger.num_eval_env_steps += int(truth.get(NUM_ENV_STEPS_SAMPLED, 0))
        seeds = evaluation_seeds(self.config)
        if EPISODE_RETURN_MEAN not in truth or not seeds:
            return results
        promise = float(np.mean(self._corrected_returns(seeds)))
        results[metrics.CORRECTED_EPISODE_RETURN_MEAN] = promise
        results[metrics.FIDELITY_GAP] = promise - float(truth[EPISODE_RETURN_MEAN])
        return results

    def _evaluate_patiently(self, parallel_train_future: Any) -> dict[str, Any]:
        """Evaluate, again if the slow simulator fails, as often as a replay is tried again."""
        failures = 0
        while True:
            try:
                if failures:
                    self._build_anew()
                results: dict[str, Any] = super().evaluate(parallel_train_future)
                return results
            except SlowSimulatorError as error:
                failures += 1
                self.ledger.num_eval_env_steps += error.num_steps
                if failures > self.config.max_replay_retries:
                    told = f"{error}; tried {failures} times"
                    raise SlowSimulatorError(self._saved_after(told)) from error
                logger.warning("%s; the evaluation is done again, in a new one", error)

    def _build_anew(self) -> None:
        assert self.eval_env_runner_group is not None
        try:
            self.eval_env_runner_group.foreach_env_runner(lambda runner: runner.make_env())
        except Exception as error:
            raise SlowSimulatorError(
                f"the slow simulator raised {kind_and_message(error)} when it was built anew for "
                "an evaluation"
            ) from error

    def _saved_after(self, failure: str) -> str:
        """Save everything before a failure ends the run, and say where."""
        folder = self.save_to_path(str(Path(self.logdir) / "checkpoint_of_failure"))
        return f"{failure}; --restore {folder} goes on from there"

    def _ensure_slow_evaluation(self) -> None:
        """Create the slow evaluation runner, which RLlib makes only for an interval."""
        if self.eval_env_runner_group is not None:
            return
        _, env_creator = self._get_env_id_and_creator(
            self.evaluation_config.env, self.evaluation_config
        )
        self.eval_env_runner_group = EnvRunnerGroup(
            env_creator=env_creator,
            validate_env=None,
            default_policy_class=None,
            config=self.evaluation_config,
            logdir=self.logdir,
            tune_trial_id=self.trial_id,
            local_env_runner=True,
            pg_offset=self.config.num_env_runners,
        )

    def _corrected_returns(self, seeds: list[int]) -> list[float]:
        if has_env(self.env_runner):
            returns: list[float] = self.env_runner.corrected_returns(seeds)
            return returns
        ids = self.env_runner_group.healthy_env_runner_ids()
        parts = [seeds[i :: len(ids)] for i in range(len(ids))]
        results = self.env_runner_group.foreach_env_runner(
            [lambda runner, part=part: runner.corrected_returns(part) for part in parts],
            remote_worker_ids=ids,
            local_env_runner=False,
        )
        return [value for part in results for value in part]


def has_env(runner: Any) -> bool:
    """Whether an environment runner is there and has an environment of its own."""
    return runner is not None and runner.env is not None
