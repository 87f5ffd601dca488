"""One small model of each of timm's model modules takes two debiased steps, and is attacked.

The table is complete: a timm with a new module fails `test_table_covers_every_module` until a line is added here.
"""

import argparse
import copy
from dataclasses import dataclass, field

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.utils import CheckpointSaver
from torch import nn

from timm_debias import create_debias_task
from timm_debias.validation.attacks import PixelModel, fgsm, pgd

CLASSES = 4
EPSILON = 8 / 255


@dataclass(frozen=True)
class Arch:
    """A model, the size of its images, and arguments that make it small."""

    name: str
    size: int = 64
    kwargs: dict = field(default_factory=dict)


def vit(name: str, size: int = 64, **kwargs) -> Arch:
    """A transformer of a fixed size, told that of the images and made shallow."""
    return Arch(name, size, {'img_size': size, **kwargs})


SHALLOW = dict(depth=2, embed_dim=96, num_heads=3)

ARCHITECTURES = {
    'beit': vit('beit_base_patch16_224', **SHALLOW),
    'byoanet': Arch('lambda_resnet26t', 128),
    'byobnet': Arch('test_byobnet'),
    'cait': vit('cait_xxs24_224'),
    'coat': vit('coat_lite_tiny'),
    'convit': vit('convit_tiny'),
    'convmixer': Arch('convmixer_1024_20_ks9_p14', 56),
    'convnext': Arch('test_convnext'),
    'cpubone': Arch('cpubone_nano'),
    'crossvit': Arch('crossvit_tiny_240', 240),
    'csatv2': Arch('csatv2', 128),
    'cspnet': Arch('cs3darknet_s'),
    'cspnext': Arch('cspnext_tiny'),
    'davit': Arch('davit_tiny', 64, dict(depths=(1, 1, 1, 1), embed_dims=(24, 48, 96, 192), num_heads=(1, 2, 3, 6))),
    'deepseek_vit': Arch('deepseek_vit_412m', 56, dict(depth=2, embed_dim=96, num_heads=3)),
    'deit': vit('deit_tiny_patch16_224'),
    'densenet': Arch('densenet121'),
    'dla': Arch('dla46_c'),
    'dpn': Arch('dpn48b'),
    'edgenext': Arch('edgenext_xx_small'),
    'efficientformer': Arch('efficientformer_l1', 224),
    'efficientformer_v2': Arch('efficientformerv2_s0', 224),
    'efficientnet': Arch('test_efficientnet'),
    'efficientvim': Arch('efficientvim_m1'),
    'efficientvit_mit': Arch('efficientvit_b0'),
    'efficientvit_msra': vit('efficientvit_m0', 128),
    'eva': vit('eva02_tiny_patch14_224', 56, depth=2),
    'fasternet': Arch('fasternet_t0'),
    'fastvit': Arch('fastvit_t8'),
    'focalnet': Arch('focalnet_tiny_srf'),
    'gcvit': Arch('gcvit_xxtiny', 224),
    'gemma4_vit': Arch('gemma4_vit_167m', 96, dict(depth=2)),
    'ghostnet': Arch('ghostnet_050'),
    'hardcorenas': Arch('hardcorenas_a'),
    'hgnet': Arch('hgnetv2_b0'),
    'hiera': Arch('hiera_tiny_224', 224, dict(stages=(1, 1, 1, 1))),
    'hieradet_sam2': Arch('sam2_hiera_tiny', 256, dict(stages=(1, 1, 2, 1), global_att_blocks=(3,))),
    'hrnet': Arch('hrnet_w18_small'),
    'iformer': Arch('iformer_t', 224),
    'inception_next': Arch('inception_next_atto'),
    'inception_resnet_v2': Arch('inception_resnet_v2', 96),
    'inception_v3': Arch('inception_v3', 96),
    'inception_v4': Arch('inception_v4', 96),
    'lcnetv2': Arch('lcnetv2_small'),
    'levit': Arch('levit_128s', 224),
    'lowformer': Arch('lowformer_b0'),
    'mambaout': Arch('test_mambaout'),
    'maxxvit': vit('coatnet_pico_rw_224', 64),
    'metaformer': Arch('poolformer_s12'),
    'mlp_mixer': Arch('gmlp_ti16_224', 224),
    'mobilenetv3': Arch('mobilenetv3_small_050'),
    'mobilenetv5': Arch('mobilenetv5_base', 64, dict(channel_multiplier=0.25)),
    'mobilevit': Arch('mobilevit_xxs'),
    'mvitv2': vit('mvitv2_tiny'),
    'naflexvit': Arch('naflexvit_base_patch16_gap', 64, dict(depth=2, embed_dim=96, num_heads=3)),
    'nasnet': Arch('nasnetalarge', 96, dict(stem_size=24, num_features=960)),
    'nest': vit('nest_tiny', 224),
    'nextvit': Arch('nextvit_small'),
    'nfnet': Arch('test_nfnet'),
    'pit': Arch('pit_ti_224', 224),
    'pnasnet': Arch('pnasnet5large', 64),
    'pvt_v2': Arch('pvt_v2_b0'),
    'qwen3_vit': Arch('qwen3_vit_88m', 64, dict(depth=2)),
    'rdnet': Arch('rdnet_tiny'),
    'regnet': Arch('regnetx_002'),
    'repghost': Arch('repghostnet_050'),
    'repvit': Arch('repvit_m0_9'),
    'res2net': Arch('res2net50_14w_8s'),
    'resnest': Arch('resnest14d'),
    'resnet': Arch('test_resnet'),
    'resnetv2': Arch('resnetv2_18'),
    'rexnet': Arch('rexnetr_100'),
    'selecsls': Arch('selecsls42'),
    'senet': Arch('legacy_seresnet18'),
    'sequencer': Arch('sequencer2d_s', 224, dict(layers=(1, 1, 1, 1))),
    'shvit': Arch('shvit_s1', 128),
    'sknet': Arch('skresnet18'),
    'starnet': Arch('starnet_s050'),
    'swiftformer': Arch('swiftformer_xs'),
    'swin_transformer': vit('swin_tiny_patch4_window7_224', 224, depths=(1, 1, 1, 1), embed_dim=24),
    'swin_transformer_v2': vit('swinv2_tiny_window8_256', 256, depths=(1, 1, 1, 1), embed_dim=24),
    'swin_transformer_v2_cr': vit('swinv2_cr_tiny_224', 224, depths=(1, 1, 1, 1), embed_dim=24),
    'tiny_vit': Arch('tiny_vit_5m_224', 224),
    'tnt': vit('tnt_s_patch16_224', depth=2),
    'tresnet': Arch('tresnet_m'),
    'twins': Arch('twins_svt_small', 224, dict(depths=(1, 1, 1, 1))),
    'vgg': Arch('vgg11_bn', 64, dict(mlp_ratio=0.1)),
    'visformer': Arch('visformer_tiny', 224),
    'vision_transformer': Arch('test_vit', 160),
    'vision_transformer_hybrid': vit('vit_tiny_r_s16_p8_224', 64, depth=2),
    'vision_transformer_relpos': vit('test_vit_relpos', 64),
    'vision_transformer_sam': vit('samvit_base_patch16', 64, depth=2, embed_dim=96, num_heads=3),
    'vitamin': vit('vitamin_small_224'),
    'volo': vit('volo_d1_224', 64),
    'vovnet': Arch('ese_vovnet19b_slim_dw'),
    'xception': Arch('legacy_xception', 96),
    'xception_aligned': Arch('xception41', 96),
    'xcit': Arch('xcit_nano_12_p16_224', 64),
}


def test_table_covers_every_module():
    assert set(ARCHITECTURES) == set(timm.list_modules()) - {'debiased'}  # Ours: stock architectures under new names.


def create(arch: Arch) -> nn.Module:
    """Create the model without anything random in its forward."""
    torch.manual_seed(0)
    model = timm.create_model(arch.name, num_classes=CLASSES, **arch.kwargs)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return model


@pytest.mark.parametrize('module', ARCHITECTURES)
def test_two_debiased_steps(module, colour_stylizer, tmp_path):
    arch = ARCHITECTURES[module]
    model = create(arch).train()
    plain = copy.deepcopy(model)
    assert timm.models.is_model_in_modules(arch.name, [module])
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, arch.size, arch.size, generator=generator) * torch.rand(2, 3, 1, 1, generator=generator)
    labels = torch.tensor([0, 1])

    task = create_debias_task(model, colour_stylizer, num_classes=CLASSES, verbose=False)
    inputs = task.normalize(images)
    nn.functional.cross_entropy(plain(inputs), labels).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(2):
        optimizer.zero_grad()
        result = task(inputs, labels)
        assert result['loss'].isfinite()
        assert result['output'].shape == (2, CLASSES)
        result['loss'].backward()
        if step == 0:
            check_gradients(plain, model)
            check_main_statistics(plain, model)
        optimizer.step()

    saver = CheckpointSaver(model, optimizer, argparse.Namespace(model=arch.name), checkpoint_dir=tmp_path, task=task)
    saver.save_checkpoint(0, 0.0)
    timm.models.load_checkpoint(plain, str(tmp_path / 'last.pth.tar'), strict=True)
    with torch.no_grad():
        assert torch.equal(plain.eval()(inputs), model.eval()(inputs))


def check_gradients(plain: nn.Module, model: nn.Module) -> None:
    """Every parameter that plain training reaches has a gradient, and so has its auxiliary twin."""
    reached = {name for name, parameter in plain.named_parameters() if parameter.grad is not None}
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name in reached:
        assert grads[name] is not None, name
        assert grads[name].isfinite().all(), name
        owner, _, kind = name.rpartition('.')
        twin = f'{owner}.aux_bn.{kind}'
        assert twin not in grads or grads[twin] is not None, twin


def check_main_statistics(plain: nn.Module, model: nn.Module) -> None:
    """Main batch norm has seen the clean images alone: its statistics are those of plain training on them.

    This holds only where the model keeps images in the order of the batch, whatever it folds into that dimension.
    """
    ours = dict(model.named_buffers())
    for name, expected in plain.named_buffers():
        if name.endswith(('running_mean', 'running_var')):
            torch.testing.assert_close(ours[name], expected, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f'{n}: {m}')


@pytest.mark.parametrize('module', ARCHITECTURES)
def test_attacks(module):
    """One step of FGSM and of PGD, by hand on a copy, and nothing of the model has changed.

    As in validate.py, a forward without gradients comes first: what a model keeps of it must not break them.
    """
    arch = ARCHITECTURES[module]
    torch.manual_seed(0)
    model = timm.create_model(arch.name, num_classes=CLASSES, **arch.kwargs).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # A head of zeros has no gradient.
            if not parameter.any():
                parameter.normal_(std=0.02)
    by_hand = copy.deepcopy(model)
    pixel_model = PixelModel(model, (0.5, 0.4, 0.3), (0.3, 0.25, 0.2))
    images = torch.rand(1, 3, arch.size, arch.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = pixel_model(images)
    state = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    label = logits.argmin(dim=1)  # Random weights can be so sure of the first class that its gradient is 0.

    attacked = fgsm(pixel_model, images, label, EPSILON)
    check_moves(images, attacked, images + EPSILON * signs(by_hand, images, label))
    noise = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(1))
    start = (images + EPSILON * (2 * noise - 1)).clamp(0, 1)
    expected = start + EPSILON / 2 * signs(by_hand, start, label)
    expected = torch.minimum(torch.maximum(expected, images - EPSILON), images + EPSILON)
    attacked = pgd(pixel_model, images, label, EPSILON, 1, EPSILON / 2, generator=torch.Generator().manual_seed(1))
    check_moves(images, attacked, expected)

    assert not any(module.training for module in model.modules())
    now = dict([*model.named_parameters(), *model.named_buffers()])
    assert now.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(now[name], value), name
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(pixel_model(images), logits)


def signs(model: nn.Module, images: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the signs of the gradient of −log p(label), written without anything of the package."""
    images = images.clone().requires_grad_()
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.3, 0.25, 0.2]).view(3, 1, 1)
    logits = model((images - mean) / std)
    (gradient,) = torch.autograd.grad(logits.logsumexp(dim=1) - logits[0, label], images)
    return gradient.sign()


def check_moves(images: torch.Tensor, attacked: torch.Tensor, expected: torch.Tensor) -> None:
    assert (attacked != images).float().mean() > 0.9
    different = (attacked - expected.clamp(0, 1)).abs() > 1e-6
    assert different.float().mean() < 1e-3  # A gradient next to 0 may round to either sign.
