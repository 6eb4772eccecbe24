"""Adam on the squared error of an ensemble, its gradients written out.

For networks this small, autograd's records and an optimizer's look-ups take as long as the
arithmetic. The bits are those of autograd and ``torch.optim.Adam(fused=True)``; a test says so.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rllib_offset.predictor import OffsetPredictor

__all__ = ["EnsembleFit"]

_BETAS, _EPS = (0.9, 0.999), 1e-8  # torch's defaults

_relu_backward = torch.ops.aten.threshold_backward.grad_input  # writes to its last argument


class EnsembleFit:
    """Takes optimizer steps on the weights of an ensemble, in arrays allocated once.

    Shapes: ``S`` steps, ``M`` members, ``B`` rows of a minibatch, ``D`` inputs, ``K`` targets.

    Args:
        net: Whose weights are fitted.
        lr: Step size of Adam.
        minibatch_size: ``B``.
    """

    def __init__(self, net: OffsetPredictor, *, lr: float, minibatch_size: int) -> None:
        self._net, self._lr, self._minibatch_size = net, lr, minibatch_size
        shape = (net.ensemble_size, minibatch_size)
        self._outputs = [torch.empty(*shape, bias.shape[2]) for bias in net.biases]
        self._signals = [torch.empty_like(output) for output in self._outputs]
        self._gradients = [torch.empty_like(parameter) for parameter in net.parameters()]
        self.reset()

    def reset(self) -> None:
        """Forget the moments."""
        self._num_steps = torch.zeros(())
        self._means, self._squares = (
            [torch.zeros_like(gradient) for gradient in self._gradients] for _ in range(2)
        )

    @torch.no_grad()
    def minimize(
        self, inputs: Tensor, targets: Tensor, is_measured: Tensor | None = None
    ) -> NDArray[np.float32]:
        """Take one step on each minibatch.

        Args:
            inputs: ``(S, M, B, D)``, normalised; each member sees minibatches of its own.
            targets: ``(S, M, B, K)``, normalised.
            is_measured: Mask of the targets that count; ``None`` for all.

        Returns:
            ``(S,)``, squared error before each step: mean over the minibatch, summed over members
            and targets.
        """
        net, losses = self._net, torch.empty(len(inputs))
        share = torch.ones(()) / self._minibatch_size
        weights, biases = ([p.detach() for p in part] for part in (net.weights, net.biases))
        for step, x in enumerate(inputs):
            error = self._forward(x, weights, biases).sub_(targets[step])
            if is_measured is not None:
                error.masked_fill_(~is_measured[step], 0.0)
            losses[step] = error.square().sum()
            signal = torch.mul(error, 2.0, out=self._signals[-1])
            self._backward(x, weights, signal.mul_(share))
            self._step([*weights, *biases])
        return (losses / self._minibatch_size).numpy()

    def _forward(self, x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        """Return what the members say of normalised inputs: ``(M, B, D) -> (M, B, K)``."""
        last = self._outputs[-1]
        for weight, bias, output in zip(weights, biases, self._outputs, strict=True):
            x = torch.baddbmm(bias, x, weight, out=output)
            if output is not last:
                torch.relu_(x)
        return last

    def _backward(self, x: Tensor, weights: list[Tensor], signal: Tensor) -> None:
        """Set the gradients, given that of the outputs, ``(M, B, K)``."""
        layers = len(weights)
        for layer in reversed(range(layers)):
            below = self._outputs[layer - 1] if layer else x
            torch.bmm(below.transpose(1, 2), signal, out=self._gradients[layer])
            torch.sum(signal, 1, keepdim=True, out=self._gradients[layers + layer])
            if layer:
                back = self._signals[layer - 1]
                torch.bmm(signal, weights[layer].transpose(1, 2), out=back)
                signal = _relu_backward(back, below, 0, grad_input=back)

    def _step(self, parameters: list[Tensor]) -> None:
        self._num_steps += 1
        torch._fused_adam_(
            parameters,
            self._gradients,
            self._means,
            self._squares,
            [],
            [self._num_steps] * len(parameters),
            lr=self._lr,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=0.0,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
        )

    def get_state(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return step count and moments by the name of the parameter, as ``torch.optim`` does.

        Empty before the first step.
        """
        if not self._num_steps:
            return {}
        rows = zip(self._names(), self._means, self._squares, strict=True)
        return {
            name: {
                "step": self._num_steps.numpy().copy(),
                "exp_avg": mean.numpy().copy(),
                "exp_avg_sq": square.numpy().copy(),
            }
            for name, mean, square in rows
        }

    def set_state(self, state: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Continue from what :meth:`get_state` returned."""
        self.reset()
        moments = zip(self._names(), self._means, self._squares, strict=True)
        for name, mean, square in moments:
            saved = state.get(name)
            if saved:
                mean.copy_(torch.from_numpy(np.asarray(saved["exp_avg"])))
                square.copy_(torch.from_numpy(np.asarray(saved["exp_avg_sq"])))
                self._num_steps.fill_(float(saved["step"]))

    def _names(self) -> list[str]:
        return [name for name, _ in self._net.named_parameters()]
