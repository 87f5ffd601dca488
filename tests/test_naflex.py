"""NaFlex loaders: sequences of patches of images of any size."""

import json

import pytest
import timm
import torch
from tiny import FLAGS, make_folder

from timm_debias.cli import main

MODEL = ['--model', 'naflexvit_base_patch16_gap', '--model-kwargs', 'embed_dim=32', 'depth=1', 'num_heads=2']
NAFLEX = ['--naflex-loader', '--naflex-train-seq-lens', '4', '9', '--naflex-max-seq-len', '9']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp('naflex') / 'data')


def run(folder, output, *argv) -> int:
    return main(['train', '--data-dir', str(folder), *FLAGS, '--output', str(output), '--experiment', 'a', *argv])


def test_training(folder, tmp_path, monkeypatch, capsys):
    seen = []

    def watch(self, patches, *args, **kwargs):
        seen.append((self.training, len(patches['patches']), patches['patches'].shape[1]))
        return forward(self, patches, *args, **kwargs)

    forward = timm.models.naflexvit.NaFlexVit.forward
    monkeypatch.setattr('timm.models.naflexvit.NaFlexVit.forward', watch)
    monkeypatch.setattr('timm_debias.training.train.check_input_size', lambda *_: None)
    assert run(folder, tmp_path, *MODEL, *NAFLEX, '--mixup', '0.2', '--reprob', '0.5', '--mixup-off-epoch', '1') == 0
    training = {(count, length) for is_training, count, length in seen if is_training}
    assert {length for _, length in training} <= {4, 9}
    # A batch has as many tokens as 4 images of the longest sequence.
    assert all(count <= 4 * 9 // length for count, length in training)
    assert sum(count for is_training, count, _ in seen if is_training) >= 12
    assert {length for is_training, _, length in seen if not is_training} == {9}
    results = json.loads(capsys.readouterr().out.split('--result\n')[1])
    assert all(torch.tensor(entry['train']['loss']).isfinite() for entry in results)


def test_validation_measures_the_same(folder, tmp_path, capsys):
    assert run(folder, tmp_path, *MODEL, *NAFLEX) == 0
    trained = {entry['epoch']: entry for entry in json.loads(capsys.readouterr().out.split('--result\n')[1])}
    arguments = ['--data-dir', str(folder), *MODEL, '--num-classes', '3', '--device', 'cpu', '-j', '0', '-b', '4']
    arguments += ['--checkpoint', str(tmp_path / 'a' / 'last.pth.tar'), '--naflex-loader', '--naflex-max-seq-len', '9']
    assert main(['validate', *arguments]) == 0
    measured = json.loads(capsys.readouterr().out.split('--result\n')[1])
    assert measured['top1'] == pytest.approx(trained[1]['validation']['top1'], abs=1e-4)


def test_patch_sizes(folder, tmp_path, capsys):
    sizes = ['--naflex-patch-sizes', '8', '16', '--naflex-patch-size-probs', '0.5', '0.5']
    assert run(folder, tmp_path, *MODEL, *NAFLEX, *sizes) == 2
    assert 'enable_patch_interpolator' in capsys.readouterr().err
    assert run(folder, tmp_path, *MODEL, 'enable_patch_interpolator=True', *NAFLEX, *sizes) == 0


def test_model_that_takes_images(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('timm_debias.training.epochs.train_one_epoch', lambda *_: pytest.fail('training has started'))
    assert run(folder, tmp_path, *NAFLEX) == 2
    assert '--naflex-loader needs a model that takes patches' in capsys.readouterr().err
