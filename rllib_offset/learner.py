"""The loss of advantage actor-critic, and what PPO's Learner must save to resume exactly.

The actor-critic network is RLlib's own; so are advantages and bootstrapping at the time limit, of
which :mod:`rllib_offset.learner_batch` gives the same numbers.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.learner import AddOneTsToEpisodesAndTruncate, GeneralAdvantageEstimation
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY, Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    DIFF_NUM_GRAD_UPDATES_VS_SAMPLER_POLICY,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.schedules.scheduler import Scheduler
from ray.rllib.utils.torch_utils import clip_gradients
from torch import Tensor

from rllib_offset.learner_batch import CompleteEpisodesPipeline, generalized_advantages
from rllib_offset.policy import DiagonalGaussian
from rllib_offset.quick_logger import QuickLoggerMixin

__all__ = ["A2CTorchLearner", "ResumablePPOTorchLearner"]


class A2CTorchLearner(QuickLoggerMixin, TorchLearner):
    r"""One gradient step per batch on :math:`-\log\pi(a|s) A + c_v (V - R)^2 - c_e H`.

    Source: arXiv:1602.01783, synchronous form; generalized advantages, arXiv:1506.02438.

    Attributes:
        reads_likelihoods: Whether episodes must tell the likelihood of their actions when these
            were drawn. Here every gradient step computes it anew; a subclass may set it.
    """

    reads_likelihoods = False

    @override(TorchLearner)
    def build(self) -> None:
        if self._is_built:
            return
        super().build()
        pipeline: Any = self._learner_connector
        if pipeline is not None and self.config.add_default_connectors_to_learner_pipeline:
            decays = {"gamma": self.config.gamma, "lambda_": self.config.lambda_}
            pipeline.prepend(AddOneTsToEpisodesAndTruncate())
            pipeline.append(GeneralAdvantageEstimation(**decays))
            pipeline = CompleteEpisodesPipeline(connectors=pipeline.connectors)
        self._learner_connector: Any = pipeline
        self._entropy_coeff = Scheduler(
            fixed_value_or_schedule=self.config.entropy_coeff,
            framework=self.framework,
            device=self._device,
        )

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Register Adam as RLlib does, all parameters updated in one call."""
        parameters = self.get_parameters(self.module[module_id])
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.Adam(parameters, fused=True),
            params=parameters,
            lr_or_lr_schedule=config.lr,
        )

    @override(Learner)
    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._entropy_coeff.update(timestep=timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))

    @override(Learner)
    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Take a gradient step.

        Raises:
            ValueError: If there are to be several: advantages are those of whole episodes.
        """
        several = {name: kwargs.get(name) for name in ("num_epochs", "minibatch_size")}
        if several["num_epochs"] not in (None, 1) or several["minibatch_size"] is not None:
            raise ValueError(f"A2C takes one gradient step per batch, got {several}; use OffsetPPO")
        return super().update(*args, **kwargs)

    @classmethod
    @override(Learner)
    def rl_module_required_apis(cls) -> list[type]:
        return [ValueFunctionAPI]

    @override(Learner)
    def compute_losses(
        self, *, fwd_out: dict[str, Any], batch: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return the losses; the critic is asked once, for them and for what is still to be added.

        See :class:`~rllib_offset.learner_batch.CompleteEpisodesPipeline`.
        """
        for module_id, outputs in fwd_out.items():
            module, columns = self.module[module_id].unwrapped(), batch[module_id]
            embeddings = outputs.get(Columns.EMBEDDINGS)
            values = outputs[Columns.VF_PREDS] = module.compute_values(columns, embeddings)
            if Postprocessing.ADVANTAGES not in columns:
                config = self.config.get_config_for_module(module_id)
                decays = {"gamma": config.gamma, "lambda_": config.lambda_}
                columns.update(generalized_advantages(values, columns, **decays))
        losses: dict[str, Tensor] = super().compute_losses(fwd_out=fwd_out, batch=batch)
        return losses

    @override(TorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        module = self.module[module_id].unwrapped()
        mask = batch.get(Columns.LOSS_MASK)
        steps = None if mask is None else mask.nonzero().squeeze(1)

        def mean(values: Tensor) -> Tensor:
            return values.mean() if steps is None else values.index_select(0, steps).mean()

        distribution = _distribution_of(module, fwd_out[Columns.ACTION_DIST_INPUTS])
        values = fwd_out[Columns.VF_PREDS]
        log_likelihood = distribution.logp(batch[Columns.ACTIONS])
        policy_loss = -mean(log_likelihood * batch[Postprocessing.ADVANTAGES])
        value_loss = mean((values - batch[Postprocessing.VALUE_TARGETS]) ** 2)
        entropy_coeff = self._entropy_coeff.get_current_value()
        with torch.set_grad_enabled(bool(entropy_coeff)):
            entropy = mean(distribution.entropy())
        self.metrics.log_dict(
            {POLICY_LOSS_KEY: policy_loss, VF_LOSS_KEY: value_loss, ENTROPY_KEY: entropy},
            key=module_id,
            window=1,
        )
        total: Tensor = policy_loss + config.vf_loss_coeff * value_loss - entropy_coeff * entropy
        return total

    @override(TorchLearner)
    def _compute_off_policyness(self, batch: dict[str, Any]) -> None:
        """Log how many updates ago steps were sampled; in NumPy, as they are a few numbers."""
        for module_id, columns in batch.items():
            if WEIGHTS_SEQ_NO in columns:
                numbers = columns[WEIGHTS_SEQ_NO].cpu().numpy()
                if Columns.LOSS_MASK in columns:
                    numbers = numbers[columns[Columns.LOSS_MASK].cpu().numpy()]
                key = (module_id, DIFF_NUM_GRAD_UPDATES_VS_SAMPLER_POLICY)
                self.metrics.log_value(key, self._weights_seq_no - numbers.mean(), window=1)

    @override(TorchLearner)
    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Take the optimizer's step; RLlib looks for NaN in every gradient twice."""
        is_plain = self._lr_scheduler_classes is None and self._grad_scalers is None
        if not is_plain or _norm_of(gradients_dict) is None:
            super().apply_gradients(gradients_dict)
            return
        for name, gradient in gradients_dict.items():
            self._params[name].grad = gradient
        for module_id, optimizers in self._module_optimizers.items():
            for optimizer in optimizers:
                self.get_optimizer(module_id, optimizer).step()

    @staticmethod
    @override(TorchLearner)
    def _get_clip_function() -> Callable[..., Tensor | None]:
        return _clip_gradients


def _clip_gradients(
    gradients: dict[Any, Tensor], *, grad_clip: float | None = None, grad_clip_by: str = "value"
) -> Tensor | None:
    """Do what RLlib's function of that name does, in place, the norms of all taken in one call."""
    norm = _norm_of(gradients) if grad_clip and grad_clip_by == "global_norm" else None
    if grad_clip is None or norm is None:
        clipped: Tensor | None = clip_gradients(
            gradients, grad_clip=grad_clip, grad_clip_by=grad_clip_by
        )
        return clipped
    factor = grad_clip / torch.clamp(norm + 1e-6, min=grad_clip)
    for gradient in gradients.values():
        gradient.mul_(factor)
    return norm


def _norm_of(gradients: dict[Any, Tensor]) -> Tensor | None:
    """Return the norm of all gradients together; ``None`` if one is missing or not a number."""
    known = [gradient for gradient in gradients.values() if gradient is not None]
    if not known or len(known) < len(gradients):
        return None
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(known)))
    return norm if math.isfinite(norm) else None


def _distribution_of(module: Any, inputs: Tensor) -> Any:
    distribution = module.get_train_action_dist_cls()
    if distribution is TorchDiagGaussian:
        return DiagonalGaussian(inputs)
    return distribution.from_logits(inputs)


class ResumablePPOTorchLearner(QuickLoggerMixin, PPOTorchLearner):
    """RLlib's PPO Learner, its adaptive KL coefficients saved with the rest of its state."""

    @override(Learner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kw: Any) -> Any:
        state = super().get_state(components, not_components=not_components, **kw)
        if self._check_component(_KL_COEFFS, components, not_components):
            coefficients = self.curr_kl_coeffs_per_module
            state[_KL_COEFFS] = {name: float(value) for name, value in coefficients.items()}
        return state

    @override(Learner)
    def set_state(self, state: Any) -> None:
        super().set_state(state)
        for name, value in state.get(_KL_COEFFS, {}).items():
            self.curr_kl_coeffs_per_module[name].data.fill_(value)


_KL_COEFFS = "curr_kl_coeffs"
