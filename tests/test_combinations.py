"""Which of timm's flags are refused together."""

from pathlib import Path

import pytest

from timm_debias import DebiasError
from timm_debias.checks import DATA_FLAGS
from timm_debias.flags import parse_with_yaml
from timm_debias.training.checks import check_config
from timm_debias.training.combinations import REFUSED_WITH_DEBIAS
from timm_debias.training.main import build_parser, config_from_args

COMMON = ['--device', 'cpu', '--model', 'test_resnet']


def check(*argv: str) -> None:
    check_config(config_from_args(build_parser().parse_args([*COMMON, *argv])))


WITH_DEBIAS = {
    '--naflex-loader': ['--naflex-loader'],
    '--task multilabel': ['--task', 'multilabel', '--dataset', 'hfds/x'],
    '--kd-model-name': ['--kd-model-name', 'resnet18'],
    '--aug-splits': ['--aug-splits', '3'],
    '--jsd-loss': ['--jsd-loss', '--aug-splits', '3'],
    '--resplit': ['--resplit'],
    '--split-bn': ['--split-bn', '--resplit'],
    '--torchscript': ['--torchscript'],
    '--loss asl': ['--loss', 'asl'],
}


def test_the_table_of_what_is_refused_with_debias():
    assert set(REFUSED_WITH_DEBIAS) == set(WITH_DEBIAS)


def test_it_is_in_the_documentation():
    """Each flag is named on the page of timm's scripts, or in the table of training.md to which that page leads."""
    docs = Path(__file__).parents[1] / 'docs'
    scripts, table = ((docs / name).read_text(encoding='utf-8') for name in ('timm_scripts.md', 'training.md'))
    assert '(training.md#what-goes-together)' in scripts
    assert not [flag for flag in REFUSED_WITH_DEBIAS if f'`{flag}' not in scripts and f'`{flag}`' not in table]


@pytest.mark.parametrize('flag', WITH_DEBIAS)
def test_refused_with_debias_alone(flag):
    check(*WITH_DEBIAS[flag])  # Without --debias, nothing is wrong with it.
    with pytest.raises(DebiasError, match=r'does not go with --debias: .{20}'):
        check(*WITH_DEBIAS[flag], '--debias')
    given, _ = REFUSED_WITH_DEBIAS[flag]  # Where two are refused, the error is of the first.
    assert given(config_from_args(build_parser().parse_args([*COMMON, *WITH_DEBIAS[flag], '--debias'])))
    assert not given(config_from_args(build_parser().parse_args([*COMMON, '--debias'])))


def test_torchscript_goes_with_debias_where_there_is_nothing_to_switch():
    check('--torchscript', '--debias', '--no-debias-aux-bn')


@pytest.mark.parametrize(
    ('argv', 'parts'),
    [
        ('--aug-splits 1', ['--aug-splits is 1']),
        ('--jsd-loss', ['--loss jsd', '--aug-splits 3']),
        ('--aug-splits 2 --mixup 0.2', ['--mixup', '--aug-splits']),
        ('--aug-splits 2 --train-img-sizes 32 64', ['--aug-splits', '--train-img-sizes']),
        ('--split-bn', ['--split-bn', '--resplit']),
        ('--split-bn --resplit -b 5', ['--split-bn', '--batch-size 5', 'even']),
        (
            '--split-bn --resplit --train-img-sizes 32 48 --train-batch-sizes 4 5',
            ['--train-batch-sizes 5', 'even'],
        ),
        ('--split-bn --resplit --on-bad-image skip', ['--on-bad-image skip', '--split-bn', 'replace']),
        ('--split-bn --resplit --sync-bn', ['--split-bn', '--sync-bn']),
        ('--torchscript --torchcompile', ['--torchcompile', '--torchscript']),
        ('--torchscript --layer-decay 0.7', ['--layer-decay', '--torchscript']),
        ('--torchscript --fuser nvfuser', ['--fuser nvfuser', 'te and old']),
        ('--naflex-loader --train-img-sizes 32', ['--train-img-sizes', '--naflex-loader']),
        ('--naflex-loader --no-prefetcher', ['--no-prefetcher', '--naflex-loader']),
        ('--naflex-loader --channels-last', ['--channels-last', '--naflex-loader']),
        ('--naflex-loader --mixup 0.2 --mixup-mode elem', ['--mixup-mode', '--naflex-loader']),
        ('--naflex-loader --kd-model-name resnet18', ['--kd-model-name', '--naflex-loader']),
        ('--naflex-loader --naflex-patch-sizes 8 16 --naflex-patch-size-probs 1', ['1 values', '2']),
        ('--naflex-loader --naflex-max-seq-len 0', ['--naflex-max-seq-len is 0']),
        ('--train-img-sizes 32 64 --train-batch-sizes 4', ['--train-batch-sizes has 1', '--train-img-sizes 2']),
        ('--train-img-sizes 32 0', ['--train-img-sizes is 0']),
        ('--train-img-sizes 32 64 --train-batch-sizes 4 1 --debias', ['--train-batch-sizes', 'partners']),
        ('--train-img-sizes 32 --use-multi-epochs-loader', ['--use-multi-epochs-loader']),
        ('--kd-model-name resnet51', ["unknown model 'resnet51'"]),
        ('--task multilabel', ['hfds/']),
        ('--task multilabel --dataset hfds/x --eval-metric top1', ["'top1'", 'map']),
        ('--task multilabel --dataset hfds/x --multilabel-threshold 1.5', ['--multilabel-threshold is 1.5']),
        ('--eval-metric top2', ["'top2'", "'top1'"]),
        ('--tta 3', ['--tta 3', 'different images']),
        ('--resume auto', ['--resume auto', '--experiment']),
        ('--sched plateau --sched-on-updates', ['--sched plateau', '--sched-on-updates']),
        ('--stop-epoch 0', ['--stop-epoch is 0']),
        ('--save-epochs 3 0', ['--save-epochs is 0']),
        ('--local_rank 3', ['--local_rank is 3', 'LOCAL_RANK', 'torchrun']),
        ('--class-stats nowhere.json', ["--class-stats 'nowhere.json'", 'no such file']),
    ],
)
def test_contradictions(argv, parts, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    with pytest.raises(DebiasError) as caught:
        check(*argv.split())
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_local_rank_of_old_launchers(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '3')
    check('--local_rank', '3')


def test_two_names_of_one_rate():
    check('--drop-connect', '0.1', '--drop-path', '0.1')
    with pytest.raises(DebiasError, match='--drop-connect is the old name of --drop-path'):
        check('--drop-connect', '0.1', '--drop-path', '0.2')


def test_two_data_sets(tmp_path):
    """On the command line; one there replaces that of a file, such as timm's args.yaml, whichever flag had named it."""
    check('a', '--data-dir', 'a')
    for key, argv in (('data', ['--data-dir', 'mine']), ('data_dir', ['mine'])):
        (tmp_path / 'args.yaml').write_text(f'{key}: theirs\n')
        words = ['-c', str(tmp_path / 'args.yaml'), *argv]
        data = config_from_args(parse_with_yaml(build_parser(), words, same=DATA_FLAGS)).data
        assert {data.data, data.data_dir} == {'mine', None}
        data = config_from_args(parse_with_yaml(build_parser(), words[:2], same=DATA_FLAGS)).data
        assert {data.data, data.data_dir} == {'theirs', None}
    with pytest.raises(DebiasError, match="two data sets are named, 'a' and --data-dir 'b': give one of them"):
        check('a', '--data-dir', 'b')


def test_defaults_say_nothing(caplog):
    check()
    check('--debias')
    assert not caplog.records
