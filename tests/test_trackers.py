"""Weights & Biases, by a stand-in for its package."""

import importlib.machinery
import sys
import types

import pytest
from tiny import FLAGS, make_folder

from timm_debias.cli import main


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType('wandb')
    module.__spec__ = importlib.machinery.ModuleSpec('wandb', None)
    module.begun, module.logged = [], []
    module.init = lambda **options: module.begun.append(options)
    module.log = module.logged.append
    monkeypatch.setitem(sys.modules, 'wandb', module)
    monkeypatch.setattr('timm.utils.summary.wandb', module, raising=False)
    return module


def test_metrics_of_each_epoch(tmp_path, wandb):
    make_folder(tmp_path / 'data')
    arguments = ['--data-dir', str(tmp_path / 'data'), *FLAGS, '--output', str(tmp_path), '--experiment', 'a']
    assert main(['train', *arguments, '--log-wandb', '--wandb-project', 'p', '--wandb-tags', 'x', 'y']) == 0
    (begun,) = wandb.begun
    assert (begun['project'], begun['name'], begun['tags'], begun['id']) == ('p', 'a', ['x', 'y'], None)
    assert begun['config']['model'] == 'test_resnet'
    assert [row['epoch'] for row in wandb.logged] == [0, 1]
    assert {'train_loss', 'eval_top1', 'lr'} <= set(wandb.logged[0])


def test_going_on_with_a_run_needs_one(tmp_path, wandb, capsys):
    make_folder(tmp_path / 'data')
    arguments = ['--data-dir', str(tmp_path / 'data'), *FLAGS, '--output', str(tmp_path), '--log-wandb']
    assert main(['train', *arguments, '--wandb-resume-id', 'i']) == 2
    assert '--wandb-resume-id' in capsys.readouterr().err


def test_without_the_package(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == 'wandb' else find(name))
    assert main(['train', '--data-dir', str(tmp_path), *FLAGS, '--log-wandb']) == 2
    assert 'pip install wandb' in capsys.readouterr().err
