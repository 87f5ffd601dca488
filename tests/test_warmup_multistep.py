"""The paper's learning rate at every step of its recipes, and where stages of any schedule end."""

from pathlib import Path

import pytest
import torch

from timm_debias import DebiasError
from timm_debias.flags import parse_with_yaml
from timm_debias.machine import Machine
from timm_debias.training.checks import check_config
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.optim import build_scheduler, lr_stage_ends, resolve_lr
from timm_debias.training.warmup_multistep import WarmupMultiStepLRScheduler

HPARAMS = Path(__file__).parents[1] / 'hparams'
RECIPES = {  # Global batch, rate, epochs and decays of the reference.
    'resnet50': (512, 0.2, 100, [30, 60, 90]),
    'resnet101': (256, 0.1, 100, [30, 60, 90]),
    'resnet152': (256, 0.1, 100, [30, 60, 90]),
    'resnext101_32x4d_mixup': (256, 0.1, 180, [60, 120, 160]),
    'resnext101_32x4d_cutmix': (256, 0.1, 210, [75, 150, 180]),
    'resnet50_shape_biased': (512, 0.2, 100, [30, 60, 90]),
    'resnet50_texture_biased': (512, 0.2, 100, [30, 60, 90]),
}
UPDATES = 7


def configure(*argv):
    return config_from_args(parse_with_yaml(build_parser(), [str(word) for word in argv]))


def rates(config, updates_per_epoch=UPDATES):
    """The rate of every update, as the training loop steps the schedule."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=config.schedule.lr)
    scheduler, epochs = build_scheduler(config, optimizer, updates_per_epoch)
    found = []
    for epoch in range(epochs):
        for update in range(updates_per_epoch):
            found.append(optimizer.param_groups[0]['lr'])
            scheduler.step_update(num_updates=epoch * updates_per_epoch + update + 1)
        scheduler.step(epoch + 1)
    return found


def reference_rates(lr, epochs, decays, updates=UPDATES, warm=5):
    """`WarmUpLR` steps before each iteration of the first epochs; then the rate is set at the start of an epoch."""
    found, state, steps = [], lr, 0
    for epoch in range(epochs):
        if epoch in decays:
            state *= 0.1
        for _ in range(updates):
            if epoch < warm:
                steps += 1
                found.append(lr * steps / (warm * updates + 1e-8))
            else:
                found.append(state)
    return found


@pytest.mark.parametrize('name', RECIPES)
def test_rate_at_every_step_of_a_recipe(name):
    batch, lr, epochs, decays = RECIPES[name]
    machine = Machine(torch.device('cpu'), world_size=8)
    config = configure('-c', HPARAMS / f'{name}.yaml')
    config = resolve_lr(config, config.model.batch_size, machine)
    assert config.model.batch_size * 8 == batch
    assert config.schedule.lr == pytest.approx(lr, rel=1e-12)
    assert rates(config) == pytest.approx(reference_rates(lr, epochs, decays), rel=1e-9)


def test_resumes_in_place():
    config = configure('-c', HPARAMS / 'resnet50.yaml', '--lr', 0.2)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    scheduler, _ = build_scheduler(config, optimizer, UPDATES)
    scheduler.step_update(3 * UPDATES)
    assert optimizer.param_groups[0]['lr'] == pytest.approx(reference_rates(0.2, 4, [])[3 * UPDATES], rel=1e-9)


def test_layer_decay_scales_every_rate():
    parameters = [{'params': [torch.zeros(1)], 'lr': 1.0, 'lr_scale': scale} for scale in (1.0, 0.5)]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    scheduler = WarmupMultiStepLRScheduler(optimizer, [6], warmup_updates=4)
    for update, expected in ((0, 0.25), (3, 1.0), (5, 1.0), (6, 0.1)):
        scheduler.step_update(update)
        assert [group['lr'] for group in optimizer.param_groups] == pytest.approx([expected, expected / 2])


def test_starts_above_the_initial_rate():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    WarmupMultiStepLRScheduler(optimizer, [], warmup_updates=4, warmup_lr_init=0.2)
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.4)


STEPPED = [
    ['--sched', 'warmup_multistep', '--decay-milestones', '30', '60', '90', '--sched-on-updates'],
    ['--sched', 'warmup_multistep', '--decay-milestones', '60', '30', '200', '--sched-on-updates'],
    ['--sched', 'multistep', '--decay-milestones', '30', '60', '90'],
    ['--sched', 'multistep', '--decay-milestones', '30', '60', '90', '--sched-on-updates'],
    ['--sched', 'multistep', '--decay-milestones', '30', '60', '--warmup-prefix', '--sched-on-updates'],
    ['--sched', 'multistep', '--decay-milestones', '30', '60', '--warmup-prefix'],
    ['--sched', 'step', '--decay-epochs', '30'],
    ['--sched', 'step', '--decay-epochs', '25', '--sched-on-updates', '--warmup-prefix'],
]


@pytest.mark.parametrize('flags', STEPPED, ids=' '.join)
def test_stages_end_where_the_rate_falls(flags):
    config = configure('--epochs', 100, '--warmup-epochs', 5, '--lr', 1.0, *flags)
    updates = 50
    found = rates(config, updates)
    falls = [step / updates for step in range(1, len(found)) if found[step] < 0.5 * found[step - 1]]
    ends = lr_stage_ends(config)
    assert ends[-1] == len(found) / updates
    # Stepped by updates, timm's multistep falls one update before the epoch ends.
    assert ends[:-1] == pytest.approx(falls, abs=1.01 / updates)
    assert all(end == int(end) for end in ends)


@pytest.mark.parametrize(
    'flags',
    [['--sched', 'cosine'], ['--sched', 'poly'], ['--sched', 'constant'], ['--sched', 'none'], ['--sched', 'wsd']],
    ids=' '.join,
)
def test_other_schedules_are_one_stage(flags):
    assert lr_stage_ends(configure('--epochs', 100, '--lr', 1.0, *flags)) == (100,)


def test_one_stage_lasts_as_long_as_training():
    flags = ['--sched', 'cosine', '--epochs', 20, '--lr-cycle-limit', 3, '--warmup-prefix', '--cooldown-epochs', 4]
    assert lr_stage_ends(configure(*flags, '--lr', 1.0)) == (3 * 20 + 5 + 4,)


def test_decays_outside_of_training_end_no_stage():
    ends = lr_stage_ends(configure('-c', HPARAMS / 'resnet50.yaml', '--epochs', 40))
    assert ends == (30, 40)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ([], 'add --sched-on-updates'),
        (['--sched-on-updates', '--warmup-prefix'], 'leave --warmup-prefix out'),
        (['--sched-on-updates', '--lr-noise', '0.5'], '--lr-noise does not go'),
    ],
)
def test_refuses_flags_it_has_no_use_for(flags, message):
    with pytest.raises(DebiasError, match=message):
        check_config(configure('--device', 'cpu', '--sched', 'warmup_multistep', *flags))
