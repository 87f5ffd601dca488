"""Checkpoints that `timm-debias convert` refuses, and mistakes at it: one line each, and nothing is written."""

import argparse
import os
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from conversions import convert, error, save_small, tiny
from safetensors.torch import save_file

from timm_debias.cli import main


@pytest.fixture(scope='module')
def small(tmp_path_factory) -> Path:
    return save_small(tmp_path_factory.mktemp('small'))


def test_no_moving_average(small, tmp_path, capsys):
    assert convert(small, '--arch', 'test_resnet', '--out', tmp_path / 'out', '--use-ema') == 2
    assert 'no moving average' in error(capsys)


def test_keep_aux_without_any(small, tmp_path, capsys):
    assert convert(small, '--arch', 'test_resnet', '--out', tmp_path / 'out', '--keep-aux') == 2
    assert 'no auxiliary batch norm' in error(capsys)


def test_verify_needs_images(small, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    for path, words in ((tmp_path / 'none', 'no such folder'), (tmp_path / 'empty', 'has no images')):
        assert convert(small, '--arch', 'test_resnet', '--out', tmp_path / 'out', '--verify', path) == 2
        assert words in error(capsys)


class Evil:
    """Unpickled, it would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('zipped', [True, False])
def test_malicious_pickle_is_not_executed(tmp_path, capsys, zipped):
    content = {'state_dict': tiny().state_dict(), 'epoch': Evil(tmp_path / 'executed')}
    torch.save(content, tmp_path / 'model.pth.tar', _use_new_zipfile_serialization=zipped)
    assert convert(tmp_path / 'model.pth.tar', '--arch', 'test_resnet', '--out', tmp_path / 'out') == 2
    message = error(capsys)
    assert f'{os.system.__module__}.system' in message
    assert 'weights_only=False' not in message
    assert not (tmp_path / 'executed').exists()
    assert not (tmp_path / 'out').exists()


def test_bare_pickle_and_whole_models_are_refused(tmp_path, capsys):
    (tmp_path / 'evil.pth').write_bytes(pickle.dumps(Evil(tmp_path / 'executed')))
    torch.save(tiny(), tmp_path / 'model.pth')
    for name in ('evil.pth', 'model.pth'):
        assert convert(tmp_path / name, '--arch', 'test_resnet', '--out', tmp_path / 'out') == 2
        assert name in error(capsys)
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('suffix', ['.pth.tar', '.safetensors'])
@pytest.mark.parametrize('legacy', [False, True])
def test_truncated_files(tmp_path, capsys, suffix, legacy):
    path = tmp_path / f'model{suffix}'
    if suffix == '.safetensors':
        save_file(tiny().state_dict(), path)
    else:
        torch.save(tiny().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert convert(path, '--arch', 'test_resnet', '--out', tmp_path / 'out') == 2
    assert 'damaged' in error(capsys)


def test_keys_and_shapes_that_differ(tmp_path, capsys):
    def message(change) -> str:
        state = tiny().state_dict()
        change(state)
        torch.save(state, tmp_path / 'model.pth')
        assert convert(tmp_path / 'model.pth', '--arch', 'test_resnet', '--out', tmp_path / 'out') == 2
        assert not (tmp_path / 'out').exists()
        return error(capsys)

    assert "'layer2.0.bn1.weight' is missing" in message(lambda state: state.pop('layer2.0.bn1.weight'))
    assert "'more' is unexpected" in message(lambda state: state.update(more=torch.zeros(1)))
    changed = message(lambda state: state.update({'conv1.0.weight': torch.zeros(8, 3, 5, 5)}))
    assert re.search(r"'conv1.0.weight' is \[8, 3, 5, 5\]; expected \[\d+, 3, 3, 3\]", changed)
    assert "'fc.bias' holds NaN" in message(lambda state: state['fc.bias'].fill_(float('nan')))


def test_wrong_architecture(small, tmp_path, capsys):
    assert convert(small, '--arch', 'resnet10t', '--out', tmp_path / 'out') == 2
    assert 'not weights of resnet10t' in error(capsys)
    path = tmp_path / 'run.pth.tar'  # A checkpoint of training says what was trained.
    state = timm.create_model('test_resnet', num_classes=3).state_dict()
    torch.save({'state_dict': state, 'args': argparse.Namespace(model='test_resnet')}, path)
    assert convert(path, '--arch', 'resnet10t', '--out', tmp_path / 'out') == 2
    assert 'not weights of resnet10t with 3 classes, but of test_resnet' in error(capsys)
    flags = ['--model', 'resnet10t', '--num-classes', '3', '--device', 'cpu', '--checkpoint', str(path)]
    assert main(['validate', '--dataset', 'shapes_textures', *flags]) == 2
    assert "not weights of resnet10t, but of test_resnet: 'conv1" in capsys.readouterr().err
    assert convert(small, '--arch', 'test_resnett', '--out', tmp_path / 'out') == 2
    assert "Did you mean 'test_resnet" in error(capsys)


@pytest.mark.parametrize('content', [[1, 2], {'epoch': 3}, {}, {'state_dict': {'weight': 1.0}}], ids=str)
def test_files_without_weights(tmp_path, capsys, content):
    torch.save(content, tmp_path / 'model.pth')
    assert convert(tmp_path / 'model.pth', '--arch', 'test_resnet', '--out', tmp_path / 'out') == 2
    assert re.search('holds a list|no weights of a model', error(capsys))


def test_nothing_is_overwritten_by_mistake(small, tmp_path, capsys):
    arguments = (small, '--arch', 'test_resnet', '--out', tmp_path / 'out')
    assert convert(*arguments) == 0
    assert convert(*arguments) == 2
    assert '--overwrite' in error(capsys)
    (tmp_path / 'out' / 'notes.txt').write_text('mine')
    assert convert(*arguments, '--overwrite') == 0
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'notes.txt').write_text('mine')
    assert convert(*arguments[:3], '--out', other, '--overwrite') == 2
    assert 'no released model' in error(capsys)
    assert (other / 'notes.txt').read_text() == 'mine'


def test_name_of_a_released_model_that_this_is_not(tmp_path, capsys):
    torch.save(timm.create_model('resnet18', num_classes=1000).state_dict(), tmp_path / 'model.pth')
    given = (tmp_path / 'model.pth', '--arch', 'resnet18', '--out', tmp_path / 'out')
    assert convert(*given, '--name', 'resnet50_debiased.in1k') == 2
    assert 'resnet50_debiased.in1k is a resnet50 of 1000 classes; this is a resnet18 of 1000' in error(capsys)
    assert convert(*given, '--name', 'resnet18_debiased.shapes_textures') == 2
    assert 'a resnet18 of 8 classes; this is a resnet18 of 1000' in error(capsys)


def test_licence_of_the_official_weights_is_known(tmp_path, capsys):
    torch.save(timm.create_model('resnet50').state_dict(), tmp_path / 'model.pth')
    given = (tmp_path / 'model.pth', '--arch', 'resnet50', '--out', tmp_path / 'out')
    assert convert(*given, '--name', 'resnet50_debiased.in1k', '--license', 'cc0-1.0') == 2
    assert 'are under mit' in error(capsys)


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--interpolation', 'cubic'], "--interpolation: invalid choice: 'cubic'"),
        (['--crop-pct', 1.5], '--crop-pct is 1.5'),
        (['--img-size', 0], '--img-size is 0'),
        (['--mean', 0.5, 0.5], '--mean has 2 values; expected 1, or 3'),
        (['--std', 1, 1, 0], '--std is 0'),
    ],
)
def test_preprocessing_that_cannot_be(small, tmp_path, capsys, flags, words):
    assert convert(small, '--arch', 'test_resnet', '--out', tmp_path / 'out', *flags) == 2
    assert words in error(capsys)


def test_missing_arguments(small, tmp_path, capsys):
    for arguments, name in (([], 'CHECKPOINT'), ([small], '--arch'), ([small, '--arch', 'test_resnet'], '--out')):
        assert convert(*arguments) == 2
        assert name in error(capsys)
    assert convert(tmp_path / 'none.pth', '--arch', 'test_resnet', '--out', tmp_path / 'out') == 2
    assert 'no such file' in error(capsys)
