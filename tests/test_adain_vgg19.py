"""The convolution that upsamples, against its parts one after the other."""

import pytest
import torch
import torch.nn.functional as F

from timm_debias.stylizers.adain_vgg19 import UpsamplingConv2d


@pytest.mark.parametrize('size', [(1, 1), (1, 4), (5, 7)])
def test_upsampling_convolution_by_its_parts(size):
    """Values and gradients are those of upsampling, padding and convolving one after the other."""
    torch.manual_seed(0)
    layer = UpsamplingConv2d(6, 4)
    x = torch.rand(2, 6, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = layer(x)
    enlarged = F.pad(F.interpolate(x, scale_factor=2, mode='nearest'), (1,) * 4, mode='reflect')
    expected = F.conv2d(enlarged, layer.weight, layer.bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    parameters = (x, layer.weight, layer.bias)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), parameters, retain_graph=True),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
