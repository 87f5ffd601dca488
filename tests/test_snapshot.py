"""Copies of weights and of an optimizer's state."""

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from timm_debias.training.snapshot import OptimizerSnapshot, TensorSnapshot


def test_tensors_of_several_kinds():
    layer = nn.BatchNorm2d(3)
    tensors = [*layer.parameters(), *layer.buffers(), torch.ones(2, dtype=torch.bfloat16)]
    snapshot = TensorSnapshot()
    snapshot.take(tensors)
    before = [tensor.detach().clone() for tensor in tensors]
    for _ in range(2):
        with torch.no_grad():
            for tensor in tensors:
                tensor.add_(7)
        snapshot.restore()
        assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))


def test_taken_again_with_other_shapes():
    snapshot = TensorSnapshot()
    for size in (3, 4):
        tensor = torch.ones(size)
        snapshot.take([tensor])
        tensor.zero_()
        snapshot.restore()
        assert torch.equal(tensor, torch.ones(size))


@pytest.mark.parametrize('name', ['sgd', 'adamw', 'lamb', 'lookahead_sgd', 'adafactor', 'nadam', 'muon'])
def test_optimizer_goes_on_as_if_the_step_had_not_been(name):
    """From its first step, before which there is no state, and from a later one."""
    ends = []
    for detour in (None, 0, 3):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        optimizer = create_optimizer_v2(model, name, lr=0.1, weight_decay=0.01)
        snapshot, weights = OptimizerSnapshot(optimizer), TensorSnapshot()
        for step in range(6):
            if step == detour:
                snapshot.take()
                weights.take(model.parameters())
                for parameter in model.parameters():
                    parameter.grad = torch.full_like(parameter, float('nan'))
                optimizer.step()
                snapshot.restore()
                weights.restore()
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
    for other in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0], other, strict=True))


def test_learning_rates_are_those_of_now():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    snapshot = OptimizerSnapshot(optimizer)
    snapshot.take()
    optimizer.param_groups[0]['lr'] = 0.01
    snapshot.restore()
    assert optimizer.param_groups[0]['lr'] == 0.01
