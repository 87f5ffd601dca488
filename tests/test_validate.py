"""`validate.py` as its user runs it."""

import argparse
import csv
import errno
import json
import os
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from timm_debias.cli import main
from timm_debias.data.shapes_textures import ShapesTextures
from timm_debias.evaluate import evaluate_conflict

COMMON = ['--model', 'test_resnet', '--device', 'cpu', '-j', '0', '--img-size', '32', '-b', '5']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder of 4 classes × 3 images, and a checkpoint of a random model of 4 classes."""
    root = tmp_path_factory.mktemp('data')
    generator = np.random.default_rng(0)
    for name in 'abcd':
        (root / 'validation' / name).mkdir(parents=True)
        for number in range(3):
            pixels = generator.integers(0, 256, (36, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / 'validation' / name / f'{number}.png')
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=4)
    torch.nn.init.normal_(model.fc.weight)
    torch.save({'state_dict': model.state_dict(), 'epoch': 0}, root / 'model.pth.tar')
    return root


def run(*argv) -> int:
    return main(['validate', *map(str, argv)])


def result(capsys) -> dict:
    return json.loads(capsys.readouterr().out.split('--result\n')[1])


def test_accuracy_against_a_plain_loop(data, capsys, tmp_path):
    table = tmp_path / 'results.csv'
    arguments = ['--data-dir', data, '--num-classes', 4, '--checkpoint', data / 'model.pth.tar', *COMMON]
    assert run(*arguments, '--results-file', table) == 0
    row = result(capsys)
    model = timm.create_model('test_resnet', num_classes=4, checkpoint_path=str(data / 'model.pth.tar')).eval()
    config = timm.data.resolve_data_config({'img_size': 32}, model=model)
    transform = timm.data.create_transform(**config)
    dataset = timm.data.create_dataset('', root=str(data), split='validation', transform=transform)
    with torch.no_grad():
        right = sum(int(model(image[None]).argmax()) == label for image, label in dataset)
    assert row['top1'] == round(100 * right / 12, 4)
    assert row['top1_err'] == round(100 - row['top1'], 4)
    assert row['top5'] == 100
    assert list(row) == [
        'model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation'
    ]  # fmt: skip
    (written,) = csv.DictReader(table.open())
    assert float(written['top1']) == row['top1']


def test_shape_bias_of_the_embedded_data_set(tmp_path, capsys):
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=8)
    torch.nn.init.normal_(model.fc.weight)
    path = tmp_path / 'model.pth.tar'
    torch.save(model.state_dict(), path)
    table = tmp_path / 'results.json'
    arguments = ['--dataset', 'shapes_textures', '--num-samples', 56, '--num-classes', 8, '--checkpoint', path, *COMMON]
    assert run(*arguments, '--results-file', table, '--results-format', 'json') == 0
    row = result(capsys)
    assert row == json.loads(table.read_text())
    assert row['crop_pct'] == 1.0

    config = timm.data.resolve_data_config({'img_size': 32, 'crop_pct': 1.0}, model=model)
    dataset = ShapesTextures('conflict', img_size=32, num_samples=56, transform=timm.data.create_transform(**config))
    with torch.no_grad():
        predictions = [int(model.eval()(image[None]).argmax()) for image, _ in dataset]
    shape = sum(p == s for p, s in zip(predictions, dataset.shape_labels, strict=True))
    texture = sum(p == t for p, t in zip(predictions, dataset.texture_labels, strict=True))
    assert shape + texture > 0
    assert row['conflict_shape'] == round(100 * shape / 56, 4)
    assert row['conflict_texture'] == round(100 * texture / 56, 4)
    assert row['shape_bias'] == round(100 * shape / (shape + texture), 4)
    assert run(*arguments, '--split', 'conflict') == 0
    alone = result(capsys)
    assert 'top1' not in alone
    assert alone['shape_bias'] == row['shape_bias']


class Constant(torch.nn.Module):
    """Always answers class 0."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

    def forward(self, images):
        return self.logits.expand(len(images), 3)


def test_conflict_counts():
    targets = torch.tensor([[0, 1], [1, 0], [2, 1], [0, 2]])
    batches = [(torch.zeros(2, 3, 4, 4), targets[:2]), (torch.zeros(2, 3, 4, 4), targets[2:])]
    metrics = evaluate_conflict(Constant(), batches, torch.device('cpu'))
    assert metrics == {'conflict_shape': 50.0, 'conflict_texture': 25.0, 'shape_bias': pytest.approx(200 / 3)}
    undecided = [(torch.zeros(1, 3, 4, 4), torch.tensor([[1, 2]]))]
    assert evaluate_conflict(Constant(), undecided, torch.device('cpu'))['shape_bias'] is None


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--model', 'resnet51'], ["unknown model 'resnet51'"]),
        (['--checkpoint', 'nowhere'], ["--checkpoint 'nowhere'", 'no such file']),
        (['--model', 'test_vit', '--model-kwargs', 'img_size=32'], ["not weights of test_vit: 'cls_token' is missing"]),
        (['--num-classes', '3'], ['has 4 classes and the model 3: give --num-classes 4']),
        (['--split', 'tset'], ['tset']),
        (['--results-file', 'nowhere/a.csv'], ["'nowhere/a.csv'", 'no such folder']),
        (['-b', '0'], ['--batch-size is 0']),
        (['-j', '-1'], ['--workers is -1']),
        (['--log-freq', '-1'], ['--log-freq is -1']),
        (['--img-size', '0'], ['--img-size is 0']),
        (['--crop-pct', '0'], ['--crop-pct is 0']),
        (['--crop-pct', '1.5'], ['--crop-pct is 1.5']),
        (['--crop-mode', 'middle'], ['--crop-mode', 'squash']),
        (['--interpolation', 'nearestt'], ['--interpolation', 'bilinear']),
        (['--mean', '0.5', '0.5'], ['--mean has 2 values']),
        (['--seed', '-1'], ['--seed is -1']),
        (['--amp-dtype', 'bfloat16'], ['--amp-dtype', '--amp']),
        (['--results-format', 'json'], ['--results-file']),
        (['--torchcompile-mode', 'default'], ['--torchcompile, which is not given']),
        (['--torchcompile', 'nobackend'], ['--torchcompile', 'nobackend']),
        (['--use-ema'], ['model.pth.tar', 'no moving average']),
        (['--device', 'gpu'], ["--device 'gpu'"]),
        (['--dataset', 'shapes_textures', '--data-dir', ''], ['8 classes']),
    ],
    ids=lambda value: ' '.join(value) if value[0].startswith('-') else '',
)
def test_mistakes(data, capsys, flags, parts):
    arguments = ['--data-dir', data, '--num-classes', 4, '--checkpoint', data / 'model.pth.tar', *COMMON]
    assert run(*arguments, *flags) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith('timm-debias validate: error: ')
    for part in parts:
        assert part in message


def test_moving_average_of_a_checkpoint(data, tmp_path, capsys):
    zeros = {name: torch.zeros_like(value) for name, value in timm.create_model('test_resnet').state_dict().items()}
    zeros = {name: value[:4] if name.startswith('fc.') else value for name, value in zeros.items()}
    first, second = ({**zeros, 'fc.bias': torch.eye(4)[answer]} for answer in (0, 1))
    contents = {'state_dict': first, 'state_dict_ema': second, 'args': argparse.Namespace(model='test_resnet')}
    torch.save(contents, tmp_path / 'model.pth')  # timm keeps the flags of a run in its checkpoints.
    (tmp_path / 'b').symlink_to(data / 'validation' / 'a')  # All images are of class 0.
    arguments = ['--data-dir', tmp_path, '--num-classes', 4, '--checkpoint', tmp_path / 'model.pth', *COMMON]
    for flags, top1 in (([], 100), (['--use-ema'], 0)):
        assert run(*arguments, *flags) == 0
        assert result(capsys)['top1'] == top1


def test_images_without_class_folders(data, tmp_path, capsys):
    """timm would take them for a class of their own, before or between the others."""
    for number, path in enumerate(sorted((data / 'validation').glob('*/*'))):
        (tmp_path / f'{number}.png').write_bytes(path.read_bytes())
    (tmp_path / 'a').mkdir()
    (tmp_path / '0.png').rename(tmp_path / 'a' / '0.png')
    arguments = ['--num-classes', 4, '--checkpoint', data / 'model.pth.tar', *COMMON]
    assert run('--data-dir', tmp_path, *arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for part in (str(tmp_path), '11 images without class folders', 'move each into a folder named by its class'):
        assert part in message


def test_fewer_classes_than_the_model(data, tmp_path, capsys):
    for name in 'bd':
        (tmp_path / 'validation').mkdir(exist_ok=True)
        (tmp_path / 'validation' / name).symlink_to(data / 'validation' / name)
    arguments = ['--data-dir', tmp_path, '--num-classes', 4, '--checkpoint', data / 'model.pth.tar', *COMMON]
    assert run(*arguments) == 0
    assert 'The data has 2 classes and the model 4' in capsys.readouterr().err
    (tmp_path / 'classes.txt').write_text('a\nb\nc\nd\n')
    assert run(*arguments, '--class-map', tmp_path / 'classes.txt') == 0
    assert 'The data has' not in capsys.readouterr().err


def test_model_that_does_not_take_the_size(data, tmp_path, capsys):
    torch.save(timm.create_model('test_vit', num_classes=4).state_dict(), tmp_path / 'vit.pth')
    arguments = ['--data-dir', data, '--num-classes', 4, *COMMON, '--model', 'test_vit']
    arguments += ['--checkpoint', tmp_path / 'vit.pth', '--model-kwargs', 'dynamic_img_size=False']
    assert run(*arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'test_vit does not take 32×32 images (' in message
    assert message.endswith('see --img-size and --model-kwargs img_size=N')


def test_results_file_that_cannot_be_written(data, tmp_path, capsys, monkeypatch):
    """Found out before measuring where it can be; else what was measured is printed all the same."""
    arguments = ['--data-dir', data, '--num-classes', 4, '--checkpoint', data / 'model.pth.tar', *COMMON]
    arguments += ['--results-file', tmp_path / 'a.csv']
    (tmp_path / 'a.csv').mkdir()
    assert run(*arguments) == 2
    assert "a.csv' is a folder" in capsys.readouterr().err
    (tmp_path / 'a.csv').rmdir()
    with monkeypatch.context() as patch:
        patch.setattr('os.access', lambda path, mode: False)  # Whoever runs tests as root may write anywhere.
        assert run(*arguments) == 2
        assert f'--results-file {tmp_path}: {tmp_path} cannot be written to' in capsys.readouterr().err

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr('timm_debias.validation.main.atomic_path', full)
    assert run(*arguments) == 2
    ended = capsys.readouterr()
    assert json.loads(ended.out.split('--result\n')[1])['model'] == 'test_resnet'
    assert ended.err.splitlines()[-1].endswith('a.csv cannot be written: No space left on device')


@pytest.mark.parametrize('content', [b'', b'torn', b'not a checkpoint'])
def test_torn_checkpoint(data, tmp_path, capsys, content):
    path = tmp_path / 'model.pth.tar'
    path.write_bytes(content)
    assert run('--data-dir', data, '--num-classes', 4, '--checkpoint', path, *COMMON) == 2
    assert f'--checkpoint {path}' in capsys.readouterr().err


@pytest.mark.parametrize('suffix', ['.pth.tar', '.safetensors'])
def test_weights_that_are_not_finite(data, tmp_path, capsys, suffix):
    """A diverged model would be measured as one that guesses."""
    state = timm.create_model('test_resnet', num_classes=4).state_dict()
    state['bn1.running_var'][0] = float('nan')
    path = tmp_path / f'model{suffix}'
    save_file(state, path) if suffix == '.safetensors' else torch.save({'state_dict': state}, path)
    assert run('--data-dir', data, '--num-classes', 4, '--checkpoint', path, *COMMON) == 2
    assert f"--checkpoint {path}: 'bn1.running_var' holds NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--data-dir', 'DATA', '--split', 'tset'], "no folder for the split 'tset' (folders there: validation)"),
        (['--data-dir', 'nowhere'], "--data-dir 'nowhere' does not exist"),
        (['--dataset', 'shapes_textures', '--split', 'tset'], "no split 'tset'. Did you mean 'test'?"),
    ],
)
def test_data_is_looked_for_before_weights(data, capsys, monkeypatch, flags, words):
    monkeypatch.setattr('timm_debias.validation.main.build_model', lambda config: pytest.fail('fetches weights'))
    flags = [data if flag == 'DATA' else flag for flag in flags]
    assert run('--device', 'cpu', '--model', 'resnet18', *flags) == 2
    assert words in capsys.readouterr().err


def test_pretrained_weights_out_of_reach(data, capsys, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    assert run('--data-dir', data, '--device', 'cpu', '--model', 'resnet18') == 2
    assert '--checkpoint PATH' in capsys.readouterr().err


def test_image_that_cannot_be_read(data, tmp_path, capsys, monkeypatch):
    """Beyond the sample that is decoded before: an error that names it, not another image in its place as in timm."""
    shutil.copytree(data, tmp_path / 'data')
    (tmp_path / 'data' / 'validation' / 'b' / '1.png').write_bytes(b'')
    monkeypatch.setattr('timm_debias.validation.main.check_image_folder', lambda dataset: None)
    arguments = ['--data-dir', tmp_path / 'data', '--num-classes', 4, '--checkpoint', data / 'model.pth.tar', *COMMON]
    assert run(*arguments, '-j', 1) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert 'unreadable image' in last
    assert last.endswith('b/1.png (cannot identify image file): mend or remove it')
