"""From observations to actions at the least cost: what the sampler asks of a policy at every step.

For RLlib's default actor-critic the layers are called alone.  Its nested modules, their state
dictionaries and the distribution objects cost more than the arithmetic of a few rows.  So does a
call of torch itself: few rows of a small Gaussian policy are computed in NumPy.
"""

import math
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns as ModuleColumns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.models.torch.encoder import TorchMLPEncoder
from ray.rllib.core.models.torch.heads import TorchMLPHead
from ray.rllib.utils.spaces.space_utils import clip_action, unsquash_action
from torch import Tensor, nn

from rllib_offset.bounds import Bounds
from rllib_offset.columns import Columns

__all__ = ["DiagonalGaussian", "SamplingPolicy", "env_actions_of"]

Layer = Callable[[Tensor], Tensor]
NumpyLayer = Callable[[NDArray[np.float32]], NDArray[np.float32]]
ActionMap = Callable[[NDArray[Any]], NDArray[Any]]


_LOG_SQRT_TAU = math.log(math.sqrt(2 * math.pi))

# Products of a layer for all rows, and for a single one.  Beyond, OpenBLAS wakes its threads, and
# torch is as fast.
_MOST_PRODUCTS, _MOST_PRODUCTS_OF_ONE = 64**3, 96**2


class SamplingPolicy:
    """An RLModule as a sampler sees it: actions are those of the module itself.

    To the bit where torch computes them, to the rounding of a sum where NumPy does.

    Args:
        module: The policy. Its weights may change later on, its layers not.
        device: Where it computes.
    """

    def __init__(self, module: Any, device: Any = None) -> None:
        self.module = module
        self._device = torch.device(device or "cpu")
        self._is_cpu = self._device.type == "cpu"
        layers = _layers_of(module)
        self._layers = None if layers is None else [_bare(layer) for layer in layers]
        exploration = module.get_exploration_action_dist_cls()
        self._is_gaussian = exploration is TorchDiagGaussian
        self._noise = torch.empty(0)
        self._noise_in_numpy: NDArray[np.float32] = self._noise.numpy()
        self._modules = layers or []
        self._numpy_layers: list[NumpyLayer] = []
        if layers is not None and self._is_gaussian and self._is_cpu:
            self._numpy_layers = _in_numpy(layers)
            self._num_products = max(
                layer.weight.numel() for layer in layers if type(layer) is nn.Linear
            )

    def for_rows(self, num_rows: int) -> "SamplingPolicy":
        """Return the policy, quicker for exactly so many rows at a time, with the biases of now.

        They are repeated: NumPy combines arrays of one shape in half the time of broadcast ones.
        """
        if not self.computes_in_numpy(num_rows):
            return self
        other = copy(self)
        other._numpy_layers = _in_numpy(self._modules, num_rows)
        return other

    def act(self, obs: NDArray[np.float32], *, explore: bool) -> tuple[NDArray[Any], Columns]:
        """Return actions and the distribution inputs they were drawn from, one row per lane.

        Args:
            obs: ``(B, D)``.
            explore: Draw the actions, from torch's global generator, or take the likeliest.
        """
        if self.computes_in_numpy(len(obs)):
            return self._act_in_numpy(obs, explore)
        return self._act_in_torch(obs, explore)

    def computes_in_numpy(self, num_rows: int) -> bool:
        """Tell whether so few rows are computed in NumPy."""
        if not self._numpy_layers:
            return False
        most = _MOST_PRODUCTS_OF_ONE if num_rows == 1 else _MOST_PRODUCTS
        return num_rows * self._num_products <= most

    def _act_in_numpy(
        self, obs: NDArray[np.float32], explore: bool
    ) -> tuple[NDArray[np.float32], Columns]:
        inputs = obs
        for layer in self._numpy_layers:
            inputs = layer(inputs)
        mean, log_std = inputs[:, : inputs.shape[1] // 2], inputs[:, inputs.shape[1] // 2 :]
        if not explore:
            return mean.copy(), {ModuleColumns.ACTION_DIST_INPUTS: inputs}
        actions: NDArray[np.float32] = np.exp(log_std)
        actions *= self._draw_noise(mean.shape)
        actions += mean
        return actions, {ModuleColumns.ACTION_DIST_INPUTS: inputs}

    def _draw_noise(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return what ``torch.randn`` draws, in memory that the next call writes to."""
        if self._noise.shape != shape:
            self._noise = torch.empty(shape)
            self._noise_in_numpy = self._noise.numpy()
        self._noise.normal_()
        return self._noise_in_numpy

    @torch.inference_mode()
    def _act_in_torch(
        self, obs: NDArray[np.float32], explore: bool
    ) -> tuple[NDArray[Any], Columns]:
        rows = torch.from_numpy(obs)
        inputs, actions = self._forward(rows if self._is_cpu else rows.to(self._device), explore)
        if actions is None:
            assert inputs is not None
            actions = self._draw(inputs) if explore else self._likeliest(inputs)
        kept = {} if inputs is None else {ModuleColumns.ACTION_DIST_INPUTS: inputs.cpu().numpy()}
        return actions.cpu().numpy(), kept

    @torch.inference_mode()
    def log_likelihoods(self, inputs: NDArray[Any], actions: NDArray[Any]) -> NDArray[np.float32]:
        """Return the log-likelihood of drawn actions, ``(B,)``."""
        rows, drawn = torch.from_numpy(inputs), torch.from_numpy(actions)
        if self._is_gaussian:
            likelihoods: NDArray[np.float32] = DiagonalGaussian(rows).logp(drawn).numpy()
            return likelihoods
        distribution = self.module.get_exploration_action_dist_cls().from_logits(rows)
        return np.asarray(distribution.logp(drawn).numpy())

    def _forward(self, obs: Tensor, explore: bool) -> tuple[Tensor | None, Tensor | None]:
        """Return the distribution inputs, or the actions of a module that chooses them itself."""
        if self._layers is not None:
            for layer in self._layers:
                obs = layer(obs)
            return obs, None
        module, batch = self.module, {ModuleColumns.OBS: obs}
        forward = module._forward_exploration if explore else module._forward_inference
        outputs = forward(batch)
        if ModuleColumns.ACTIONS in outputs:
            return None, outputs[ModuleColumns.ACTIONS]
        return outputs[ModuleColumns.ACTION_DIST_INPUTS], None

    def _draw(self, inputs: Tensor) -> Tensor:
        if self._is_gaussian:
            mean, log_std = inputs.chunk(2, dim=-1)
            # what `torch.normal(mean, std)` does, at a third of its time
            return torch.empty_like(mean).normal_().mul_(log_std.exp()).add_(mean)
        distribution = self.module.get_exploration_action_dist_cls().from_logits(inputs)
        actions: Tensor = distribution.sample()
        return actions

    def _likeliest(self, inputs: Tensor) -> Tensor:
        distribution = self.module.get_inference_action_dist_cls().from_logits(inputs)
        actions: Tensor = distribution.to_deterministic().sample()
        return actions


class DiagonalGaussian:
    """``TorchDiagGaussian`` to the bit; the checks of torch's distributions cost as much as it.

    Args:
        inputs: Means and logarithms of spreads, ``(B, 2 A)``.
    """

    def __init__(self, inputs: Tensor) -> None:
        self._mean, log_std = inputs.chunk(2, dim=-1)
        self._std = log_std.exp()

    def logp(self, actions: Tensor) -> Tensor:
        """Return the log-likelihood of actions ``(B, A)``, ``(B,)``."""
        variance = self._std**2
        distances = -((actions - self._mean) ** 2) / (2 * variance)
        return (distances - self._std.log() - _LOG_SQRT_TAU).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropy, ``(B,)``."""
        return (0.5 + 0.5 * math.log(2 * math.pi) + self._std.log()).sum(-1)


def _layers_of(module: Any) -> list[nn.Module] | None:
    """Return what RLlib's default module computes, layer by layer; None for any other module."""
    if type(module) is not DefaultPPOTorchRLModule:
        return None
    encoder = getattr(module.encoder, "actor_encoder", getattr(module.encoder, "encoder", None))
    if type(encoder) is not TorchMLPEncoder or type(module.pi) is not TorchMLPHead:
        return None
    parts: list[Any] = [encoder, module.pi]
    layers = [layer for part in parts for layer in part.net.mlp]
    if module.pi.clip_log_std:
        layers.append(_ClippedLogStd(module.pi.log_std_clip_param_const))
    return layers


class _ClippedLogStd(nn.Module):
    """Clips the second half of the columns in place: they are the layer before's own output."""

    def __init__(self, limit: Tensor) -> None:
        super().__init__()
        self.limit = limit  # part of the module's state: another one may be loaded
        self._limit = limit.cpu().numpy()  # the same memory, where the sampler's module is
        self._bounds = np.nan, Bounds(-np.inf, np.inf)  # of all columns, for the latest limit

    def forward(self, inputs: Tensor) -> Tensor:
        inputs.chunk(2, dim=-1)[1].clamp_(-self.limit, self.limit)
        return inputs

    def forward_in_numpy(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        limit, bounds = self._bounds
        if limit != self._limit:
            limit = self._limit.item()
            limits = np.repeat([np.inf, limit], inputs.shape[1] // 2)
            bounds = Bounds(-limits, limits)
            self._bounds = limit, bounds
        return bounds.clip(inputs, out=inputs)


def _bare(layer: nn.Module) -> Layer:
    """Return a layer without the hooks and look-ups of a module's call."""
    if type(layer) is nn.Linear:
        weight, bias = layer.weight, layer.bias
        return lambda rows: nn.functional.linear(rows, weight, bias)
    return layer.forward


def _in_numpy(layers: list[nn.Module], num_rows: int = 1) -> list[NumpyLayer]:
    """Return layers that share the weights of torch's; none, if one of them has no such form.

    Biases for several rows are copies.
    """
    numpy_layers = [_one_in_numpy(layer, num_rows) for layer in layers]
    known = [layer for layer in numpy_layers if layer is not None]
    return known if len(known) == len(layers) else []


def _one_in_numpy(layer: nn.Module, num_rows: int) -> NumpyLayer | None:
    if type(layer) is nn.Linear and layer.weight.dtype == torch.float32 and layer.bias is not None:
        weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
        repeated = bias if num_rows == 1 else np.tile(bias, (num_rows, 1))
        return partial(_affine, weight=weight, bias=repeated)
    if type(layer) is nn.Tanh:
        return lambda rows: np.tanh(rows, out=rows)
    if type(layer) is nn.ReLU:
        return lambda rows: np.maximum(rows, 0, out=rows)
    return layer.forward_in_numpy if type(layer) is _ClippedLogStd else None


def _affine(
    rows: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    result: NDArray[np.float32] = rows.dot(weight)  # `matmul` costs a half more
    result += bias
    return result


def env_actions_of(space: spaces.Space[Any], *, is_normalized: bool, is_clipped: bool) -> ActionMap:
    """Return the map from a policy's actions ``(B, ...)`` to those that the environment receives.

    Args:
        space: Of one action.
        is_normalized: Whether the policy's actions of a bounded box lie within [-1, 1].
        is_clipped: Whether actions that are not normalised are clipped to the box.

    Example:
        >>> to_env = env_actions_of(spaces.Box(0, 10, (1,)), is_normalized=True, is_clipped=False)
        >>> to_env(np.array([[-1.0], [0.0], [7.0]], np.float32)).ravel().tolist()
        [0.0, 5.0, 10.0]
    """
    if not isinstance(space, spaces.Box):
        return lambda actions: np.asarray(actions, space.dtype)
    if is_normalized and space.dtype == np.float32 and space.is_bounded():
        low, half_width = space.low, (space.high - space.low) / 2
        is_scaled, bounds = bool((half_width != 1).any()), Bounds(low, space.high)
        one, low = np.ones((), np.float32), _one_if_all_are(low)

        def unsquashed(actions: NDArray[Any]) -> Any:
            scaled = actions + one
            if is_scaled:
                scaled *= half_width
            scaled += low
            return bounds.clip(scaled, out=scaled)

        return unsquashed
    rule = unsquash_action if is_normalized else clip_action if is_clipped else _unchanged
    return lambda actions: np.asarray(rule(actions, space), space.dtype)


def _one_if_all_are(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return equal values as one without a shape, with which NumPy combines rows twice as fast."""
    return values.ravel()[0].reshape(()) if values.size and np.ptp(values) == 0 else values


def _unchanged(actions: NDArray[Any], _: spaces.Space[Any]) -> NDArray[Any]:
    return actions
