"""From complete episodes to a training batch, in one piece.

RLlib's default pieces handle every step on its own, so that they also fit other kinds of episodes:
a third of the time of a gradient step on small networks.  They also ask the critic for the values
of all steps, which the loss of a single gradient step asks for again: here advantages wait for
those.  The numbers are RLlib's; tests say so.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.connectors.common import (
    AddObservationsFromEpisodesToBatch,
    AddStatesFromEpisodesToBatch,
    AddTimeDimToBatchAndZeroPad,
    BatchIndividualItems,
    NumpyToTensor,
)
from ray.rllib.connectors.learner import (
    AddColumnsFromEpisodesToTrainBatch,
    AddOneTsToEpisodesAndTruncate,
    GeneralAdvantageEstimation,
    LearnerConnectorPipeline,
)
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    CONNECTOR_PIPELINE_TIMER,
    LEARNER_CONNECTOR,
    LEARNER_CONNECTOR_SUM_EPISODES_LENGTH_IN,
    LEARNER_CONNECTOR_SUM_EPISODES_LENGTH_OUT,
)
from ray.rllib.utils.torch_utils import convert_to_torch_tensor
from torch import Tensor

__all__ = ["CompleteEpisodesPipeline", "generalized_advantages"]

_TIMER = (ALL_MODULES, LEARNER_CONNECTOR, CONNECTOR_PIPELINE_TIMER)
_SUMS_OF_LENGTHS = (
    LEARNER_CONNECTOR_SUM_EPISODES_LENGTH_IN,
    LEARNER_CONNECTOR_SUM_EPISODES_LENGTH_OUT,
)
_DEFAULT_PIECES = [
    AddOneTsToEpisodesAndTruncate,
    AddObservationsFromEpisodesToBatch,
    AddColumnsFromEpisodesToTrainBatch,
    AddTimeDimToBatchAndZeroPad,
    AddStatesFromEpisodesToBatch,
    BatchIndividualItems,
    NumpyToTensor,
    GeneralAdvantageEstimation,
]


class CompleteEpisodesPipeline(LearnerConnectorPipeline):
    """A Learner's connector pipeline that does what RLlib's default pieces do without calling them.

    All but the last of them: the Learner adds advantages (:func:`generalized_advantages`) when the
    critic has been asked for the loss.  Only for what
    :class:`~rllib_offset.seeded_env_runner.SeededEnvRunner` samples: complete episodes of arrays,
    one agent, a network without memory.  For anything else, and as soon as there is another piece
    among its ``connectors``, the pieces are called as ever.
    """

    @override(LearnerConnectorPipeline)
    def __call__(
        self,
        *,
        rl_module: Any,
        batch: dict[str, Any] | None = None,
        episodes: list[Any],
        metrics: Any = None,
        **kwargs: Any,
    ) -> Any:
        if batch or not self._serves(rl_module, episodes):
            return super().__call__(
                rl_module=rl_module, batch=batch, episodes=episodes, metrics=metrics, **kwargs
            )
        timer = None if metrics is None else metrics.log_time(_TIMER)
        with timer or nullcontext():
            device = next(rl_module[DEFAULT_MODULE_ID].parameters()).device
            made = convert_to_torch_tensor(_columns(episodes), device=device)
        if metrics is not None:
            num_steps = sum(map(len, episodes))
            for key in _SUMS_OF_LENGTHS:
                metrics.log_value((ALL_MODULES, key), num_steps)
        return {DEFAULT_MODULE_ID: made}

    def _serves(self, rl_module: Any, episodes: Sequence[Any]) -> bool:
        return (
            [type(piece) for piece in self.connectors] == _DEFAULT_PIECES
            and list(rl_module.keys()) == [DEFAULT_MODULE_ID]
            and not rl_module[DEFAULT_MODULE_ID].is_stateful()
            and all(_is_plain(episode) for episode in episodes)
        )


def generalized_advantages(
    values: Tensor, batch: Mapping[str, Tensor], *, gamma: float, lambda_: float
) -> dict[str, Tensor]:
    """Return what RLlib's ``GeneralAdvantageEstimation`` adds to a batch of complete episodes.

    Args:
        values: What the critic says, ``(B,)``.
        batch: Of :class:`CompleteEpisodesPipeline`.
        gamma: Discount factor.
        lambda_: Decay of the estimator.

    Returns:
        Normalised advantages, and what the critic should have said, ``(B,)`` each.
    """
    known = values.detach().cpu().numpy()
    names = (Columns.REWARDS, Columns.TERMINATEDS, Columns.TRUNCATEDS)
    columns = (batch[name].cpu().numpy() for name in names)
    targets = _value_targets(known, *columns, gamma=gamma, lambda_=lambda_)
    advantages = targets - known
    advantages = (advantages - advantages.mean()) / max(1e-4, advantages.std())
    added = {Postprocessing.ADVANTAGES: advantages, Postprocessing.VALUE_TARGETS: targets}
    return {name: torch.from_numpy(column).to(values.device) for name, column in added.items()}


def _value_targets(
    values: NDArray[np.float32],
    rewards: NDArray[np.float32],
    terminateds: NDArray[np.bool_],
    truncateds: NDArray[np.bool_],
    *,
    gamma: float,
    lambda_: float,
) -> NDArray[np.float32]:
    """Return what RLlib's ``compute_value_targets`` does, to the bit, ``(B,)``.

    Its recursion runs over elements of arrays, each of which costs ten times what a number does.
    """
    goes_on = 1.0 - terminateds
    next_values = np.append(values[1:], 0.0)
    residuals = rewards + gamma * goes_on * next_values - values
    decays = gamma * lambda_ * (goes_on * (1.0 - truncateds))
    advantage, backwards = 0.0, []
    for residual, decay in zip(residuals[::-1].tolist(), decays[::-1].tolist(), strict=True):
        advantage = residual + decay * advantage
        backwards.append(advantage)
    advantages = np.array(backwards[::-1], np.float32)
    return (advantages + values).astype(np.float32)


def _is_plain(episode: Any) -> bool:
    """Whether an episode is complete, and arrays all over."""
    return (
        isinstance(episode, SingleAgentEpisode)
        and episode.is_done
        and all(
            isinstance(part.data, np.ndarray) and not part.lookback
            for part in (episode.observations, episode.actions, episode.rewards)
        )
        and all(isinstance(part.data, np.ndarray) for part in episode.extra_model_outputs.values())
    )


def _columns(episodes: list[SingleAgentEpisode]) -> dict[str, NDArray[Any]]:
    """Return the steps of all episodes, and a row behind each that only serves its last value.

    That row repeats the last step, with the observation that the episode ended on.
    """
    lengths = np.array([len(episode) for episode in episodes])
    extra = np.cumsum(lengths + 1) - 1
    is_step = np.ones(extra[-1] + 1, bool)
    is_step[extra] = False
    step, last = np.cumsum(is_step) - 1, extra - 1
    terminated, truncated = np.zeros_like(is_step), np.zeros_like(is_step)
    terminated[last] = [episode.is_terminated for episode in episodes]
    truncated[last] = [episode.is_truncated for episode in episodes]

    def stacked(parts: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(parts).take(step, axis=0)

    rewards = stacked([episode.rewards.data for episode in episodes])
    rewards[extra] = 0.0
    outputs = episodes[0].extra_model_outputs
    return {
        Columns.LOSS_MASK: is_step,
        Columns.TERMINATEDS: terminated,
        Columns.TRUNCATEDS: truncated,
        Columns.OBS: np.concatenate([episode.observations.data for episode in episodes]),
        Columns.ACTIONS: stacked([episode.actions.data for episode in episodes]),
        Columns.REWARDS: rewards,
        **{
            name: stacked([episode.extra_model_outputs[name].data for episode in episodes])
            for name in outputs
        },
    }
