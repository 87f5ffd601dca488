"""Flags that do nothing are named; that they do nothing is compared with what timm makes of them."""

import inspect
import logging
import re

import pytest
import torch
from timm.data import create_transform

from timm_debias.machine import Machine
from timm_debias.training.checks import check_config
from timm_debias.training.config import TrainConfig
from timm_debias.training.data import _train_options
from timm_debias.training.debias import build_clean_augment
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.optim import build_scheduler

COMMON = ['--device', 'cpu', '--model', 'test_resnet']
MULTILABEL = '--task multilabel --dataset hfds/x'


def parsed(argv: str) -> TrainConfig:
    return config_from_args(build_parser().parse_args([*COMMON, *argv.split()]))


def warnings(argv: str, caplog) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_config(parsed(argv))
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ('argv', 'flag', 'switch'),
    [
        ('--wandb-project p', '--wandb-project', '--log-wandb'),
        ('--train-batches-per-epoch 3', '--train-batches-per-epoch', '--train-img-sizes'),
        ('--naflex-max-seq-len 100', '--naflex-max-seq-len', '--naflex-loader'),
        ('--kd-temperature 2', '--kd-temperature', '--kd-model-name'),
        ('--fuser te', '--fuser', '--torchscript'),
        ('--poly-epsilon 1', '--poly-epsilon', '--loss poly'),
        ('--target-format multihot', '--target-format', '--task multilabel'),
        ('--amp-dtype bfloat16', '--amp-dtype', '--amp'),
        ('--model-ema-decay 0.99', '--model-ema-decay', '--model-ema'),
        ('--clip-mode agc', '--clip-mode', '--clip-grad'),
        ('--layer-decay-min-scale 0.1', '--layer-decay-min-scale', '--layer-decay'),
        ('--no-resume-opt', '--no-resume-opt', '--resume'),
        ('--loss-weight-power 0.5', '--loss-weight-power', 'weights neg_pos or inv_freq'),
        ('--remode const', '--remode', '--reprob'),
        ('--sched none --warmup-lr 0.1', '--warmup-lr', '--warmup-epochs'),
        (
            '--kd-model-name test_resnet --kd-token-distill-type hard',
            '--kd-token-distill-type',
            '--kd-distill-type token',
        ),
        (
            '--kd-model-name test_resnet --kd-student-feature-dim 8',
            '--kd-student-feature-dim',
            '--kd-distill-type feature',
        ),
        (
            '--train-img-sizes 32 64 --train-size-random-mix 0.3',
            '--train-size-random-mix',
            '--train-size-schedule progressive',
        ),
        ('--resplit', '--resplit', '--reprob'),
        ('--mixup-prob 0.5', '--mixup-prob', '--mixup or --cutmix'),
        ('--mixup 0.2 --mixup-switch-prob 0.1', '--mixup-switch-prob', 'both --mixup and --cutmix'),
        (f'{MULTILABEL} --poly-gamma 2', '--poly-gamma', '--loss poly'),
    ],
)
def test_without_another_flag(argv, flag, switch, caplog):
    assert warnings(argv, caplog) == [f'{flag} has no effect without {switch}.']


def test_without_two_other_flags(caplog):
    switches = ('--task multilabel', '--loss poly')
    assert warnings('--poly-gamma 2', caplog) == [f'--poly-gamma has no effect without {name}.' for name in switches]


@pytest.mark.parametrize(
    ('argv', 'flag', 'other'),
    [
        ('--lr 0.1 --lr-base 0.5', '--lr-base', '--lr'),
        ('--no-aug --reprob 0.5', '--reprob', '--no-aug'),
        ('--sched none --sched-on-updates', '--sched-on-updates', '--sched none'),
        ('--sched none --lr-noise 0.5', '--lr-noise', '--sched none'),
        ('--cutmix-minmax 0.2 0.8 --cutmix 0.3', '--cutmix', '--cutmix-minmax'),
        ('--sched none --warmup-epochs 3', '--warmup-epochs', '--sched none'),
    ],
)
def test_beside_another_flag(argv, flag, other, caplog):
    assert warnings(argv, caplog) == [f'{flag} has no effect beside {other}.']


@pytest.mark.parametrize(
    'argv',
    [
        '--resplit --split-bn', '--mixup 0.2 --cutmix 1 --mixup-switch-prob 0.1', '--cutmix-minmax 0.2 0.8 --mixup 1 '
        '--mixup-switch-prob 0.1', '--lr 0 --lr-base 0.5', '--reprob 0.1 --recount 2 --remode rand', '--aa rand-m9-n2',
        '--layer-decay 0.9 --layer-decay-min-scale 0.1', '', '--mixup 0.2 --mixup-off-epoch 3',
        '--cutmix 1 --mixup-prob 0.5', f'{MULTILABEL} --loss poly --poly-gamma 2',
    ],
)  # fmt: skip
def test_flags_that_act(argv, caplog):
    assert warnings(argv, caplog) == []


@pytest.mark.parametrize(
    'argv',
    [
        f'{MULTILABEL} --loss db', f'{MULTILABEL} --loss-pos-weight neg_pos --loss-weight-power 0.5',
        '--loss bce --loss-class-weight inv_freq --loss-weight-power 0.5',
        '--loss bce --loss-class-weight effective_num',
    ],
)  # fmt: skip
def test_class_stats_that_act(argv, caplog, tmp_path):
    stats = tmp_path / 'stats.json'
    stats.write_text('{"pos_counts": [2, 4, 8], "num_samples": 14}')
    assert warnings(f'{argv} --num-classes 3 --class-stats {stats}', caplog) == []


OF_SCHEDULES = (
    '--patience-epochs 2', '--decay-milestones 3 5', '--decay-epochs 3', '--decay-rate 0.5', '--lr-cycle-limit 2',
    '--lr-cycle-limit 2 --lr-cycle-mul 2', '--lr-cycle-mul 2', '--lr-cycle-decay 0.25', '--cooldown-epochs 2',
    '--lr-k-decay 2', '--min-lr 0.01', '--lr-decay-fn cosine', '--lr-stable-timescale 4', '--lr-noise 0.2 0.9',
    '--lr-noise 0.2 0.9 --lr-noise-std 2', '--lr-noise-std 2', '--warmup-epochs 3', '--warmup-lr 0.05',
    '--warmup-epochs 0 --warmup-lr 0.05', '--warmup-prefix', '--warmup-prefix --warmup-epochs 3',
    '--warmup-epochs 0 --warmup-prefix',
)  # fmt: skip


def rates(argv: str) -> tuple[int, list[float]]:
    """Return the number of epochs and the rate in each, from a loss that does not fall."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler, epochs = build_scheduler(parsed(argv), optimizer, updates_per_epoch=1)
    curve = []
    for epoch in range(epochs):
        curve.append(optimizer.param_groups[0]['lr'])
        if scheduler is not None:
            scheduler.step(epoch + 1, 1.0)
            scheduler.step_update(epoch + 1, 1.0)
    return epochs, curve


@pytest.mark.parametrize('flags', OF_SCHEDULES)
@pytest.mark.parametrize(
    'sched', ['cosine', 'tanh', 'step', 'multistep', 'constant', 'plateau', 'poly', 'wsd', 'rsqrt', 'none']
)
def test_flags_of_schedules(sched, flags, caplog):
    """A flag is named just where the rates stay as they are; of two flags, the last is the one in question."""
    base = f'--sched {sched} --epochs 100 --decay-milestones 20 22'
    if sched == 'rsqrt' and '--warmup-epochs 0' in flags:
        base += ' --lr-stable-timescale 3'  # That of the warm-up is none.
    *before, _ = flags.split('--')
    without = base + ' ' + '--'.join(before).strip()
    flag = f'--{flags.split("--")[-1].split()[0]}'
    named = [message for message in warnings(f'{base} {flags}', caplog) if message.startswith(f'{flag} ')]
    assert bool(named) == (rates(f'{base} {flags}') == rates(without)), named


@pytest.mark.parametrize('flags', [flags for flags in OF_SCHEDULES if not re.search('lr-noise |-prefix', flags)])
def test_flags_of_the_schedule_of_the_paper(flags, caplog):
    test_flags_of_schedules('warmup_multistep --sched-on-updates', flags, caplog)


OF_TRANSFORMS = (
    '--scale 0.5 1', '--ratio 1 1', '--hflip 0.1', '--vflip 0.5', '--color-jitter 0.2', '--color-jitter-prob 0.3',
    '--grayscale-prob 0.5', '--gaussian-blur-prob 0.5', '--train-crop-mode rkrr', '--train-interpolation bilinear',
    '--aa rand-m5-n1',
)  # fmt: skip


def transform(argv: str) -> str:
    options = _train_options(parsed(argv), {'interpolation': 'bicubic'})
    options['auto_augment'] = options['auto_augment'] or None
    taken = {name: options[name] for name in inspect.signature(create_transform).parameters if name in options}
    return str(create_transform(32, **taken))


@pytest.mark.parametrize('flags', OF_TRANSFORMS)
@pytest.mark.parametrize('base', ['', '--no-aug', '--aa rand-m9-n2', '--aa 3a', '--aa='])
def test_flags_of_transforms(base, flags, caplog):
    named = [message for message in warnings(f'{base} {flags}', caplog) if message.startswith(flags.split()[0])]
    assert bool(named) == (transform(f'{base} {flags}') == transform(base)), named


def test_no_augmentation_erases_nothing():
    """Neither does timm's loader: the clean half of a debiased batch is as in plain training."""
    config = parsed('--debias --no-aug --reprob 0.5')
    assert build_clean_augment(config, 10, Machine(torch.device('cpu'))).erasing is None
