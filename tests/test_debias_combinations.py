"""Debiased training together with what else timm's training can do: docs/training.md has the table."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import Mixup
from timm.layers import convert_sync_batchnorm

from timm_debias import convert_aux_bn, create_debias_task
from timm_debias.clean_augment import CleanAugment
from timm_debias.cli import main
from timm_debias.flags import parse_with_yaml
from timm_debias.machine import Machine
from timm_debias.multi_grid import MultiGrid
from timm_debias.training.bad_images import Report
from timm_debias.training.data import build_datasets, build_train_loader
from timm_debias.training.loop import Run, train_one_epoch
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.meters import Meters
from timm_debias.training.optim import build_optimizer

LABELS = torch.arange(8)
GRIDS = {'one size': None, 'multi-grid': MultiGrid((1, 2))}
FLAGS = ['--model', 'test_resnet', '--num-classes', '2', '--img-size', '32', '--device', 'cpu', '-j', '0', '-b', '4']
BFLOAT16 = ['--amp', '--amp-dtype', 'bfloat16', '--img-size', '64']  # See test_mixed_precision for the size.
FLAGS += ['--epochs', '2', '--warmup-epochs', '0', '--lr', '0.01', '--log-interval', '1', '--debias']


def create(stylizer, grid=None, **options):
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=10)
    options = dict(generator=torch.Generator().manual_seed(0), verbose=False) | options
    return create_debias_task(model, stylizer, num_classes=10, multi_grid=grid, **options).train()


def gradients(task, images, context=None):
    with context or torch.enable_grad():
        result = task(images, LABELS[: len(images)])
    result['loss'].backward()
    return result['loss'], [parameter.grad for parameter in task.get_trainable_module().parameters()]


class Batches(list):
    """Batches, with the parts of a loader that the training loop looks at."""

    report = Report()

    def set_position(self, epoch, batch):
        assert batch == 0


def train(task, batches, *flags):
    config = config_from_args(parse_with_yaml(build_parser(), [*FLAGS, *map(str, flags)]))
    optimizer = build_optimizer(config, task.get_trainable_module())
    machine = Machine(torch.device('cpu'))
    run = Run(config, machine, task, Batches(batches), optimizer, num_epochs=1)
    train_one_epoch(run, 0, Meters(machine))


@pytest.mark.parametrize('grid', GRIDS.values(), ids=GRIDS)
def test_channels_last(colour_stylizer, images, grid, monkeypatch):
    """The stylised half has the layout of the clean one, whatever the stylizer's is, and the step is the same."""
    mix = colour_stylizer.mix
    monkeypatch.setattr(colour_stylizer, 'mix', lambda *call: mix(*call).contiguous())
    plain, last = (create(colour_stylizer, grid) for _ in range(2))
    last.trainable_module.to(memory_format=torch.channels_last)
    layouts = []
    last.trainable_module.register_forward_pre_hook(
        lambda _, call: layouts.extend(batch.is_contiguous(memory_format=torch.channels_last) for batch in call)
    )
    loss, expected = gradients(plain, images)
    found_loss, found = gradients(last, images.contiguous(memory_format=torch.channels_last))
    assert layouts == [True] * (1 if grid is None else 2)
    torch.testing.assert_close(found_loss, loss)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('grid', GRIDS.values(), ids=GRIDS)
def test_mixed_precision(colour_stylizer, images, grid, dtype):
    """At 64 pixels: PyTorch's bfloat16 gradient on a CPU reads unset memory where a strided convolution sees one pixel.

    So it does in version 2.14, for a 3×3 convolution of stride 2 on 1×1 maps, which 16 pixels come down to.
    """
    images = torch.nn.functional.interpolate(images, scale_factor=2)
    loss, expected = gradients(create(colour_stylizer, grid), images)
    found_loss, found = gradients(create(colour_stylizer, grid), images, torch.autocast('cpu', dtype=dtype))
    assert all(grad.isfinite().all() for grad in found)
    torch.testing.assert_close(found_loss.float(), loss, atol=0.05, rtol=0.05)
    ours, theirs = (torch.cat([grad.flatten() for grad in grads]) for grads in (found, expected))
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.95


def test_compiled(colour_stylizer, images):
    plain, compiled = (create(colour_stylizer) for _ in range(2))
    compiled.compile(backend='eager')
    loss, expected = gradients(plain, images)
    found_loss, found = gradients(compiled.train(), images)
    torch.testing.assert_close(found_loss, loss)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    state = compiled.get_checkpoint_state()
    assert set(state['state_dict']) == set(timm.create_model('test_resnet').state_dict())
    assert state['task_state']['aux_bn']


def test_gradient_accumulation(colour_stylizer, images):
    """Two batches an update have the size of the update, and its gradient is the mean of theirs."""
    task = create(colour_stylizer, MultiGrid((1, 2)), aux_bn=False)
    sizes = []
    task.trainable_module.register_forward_pre_hook(lambda _, call: sizes.append(call[1].shape[-1]))
    batches = [(images[start : start + 4], LABELS[start : start + 4]) for start in (0, 4, 0, 4)]
    train(task, batches, '--grad-accum-steps', 2, '--opt', 'momentum', '--momentum', 0, '--weight-decay', 0)
    assert sizes == [16, 16, 23, 23]

    twin = create(colour_stylizer, MultiGrid((1, 2)), aux_bn=False)
    optimizer = torch.optim.SGD(twin.trainable_module.parameters(), lr=0.01)
    for update in range(2):
        optimizer.zero_grad()
        twin.set_position(0, update)
        (sum(twin(*batch)['loss'] for batch in batches[2 * update : 2 * update + 2]) / 2).backward()
        optimizer.step()
    for ours, theirs in zip(task.trainable_module.parameters(), twin.trainable_module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_layer_decay_treats_auxiliary_batch_norm_as_its_own(colour_stylizer):
    task = create(colour_stylizer)
    config = config_from_args(parse_with_yaml(build_parser(), [*FLAGS, '--layer-decay', '0.5']))
    optimizer = build_optimizer(config, task.trainable_module)
    scale = {id(tensor): group['lr_scale'] for group in optimizer.param_groups for tensor in group['params']}
    named = dict(task.trainable_module.named_parameters())
    twins = [name for name in named if '.aux_bn.' in name]
    assert len({scale[id(named[name])] for name in twins}) > 2
    for name in twins:
        assert scale[id(named[name])] == scale[id(named[name.replace('.aux_bn.', '.')])], name


def test_synchronised_batch_norm(colour_stylizer):
    model = convert_aux_bn(convert_sync_batchnorm(timm.create_model('test_resnet')))
    norms = [module for module in model.modules() if hasattr(module, 'aux_bn')]
    assert norms
    assert all(isinstance(norm.aux_bn, torch.nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize(('epoch', 'is_mixed'), [(0, True), (1, True), (2, False), (3, False)])
def test_mixup_ends_after_its_last_epoch(colour_stylizer, images, epoch, is_mixed):
    task = create(colour_stylizer, clean_augment=CleanAugment(Mixup(mixup_alpha=1.0, num_classes=10)), aux_bn=False)
    config = config_from_args(parse_with_yaml(build_parser(), [*FLAGS, '--mixup', '1', '--mixup-off-epoch', '2']))
    optimizer = build_optimizer(config, task.trainable_module)
    passed = []
    task.trainable_module.register_forward_pre_hook(lambda _, call: passed.append(call[0][:8]))
    run = Run(config, Machine(torch.device('cpu')), task, Batches([(images, LABELS)]), optimizer, num_epochs=4)
    train_one_epoch(run, epoch, Meters(run.machine))
    assert torch.equal(passed[0], images) != is_mixed


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Nine images of two classes, and two paintings."""
    root = tmp_path_factory.mktemp('data')
    generator = np.random.default_rng(0)
    places = [root / split / name / f'{number}.png' for split in ('train', 'val') for name in ('cat', 'dog')
              for number in range(4 + (split == 'train' and name == 'dog'))]  # fmt: skip
    for path in [*places, root / 'paintings' / 'a.png', root / 'paintings' / 'b.png']:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return root


@pytest.mark.parametrize(
    'flags',
    [
        ['--debias-multi-grid', '--mixup', '0.2', '--cutmix', '1', '--model-ema', *BFLOAT16],
        ['--debias-multi-grid', '--channels-last', '--grad-accum-steps', '2', '--layer-decay', '0.75', '--save-images'],
        ['--debias-style-dir', 'PAINTINGS', '--debias-alpha', '1', '--save-images', '-b', '3'],
        ['--debias-style-dir', 'PAINTINGS', '--debias-multi-grid', '--reprob', '0.5', '--bce-loss', '--mixup', '0.2'],
        ['--reprob', '0.5', '--no-prefetcher', '--mixup', '0.2', '--mixup-mode', 'elem', '--aa', 'augmix-m3-w3'],
        ['--sched', 'warmup_multistep', '--sched-on-updates', '--debias-multi-grid', '--bce-loss', '--smoothing', '0'],
        ['--train-img-sizes', '32', '48', '--train-batch-sizes', '4', '1', '--debias-style-dir', 'PAINTINGS'],
        ['--train-img-sizes', '32', '48', '--debias-multi-grid', '--mixup', '0.2', '--sched', 'step'],
    ],
    ids=' '.join,
)
def test_flags_run_together(folder, tmp_path, capsys, flags):
    flags = [str(folder / 'paintings') if flag == 'PAINTINGS' else flag for flag in flags]
    output = ['--output', str(tmp_path), '--experiment', 'run']
    assert main(['train', '--data-dir', str(folder), *FLAGS, *flags, *output]) == 0
    results = json.loads(capsys.readouterr().out.split('--result\n')[1])
    assert len(results) == 2
    with open(tmp_path / 'run' / 'summary.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert all(np.isfinite(float(row[name])) for row in rows for name in ('train_loss_stylised', 'train_loss_clean'))
    timm.create_model('test_resnet', num_classes=2, checkpoint_path=str(tmp_path / 'run' / 'last.pth.tar'))
    if '--save-images' in flags:
        columns = 2 if '--debias-style-dir' in flags else 3
        picture = Image.open(tmp_path / 'run' / 'shape-texture-0.png')
        assert picture.width == columns * (32 + 4) + 4


ROWS = {  # A row of the table in docs/training.md -> flags of as many runs; none where a test below stands for it.
    'Mixup, CutMix (`batch`, `pair`, `elem`)': [
        '--mixup 0.2 --cutmix 1', '--mixup 0.2 --mixup-mode pair', '--cutmix 1 --mixup-mode elem'
    ],
    'random erasing': ['--reprob 1'],
    'label smoothing': ['--smoothing 0.2'],
    '`--bce-loss`': ['--bce-loss', '--bce-loss --cutmix 1'],
    '`--bce-target-thresh`': ['--bce-loss --bce-target-thresh 0.2'],
    'RandAugment, AutoAugment, `--aa augmix-…`': ['--aa rand-m9-mstd0.5', '--aa v0', '--aa augmix-m3-w3'],
    '`--aug-splits`, `--jsd-loss`': ['--aug-splits 2', '--aug-splits 3 --jsd-loss'],
    '`--aug-repeats`': [],
    'gradient accumulation': ['--grad-accum-steps 2'],
    'moving average of weights': ['--model-ema'],
    '`--amp`, float16 and bfloat16': ['--amp --img-size 64', '--amp --amp-dtype bfloat16 --img-size 64'],
    '`--channels-last`': ['--channels-last'],
    '`--torchcompile`': ['--torchcompile eager'],
    'layer decay': ['--layer-decay 0.7'],
    '`--sync-bn`': [],
    '`--train-img-sizes`': ['--train-img-sizes 32 48'],
    'models without batch norm, transformers': [
        '--model test_convnext --img-size 64',
        '--model test_vit --model-kwargs img_size=32 dynamic_img_size=True dynamic_img_pad=True',
    ],
    'distillation (`--kd-model-name`)': ['--kd-model-name resnet18'],
    '`--debias-multi-grid` with `--sched plateau`': ['--debias-multi-grid --sched plateau'],
    '`--debias-multi-grid` with `--torchscript`': ['--debias-multi-grid --torchscript --no-debias-aux-bn'],
}  # fmt: skip


def table() -> dict[str, str]:
    """The rows of the table in the documentation, and what it says of each."""
    text = (Path(__file__).parents[1] / 'docs' / 'training.md').read_text()
    lines = text.partition('| with `--debias` | | |\n')[2].partition('\n\n')[0].splitlines()[1:]
    return {row: verdict for row, verdict, *_ in (line.strip('| ').split(' | ') for line in lines)}


def test_the_table_has_the_rows_that_run():
    assert list(table()) == list(ROWS)
    assert set(table().values()) == {'yes', 'refused'}


@pytest.mark.parametrize(
    ('row', 'flags', 'grid'),
    [
        (row, flags, grid)
        for row, runs in ROWS.items()
        for flags in runs
        for grid in ([], ['--debias-multi-grid'])
        if not (grid and table()[row] == 'refused')
    ],
)
def test_each_row_of_the_table(folder, tmp_path, capsys, monkeypatch, row, flags, grid):
    argv = ['--data-dir', str(folder), *FLAGS, '--epochs', '1', '--val-split', '', *flags.split(), *grid]
    argv += ['--output', str(tmp_path), '--experiment', 'run']
    if table()[row] == 'refused':
        monkeypatch.setattr('timm_debias.training.epochs.train_one_epoch', lambda *_: pytest.fail('it trains'))
        assert main(['train', *argv]) == 2
        named = re.findall('--[a-z-]+', row) or [flags.split()[0]]
        assert any(flag in capsys.readouterr().err for flag in named)
        return
    assert main(['train', *argv]) == 0
    with open(tmp_path / 'run' / 'summary.csv', newline='') as file:
        (result,) = csv.DictReader(file)
    assert all(np.isfinite(float(result[name])) for name in ('train_loss', 'train_loss_clean', 'train_loss_stylised'))


def test_repeated_augmentation(folder, colour_stylizer, tmp_path):
    """timm repeats images in several processes alone; here there is one of them."""
    flags = ['--data-dir', str(folder), '--val-split', '', '--aug-repeats', '3']
    config = config_from_args(parse_with_yaml(build_parser(), [*FLAGS, *flags]))
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        machine = Machine(torch.device('cpu'), distributed=True)
        input_config = dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation='bilinear')
        dataset, _ = build_datasets(config, input_config, 2)
        loader, _ = build_train_loader(config, dataset, None, input_config, 2, machine)
        images, labels = next(iter(loader))
        assert labels[0] == labels[1] == labels[2]
        assert create(colour_stylizer)(images, labels)['loss'].isfinite()
    finally:
        torch.distributed.destroy_process_group()


def test_transformers_of_any_size_take_multi_grid(folder, tmp_path):
    """What the message for models of one size tells the user to do."""
    kwargs = ['--model-kwargs', 'img_size=32', 'dynamic_img_size=True', 'dynamic_img_pad=True']
    flags = ['--model', 'vit_tiny_patch16_224', *kwargs, '--debias-multi-grid', '--epochs', '1', '--val-split', '']
    assert main(['train', '--data-dir', str(folder), *FLAGS, *flags, '--output', str(tmp_path)]) == 0
