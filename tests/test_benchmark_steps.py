"""Steps against hand-written ones, and their memory."""

from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F

from timm_debias import DebiasError, create_debias_task, create_stylizer
from timm_debias.benchmark.memory import peak_bytes
from timm_debias.benchmark.steps import DebiasedModel, PlainModel, Setup, Unchanged, rest_step, stylise_call

CPU = torch.device('cpu')
SETUP = Setup('test_resnet', 32, 4, CPU)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_plain_step_is_sgd_on_cross_entropy():
    plain = PlainModel(SETUP)
    twin = timm.create_model('test_resnet').train()
    twin.load_state_dict(plain.trained.module.state_dict())
    step = plain.step(4)
    images, labels = step.held
    assert images.shape == (4, 3, 32, 32)
    step()
    F.cross_entropy(twin(images), labels).backward()
    for name, parameter in twin.named_parameters():
        expected = parameter.detach() - plain.trained.optimizer.param_groups[0]['lr'] * 1.9 * parameter.grad
        # timm's sgd has Nesterov momentum: the first update is (1 + momentum) times the gradient.
        torch.testing.assert_close(plain.trained.module.state_dict()[name], expected, msg=name)
    assert all(parameter.grad is None for parameter in plain.trained.module.parameters())


def test_debiased_step_is_that_of_the_task():
    stylizer = create_stylizer('band_statistics')
    debiased = DebiasedModel(SETUP)
    twin = timm.create_model('test_resnet').train()
    task = create_debias_task(twin, stylizer, generator=torch.Generator().manual_seed(0), verbose=False)
    twin.load_state_dict(debiased.module.state_dict())
    step = debiased.step(stylizer)
    images, labels = step.held
    torch.testing.assert_close(step.loss(), task(images, labels)['loss'])


def test_debiased_step_trains_both_batch_norms_once_for_all_stylizers():
    debiased = DebiasedModel(SETUP)
    before = weights(debiased.module)
    debiased.step(create_stylizer('band_statistics'))()
    debiased.step(create_stylizer('fourier_amplitude'))()
    after = weights(debiased.module)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert {'bn1.bias', 'bn1.aux_bn.bias', 'bn1.running_var', 'bn1.aux_bn.running_var'} <= set(changed)
    assert after['bn1.num_batches_tracked'] == after['bn1.aux_bn.num_batches_tracked'] == 2


@pytest.mark.parametrize(('side', 'expected'), [(None, [(8, 32)]), (16, [(4, 32), (4, 16)]), (32, [(4, 32), (4, 32)])])
def test_sizes_of_multi_grid(side, expected):
    debiased = DebiasedModel(SETUP)
    passed = []
    first = next(module for module in debiased.module.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: passed.append((len(inputs[0]), inputs[0].shape[-1])))
    debiased.step(create_stylizer('band_statistics'), side)()
    assert passed == expected


def test_classify_step_costs_no_stylisation(monkeypatch):
    debiased = DebiasedModel(SETUP)
    step = debiased.classify_step()
    monkeypatch.setattr(Unchanged, 'mix', lambda *arguments: pytest.fail('stylised'))
    before = weights(debiased.module)
    step()
    assert not torch.equal(before['bn1.aux_bn.running_mean'], debiased.module.state_dict()['bn1.aux_bn.running_mean'])


def test_rest_takes_the_step_without_stylisation_and_model():
    step = rest_step(SETUP)
    assert sum(parameter.numel() for parameter in step.trained.module.parameters()) == 4 * 1000
    before = weights(step.trained.module)
    step()
    assert not torch.equal(before['fc.weight'], step.trained.module.state_dict()['fc.weight'])


@pytest.mark.parametrize(
    'options',
    [
        {'amp_dtype': torch.bfloat16},
        {'model_dtype': torch.bfloat16, 'channels_last': True},
        {'channels_last': True},
    ],
)
def test_precisions_and_layouts(options):
    setup = replace(SETUP, **options)
    plain, debiased = PlainModel(setup), DebiasedModel(setup)
    for step in (plain.step(4), debiased.step(create_stylizer('band_statistics')), debiased.classify_step()):
        step()
    for module in (plain.trained.module, debiased.module):
        assert all(parameter.isfinite().all() for parameter in module.parameters())
        assert {parameter.dtype for parameter in module.parameters()} == {setup.model_dtype}
    if setup.channels_last:
        kernel = next(parameter for parameter in debiased.module.parameters() if parameter.ndim == 4)
        assert kernel.is_contiguous(memory_format=torch.channels_last)
        assert setup.images().is_contiguous(memory_format=torch.channels_last)


def test_compiled_once_for_all_stylizers(monkeypatch):
    compiled = []

    class Compiled(torch.nn.Module):
        def __init__(self, module, backend, mode):
            super().__init__()
            self.module = module
            compiled.append((module, backend))

        def forward(self, *arguments):
            return self.module(*arguments)

    monkeypatch.setattr(torch, 'compile', Compiled)
    setup = replace(SETUP, torchcompile='inductor')
    plain, debiased = PlainModel(setup), DebiasedModel(setup)
    tasks = [debiased.task(create_stylizer(name)) for name in ('band_statistics', 'fourier_amplitude')]
    assert compiled == [(plain.trained.module, 'inductor'), (debiased.module, 'inductor')]
    assert isinstance(plain.task.trainable_module, Compiled)
    assert all(task.trainable_module is debiased.compiled for task in tasks)
    for step in (plain.step(4), debiased.classify_step()):
        step()


@pytest.mark.parametrize('model', [PlainModel, DebiasedModel])
def test_unknown_backend(model):
    with pytest.raises(DebiasError, match="--torchcompile: Invalid backend: 'nobackend'"):
        model(replace(SETUP, torchcompile='nobackend'))


def test_stylise_call_restyles_each_image_by_another():
    seen = {}

    class Spy(Unchanged):
        def mix(self, images, permutation, alpha=1.0):
            seen.update(images=images, permutation=permutation, alpha=alpha)

    stylise_call(replace(SETUP, model_dtype=torch.bfloat16), Spy())()
    assert seen['permutation'].tolist() == [3, 0, 1, 2]
    assert seen['images'].dtype == torch.float32
    assert seen['alpha'] == 0.5


class TestMemory:
    def test_of_tensors_that_come_and_go(self):
        """1 MB held, 4 MB and then 2 MB beside it."""
        kept = []

        def call():
            kept.append(torch.empty(2**20, dtype=torch.uint8))
            torch.empty(2**22, dtype=torch.uint8)
            torch.empty(2**21, dtype=torch.uint8)

        assert peak_bytes(call, CPU) == 2**20 + 2**22

    def test_held_bytes(self):
        step = PlainModel(SETUP).step(4)
        module = step.trained.module
        values = sum(tensor.nbytes for tensor in module.state_dict().values())
        batch = 4 * 3 * 32 * 32 * 4 + 4 * 8
        assert step.held_bytes() == values + batch
        step()
        momentum = sum(parameter.nbytes for parameter in module.parameters())
        assert step.held_bytes() == values + batch + momentum
