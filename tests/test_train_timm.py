"""What timm's less common training flags do, in whole runs."""

import csv
import json
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml
from tiny import FLAGS, make_folder

from timm_debias.cli import main
from timm_debias.training import loop


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp('data') / 'data')


@pytest.fixture
def run(folder, tmp_path):
    """Runs train.py and returns the folder of the run."""

    def run(*argv, name='a', code=0):
        arguments = ['--data-dir', folder, *FLAGS, '--output', tmp_path, '--experiment', name, *argv]
        assert main(['train', *map(str, arguments)]) == code
        return tmp_path / name

    return run


@pytest.fixture
def batches(monkeypatch):
    """The shapes of images and targets of every training step."""
    seen = []
    to_device = loop._to_device

    def watch(run, images, target):
        images, target = to_device(run, images, target)
        seen.append((images.clone(), target.clone()))
        return images, target

    monkeypatch.setattr(loop, '_to_device', watch)
    return seen


def weights(run_dir, name='last'):
    return torch.load(run_dir / f'{name}.pth.tar', weights_only=False)['state_dict']


def epochs(run_dir) -> list[int]:
    with open(run_dir / 'summary.csv', newline='') as file:
        return [int(row['epoch']) for row in csv.DictReader(file)]


def test_splits_of_augmented_copies(run, batches):
    """Each image comes three times with its label; only the copies are erased; each split has its batch norm."""
    erase = ['--reprob', '1', '--remode', 'const', '--resplit']
    run_dir = run('--aug-splits', 3, '--jsd-loss', '--split-bn', '--color-jitter', 0, *erase)
    for images, target in batches:
        assert images.shape == (12, 3, 32, 32)
        first, second, third = target.chunk(3)
        assert torch.equal(first, second)
        assert torch.equal(first, third)
        erased = [bool((image == 0).all(dim=0).any()) for image in images]
        assert erased == [False] * 4 + [True] * 8
    state = weights(run_dir)
    assert sum('aux_bn.1.running_mean' in key for key in state) > 5
    assert not any('aux_bn.2' in key for key in state)


@pytest.mark.parametrize('debias', [False, True])
def test_image_sizes_that_change(run, batches, debias):
    flags = ['--train-img-sizes', 32, 64, '--train-batch-sizes', 4, 2, '--train-batches-per-epoch', 6]
    run(*flags, '--variable-batch-loss-scale', 'sqrt', *(['--debias'] if debias else []))
    assert len(batches) == 12
    assert {tuple(images.shape) for images, _ in batches} == {(4, 3, 32, 32), (2, 3, 64, 64)}


def test_a_size_that_the_model_does_not_take(run, capsys):
    model = ['--model', 'vit_tiny_patch16_224', '--model-kwargs', 'img_size=32', 'depth=1']
    run(*model, '--train-img-sizes', 32, 48, code=2)
    assert 'does not take 3×48×48 images' in capsys.readouterr().err


def test_progressive_sizes(run, batches):
    flags = ['--train-img-sizes', 32, 48, 64, '--train-size-schedule', 'progressive', '--epochs', 3]
    run(*flags, '--train-size-schedule-spread', 0, '--train-size-random-mix', 0)
    sizes = [images.shape[-1] for images, _ in batches]
    assert sizes == [32] * 3 + [48] * 3 + [64] * 3


def test_rate_from_the_mean_batch(run):
    """The base rate 0.1 stands for 256 images; the mean of batches of 4 and 2 is 3."""
    flags = ['--train-img-sizes', 32, 64, '--train-batch-sizes', 4, 2, '--sched', 'none', '--epochs', 1]
    run_dir = run(*flags, '--lr', 0)
    with open(run_dir / 'summary.csv', newline='') as file:
        assert float(next(csv.DictReader(file))['lr']) == pytest.approx(0.1 * 3 / 256)


@pytest.mark.filterwarnings('ignore:.*torch.jit.*')
def test_torchscript_trains_as_without(run):
    plain, scripted = run(name='plain'), run('--torchscript', '--fuser', 'te', name='scripted')
    for key, value in weights(plain).items():
        torch.testing.assert_close(weights(scripted)[key], value)
    timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(scripted / 'last.pth.tar'))


def test_model_that_cannot_be_scripted(run, monkeypatch, capsys):
    def fail(model):
        raise Exception('no lambdas')  # What its frontend raises is no RuntimeError.

    monkeypatch.setattr('torch.jit.script', fail)
    run('--torchscript', code=2)
    assert '--torchscript: test_resnet cannot be scripted (no lambdas)' in capsys.readouterr().err


def test_stop_and_milestones(run):
    """A run that stops has the weights of one that goes on: the schedule does not change."""
    stopped = run('--epochs', 4, '--stop-epoch', 2, '--save-epochs', 1, 2, name='stopped')
    assert epochs(stopped) == [0, 1]
    whole = run('--epochs', 4, '--save-epochs', 2, name='whole')
    first, second = weights(stopped), weights(whole, 'milestone-2')
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (stopped / 'milestone-1.pth.tar').exists()
    assert not (whole / 'milestone-1.pth.tar').exists()


def test_milestones_between_validations(run):
    """A milestone and the epoch to stop at are validated and saved, whatever the interval."""
    run_dir = run('--epochs', 5, '--stop-epoch', 4, '--val-interval', 3, '--save-epochs', 1)
    assert epochs(run_dir) == [0, 2, 3]


@pytest.mark.parametrize('flags', [['--stop-epoch', 3], ['--save-epochs', 1, 3]], ids=lambda flags: flags[0])
def test_epochs_beyond_the_schedule(run, flags, capsys):
    run(*flags, code=2)
    assert f'{flags[0]} is 3 and the schedule has 2 epochs' in capsys.readouterr().err


def test_resume_auto(run):
    flags = ['--debias', '--resume', 'auto', '--epochs', 3]
    run_dir = run(*flags, '--stop-epoch', 1)
    assert epochs(run_dir) == [0]
    run(*flags)
    assert epochs(run_dir) == [0, 1, 2]
    assert yaml.safe_load((run_dir / 'args.yaml').read_text())['resume'] == 'auto'
    run(*flags)
    assert epochs(run_dir) == [0, 1, 2]


@pytest.mark.parametrize(
    ('flags', 'rates'),
    [
        # Two epochs at the rate, then a decay over two to min_lr, which the last one does not reach.
        (['--sched', 'wsd', '--decay-epochs', 2, '--lr-decay-fn', 'linear'], [1, 1, 1, 0.5]),
        (['--sched', 'wsd', '--decay-epochs', 2], [1, 1, 1, 1 - 0.5**0.5]),
        (['--sched', 'rsqrt', '--decay-epochs', 1, '--lr-stable-timescale', 1], [1, 2**-0.5, 3**-0.5, 4**-0.5]),
    ],
    ids=str,
)
def test_schedules(run, flags, rates):
    run_dir = run(*flags, '--epochs', 4, '--lr', 0.01)
    with open(run_dir / 'summary.csv', newline='') as file:
        found = [float(row['lr']) for row in csv.DictReader(file)]
    assert found == pytest.approx([0.01 * rate for rate in rates])


def test_a_decay_longer_than_the_schedule(run, capsys):
    run('--sched', 'wsd', '--decay-epochs', 9, code=2)
    assert '--sched wsd: ' in capsys.readouterr().err


def test_pretrained_cfg_overlay(run, batches):
    run('--pretrained-cfg-overlay', 'mean=(0,0,0)', 'std=(1,1,1)', '--epochs', 1)
    images = torch.cat([images for images, _ in batches])
    assert 0 <= images.min() <= images.max() <= 1
    run('--pretrained-cfg-overlay', 'nonsense=1', name='b', code=2)


def test_waiting_for_the_device(monkeypatch):
    waited = []
    monkeypatch.setattr('torch.cuda.synchronize', lambda: waited.append(1))
    for device, asked, times in (('cuda', True, 1), ('cuda', False, 0), ('cpu', True, 0)):
        waited.clear()
        machine = SimpleNamespace(device=torch.device(device))
        run = SimpleNamespace(machine=machine, config=SimpleNamespace(device=SimpleNamespace(synchronize_step=asked)))
        loop._synchronize(run)
        assert len(waited) == times


def test_device_modules(run, tmp_path, monkeypatch, capsys):
    (tmp_path / 'my_backend.py').write_text('LOADED = True\n')
    monkeypatch.syspath_prepend(tmp_path)
    run('--device-modules', 'my_backend', '--epochs', 1)
    import my_backend

    assert my_backend.LOADED
    run('--device-modules', 'no_such_backend', code=2)
    assert '--device-modules: no_such_backend' in capsys.readouterr().err


class Labels(torch.utils.data.Dataset):
    """Images with lists of labels, as timm's readers of Hugging Face data sets give them."""

    def __init__(self, target_transform):
        self.transform, self.target_transform = None, target_transform

    def __len__(self):
        return 8

    def __getitem__(self, index):
        from PIL import Image

        image = Image.new('RGB', (40, 40), (200, 30 * index, 50))
        return self.transform(image), self.target_transform([[0, 2], [], [1], [0, 1, 2]][index % 4])


@pytest.mark.parametrize('flags', [[], ['--loss', 'asl', '--mixup', '0.2', '--model-ema']], ids=str)
def test_any_number_of_labels(run, batches, monkeypatch, capsys, flags):
    options = []

    def create(name, target_transform, **rest):
        options.append(rest)
        return Labels(target_transform)

    monkeypatch.setattr('timm.data.create_dataset', create)
    run('--task', 'multilabel', '--dataset', 'hfds/x', '--data-dir', '', '--target-key', 'labels', *flags)
    assert {option['target_key'] for option in options} == {'labels'}
    for _, target in batches:
        assert target.shape == (4, 3)
        assert target.dtype == torch.float32
        assert flags or set(target.unique().tolist()) <= {0.0, 1.0}
    metrics = json.loads(capsys.readouterr().out.split('--result\n')[1])[0]['validation']
    assert {'map', 'micro_f1', 'macro_f1', 'sample_f1'} <= set(metrics)
    assert 'top1' not in metrics
