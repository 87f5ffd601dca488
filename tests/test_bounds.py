"""Numbers that no run can be meant to have: refused with the flag, the number and what is expected."""

import dataclasses
import typing

import pytest

from timm_debias import DebiasError
from timm_debias.training.checks import check_config
from timm_debias.training.config import TrainConfig
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.number_checks import _FIELDS as OF_TRAINING
from timm_debias.validation.checks import _FIELDS as OF_VALIDATION
from timm_debias.validation.checks import check_config as check_validation
from timm_debias.validation.config import ValidateConfig
from timm_debias.validation.main import build_parser as validate_parser
from timm_debias.validation.main import config_from_args as validate_config

COMMON = ['--device', 'cpu', '--model', 'test_resnet']


def check(argv: str) -> None:
    check_config(config_from_args(build_parser().parse_args([*COMMON, *argv.split()])))


def measuring(argv: str) -> ValidateConfig:
    return validate_config(validate_parser().parse_args([*COMMON, *argv.split()]))


@pytest.mark.parametrize(
    'argv',
    [
        '--workers -1', '--cooldown-epochs -5', '--patience-epochs -1',
        '--lr -0.1', '--warmup-prefix --warmup-epochs -3', '--warmup-lr -1', '--min-lr -0.1', '--weight-decay -1',
        '--epoch-repeats -1', '--mixup -0.5', '--cutmix -1', '--momentum -0.9', '--color-jitter -0.4',
    ],
)  # fmt: skip
def test_below_0(argv):
    *_, name, value = argv.split()
    with pytest.raises(DebiasError, match=f'^{name} is {value}; expected at least 0$'):
        check(argv)


@pytest.mark.parametrize(
    'argv',
    [
        '--clip-grad -1', '--clip-grad 0', '--sched step --decay-epochs 0', '--lr-cycle-mul 0',
        '--lr-base 0', '--layer-decay 0',
    ],
)  # fmt: skip
def test_not_above_0(argv):
    *_, name, value = argv.split()
    with pytest.raises(DebiasError, match=f'^{name} is {value}; expected more than 0$'):
        check(argv)


@pytest.mark.parametrize('argv', ['--checkpoint-steps -1', '--recovery-interval -1'])
def test_flags_of_two_names(argv):
    with pytest.raises(DebiasError, match='--recovery-interval/--checkpoint-steps is -1; expected at least 0'):
        check(argv)


@pytest.mark.parametrize('argv', ['--epochs 0', '--train-num-samples -1', '--train-img-sizes 32 0'])
def test_not_at_least_1(argv):
    with pytest.raises(DebiasError, match=f'^{argv.split()[0]} is {argv.split()[-1]}; expected at least 1$'):
        check(argv)


@pytest.mark.parametrize('argv', ['--model-ema --model-ema-decay 1.5', '--model-ema --model-ema-decay -1', '--drop 2'])
def test_no_share(argv):
    with pytest.raises(DebiasError, match=r'; expected a number in \[0, 1\]$'):
        check(argv)


@pytest.mark.parametrize('argv', ['--smoothing 1', '--opt adamw --opt-betas 0.9 1'])
def test_not_below_1(argv):
    with pytest.raises(DebiasError, match='is 1; expected at least 0 and less than 1'):
        check(argv)


@pytest.mark.parametrize('schedule', ['multistep', 'warmup_multistep --sched-on-updates'])
def test_milestones_in_another_order(schedule):
    """timm would decay by all of them at the first."""
    with pytest.raises(DebiasError, match='--decay-milestones is 4 2; expected the earlier epochs first'):
        check(f'--sched {schedule} --decay-milestones 4 2')


def test_bounds_include_their_ends(tmp_path):
    check('--weight-decay 0 --warmup-lr 0 --warmup-epochs 0 --workers 0 --momentum 0 --drop 1 --epochs 1 --min-lr 0')
    check('--smoothing 0 --opt adamw --opt-betas 0 0.9')
    check_validation(measuring(f'--benchmarks pgd --benchmark-dir imagenet={tmp_path} --epsilons 0 255'))


@pytest.mark.parametrize(
    ('argv', 'expected'),
    [
        ('--batch-size 0', 'at least 1'), ('--in-chans 0', 'at least 1'), ('--workers -1', 'at least 0'),
        ('--benchmarks pgd --pgd-restarts 0', 'at least 1'), ('--benchmarks pgd --pgd-step-size -1', 'at least 0'),
        ('--benchmarks pgd --epsilons -0.5', '0 to 255'), ('--benchmarks pgd --epsilons 255.5', '0 to 255'),
    ],
)  # fmt: skip
def test_measuring(argv, expected):
    *_, name, value = argv.split()
    with pytest.raises(DebiasError, match=f'^{name} is {value}; expected {expected}'):
        check_validation(measuring(argv))


@pytest.mark.parametrize(('bounds', 'config'), [(OF_TRAINING, TrainConfig), (OF_VALIDATION, ValidateConfig)])
def test_every_bound_is_of_one_flag(bounds, config):
    concerns = typing.get_type_hints(config).values()
    names = [name for fields in bounds.values() for name in fields]
    assert len(set(names)) == len(names)
    assert set(names) <= {field.name for concern in concerns for field in dataclasses.fields(concern)}
