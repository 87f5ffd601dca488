"""The precision of the forward pass, and the scaler of the loss."""

import pytest
import torch
from timm.utils import NativeScaler
from torch import nn

from timm_debias.machine import Machine
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.precision import LossScaler, autocast_of, scaler_of


def parse(argv):
    return config_from_args(build_parser().parse_args(argv.split()))


@pytest.mark.parametrize(
    ('argv', 'dtype'),
    [('', torch.float32), ('--amp --amp-dtype bfloat16', torch.bfloat16), ('--amp', torch.float16)],
)
def test_forward(argv, dtype):
    with autocast_of(parse(argv), Machine(torch.device('cpu'))):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ('argv', 'device', 'scaled'),
    [
        ('--amp', 'cuda', True),
        ('--amp', 'cpu', False),
        ('--amp --amp-dtype bfloat16', 'cuda', False),
        ('', 'cuda', False),
    ],
)
def test_float16_on_cuda_is_scaled(argv, device, scaled):
    assert (scaler_of(parse(argv), Machine(torch.device(device))) is not None) == scaled


def scaler_of_kind(kind):
    scaler = kind(device='cpu')
    scaler._scaler = torch.amp.GradScaler('cpu', init_scale=8.0)
    return scaler


@pytest.mark.parametrize(('clip', 'mode'), [(None, 'norm'), (0.1, 'norm'), (0.01, 'value')])
def test_as_timms_scaler(clip, mode):
    """timm's does in one call what this one does in two; the second update overflows."""
    weights = []
    for kind in (NativeScaler, LossScaler):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        scaler = scaler_of_kind(kind)
        for factor in (1.0, 1e38, 1.0):
            loss = layer(torch.ones(2, 3)).square().sum() * factor
            optimizer.zero_grad()
            if kind is NativeScaler:
                scaler(loss, optimizer, clip_grad=clip, clip_mode=mode, parameters=layer.parameters())
            else:
                scaler.backward(loss)
                scaler.step(optimizer, clip, mode, layer.parameters())
        weights.append(layer.weight.detach().clone())
    assert torch.equal(*weights)
    assert scaler.scale == 4.0
