"""Two passes in one forward against two plain models."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel

from timm_debias import convert_aux_bn
from timm_debias.two_pass import convert_two_pass


@pytest.fixture
def create():
    def build(arch='test_resnet'):
        torch.manual_seed(0)
        return timm.create_model(arch, num_classes=10).train()

    return build


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 48, 48, generator=generator), torch.randn(6, 3, 32, 32, generator=generator)


@pytest.mark.parametrize('arch', ['test_resnet', 'test_efficientnet'])
def test_each_half_has_its_batch_norm(create, batch, arch):
    """The second architecture has its activations within the batch norms."""
    clean, stylised = batch
    model = convert_two_pass(convert_aux_bn(create(arch)))
    clean_model, stylised_model = create(arch), create(arch)
    logits = model(clean, stylised)
    torch.testing.assert_close(logits, (clean_model(clean), stylised_model(stylised)))
    for name, buffer in clean_model.named_buffers():
        twin = '.aux_bn.'.join(name.rsplit('.', 1))
        torch.testing.assert_close(model.get_buffer(name), buffer)
        torch.testing.assert_close(model.get_buffer(twin), stylised_model.get_buffer(name))


def test_one_batch_passes_as_before(create, batch):
    model, plain = convert_two_pass(convert_aux_bn(create())), create()
    torch.testing.assert_close(model(batch[0]), plain(batch[0]))
    assert torch.equal(model.eval()(batch[1]), plain.eval()(batch[1]))


def test_nothing_else_changes(create, batch):
    plain = create()
    model = convert_two_pass(convert_two_pass(create()))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert isinstance(model, type(plain))
    assert type(model).__name__ == type(plain).__name__
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(*batch), model(*batch))


def test_models_without_batch_norm(batch):
    model = convert_two_pass(timm.create_model('test_convnext', num_classes=10).eval())
    clean_logits, stylised_logits = model(*batch)
    assert torch.equal(clean_logits, model(batch[0]))
    assert torch.equal(stylised_logits, model(batch[1]))


def test_one_wrapped_forward(create, batch, tmp_path):
    """DistributedDataParallel sees one forward, and its gradients are those without it."""
    plain = convert_two_pass(convert_aux_bn(create()))
    sum(logits.square().mean() for logits in plain(*batch)).backward()
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(convert_two_pass(convert_aux_bn(create())))
        forwards = []
        wrapped.register_forward_pre_hook(lambda *_: forwards.append(1))
        for step in range(2):  # A second step shows that the first left nothing undone in the reducer.
            wrapped.zero_grad()
            sum(logits.square().mean() for logits in wrapped(*batch)).backward()
            if step == 0:
                for ours, expected in zip(wrapped.module.parameters(), plain.parameters(), strict=True):
                    torch.testing.assert_close(ours.grad, expected.grad)
        assert len(forwards) == 2
    finally:
        torch.distributed.destroy_process_group()


def test_compiles_without_graph_breaks(create, batch):
    eager, compiled = (convert_two_pass(convert_aux_bn(create())) for _ in range(2))
    step = torch.compile(compiled, backend='eager', fullgraph=True)
    torch.testing.assert_close(step(*batch), eager(*batch))
    assert {norm.branch for norm in compiled.modules() if hasattr(norm, 'branch')} == {'main'}


def test_sizes_of_multi_grid_share_two_compilations():
    """The second size makes the compiler take any; no later one makes it compile again."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    model = convert_two_pass(convert_aux_bn(nn.Sequential(*layers))).train()
    twin = copy.deepcopy(model)
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    clean = torch.randn(4, 3, 32, 32)
    for size in (16, 23, 23, 32) * 2:
        stylised = torch.randn(4, 3, size, size)
        torch.testing.assert_close(compiled(clean, stylised), twin(clean, stylised))
    assert counter.frame_count == 2
