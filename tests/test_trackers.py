"""TensorBoard, and Weights & Biases by a stand-in for its package."""

import importlib.machinery
import sys
import types

import pytest
from tiny import FLAGS, make_folder
from training_runs import finished, killed, metrics, train_command

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


@pytest.mark.parametrize(
    ('flag', 'package', 'install'),
    [('--log-wandb', 'wandb', 'wandb'), ('--log-tensorboard', 'tensorboard', "'timm-debias[tensorboard]'")],
)
def test_without_the_package(tmp_path, monkeypatch, capsys, flag, package, install):
    find = importlib.util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == package else find(name))
    assert main(['train', '--data-dir', str(tmp_path), *FLAGS, flag]) == 2
    assert f'pip install {install}' in capsys.readouterr().err


def scalars(folder, tag: str) -> list[tuple[int, float]]:
    """Return what TensorBoard shows, by its own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard(training_images, tmp_path):
    """Killed and gone on with, it shows each update once: those of metrics.jsonl."""
    pytest.importorskip('tensorboard')
    argv = train_command(training_images, tmp_path, '--debias', '--log-tensorboard', '--log-interval', '1')
    killed([*argv, '--resume', 'auto'], 8, tmp_path / 'log-killed')
    finished([*argv, '--resume', 'auto'], tmp_path / 'log')
    rows = metrics(tmp_path / 'run')
    for tag, name in (('train/loss_stylised', 'loss_stylised'), ('epoch/eval_top1', 'eval_top1')):
        shown = scalars(tmp_path / 'run' / 'tensorboard', tag)
        expected = [(row['step'], row[name]) for row in rows if name in row]
        assert [step for step, _ in shown] == [step for step, _ in expected]
        assert [value for _, value in shown] == pytest.approx([value for _, value in expected], rel=1e-5)
    assert len(scalars(tmp_path / 'run' / 'tensorboard', 'train/images_per_second')) == 15
