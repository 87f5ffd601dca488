"""The names of released models in timm, and where their weights are looked for."""

import json
import re

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

import timm_debias
from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.hashing import hash_file
from timm_debias.weights import manifest, zoo
from timm_debias.weights.manifest import Entry, entries, get_entry

OFFICIAL = [
    'resnet50_debiased.in1k',
    'resnet50_debiased.shape_biased_in1k',
    'resnet50_debiased.texture_biased_in1k',
    'resnet101_debiased.in1k',
    'resnet152_debiased.in1k',
    'resnext101_32x4d_debiased.cutmix_in1k',
    'resnext101_32x4d_debiased.mixup_in1k',
]
NAME = 'resnet50_debiased.in1k'


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('TIMM_DEBIAS_HOME', str(tmp_path / 'home'))
    return tmp_path / 'home'


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """A ResNet-50 of random weights, as an official file."""
    path = tmp_path_factory.mktemp('official') / 'resnet50.pth.tar'
    torch.manual_seed(0)
    model = timm.create_model('resnet50')
    torch.save({'state_dict': {f'module.{key}': value for key, value in model.state_dict().items()}}, path)
    return model.state_dict(), path


def weights(*argv) -> int:
    return main(['weights', *map(str, argv)])


def error(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith('timm-debias weights: error: '), lines
    return lines[-1]


def same(model, state) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], value) for key, value in state.items())


def test_names_and_preprocessing():
    listed = timm.list_models('*debiased*', include_tags=True)
    assert {name for name in listed if name.endswith('in1k')} == set(OFFICIAL)
    assert 'resnet101_debiased' in timm.list_models('*debiased*')
    for name in OFFICIAL:
        config = timm.get_pretrained_cfg(name)
        # The reference: Scale(256), bilinear, CenterCrop(224), the usual mean and standard deviation.
        assert (config.input_size, config.crop_pct, config.interpolation) == ((3, 224, 224), 224 / 256, 'bilinear')
        assert config.mean == (0.485, 0.456, 0.406)
        assert config.std == (0.229, 0.224, 0.225)
        assert config.num_classes == 1000
    assert timm.get_pretrained_cfg('resnet50_debiased').tag == 'in1k'


def test_every_link_is_of_the_authors():
    for name in OFFICIAL:
        entry = get_entry(name)
        assert entry.link.startswith('https://livejohnshopkins-my.sharepoint.com/')
        assert entry.url is None
        assert entry.hf_hub_id is None
    # Top-1 of the README; it gives none for the biased ones.
    assert {entry.offered_as: entry.top1 for entry in entries().values() if entry.offered_as} == {
        'ResNet-50': 76.9, 'ResNet-101': 78.9, 'ResNet-152': 79.8, 'Mixup-ResNeXt-101': 80.5,
        'CutMix-ResNeXt-101': 81.2, 'Shape-Biased ResNet-50': None, 'Texture-Biased ResNet-50': None,
    }  # fmt: skip


def test_without_weights_the_error_says_what_to_do(home, capsys):
    with pytest.raises(DebiasError) as raised:
        timm.create_model('resnet50_debiased.shape_biased_in1k', pretrained=True)
    message = str(raised.value)
    assert '\n' not in message
    assert '"Shape-Biased ResNet-50"' in message
    assert 'https://github.com/LiYingwei/ShapeTextureDebiasedTraining' in message
    assert 'timm-debias weights add FILE --name resnet50_debiased.shape_biased_in1k' in message
    timm.create_model('resnet50_debiased.shape_biased_in1k')  # Random weights need none.
    for command in ('train', 'validate'):
        arguments = ['--model', NAME, '--pretrained', '--dataset', 'shapes_textures', '--device', 'cpu']
        assert main([command, *arguments]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert f'timm-debias weights add FILE --name {NAME}' in last


def test_added_weights(home, official, tmp_path, capsys):
    state, path = official
    assert weights('add', path, '--name', NAME) == 0
    assert weights('list') == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r'^resnet50_debiased\.in1k +resnet50 +here', '\n'.join(lines), re.MULTILINE)
    assert any(line.startswith('resnet101_debiased.in1k') and 'to be added' in line for line in lines)

    assert same(timm.create_model(NAME, pretrained=True), state)
    assert same(timm.create_model('resnet50_debiased', pretrained=True), state)
    assert same(timm.create_model(f'local-dir:{home / NAME}', pretrained=True), state)
    checkpoint = str(home / NAME / 'model.safetensors')
    assert same(timm.create_model('resnet50', checkpoint_path=checkpoint), state)
    # As timm's own train.py does: the registered configuration, resolved and handed back.
    assert same(timm.create_model('resnet50_debiased', True, timm.get_pretrained_cfg(NAME).to_dict()), state)

    small = timm.create_model(NAME, pretrained=True, num_classes=7, in_chans=1)
    assert small.fc.weight.shape == (7, 2048)
    assert torch.equal(small.conv1.weight, state['conv1.weight'].sum(dim=1, keepdim=True))
    features = timm.create_model(NAME, pretrained=True, features_only=True)
    assert torch.equal(features.state_dict()['layer4.2.conv3.weight'], state['layer4.2.conv3.weight'])
    assert 'state_dict' not in features.pretrained_cfg

    assert weights('add', path, '--name', NAME) == 2
    assert '--overwrite' in error(capsys)
    assert weights('unpack', '--name', NAME, '--output', tmp_path / 'copy') == 0
    assert same(timm.create_model(f'local-dir:{tmp_path / "copy"}', pretrained=True), state)


def test_damaged_weights_are_refused(home, official, tmp_path, capsys):
    _, path = official
    assert weights('add', path, '--name', NAME) == 0
    file = home / NAME / 'model.safetensors'
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DebiasError, match=rf'{NAME}: .*SHA-256 is \w+ and should be \w+'):
        timm.create_model(NAME, pretrained=True)
    assert weights('unpack', '--name', NAME, '--output', tmp_path / 'copy') == 2
    assert 'SHA-256' in error(capsys)
    assert not (tmp_path / 'copy').exists()


def test_wrong_architecture(home, official, capsys):
    assert weights('add', official[1], '--name', 'resnet101_debiased.in1k') == 2
    assert 'not weights of resnet101' in error(capsys)
    assert not home.exists()


def test_folders_are_added_as_they_are(home, official, tmp_path, capsys):
    state, path = official
    assert main(['convert', str(path), '--arch', 'resnet50', '--out', str(tmp_path / 'converted')]) == 0
    assert weights('add', tmp_path / 'converted', '--name', 'resnet152_debiased.in1k') == 2
    assert 'holds a resnet50 of 1000 classes' in error(capsys)
    assert weights('add', tmp_path / 'converted', '--name', NAME) == 0
    assert same(timm.create_model(NAME, pretrained=True), state)


def test_other_weights_that_the_caller_names_win(home, official):
    state, path = official
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    assert same(model, state)


def test_what_is_saved_loads_without_this_package(home, tmp_path):
    save_for_hf(timm.create_model(NAME), str(tmp_path), safe_serialization=True)
    assert json.loads((tmp_path / 'config.json').read_text())['architecture'] == 'resnet50'


@pytest.fixture
def published(tmp_path):
    """A file with weights, and the hash that the manifest would have."""
    path = tmp_path / 'server' / 'model.safetensors'
    path.parent.mkdir()
    state = timm.create_model('test_resnet', num_classes=8).state_dict()
    save_file(state, path)
    return path, hash_file(path)


def entry(**options) -> Entry:
    return Entry('tiny_debiased.shapes_textures', 'test_resnet', 'shapes_textures', 'apache-2.0', **options)


@pytest.fixture
def url(web, published):
    """The published file at an address."""
    web.files['/model.safetensors'] = published[0].read_bytes()
    return f'{web.url}/model.safetensors'


def test_weights_at_a_url(home, published, web, url):
    path, digest = published
    given = entry(url=url, sha256=digest)
    assert zoo.source_of(given) == {'url': url}
    found = zoo.load_weights(given)
    assert all(torch.equal(found[key], value) for key, value in load_file(path).items())
    web.files.clear()
    assert zoo.load_weights(given).keys() == found.keys()  # From the zoo now, offline.
    assert zoo.source_of(given) == {'file': str(home / given.name / 'model.safetensors')}


def test_a_download_of_another_hash_is_not_kept(home, published, url):
    _, digest = published
    given = entry(url=url, sha256='0' * 64)
    with pytest.raises(DebiasError, match=f'SHA-256 is {digest} and should be 0000'):
        zoo.load_weights(given)
    assert not list(home.rglob('*.safetensors'))


def test_no_network(home, monkeypatch):
    url = 'https://127.0.0.1:9/model.safetensors'
    with pytest.raises(DebiasError) as raised:
        zoo.load_weights(entry(url=url, sha256='0' * 64))
    message = str(raised.value)
    assert f'{url} cannot be downloaded' in message
    assert str(home / 'tiny_debiased.shapes_textures' / 'model.safetensors') in message
    assert '\n' not in message
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(DebiasError) as raised:
        zoo.load_weights(entry(hf_hub_id='someone/not-cached-here', sha256='0' * 64))
    assert 'model.safetensors of someone/not-cached-here cannot be downloaded from the hub' in str(raised.value)
    assert '\n' not in str(raised.value)


def test_weights_on_the_hub(home, published, monkeypatch):
    path, digest = published
    (home / 'tiny_debiased.shapes_textures').mkdir(parents=True)
    asked = []
    monkeypatch.setattr(zoo, 'hf_hub_download', lambda *names: asked.append(names) or str(path))
    found = zoo.load_weights(entry(hf_hub_id='someone/tiny', sha256=digest))
    assert asked == [('someone/tiny', 'model.safetensors')]
    assert found.keys() == load_file(path).keys()
    path.rename(home / 'tiny_debiased.shapes_textures' / 'model.safetensors')
    assert zoo.load_weights(entry(hf_hub_id='someone/tiny', sha256=digest)).keys() == found.keys()
    assert len(asked) == 1  # What is in the zoo is not asked for again.


def test_default_home(monkeypatch, tmp_path):
    monkeypatch.delenv('TIMM_DEBIAS_HOME', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert zoo.home() == tmp_path / 'timm_debias'


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('a.b: {architecture: resnet50, data: in1k, license: mit, urll: x}', "unknown key 'urll'. Did you mean 'url'"),
        ('a.b: {architecture: resnet50, data: in1k, license: mit}', 'no place of the weights'),
        ('a.b: {architecture: resnet50, data: in1k, license: mit, url: "https://x"}', 'url needs sha256'),
        ('a.b: {architecture: r, data: in1k, license: m, url: "https://x", sha256: 12}', 'url needs sha256'),
        ('a.b: {architecture: r, data: in1k, license: m, url: x, packed: y, sha256: z}', 'one place'),
        ('a.b: {architecture: r, data: in1k, license: m, url: "http://x", sha256: z}', 'http://x: only addresses'),
    ],
)
def test_mistakes_in_the_manifest(tmp_path, monkeypatch, text, words):
    (tmp_path / 'manifest.yaml').write_text(text)
    monkeypatch.setattr(manifest, 'MANIFEST', tmp_path / 'manifest.yaml')
    with pytest.raises(DebiasError, match=re.escape(words)):
        entries()


@pytest.mark.parametrize(
    ('argv', 'words'),
    [
        (['add', 'x.pth'], 'no --name'),
        (['add', '--name', NAME], 'nothing to add'),
        (['add', 'x.pth', '--name', 'resnet50_debiasd.in1k'], "Did you mean 'resnet50_debiased.in1k'"),
        (['add', 'x.pth', '--name', NAME], 'no such file'),
        (['unpack', '--name', NAME], 'no --output'),
        (['list', '--name', NAME], '--name has no effect on list'),
        (
            ['unpack', 'x.pth', '--name', NAME, '--output', 'y'],
            f"'x.pth': unpack takes the model by --name: give --name {NAME}",
        ),
        (['unpack', NAME, '--output', 'y'], f"'{NAME}': unpack takes the model by --name: give --name {NAME}"),
        (['list', 'x.pth'], 'FILE|DIR has no effect on list'),
        (['unpack', '--name', NAME, '--output', 'y'], 'timm-debias weights add'),
    ],
)
def test_mistakes_at_the_command_line(home, capsys, argv, words):
    assert weights(*argv) == 2
    assert words in error(capsys)


def test_the_package_registers_the_names():
    assert timm_debias.debiased.resnet50_debiased is timm.models.model_entrypoint('resnet50_debiased')
