r"""Model of the offset ``slow - fast``: an ensemble of small networks.

Knows nothing of labels or training: tensors in, tensors out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rllib_offset.numpy_predictor import NumpyPredictor

__all__ = ["OffsetPredictor", "torch_threads"]

Float32Array = NDArray[np.float32]


class OffsetPredictor(nn.Module):
    r"""Ensemble of ReLU networks that predict the offset between two simulators.

    Member :math:`m` gives :math:`\hat o_s = o_f + \mathrm{off}_{\phi_m}(o_f)`. The members share
    labels, and differ in hidden initial weights and minibatches; their spread is the uncertainty
    of the model. Inputs and outputs are normalised inside. A new ensemble is exactly zero.

    Shapes: ``B`` batch, ``D`` inputs, ``K`` targets, ``M`` members.

    Args:
        input_dim: ``D``, e.g. width of the flat fast observation, in environment units.
        output_dim: ``K``, how many values are corrected.
        hiddens: Width of each hidden layer.
        ensemble_size: ``M``; one member is the predictor of the paper.
        generator: Source of the initial weights; without it, a fresh one seeded with 0.

    Raises:
        ValueError: If a dimension, a width or ``ensemble_size`` is below one.

    Source: section 3.1 of the paper; deep ensembles, arXiv:1612.01474.

    Example:
        >>> offset = OffsetPredictor(input_dim=5, output_dim=1, ensemble_size=3)
        >>> offset(torch.ones(7, 5)).shape, offset(torch.ones(7, 5)).abs().max().item()
        (torch.Size([3, 7, 1]), 0.0)
    """

    input_mean: Tensor
    input_std: Tensor
    output_mean: Tensor
    output_scale: Tensor

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        hiddens: Sequence[int] = (64, 64),
        ensemble_size: int = 5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = (input_dim, *hiddens, output_dim)
        if min(*widths, ensemble_size) < 1:
            raise ValueError(f"all must be >= 1, got {widths=}, {ensemble_size=}")
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.ensemble_size = ensemble_size
        self.weights = nn.ParameterList(
            torch.zeros(ensemble_size, i, o) for i, o in pairwise(widths)
        )
        self.biases = nn.ParameterList(torch.zeros(ensemble_size, 1, o) for o in widths[1:])
        self.register_buffer("input_mean", torch.zeros(input_dim))
        self.register_buffer("input_std", torch.ones(input_dim))
        self.register_buffer("output_mean", torch.zeros(output_dim))
        self.register_buffer("output_scale", torch.ones(output_dim))
        self.reset(generator)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Return to the zero offset with freshly drawn hidden layers; the buffers stay."""
        generator = generator or torch.Generator().manual_seed(0)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            bound = weight.shape[1] ** -0.5  # as `nn.Linear`: orthogonal ones fit and flag worse
            weight.uniform_(-bound, bound, generator=generator)
            bias.uniform_(-bound, bound, generator=generator)
        self.weights[-1].zero_()
        self.biases[-1].zero_()
        self.output_mean.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict with every member: ``(B, D) -> (M, B, K)``, physical units."""
        shared = ((inputs - self.input_mean) / self.input_std).expand(self.ensemble_size, -1, -1)
        return self.normalized(shared) * self.output_scale + self.output_mean

    def normalized(self, x: Tensor) -> Tensor:
        """Apply the networks alone, to normalised inputs per member: ``(M, B, D) -> (M, B, K)``."""
        # iterated, not sliced: a slice of a ParameterList is a new one, which takes longer to make
        *hidden, (last_weight, last_bias) = zip(self.weights, self.biases, strict=True)
        for weight, bias in hidden:
            x = torch.relu(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(last_bias, x, last_weight)

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation over the members, each ``(B, K)``."""
        offsets = self(inputs)
        mean = offsets.mean(dim=0)
        return mean, (offsets - mean).square().mean(dim=0).sqrt()

    @torch.no_grad()
    def renormalize(
        self, input_mean: Tensor, input_std: Tensor, output_mean: Tensor, output_scale: Tensor
    ) -> None:
        r"""Replace the normalisation without changing the function (folded into the weights).

        With :math:`z = (x - \mu) / \sigma`, the old input is an affine map of the new one, so
        the first layer absorbs the change exactly; the last layer does the same for the outputs.
        """
        gain = input_std / self.input_std
        move = (input_mean - self.input_mean) / self.input_std
        self.biases[0].add_(torch.einsum("d,mdh->mh", move, self.weights[0]).unsqueeze(1))
        self.weights[0].mul_(gain.unsqueeze(1))
        self.weights[-1].mul_(self.output_scale / output_scale)
        self.biases[-1].mul_(self.output_scale).add_(self.output_mean - output_mean)
        self.biases[-1].div_(output_scale)
        self.set_normalization(input_mean, input_std, output_mean, output_scale)

    @torch.no_grad()
    def set_normalization(
        self, input_mean: Tensor, input_std: Tensor, output_mean: Tensor, output_scale: Tensor
    ) -> None:
        """Replace the normalisation and leave the weights as they are."""
        self.input_mean.copy_(input_mean)
        self.input_std.copy_(input_std)
        self.output_mean.copy_(output_mean)
        self.output_scale.copy_(output_scale)

    def to_numpy(self, labelled: Float32Array | None = None) -> NumpyPredictor:
        """Return a frozen copy that needs no torch; ``labelled`` is for its ``distance``."""
        return NumpyPredictor(
            [weight.detach().numpy() for weight in self.weights],
            [bias.detach().numpy() for bias in self.biases],
            input_mean=self.input_mean.numpy(),
            input_std=self.input_std.numpy(),
            output_mean=self.output_mean.numpy(),
            output_scale=self.output_scale.numpy(),
            labelled=labelled,
        )


@contextmanager
def torch_threads(number: int = 1) -> Iterator[None]:
    """Keep torch on so many threads, then restore what the process had set.

    Threads gain nothing on matrices this small. On a busy machine their barriers cost a hundred
    times the work, and sums depend on their number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
