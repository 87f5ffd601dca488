"""`train.py` as its user runs it, on folders of small pictures."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.task import ClassificationTask
from timm.utils import random_seed

from timm_debias.cli import main
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.randomness import derive_seed, seed_host
from timm_debias.training.train import _report

COMMON = ['--model', 'test_resnet', '--num-classes', '3', '--img-size', '32', '--device', 'cpu', '-j', '0', '-b', '4']
COMMON += ['--epochs', '2', '--warmup-epochs', '0', '--lr', '0.01', '--log-interval', '1']


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """An image folder of three classes that differ in colour: 12 images to train on, 6 to validate."""
    root = tmp_path_factory.mktemp('data')
    generator = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for index, name in enumerate(('blue', 'green', 'red')):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 100, (40, 40, 3))
                pixels[..., index] += 155
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f'{number}.png')
    return root


def run(*argv: str) -> int:
    return main(['train', *argv])


def result(capsys) -> list[dict]:
    """The JSON that bulk tools read: everything after the line `--result`, which nothing may follow."""
    return json.loads(capsys.readouterr().out.split('--result\n')[1])


@pytest.fixture
def trained(folder, tmp_path, capsys):
    assert run('--data-dir', str(folder), *COMMON, '--debias', '--output', str(tmp_path), '--experiment', 'a') == 0
    return tmp_path / 'a', result(capsys)


def test_debiased_run_leaves_what_timm_leaves(trained, folder):
    run_dir, results = trained
    names = {path.name for path in run_dir.iterdir()}
    assert {'args.yaml', 'summary.csv', 'last.pth.tar', 'model_best.pth.tar', 'checkpoint-0.pth.tar'} <= names
    assert not any(name.startswith(('.', 'tmp')) for name in names)
    args = yaml.safe_load((run_dir / 'args.yaml').read_text())
    assert (args['model'], args['debias'], args['debias_gamma'], args['data_dir']) == (
        'test_resnet', True, 0.8, str(folder),
    )  # fmt: skip
    rows = list(csv.DictReader((run_dir / 'summary.csv').open()))
    assert [row['epoch'] for row in rows] == ['0', '1']
    for name in ('train_loss', 'train_loss_clean', 'train_loss_stylised', 'train_top1_stylised', 'eval_top1', 'lr'):
        assert all(np.isfinite(float(row[name])) for row in rows)
    row = rows[0]
    halves = (float(row['train_loss_clean']) + float(row['train_loss_stylised'])) / 2
    assert float(row['train_loss']) == pytest.approx(halves, rel=1e-5)
    assert {entry['epoch'] for entry in results} == {0, 1}
    assert set(results[0]['validation']) == {'loss', 'top1', 'top5'}


def test_checkpoint_loads_in_plain_timm(trained):
    path = trained[0] / 'last.pth.tar'
    model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(path))
    assert not any('aux_bn' in key for key in model.state_dict())
    checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    assert checkpoint['task_state']['aux_bn']
    assert not any('stylizer' in key for key in checkpoint['state_dict'])


def test_args_yaml_repeats_the_run(trained, tmp_path):
    run_dir, _ = trained
    assert run('-c', str(run_dir / 'args.yaml'), '--experiment', 'b') == 0
    first, second = (
        torch.load(tmp_path / name / 'last.pth.tar', weights_only=False)['state_dict'] for name in ('a', 'b')
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_resume_goes_on(trained, folder, tmp_path, capsys):
    run_dir, _ = trained
    arguments = ['--data-dir', str(folder), *COMMON, '--debias', '--output', str(tmp_path), '--experiment', 'a']
    assert run(*arguments) == 2
    assert 'holds a run already' in capsys.readouterr().err
    assert run(*arguments, '--epochs', '3', '--resume', str(run_dir / 'last.pth.tar')) == 0
    assert sorted(entry['epoch'] for entry in result(capsys)) == [0, 1, 2]
    assert [row['epoch'] for row in csv.DictReader((run_dir / 'summary.csv').open())] == ['0', '1', '2']


def test_resume_under_another_kind_of_run(trained, folder, tmp_path, capsys):
    last = str(trained[0] / 'last.pth.tar')
    arguments = ['--data-dir', str(folder), *COMMON, '--output', str(tmp_path), '--resume', last]
    assert run(*arguments, '--debias', '--no-debias-aux-bn') == 2
    assert 'auxiliary batch norm' in capsys.readouterr().err
    assert run(*arguments, '--debias', '--model', 'test_vit', '--model-kwargs', 'img_size=32') == 2
    assert 'last.pth.tar' in capsys.readouterr().err


@pytest.mark.parametrize(
    'flags',
    [
        ['--debias-mode', 'shape'],
        ['--debias-mode', 'texture', '--no-debias-aux-bn'],
        ['--bce-loss', '--smoothing', '0', '--clip-grad', '1.0', '--opt', 'adamw'],
        ['--grad-accum-steps', '2', '--channels-last', '--no-prefetcher', '--sched', 'step', '--sched-on-updates'],
        ['--amp', '--amp-dtype', 'bfloat16', '--model-ema', '--save-images', '--recovery-interval', '1'],
        ['--model-dtype', 'bfloat16', '--val-split', ''],
        ['--model', 'test_vit', '--model-kwargs', 'img_size=32', '--drop-path', '0.1', '--aa', 'rand-m9-trandstylize'],
    ],
    ids=' '.join,
)
def test_flags_work_with_debias(folder, tmp_path, capsys, flags):
    try:
        assert run('--data-dir', str(folder), *COMMON, '--debias', '--output', str(tmp_path), *flags) == 0
    finally:
        import timm_debias

        timm_debias.unregister()
    losses = [entry['train']['loss'] for entry in result(capsys)]
    assert np.isfinite(losses).all()
    if '--save-images' in flags:
        (run_dir,) = tmp_path.iterdir()
        picture = Image.open(run_dir / 'shape-texture-0.png')
        assert picture.width > 3 * 32
        assert Image.open(run_dir / 'train-batch-0.jpg').width >= 4 * 32


def test_loss_falls(folder, tmp_path):
    arguments = ['--data-dir', str(folder), *COMMON, '--debias', '--output', str(tmp_path)]
    assert run(*arguments, '--epochs', '12', '--opt', 'adamw', '--lr', '0.003', '--no-aug', '--experiment', 'a') == 0
    with open(tmp_path / 'a' / 'summary.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['epoch'] for row in rows] == [str(epoch) for epoch in range(12)]
    # Stylised, these images show little of their class: it is their colour, which the partner gives.
    assert float(rows[-1]['train_loss_clean']) < 0.8 * float(rows[0]['train_loss_clean'])
    assert float(rows[-1]['train_loss']) < float(rows[0]['train_loss'])


def batches(data, collate, config, seed: int, epoch: int):
    """Batches of 4 by the rule that makes runs repeatable: each sample and each mixing has a seed of its own."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, 'order'))
    order = torch.randperm(len(data), generator=generator).tolist()
    mean, std = (255 * torch.tensor(config[name]).view(3, 1, 1) for name in ('mean', 'std'))
    for first in range(0, len(data) - 3, 4):
        samples = []
        for position in range(first, first + 4):
            seed_host(derive_seed(seed, epoch, position))
            samples.append(data[order[position]])
        seed_host(derive_seed(seed, epoch, first, 'mixup'))
        images, target = collate(samples)
        yield (images.float() - mean) / std, target


@pytest.mark.parametrize('flags', [[], ['--mixup', '0.2'], ['--bce-loss', '--grad-accum-steps', '2']], ids=str)
def test_without_debias_it_trains_as_timm_does(folder, tmp_path, flags):
    """Against a plain loop over timm's own parts, in the order of timm's train.py."""
    arguments = ['--data-dir', str(folder), *COMMON, '--output', str(tmp_path), '--experiment', 'a', *flags]
    assert run(*arguments) == 0
    ours = torch.load(tmp_path / 'a' / 'last.pth.tar', weights_only=False)['state_dict']

    args = build_parser().parse_args(arguments)
    random_seed(args.seed, 0)
    model = timm.create_model('test_resnet', num_classes=3, drop_rate=0.0)
    data = timm.data.create_dataset('', root=str(folder), split='train', is_training=True)
    config = timm.data.resolve_data_config({'img_size': 32}, model=model)
    collate = timm.data.loader.fast_collate
    if args.mixup:
        collate = timm.data.FastCollateMixup(mixup_alpha=args.mixup, label_smoothing=0.1, num_classes=3)
    data.transform = timm.data.create_transform(
        config['input_size'], is_training=True, use_prefetcher=True, scale=args.scale, ratio=args.ratio,
        color_jitter=0.4, interpolation='random',
    )  # fmt: skip
    if args.mixup:
        loss = timm.loss.SoftTargetCrossEntropy()
    elif args.bce_loss:
        loss = timm.loss.BinaryCrossEntropy(smoothing=0.1)
    else:
        loss = timm.loss.LabelSmoothingCrossEntropy(0.1)
    task = ClassificationTask(model, loss, verbose=False)
    optimizer = timm.optim.create_optimizer_v2(model, 'sgd', lr=0.01, weight_decay=2e-5, momentum=0.9)
    steps = args.grad_accum_steps
    count = len(data) // 4
    schedule, _ = timm.scheduler.create_scheduler_v2(optimizer, 'cosine', 2, updates_per_epoch=-(-count // steps))
    for epoch in range(2):
        model.train()
        optimizer.zero_grad()
        for index, (images, target) in enumerate(batches(data, collate, config, args.seed, epoch)):
            group = min(steps, count - index // steps * steps)
            (task(images, target)['loss'] / group).backward()
            if (index + 1) % steps == 0 or index + 1 == count:
                optimizer.step()
                optimizer.zero_grad()
        schedule.step(epoch + 1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, ours[key]), key


def test_embedded_data_set(tmp_path, capsys):
    sizes = ['--train-num-samples', '16', '--val-num-samples', '16', '--num-classes', '8', '--epochs', '1']
    assert run('--dataset', 'shapes_textures', *COMMON, *sizes, '--debias', '--output', str(tmp_path)) == 0
    metrics = result(capsys)[0]['validation']
    assert {'top1', 'conflict_shape', 'conflict_texture', 'shape_bias'} <= set(metrics)
    assert 0 <= metrics['conflict_shape'] + metrics['conflict_texture'] <= 100


@pytest.mark.parametrize(('metric', 'best'), [('top1', 2), ('loss', 0)])
def test_results_end_with_the_best_and_begin_with_nan(tmp_path, capsys, metric, best):
    config = config_from_args(build_parser().parse_args(['--eval-metric', metric]))
    values = (1.0, math.nan, 3.0, 2.0)
    results = [{'epoch': epoch, 'train': {}, 'validation': {metric: value}} for epoch, value in enumerate(values)]
    _report(SimpleNamespace(config=config), results, tmp_path)
    ranked = json.loads(capsys.readouterr().out.split('--result\n')[1])
    assert [result['epoch'] for result in ranked] == [1, 2 - best, 3, best]
