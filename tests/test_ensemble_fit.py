import pytest
import torch

from rllib_offset.ensemble_fit import EnsembleFit
from rllib_offset.predictor import OffsetPredictor, torch_threads

STEPS, ROWS, INPUTS, TARGETS = 12, 50, 3, 4


def network(hiddens, members):
    generator = torch.Generator().manual_seed(1)
    return OffsetPredictor(
        INPUTS, TARGETS, hiddens=hiddens, ensemble_size=members, generator=generator
    )


def minibatches(members):
    generator = torch.Generator().manual_seed(0)
    shape = (STEPS, members, ROWS)
    x = torch.randn(*shape, INPUTS, generator=generator)
    y = torch.randn(*shape, TARGETS, generator=generator)
    return x, y, torch.rand(*shape, TARGETS, generator=generator) > 0.2


def by_autograd(net, x, y, is_measured, lr):
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    losses = []
    for step in range(STEPS):
        error = net.normalized(x[step]) - y[step]
        if is_measured is not None:
            error = torch.where(is_measured[step], error, 0.0)
        loss = error.square().sum() / ROWS
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), [optimizer.state[p] for p in net.parameters()]


@pytest.mark.parametrize("members", [1, 5])
@pytest.mark.parametrize("hiddens", [(), (16,), (64, 64)])
@pytest.mark.parametrize("is_masked", [False, True])
def test_gradients_and_steps_are_those_of_autograd_and_adam_bit_for_bit(
    hiddens, members, is_masked
):
    x, y, mask = minibatches(members)
    is_measured = mask if is_masked else None
    if is_masked:
        y[~mask] = torch.nan
    ours, theirs = network(hiddens, members), network(hiddens, members)
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    fit = EnsembleFit(ours, lr=1e-2, minibatch_size=ROWS)
    with torch_threads():
        losses = fit.minimize(x, y, is_measured)
        expected, moments = by_autograd(theirs, x, y, is_measured, lr=1e-2)
    assert losses.tolist() == expected.tolist()
    for own, other, start in zip(ours.parameters(), theirs.parameters(), before, strict=True):
        assert torch.equal(own, other)
        assert not torch.equal(own, start)
    for own, other in zip(fit.get_state().values(), moments, strict=True):
        for name, value in own.items():
            assert torch.equal(torch.from_numpy(value), other[name])


def test_restored_moments_continue_bit_for_bit():
    x, y, _ = minibatches(members=2)
    ours, other = network((16,), 2), network((16,), 2)
    fit = EnsembleFit(ours, lr=1e-2, minibatch_size=ROWS)
    fit.minimize(x, y)
    restored = EnsembleFit(other, lr=1e-2, minibatch_size=ROWS)
    other.load_state_dict(ours.state_dict())
    restored.set_state(fit.get_state())
    assert restored.minimize(x, y).tolist() == fit.minimize(x, y).tolist()
    fit.reset()
    assert fit.get_state() == {}
