"""The models that the package ships: they load offline, and measure what their cards say."""

import json
import re
import socket
from pathlib import Path

import pytest
import timm

from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.hashing import hash_file, hash_weights
from timm_debias.weights.manifest import entries
from timm_debias.weights.release import evaluation_sections
from timm_debias.weights.zoo import SHIPPED

ENTRIES = [entry for entry in entries().values() if entry.packed]
NAMES = [entry.name for entry in ENTRIES]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError('no network')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setenv('TIMM_DEBIAS_HOME', str(tmp_path / 'home'))


def card(name: str) -> str:
    return (SHIPPED / f'{name}.md').read_text(encoding='utf-8')


def figures(name: str) -> dict[str, str]:
    return dict(re.findall(r'\| shapes_textures \| (\w+) \| ([\d.]+)', card(name)))


def test_files_of_the_package():
    assert {path.name for path in SHIPPED.iterdir()} == {f'{name}{end}' for name in NAMES for end in ('.npz', '.md')}
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 40e6
    assert set(NAMES) == {
        f'resnet18_debiased.{kind}shapes_textures' for kind in ('', 'plain_', 'shape_biased_', 'texture_biased_')
    }


@pytest.mark.parametrize('entry', ENTRIES, ids=NAMES)
def test_loads_offline(offline, entry, tmp_path):
    model = timm.create_model(entry.name, pretrained=True)
    assert entry.name in timm.list_models('*debiased*', pretrained=True)
    assert model.num_classes == 8
    assert model.pretrained_cfg['input_size'] == (3, 64, 64)
    assert model.pretrained_cfg['architecture'] == 'resnet18'
    text = card(entry.name)
    assert hash_weights(model)[:12] in text
    assert hash_file(SHIPPED / entry.packed) in text
    assert 'python train.py -c hparams/zoo_resnet18_shapes_textures.yaml' in text
    assert not (tmp_path / 'home').exists()


def test_unpacked_it_needs_only_timm(offline, tmp_path):
    assert main(['weights', 'unpack', '--name', NAMES[0], '--output', str(tmp_path / 'out')]) == 0
    plain = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    assert hash_weights(plain) == hash_weights(timm.create_model(NAMES[0], pretrained=True))
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['label_names'][0] == 'disc+stripes'
    text = (tmp_path / 'out' / 'README.md').read_text()
    assert text.startswith(card(NAMES[0]).partition('## Files')[0])
    assert hash_file(tmp_path / 'out' / 'model.safetensors') in text
    assert '.npz' not in text


def test_list(offline, capsys):
    assert main(['weights', 'list']) == 0
    listed = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in listed if row[2] == 'shipped'] == NAMES
    assert len(listed) == len(entries())


def test_nothing_to_add(offline, capsys):
    assert main(['weights', 'add', 'file', '--name', NAMES[0]]) == 2
    assert 'shipped with this package' in capsys.readouterr().err


def test_damaged_file(offline, tmp_path, monkeypatch):
    data = bytearray((SHIPPED / f'{NAMES[0]}.npz').read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / f'{NAMES[0]}.npz').write_bytes(data)
    monkeypatch.setattr('timm_debias.weights.zoo.SHIPPED', tmp_path)
    with pytest.raises(DebiasError, match=r'missing or damaged \(SHA-256\); install timm_debias anew'):
        timm.create_model(NAMES[0], pretrained=True)


def test_table_of_the_documentation():
    """docs/weights.md gives the figures of the cards."""
    text = (Path(__file__).parents[1] / 'docs/weights.md').read_text(encoding='utf-8')
    rows = dict(re.findall(r'\| `(resnet18_debiased\.\w+)` \| .* \| ([\d.]+ \| [\d.]+ \| [\d.]+ \| [\d.]+) \|', text))
    keys = ('top1', 'shape', 'texture', 'shape_bias')
    assert rows == {name: ' | '.join(figures(name)[key] for key in keys) for name in NAMES}


def test_into_another_number_of_classes(offline):
    whole = timm.create_model(NAMES[0], pretrained=True)
    model = timm.create_model(NAMES[0], pretrained=True, num_classes=3)
    assert model.fc.weight.shape[0] == 3
    assert (model.layer4[1].conv2.weight == whole.layer4[1].conv2.weight).all()


@pytest.mark.slow
def test_figures_of_the_cards(offline, tmp_path, capsys):
    """validate.py, told nothing but the names, gives every figure of every card."""
    (tmp_path / 'models.txt').write_text('\n'.join(NAMES))
    arguments = ['--models', str(tmp_path / 'models.txt'), '--results-dir', str(tmp_path / 'results')]
    arguments += ['--benchmarks', 'shapes_textures', '--device', 'cpu', '-j', '0', '-b', '64']
    assert main(['validate', *arguments]) == 0
    for name in NAMES:
        measured = json.loads((tmp_path / 'results' / name / 'results.json').read_text())
        entry = measured['benchmarks']['shapes_textures']
        found = figures(name)
        assert set(found) >= set(entry['headline'])
        assert found == {key: f'{entry["metrics"][key]:.2f}' for key in found}
        assert evaluation_sections([measured])[0].text in card(name)  # Intervals and figures by category too.
        assert measured['img_size'] == 64
