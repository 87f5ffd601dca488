"""Whether a model takes images of a size, tried before a run, leaves the model as it was."""

import pytest
import timm
import torch

from timm_debias import DebiasError
from timm_debias.machine import Machine
from timm_debias.training.input_size import check_input_size

MACHINE = Machine(torch.device('cpu'))


def test_convit_can_be_trained_afterwards():
    """It keeps relative positions of its first forward, which the backward pass of one image needs."""
    model = timm.create_model('convit_tiny', img_size=32, depth=2, num_classes=2)
    check_input_size(model, (3, 32, 32), MACHINE)
    model(torch.rand(1, 3, 32, 32)).sum().backward()
    assert model.blocks[0].attn.pos_proj.weight.grad.any()


def test_modes_statistics_and_random_numbers_stay():
    model = timm.create_model('test_resnet', drop_rate=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    check_input_size(model, (3, 32, 32), MACHINE)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_no_memory_is_not_a_size_that_does_not_fit():
    model = timm.create_model('test_resnet')
    model.forward = lambda images: torch.empty(2**60)
    with pytest.raises(DebiasError, match='the model: out of memory with batches of 1; free some memory'):
        check_input_size(model, (3, 32, 32), MACHINE)


def test_sizes_that_do_not_fit():
    model = timm.create_model('test_vit', dynamic_img_size=False)
    with pytest.raises(DebiasError, match=r'does not take 3×96×64 images \(.*\); .* --model-kwargs img_size=N'):
        check_input_size(model, (3, 96, 64), MACHINE)
