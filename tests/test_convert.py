"""Converting checkpoints: the reference's, as its code saves them; torchvision's; timm's."""

import argparse
import hashlib
import json
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import yaml
from conversions import convert, error, loaded, logits, save_small, tiny
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from timm_debias import convert_aux_bn
from timm_debias.weights import folder


class MixBatchNorm2d(nn.BatchNorm2d):
    """The reference's batch norm as far as checkpoints and evaluation see it: another one below the name aux_bn."""

    def __init__(self, num_features, **options):
        super().__init__(num_features, **options)
        self.aux_bn = nn.BatchNorm2d(num_features, **options)


def resnext101(num_classes=1000, norm_layer=None):
    return torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [3, 4, 23, 3], num_classes, groups=32, width_per_group=4,
        norm_layer=norm_layer,
    )  # fmt: skip


NETWORKS = {
    'resnet50': torchvision.models.resnet50,
    'resnet101': torchvision.models.resnet101,
    'resnet152': torchvision.models.resnet152,
    'resnext101_32x4d': resnext101,
}
OFFICIAL = [
    ('resnet50_debiased.in1k', 'resnet50'),
    ('resnet101_debiased.in1k', 'resnet101'),
    ('resnet152_debiased.in1k', 'resnet152'),
    ('resnext101_32x4d_debiased.mixup_in1k', 'resnext101_32x4d'),
    ('resnext101_32x4d_debiased.cutmix_in1k', 'resnext101_32x4d'),
    ('resnet50_debiased.shape_biased_in1k', 'resnet50'),
    ('resnet50_debiased.texture_biased_in1k', 'resnet50'),
]


@torch.no_grad()
def random_network(arch: str, norm_layer=MixBatchNorm2d, num_classes: int = 1000) -> nn.Module:
    """A network as the reference makes it, with statistics and affine weights that differ between main and aux."""
    torch.manual_seed(0)
    network = NETWORKS[arch](num_classes=num_classes, norm_layer=norm_layer)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.0)
            module.bias.normal_(std=0.1)
    return network.eval()


def save_as_reference(network: nn.Module, path: Path, raw: bool = False) -> None:
    """Write what the reference's train loop writes, with the PyTorch of its time (1.4: the format before zip files)."""
    parallel = nn.DataParallel(network)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)
    for parameter in parallel.parameters():
        parameter.grad = torch.zeros(1).expand_as(parameter)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer.step()
    network.load_state_dict(before)
    checkpoint = {
        'epoch': 100,
        'state_dict': parallel.state_dict(),
        'acc': 76.5,
        'best_acc': 76.9,
        'optimizer': optimizer.state_dict(),
    }
    content = checkpoint['state_dict'] if raw else checkpoint
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    (folder / 'deeper').mkdir(parents=True)
    for number, name in enumerate(('a.png', 'b.jpg', 'deeper/c.png')):
        pixels = torch.randint(256, (80, 90, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / name)
    return folder


@pytest.mark.parametrize(('name', 'arch'), OFFICIAL)
def test_official_checkpoint_gives_the_same_logits_in_plain_timm(tmp_path, name, arch):
    network = random_network(arch)
    save_as_reference(network, tmp_path / 'model.pth.tar', raw='cutmix' in name)
    assert convert(tmp_path / 'model.pth.tar', '--arch', arch, '--name', name, '--out', tmp_path / 'out') == 0

    converted = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    assert torch.equal(logits(converted), logits(network))
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['architecture'] == arch
    data = timm.data.resolve_data_config(model=converted, use_test_size=True)
    assert (data['input_size'], data['crop_pct'], data['interpolation']) == ((3, 224, 224), 0.875, 'bilinear')
    aux = load_file(tmp_path / 'out' / 'aux_bn.safetensors')
    expected = {key: value for key, value in network.state_dict().items() if 'aux_bn' in key}
    assert aux.keys() == expected.keys()
    assert all(torch.equal(aux[key], expected[key]) for key in aux)
    weights = load_file(tmp_path / 'out' / 'model.safetensors')
    assert weights.keys() == timm.create_model(arch).state_dict().keys()


@pytest.fixture(scope='module')
def small(tmp_path_factory) -> Path:
    return save_small(tmp_path_factory.mktemp('small'))


def test_folder_has_card_and_hashes(small, tmp_path, capsys):
    assert convert(small, '--arch', 'test_resnet', '--out', tmp_path / 'out', '--license', 'cc0-1.0') == 0
    assert 'local-dir:' in capsys.readouterr().out
    sums = dict(reversed(line.split('  ')) for line in (tmp_path / 'out' / 'SHA256SUMS').read_text().splitlines())
    assert sums == {
        name: hashlib.sha256((tmp_path / 'out' / name).read_bytes()).hexdigest()
        for name in ('README.md', 'config.json', 'model.safetensors')
    }
    assert {path.name for path in tmp_path.iterdir()} == {'out'}  # Nothing temporary is left.
    _, front, text = (tmp_path / 'out' / 'README.md').read_text().split('---\n', 2)
    front = yaml.safe_load(front)
    assert (front['license'], front['library_name'], front['pipeline_tag']) == (
        'cc0-1.0', 'timm', 'image-classification',
    )  # fmt: skip
    assert sums['model.safetensors'] in text
    assert sums['config.json'] in text
    assert hashlib.sha256(small.read_bytes()).hexdigest() in text
    assert 'test_resnet' in text
    assert '5 classes' in text


def test_official_card_says_where_it_comes_from(tmp_path):
    torch.save(NETWORKS['resnet50']().state_dict(), tmp_path / 'file.pth.tar')
    name = 'resnet50_debiased.shape_biased_in1k'
    assert convert(tmp_path / 'file.pth.tar', '--arch', 'resnet50', '--name', name, '--out', tmp_path / 'out') == 0
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'https://github.com/LiYingwei/ShapeTextureDebiasedTraining' in card
    assert '"Shape-Biased ResNet-50" of Li et al.' in card
    assert 'top-1' not in card  # Their README gives none for this one.
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']
    assert (config['license'], config['tag']) == ('mit', 'shape_biased_in1k')
    assert 'a1_in1k' not in json.dumps(config)  # Nothing of the weights that timm has.
    assert not any(key.startswith('test_') for key in config)


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_prefixes(tmp_path, prefix, suffix):
    state = {prefix + key: value for key, value in tiny().state_dict().items()}
    path = tmp_path / f'model{suffix}'
    save_file(state, path) if suffix == '.safetensors' else torch.save(state, path)
    assert convert(path, '--arch', 'test_resnet', '--out', tmp_path / 'out') == 0
    assert torch.equal(logits(loaded(tmp_path / 'out')), logits(tiny()))


@pytest.mark.parametrize(('plain', 'ema'), [('state_dict', 'state_dict_ema'), ('model', 'model_ema')])
def test_moving_average_is_taken_where_asked_for(tmp_path, capsys, plain, ema):
    averaged = {f'module.{key}': value for key, value in tiny(seed=1).state_dict().items()}
    torch.save({plain: tiny().state_dict(), ema: averaged}, tmp_path / 'model.pth')
    arguments = (tmp_path / 'model.pth', '--arch', 'test_resnet')
    assert convert(*arguments, '--out', tmp_path / 'plain') == 0
    assert '--use-ema' in capsys.readouterr().err
    assert convert(*arguments, '--out', tmp_path / 'ema', '--use-ema') == 0
    assert torch.equal(logits(loaded(tmp_path / 'plain')), logits(tiny()))
    assert torch.equal(logits(loaded(tmp_path / 'ema')), logits(tiny(seed=1)))
    assert 'moving average' in (tmp_path / 'ema' / 'README.md').read_text()


@pytest.mark.parametrize('keep', [False, True])
def test_auxiliary_batch_norm(tmp_path, pictures, capsys, keep):
    network = convert_aux_bn(tiny())
    for name, value in network.state_dict().items():
        if 'aux_bn' in name and value.is_floating_point():
            value.uniform_(0.5, 1.5)
    state = network.state_dict()
    torch.save({'state_dict': {f'module.{key}': value for key, value in state.items()}}, tmp_path / 'model.pth.tar')
    arguments = [tmp_path / 'model.pth.tar', '--arch', 'test_resnet', '--out', tmp_path / 'out', '--verify', pictures]
    assert convert(*arguments, *['--keep-aux'] * keep) == 0
    assert 'Logits of 3 images are the same' in capsys.readouterr().err
    weights = load_file(tmp_path / 'out' / 'model.safetensors')
    if keep:
        assert not (tmp_path / 'out' / 'aux_bn.safetensors').exists()
    else:
        assert torch.equal(logits(loaded(tmp_path / 'out')), logits(network))
        weights |= load_file(tmp_path / 'out' / 'aux_bn.safetensors')
    restored = convert_aux_bn(tiny(seed=1))
    restored.load_state_dict(weights)
    assert all(torch.equal(value, state[key]) for key, value in restored.state_dict().items())


def test_verify_finds_a_difference(small, tmp_path, pictures, capsys, monkeypatch):
    """Weights that are changed on their way into the file are found, and nothing is left."""
    write = folder.save_file

    def save_changed(tensors, path, metadata):
        write({**tensors, 'fc.bias': tensors['fc.bias'] + 1e-3}, path, metadata=metadata)

    monkeypatch.setattr(folder, 'save_file', save_changed)
    arguments = (small, '--arch', 'test_resnet', '--out', tmp_path / 'out')
    assert convert(*arguments, '--verify', pictures) == 2
    assert 'logits differ by up to 0.001' in error(capsys)
    assert not (tmp_path / 'out').exists()


@pytest.fixture
def old_densenet(tmp_path) -> tuple[nn.Module, Path]:
    """torchvision's DenseNet in a file like the one torchvision offers: with the names it had, which are not timm's."""
    torch.manual_seed(0)
    network = torchvision.models.densenet121(num_classes=7).eval()
    state = {
        re.sub(r'(denselayer\d+\.(?:norm|conv))([12])\.', r'\1.\2.', key): value
        for key, value in network.state_dict().items()
        if 'num_batches_tracked' not in key
    }
    torch.save(state, tmp_path / 'densenet.pth')
    return network, tmp_path / 'densenet.pth'


def test_torchvision_names_that_timm_knows(old_densenet, tmp_path, pictures, capsys):
    network, path = old_densenet
    assert 'features.denseblock1.denselayer1.norm.1.weight' in torch.load(path)
    given = (path, '--arch', 'densenet121', '--out', tmp_path / 'out')
    assert convert(*given, '--verify', pictures) == 2
    assert '--verify: no network with the names in' in error(capsys)
    assert not (tmp_path / 'out').exists()
    assert convert(*given) == 0
    torch.testing.assert_close(logits(loaded(tmp_path / 'out')), logits(network), rtol=0, atol=1e-5)


def test_checkpoints_of_the_first_pytorch(tmp_path, pictures):
    """Before 0.4.1, batch norm kept no number of batches; torchvision's ResNets are such files."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=7).eval()
    state = {key: value for key, value in network.state_dict().items() if 'num_batches_tracked' not in key}
    torch.save(state, tmp_path / 'model.pth')
    given = (tmp_path / 'model.pth', '--arch', 'resnet18', '--out', tmp_path / 'out')
    assert convert(*given, '--img-size', 64, '--verify', pictures) == 0
    assert torch.equal(logits(loaded(tmp_path / 'out')), logits(network))


def test_verify_of_a_network_that_torchvision_has_not(tmp_path, pictures, capsys):
    """A ResNet with another stem than torchvision's is compared with timm's."""
    stem = dict(stem_width=32, stem_type='deep')
    torch.save(timm.create_model('resnet18', num_classes=5, **stem).state_dict(), tmp_path / 'model.pth')
    options = ('--model-kwargs', *(f'{key}={value}' for key, value in stem.items()), '--img-size', 64)
    given = (tmp_path / 'model.pth', '--arch', 'resnet18', '--out', tmp_path / 'out')
    assert convert(*given, *options, '--verify', pictures) == 0
    assert 'Logits of 3 images are the same' in capsys.readouterr().err


def test_grey_images(tmp_path, pictures, capsys):
    torch.save(timm.create_model('test_resnet', num_classes=5, in_chans=1).state_dict(), tmp_path / 'model.pth')
    given = (tmp_path / 'model.pth', '--arch', 'test_resnet', '--out', tmp_path / 'out', '--model-kwargs', 'in_chans=1')
    assert convert(*given) == 2
    assert 'no --mean: give it for images of 1 channels' in error(capsys)
    assert convert(*given, '--mean', 0.4, '--std', 0.2, '--verify', pictures) == 0
    data = timm.data.resolve_data_config(model=loaded(tmp_path / 'out'))
    assert (data['input_size'][0], tuple(data['mean']), tuple(data['std'])) == (1, (0.4,), (0.2,))


def test_our_checkpoint_brings_its_preprocessing(tmp_path):
    args = argparse.Namespace(
        dataset='shapes_textures', img_size=48, crop_pct=None, mean=[0.5, 0.5, 0.5], std=None, interpolation='bicubic'
    )
    aux = {key: value for key, value in convert_aux_bn(tiny()).state_dict().items() if 'aux_bn' in key}
    checkpoint = {'state_dict': tiny().state_dict(), 'task_state': {'aux_bn': aux}, 'args': args, 'metric': 50.0}
    torch.save(checkpoint, tmp_path / 'last.pth.tar')
    assert convert(tmp_path / 'last.pth.tar', '--arch', 'test_resnet', '--out', tmp_path / 'out') == 0
    data = timm.data.resolve_data_config(model=loaded(tmp_path / 'out'))
    assert (data['input_size'], data['crop_pct'], data['interpolation']) == ((3, 48, 48), 1.0, 'bicubic')
    assert tuple(data['mean']) == (0.5, 0.5, 0.5)
    assert load_file(tmp_path / 'out' / 'aux_bn.safetensors').keys() == aux.keys()
    flags = ('--img-size', 96, '--crop-pct', 0.9, '--interpolation', 'bilinear')
    assert convert(tmp_path / 'last.pth.tar', '--arch', 'test_resnet', '--out', tmp_path / 'b', *flags) == 0
    data = timm.data.resolve_data_config(model=loaded(tmp_path / 'b'))
    assert (data['input_size'], data['crop_pct'], data['interpolation']) == ((3, 96, 96), 0.9, 'bilinear')


def test_model_arguments_come_back(tmp_path):
    network = timm.create_model('test_vit', num_classes=5, img_size=32)
    torch.save(network.state_dict(), tmp_path / 'model.pth')
    arguments = ('--arch', 'test_vit', '--model-kwargs', 'img_size=32', '--img-size', 32, '--out', tmp_path / 'out')
    assert convert(tmp_path / 'model.pth', *arguments) == 0
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(tmp_path / 'out')(images), network.eval()(images))
