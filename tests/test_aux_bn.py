"""Auxiliary batch norm against two separate plain models."""

import copy
import logging

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

from timm_debias import DebiasError, aux_bn_branch, convert_aux_bn, split_aux_state


def small_resnet(**options) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=5, **options).double()


def small_fused() -> nn.Module:
    """A model of timm's BatchNormAct2d."""
    torch.manual_seed(0)
    return timm.create_model('test_efficientnet', num_classes=5).double()


def halves() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    stylised = 3 * torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64) + 1
    return clean, stylised


@pytest.mark.parametrize('create', [small_resnet, small_fused])
def test_split_equals_two_plain_models(create):
    plain_clean, plain_stylised = create(), create()
    model = convert_aux_bn(create())
    assert isinstance(model.bn1, BatchNormAct2d) == isinstance(plain_clean.bn1, BatchNormAct2d)
    clean, stylised = halves()
    for module in (plain_clean, plain_stylised, model):
        module.train()
    with aux_bn_branch(model, 'split'):
        logits = model(torch.cat([clean, stylised]))
    expected = torch.cat([plain_clean(clean), plain_stylised(stylised)])
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)

    logits.square().sum().backward()
    expected.square().sum().backward()
    plain, aux = split_aux_state(model.state_dict())
    clean_state, stylised_state = plain_clean.state_dict(), plain_stylised.state_dict()
    assert list(plain) == list(clean_state)
    for name, value in plain.items():
        torch.testing.assert_close(value, clean_state[name], msg=name)
    for name, value in aux.items():
        torch.testing.assert_close(value, stylised_state[name.replace('.aux_bn', '')], msg=name)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = {name.removesuffix('.aux_bn') for name, _ in model.named_modules() if name.endswith('.aux_bn')}
    for name, parameter in plain_clean.named_parameters():
        twin = dict(plain_stylised.named_parameters())[name].grad
        if name.rpartition('.')[0] in norms:
            torch.testing.assert_close(grads[name], parameter.grad, msg=name)
            module, _, kind = name.rpartition('.')
            torch.testing.assert_close(grads[f'{module}.aux_bn.{kind}'], twin, msg=name)
        else:
            torch.testing.assert_close(grads[name], parameter.grad + twin, msg=name)


@pytest.mark.parametrize('create', [small_resnet, small_fused])
@pytest.mark.parametrize('branch', ['main', 'aux', 'split'])
def test_eval_is_bit_identical_to_the_plain_model(create, branch):
    plain = create().eval()
    model = convert_aux_bn(create()).eval()
    clean, _ = halves()
    with aux_bn_branch(model, branch):
        assert torch.equal(model(clean), plain(clean))


def test_branches_are_chosen_by_the_context_alone():
    model = convert_aux_bn(small_resnet()).train()
    clean, stylised = halves()
    before = copy.deepcopy(model.state_dict())
    model(clean)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not any('aux_bn' in name for name in changed), 'outside a context, training uses main'
    before = copy.deepcopy(model.state_dict())
    with aux_bn_branch(model, 'aux'):
        model(stylised)
        with aux_bn_branch(model, 'main'):
            pass
        assert {norm.branch for norm in model.modules() if hasattr(norm, 'branch')} == {'aux'}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all('aux_bn' in name for name in changed)


def test_context_ends_with_an_error():
    model = convert_aux_bn(small_resnet()).train()
    with pytest.raises(RuntimeError, match='boom'), aux_bn_branch(model, 'split'):
        raise RuntimeError('boom')
    assert {norm.branch for norm in model.modules() if hasattr(norm, 'branch')} == {'main'}


def test_auxiliary_starts_as_main():
    model = small_resnet()
    model.bn1.running_mean.fill_(3)
    model.bn1.num_batches_tracked.fill_(7)
    model.bn1.eps = 1e-3
    nn.init.constant_(model.bn1.weight, 0.5)
    _, aux = split_aux_state(convert_aux_bn(model).state_dict())
    assert model.bn1.aux_bn.eps == 1e-3
    assert aux['bn1.aux_bn.running_mean'].eq(3).all()
    assert aux['bn1.aux_bn.weight'].eq(0.5).all()
    assert aux['bn1.aux_bn.num_batches_tracked'] == 7


@pytest.mark.parametrize('place', ['act_layer', 'drop_layer'])
def test_drop_and_activation_are_applied_once_to_both_halves(place):
    layers = {'act_layer': nn.Identity, 'drop_layer': nn.Identity, place: nn.Hardtanh}
    model = convert_aux_bn(nn.Sequential(BatchNormAct2d(3, **layers))).train()
    with aux_bn_branch(model, 'split'):
        out = model(10 * torch.randn(8, 3, 4, 4))
    assert out.abs().max() <= 1
    assert out[:4].abs().max() > 0.9
    assert out[4:].abs().max() > 0.9


def test_converting_twice_changes_nothing():
    model = convert_aux_bn(small_resnet())
    keys = list(model.state_dict())
    assert list(convert_aux_bn(model).state_dict()) == keys


def test_model_without_batch_norm_is_left_alone(caplog):
    model = timm.create_model('test_vit')
    keys = list(model.state_dict())
    with caplog.at_level(logging.INFO):
        assert convert_aux_bn(model) is model
    assert list(model.state_dict()) == keys
    assert 'has no batch norm' in caplog.text


DTYPES = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
]
"""Of the input and of the parameters: autocast gives the third."""


@pytest.mark.parametrize(('dtype', 'norm_dtype'), DTYPES)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('track', [True, False])
def test_halves_in_one_buffer_are_bit_identical_to_two_norms_joined(dtype, norm_dtype, memory_format, affine, track):
    torch.manual_seed(0)
    options = dict(affine=affine, track_running_stats=track, dtype=norm_dtype)
    main, aux = nn.BatchNorm2d(5, **options), nn.BatchNorm2d(5, momentum=0.3, eps=1e-3, **options)
    for parameter in [*main.parameters(), *aux.parameters()]:
        nn.init.normal_(parameter)
    model = convert_aux_bn(nn.Sequential(copy.deepcopy(main)))
    model[0].aux_bn = copy.deepcopy(aux)
    inputs = torch.randn(6, 5, 9, 7, dtype=dtype).to(memory_format=memory_format)
    x, twin = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    with aux_bn_branch(model, 'split'):
        out = model(x)
    expected = torch.cat([main(twin[:3]), aux(twin[3:])])
    assert torch.equal(out, expected)
    assert out.stride() == expected.stride()
    gradient = torch.randn(out.shape, dtype=dtype)
    out.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(x.grad, twin.grad)
    for norm, other in ((model[0], main), (model[0].aux_bn, aux)):
        for name, value in other.state_dict().items():
            assert torch.equal(norm.state_dict()[name], value), name
        for name, parameter in other.named_parameters():
            assert torch.equal(dict(norm.named_parameters())[name].grad, parameter.grad), name


def test_second_derivatives_of_halves():
    """Optimizers of second order differentiate the backward pass."""
    torch.manual_seed(0)
    model = convert_aux_bn(nn.Sequential(nn.BatchNorm2d(2))).double()

    def forward(x, weight, bias):
        with aux_bn_branch(model, 'split'):
            return torch.func.functional_call(model, {'0.weight': weight, '0.aux_bn.bias': bias}, x)

    inputs = torch.randn(4, 2, 3, 2), torch.randn(2), torch.randn(2)
    assert torch.autograd.gradgradcheck(forward, [tensor.double().requires_grad_() for tensor in inputs])


def test_halves_with_a_strided_input():
    torch.manual_seed(0)
    x = torch.randn(5, 8, 3, 6).permute(1, 3, 0, 2)[:, ::2]
    model = convert_aux_bn(nn.Sequential(nn.BatchNorm2d(3)))
    with aux_bn_branch(model, 'split'):
        out = model(x)
    torch.testing.assert_close(out, torch.cat([nn.BatchNorm2d(3)(half) for half in x.chunk(2)]))


@pytest.mark.parametrize('momentum', [0.1, None])
def test_updates_of_running_statistics_go_on(momentum):
    """Without a momentum, running statistics are the mean over all batches."""
    model = convert_aux_bn(nn.Sequential(nn.BatchNorm2d(2, momentum=momentum)))
    plain = nn.BatchNorm2d(2, momentum=momentum)
    for seed in range(3):
        x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
        with aux_bn_branch(model, 'split'):
            model(x)
        plain(x[2:])
    for name, value in plain.state_dict().items():
        assert torch.equal(model[0].aux_bn.state_dict()[name], value), name


def test_one_value_a_channel_is_refused():
    model = convert_aux_bn(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(ValueError, match='more than 1 value per channel'), aux_bn_branch(model, 'split'):
        model(torch.randn(2, 3, 1, 1))


def test_compiled_split_has_one_graph_and_the_same_results():
    torch.manual_seed(0)
    model = convert_aux_bn(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), BatchNormAct2d(4))).train()
    twin = copy.deepcopy(model)
    torch.compiler.reset()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    x = torch.randn(6, 3, 8, 8)
    with aux_bn_branch(model, 'split'), aux_bn_branch(twin, 'split'):
        out, expected = compiled(x), twin(x)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(model[1].aux_bn.weight.grad, twin[1].aux_bn.weight.grad)
    torch.testing.assert_close(model[1].aux_bn.running_var, twin[1].aux_bn.running_var)


def test_synchronised_batch_norm():
    """Without a process group, SyncBatchNorm computes what batch norm computes, so the plain twin is the truth."""
    clean, stylised = halves()
    for create in (small_resnet, small_fused):
        model = convert_aux_bn(convert_sync_batchnorm(create())).train()
        assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
        assert all(
            isinstance(module, nn.SyncBatchNorm) for name, module in model.named_modules() if name.endswith('aux_bn')
        )
        twin = convert_aux_bn(create()).train()
        with aux_bn_branch(model, 'split'), aux_bn_branch(twin, 'split'):
            batch = torch.cat([clean, stylised])
            torch.testing.assert_close(model(batch), twin(batch))


def test_one_dimensional_batch_norm_over_tokens():
    """levit and others flatten [B, N, C] to [B·N, C], image after image, before BatchNorm1d."""
    torch.manual_seed(0)
    tokens = torch.randn(6, 10, 4)
    tokens[3:] += 5
    plain = nn.BatchNorm1d(4)
    model = convert_aux_bn(nn.Sequential(nn.BatchNorm1d(4)))
    with aux_bn_branch(model, 'split'):
        out = model(tokens.flatten(0, 1)).view_as(tokens)
    torch.testing.assert_close(out[:3], plain(tokens[:3].flatten(0, 1)).view(3, 10, 4))
    torch.testing.assert_close(model[0].running_mean, plain.running_mean)


def test_without_affine_parameters_or_running_statistics():
    model = convert_aux_bn(nn.Sequential(nn.BatchNorm2d(3, affine=False, track_running_stats=False))).train()
    with aux_bn_branch(model, 'split'):
        out = model(torch.cat([torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5) + 9]))
    assert out[4:].mean().abs() < 1e-5


def test_odd_batch_is_refused():
    model = convert_aux_bn(small_resnet()).train()
    with pytest.raises(DebiasError, match='3 images'), aux_bn_branch(model, 'split'):
        model(torch.randn(3, 3, 64, 64, dtype=torch.float64))


def test_unknown_batch_norm_is_refused_before_anything_changes():
    class StrangeNorm(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.BatchNorm2d(3), StrangeNorm(3))
    with pytest.raises(DebiasError, match=r"'1' is a StrangeNorm.*--no-debias-aux-bn"):
        convert_aux_bn(model)
    assert type(model[0]) is nn.BatchNorm2d


@pytest.mark.parametrize('branches', [('split',), ('main', 'aux')])
def test_gradient_checkpointing_computes_with_the_same_branch_again(branches):
    """The backward pass computes activations anew when the `with` blocks have ended."""
    torch.manual_seed(0)
    model = convert_aux_bn(timm.create_model('resnet10t', num_classes=3)).double().train()
    for norm in model.modules():
        if hasattr(norm, 'aux_bn'):
            nn.init.constant_(norm.aux_bn.weight, 2)  # With equal weights, the wrong branch would do as well.
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for module in (model, twin):
        for _ in range(2):
            module.zero_grad()
            loss = 0
            for factor, branch in enumerate(branches, start=1):
                with aux_bn_branch(module, branch):
                    loss = loss + module(factor * images).square().sum()
            loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in twin.named_parameters():
        assert (parameter.grad is None) == (expected[name] is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_forwards_without_a_backward_pass_are_forgotten():
    model = convert_aux_bn(nn.Sequential(nn.BatchNorm2d(3))).train()
    for _ in range(100):
        model(torch.randn(2, 3, 2, 2))
    assert len(model[0].past_branches) < 100


def test_deep_copy_keeps_branches_apart():
    model = convert_aux_bn(small_resnet()).train()
    twin = copy.deepcopy(model)
    with aux_bn_branch(model, 'aux'):
        assert twin.bn1.branch == 'main'
