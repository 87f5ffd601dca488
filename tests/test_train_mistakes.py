"""Mistakes at `train.py`: one line that says what to do, exit code 2, before any training."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from timm_debias.cli import main

COMMON = ['--model', 'test_resnet', '--num-classes', '2', '--img-size', '32', '--device', 'cpu', '-j', '0', '-b', '4']


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    root = tmp_path / 'data'
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{number}.jpg')
    return root


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Run train.py, expect a refusal that contains each of `parts`, and nothing trained."""
    monkeypatch.setattr('timm_debias.training.epochs.train_one_epoch', lambda *_: pytest.fail('training has started'))

    def check(argv, *parts):
        assert main(['train', '--output', str(tmp_path / 'output'), *map(str, argv)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith('timm-debias train: error: ')]
        assert errors == lines[-1:], lines
        for part in parts:
            assert part in errors[0]

    return check


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--model', 'resnet51'], ["unknown model 'resnet51'", 'resnet50']),
        (['--model', 'timm/resnet50x'], ['unknown model']),
        (['--debias', '--debias-stylizer', 'adain_vgg'], ["unknown stylizer 'adain_vgg'", "'adain_vgg19'"]),
        (['--debias', '-b', '1'], ['--batch-size 1', 'at least 2']),
        (['--debias', '--debias-gamma', '1.5'], ['--debias-gamma is 1.5', '[0, 1]']),
        (['--debias', '--debias-alpha', '-0.5'], ['--debias-alpha is -0.5', '[0, 1]']),
        (['--debias', '--debias-gamma', 'nan'], ['--debias-gamma is nan']),
        (['--debias', '--debias-stylizer-weights', 'nowhere'], ["--debias-stylizer-weights 'nowhere'", 'no such file']),
        (['--debias', '--in-chans', '1'], ['--in-chans', 'RGB']),
        (['--debias', '--input-size', '4', '32', '32'], ['4 channels']),
        (['--debias', '--mixup', '0.2', '-b', '3'], ['--mixup', '--batch-size 3', 'even']),
        (['--debias', '--debias-min-size', '20'], ['--debias-min-size', 'without --debias-multi-grid']),
        (['--debias', '--debias-multi-grid', '--debias-min-size', '8'], ['--debias-min-size is 8', 'at least 16']),
        (['--debias', '--debias-multi-grid', '--debias-min-size', '48'], ['smallest size 48', '32']),
        (['--debias', '--debias-multi-grid', '--img-size', '24'], ['12×12 pixels', '16×16', '--debias-min-size']),
        (
            ['--debias', '--debias-multi-grid', '--train-img-sizes', '32', '24'],
            ['12×12 pixels', '16×16', '--debias-min-size'],
        ),
        (['--debias', '--debias-multi-grid', '--torchscript', '--no-debias-aux-bn'], ['--torchscript', 'two batches']),
        (
            ['--debias', '--mixup', '0.2', '--train-img-sizes', '32', '40', '--train-batch-sizes', '4', '3'],
            ['--train-batch-sizes 3', 'even'],
        ),
        (['--debias', '--debias-multi-grid', '--sched', 'plateau'], ['--debias-multi-grid', '--sched plateau']),
        (
            ['--debias', '--debias-multi-grid', '--model', 'vit_tiny_patch16_224', '--model-kwargs', 'img_size=32'],
            ['16×16, 23×23, 32×32', 'does not take 16×16', 'dynamic_img_size=True'],
        ),
        (['--debias', '--debias-style-dir', 'nowhere'], ["--debias-style-dir 'nowhere'", 'no such folder']),
        (['--debias', '--debias-style-dir', '.', '--debias-mode', 'texture'], ['--debias-mode texture', 'have none']),
        (['--debias', '--debias-style-dir', '.', '--debias-gamma', '0.5'], ['--debias-gamma 0.5', 'have none']),
        (['--debias-multi-grid'], ['--debias-multi-grid', 'without --debias']),
        (['--sched', 'warmup_multistep'], ['warmup_multistep', '--sched-on-updates']),
        (['--debias', '--jsd-loss'], ['--jsd-loss does not go with --debias', '--aa augmix-m3-w3']),
        (['--debias', '--bce-loss', '--bce-target-thresh', '0.2'], ['--bce-target-thresh', '--debias']),
        (['--debias', '--debias-mode', 'shape', '--debias-gamma', '0.5'], ['--debias-mode shape', '--debias-gamma']),
        (['--debias-alpha', '0.3'], ['--debias-alpha', 'without --debias']),
        (['--no-debias-aux-bn'], ['--no-debias-aux-bn', 'without --debias']),
        (['--device', 'gpu'], ["--device 'gpu'"]),
        (['--epochs', '0'], ['--epochs is 0']),
        (['--start-epoch', '-1'], ['--start-epoch is -1', 'number 0']),
        (['--start-epoch', '3', '--epochs', '3'], ['--start-epoch 3', 'ends with epoch 2']),
        (['--start-epoch', '2', '--stop-epoch', '1'], ['--start-epoch 2', 'ends with epoch 0']),
        (['--lr-base-size', '0'], ['--lr-base-size is 0', 'at least 1']),
        (['--validation-batch-size', '0'], ['--validation-batch-size is 0', 'at least 1']),
        (['--validation-batch-size', '-1'], ['--validation-batch-size is -1', 'at least 1']),
        (['--mean', '0.5', '0.5'], ['--mean has 2 values', '3']),
        (['--std', '0.2', '0', '0.2'], ['--std is 0.2 0 0.2', 'above 0']),
        (['--crop-pct', '-0.5'], ['--crop-pct is -0.5', 'above 0']),
        (['--crop-pct', '0'], ['--crop-pct is 0', 'above 0']),
        (['--interpolation', 'nearestt'], ['--interpolation', "'nearestt'", 'bilinear']),
        (['--train-interpolation', 'nearestt'], ['--train-interpolation', "'nearestt'", 'bilinear']),
        (['--scale', '0.5'], ['--scale is 0.5', 'two numbers']),
        (['--scale', '0.9', '0.1'], ['--scale is 0.9 0.1', 'smaller first']),
        (['--ratio', '1'], ['--ratio is 1', 'two numbers']),
        (['--ratio', '0', '1'], ['--ratio is 0 1', 'above 0']),
        (['--debias', '--cutmix-minmax', '0.3'], ['--cutmix-minmax is 0.3', 'two shares']),
        (['--cutmix-minmax', '0.3', '1.3'], ['--cutmix-minmax is 0.3 1.3', '[0, 1]']),
        (['--debias', '--reprob', '0.2', '--remode', 'foo'], ['--remode', "'foo'", 'pixel']),
        (['--debias', '--reprob', '0.2', '--recount', '-1'], ['--recount is -1', 'at least 1']),
        (['--opt', 'sgdd'], ["unknown optimizer 'sgdd'", "'sgd'"]),
        (['--opt', 'adam', '--opt-betas', '0.9'], ['--opt adam takes more --opt-betas than 0.9']),
        (['--sched', 'cosin'], ["unknown schedule 'cosin'", "'cosine'"]),
        (['--resume', 'nowhere.pth'], ["--resume 'nowhere.pth'", 'no such file']),
        (['--initial-checkpoint', 'nowhere.pth'], ["--initial-checkpoint 'nowhere.pth'"]),
        (['--in-chans', '4', '--input-img-mode', 'RGBA', '--save-images'], ['--save-images', '4 channels']),
        (['--amp', '--model-dtype', 'bfloat16'], ['--amp', '--model-dtype bfloat16']),
        (['--debiass'], ['--debiass', "'--debias'"]),
        (['--batch-size', '1000'], ['--batch-size 1000', '6 training images']),
        (['--num-classes', '1'], ['2 classes', '--num-classes 2']),
        (['--model', 'vit_tiny_patch16_224'], ['does not take 3×32×32 images', '--model-kwargs img_size=N']),
        (['--model-kwargs', 'nonsense=3'], ['test_resnet', 'nonsense']),
        (
            ['--model', 'convit_tiny', '--model-kwargs', 'depth=1', '--grad-checkpointing'],
            ['--grad-checkpointing', 'convit_tiny', 'leave it out'],
        ),
        (
            ['--model', 'deit_tiny_distilled_patch16_224', '--model-kwargs', 'depth=1', '--head-init-scale', '0.5'],
            ['--head-init-scale', 'deit_tiny_distilled_patch16_224', 'leave it out'],
        ),
        (
            ['--model', 'deit_tiny_distilled_patch16_224', '--model-kwargs', 'depth=1', '--head-init-bias', '-4'],
            ['--head-init-bias', 'deit_tiny_distilled_patch16_224', 'leave it out'],
        ),
        (['--model', 'levit_128s', '--split-bn', '--resplit'], ['--split-bn', 'levit_128s', 'leave it out']),
        (['--torchcompile', 'nobackend'], ['--torchcompile', "'nobackend'"]),
        (['--torchcompile', '--torchcompile-mode', 'fast'], ['--torchcompile-mode', 'mode=fast', 'max-autotune']),
        (['--train-split', 'trian'], ['trian']),
        (['--dataset', 'shapes_textures'], ['leave --data-dir out']),
        (
            ['--dataset', 'shapes_textures', '--data-dir', '', '--num-classes', '8', '--val-split', 'conflict'],
            ['--val-split conflict', 'two labels'],
        ),
        (
            ['--dataset', 'shapes_textures', '--data-dir', '', '--num-classes', '8', '--train-split', 'conflict'],
            ['--train-split conflict', 'two labels'],
        ),
        (
            ['--dataset', 'shapes_textures', '--data-dir', '', '--num-classes', '8', '--epoch-repeats', '2'],
            ['--epoch-repeats', 'shapes_textures', 'leave it out'],
        ),
        (['--dataset', 'tfd/x'], ["unknown data set 'tfd/x'", 'tfds']),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) and value[0].startswith('--') else '',
)
def test_flags(refused, folder, flags, parts):
    refused(['--data-dir', folder, *COMMON, *flags], *parts)


def test_no_cuda_here(refused, folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    refused(['--data-dir', folder, '--model', 'test_resnet'], '--device cuda', '--device cpu')


def test_no_data(refused, tmp_path):
    refused(COMMON, '--data-dir', 'shapes_textures')
    refused(['--data-dir', tmp_path / 'nowhere', *COMMON], str(tmp_path / 'nowhere'), 'does not exist')


def test_class_map_of_drawn_images(refused, tmp_path):
    (tmp_path / 'map.txt').write_text('cat\ndog\n')
    flags = ['--dataset', 'shapes_textures', '--class-map', tmp_path / 'map.txt', *COMMON, '--num-classes', '8']
    refused(flags, '--class-map', 'shapes_textures', 'leave it out')


def test_both_splits_of_one_folder(refused, folder):
    """timm would train and validate on the same images, without a word."""
    for name in ('train', 'val'):
        shutil.move(folder / name, folder / f'{name}_images')
    refused(['--data-dir', folder, *COMMON], '--train-split', '--val-split', 'train_images')


def test_empty_class_folder(refused, folder):
    (folder / 'train' / 'eel').mkdir()
    refused(['--data-dir', folder, *COMMON, '--debias'], 'without images', str(folder / 'train' / 'eel'))


def test_unreadable_images(refused, folder):
    broken = folder / 'train' / 'cat' / '1.jpg'
    broken.write_bytes(broken.read_bytes()[:400])
    (folder / 'train' / 'dog' / '2.jpg').write_bytes(b'')
    refused(['--data-dir', folder, *COMMON, '--debias'], 'unreadable images', str(broken), 'dog/2.jpg')


def test_different_classes_in_validation(refused, folder):
    shutil.move(folder / 'val' / 'dog', folder / 'val' / 'wolf')
    refused(['--data-dir', folder, *COMMON], 'only in training: dog', 'only in validation: wolf', str(folder / 'val'))


def test_yaml_with_unknown_key(refused, folder, tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_text('debias: true\nbatchsize: 4\n')
    refused(['-c', path, '--data-dir', folder, *COMMON], "unknown key 'batchsize'", "'batch_size'")


def test_output_that_is_a_file(refused, folder, tmp_path):
    (tmp_path / 'file').write_text('')
    refused(['--data-dir', folder, *COMMON, '--output', tmp_path / 'file'], str(tmp_path / 'file'))


@pytest.mark.parametrize('content', [b'', b'torn', b'not a checkpoint', b'PK\x03\x04 torn'])
def test_resume_from_what_is_no_checkpoint(refused, folder, tmp_path, content):
    path = tmp_path / 'last.pth.tar'
    path.write_bytes(content)
    refused(['--data-dir', folder, *COMMON, '--debias', '--resume', path], f'--resume {path}')


def test_style_folder_without_images(refused, folder, tmp_path):
    (tmp_path / 'styles').mkdir()
    flags = ['--data-dir', folder, *COMMON, '--debias', '--debias-style-dir', tmp_path / 'styles']
    refused(flags, '--debias-style-dir', 'no images')
    (tmp_path / 'styles' / 'a.jpg').write_bytes(b'torn')
    refused(flags, 'unreadable images', 'a.jpg')


def test_missing_vgg_weights(refused, folder, tmp_path):
    (tmp_path / 'weights').mkdir()
    refused(
        ['--data-dir', folder, *COMMON, '--debias', '--debias-stylizer', 'adain_vgg19',
         '--debias-stylizer-weights', tmp_path / 'weights'],
        'vgg_normalised.pth', 'decoder.pth',
    )  # fmt: skip
