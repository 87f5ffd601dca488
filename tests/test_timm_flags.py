"""Every flag of timm's train.py and validate.py, against tables that timm's own scripts gave.

`timm_args.yaml` is the args.yaml that timm's train.py (commit a6da4da1, version 1.0.29.dev0) wrote for a run with the
flags of `GIVEN` and no others.
"""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from tiny import make_folder

from timm_debias.cli import main
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.validation.main import build_parser as build_validation_parser

ARGS = Path(__file__).parent / 'timm_args.yaml'
GIVEN = {
    'data_dir': 'data', 'model': 'test_resnet', 'num_classes': 3, 'img_size': 32, 'device': 'cpu', 'workers': 0,
    'batch_size': 4, 'epochs': 2, 'warmup_epochs': 0, 'lr': 0.01, 'experiment': 'timm',
}  # fmt: skip
DEPENDENT = {'smoothing', 'eval_metric', 'decay_epochs'}
"""Flags whose default timm 1.0.31 chooses by others; `test_dependent_defaults` has them."""

KINDS = {'int': int, 'float': float, 'str': str}


@pytest.fixture(scope='module')
def table():
    """timm's parsers in a table, where that is at hand."""
    data = os.environ.get('TIMM_DEBIAS_DATA')
    path = (Path(data).parent if data else Path(__file__).parents[1] / '../shared') / 'timm-cli.json'
    if not path.is_file():
        pytest.skip(f"no table of timm's flags at {path}")
    return json.loads(path.read_text())


def actions(parser) -> dict:
    return {name: action for action in parser._actions for name in (action.option_strings or [action.dest])}


def check(entry: dict, ours: dict) -> None:
    """Compare one flag of timm's with ours of the same name."""
    for name in entry['flags']:
        assert name in ours, f'no {name}'
    action = ours[entry['flags'][0]]
    if action.dest not in DEPENDENT:
        default = eval(entry.get('default', 'None'), {})
        switch = action.nargs == 0 and default is None  # argparse makes that False.
        assert action.default == (False if switch else default), entry['flags']
    assert str(action.nargs) == entry.get('nargs', str(action.nargs)).strip("'"), entry['flags']
    if 'type' in entry:
        assert (action.type or str) is KINDS[entry['type']], entry['flags']
    if 'store_true' in entry.get('action', ''):
        assert action.nargs == 0
    if 'choices' in entry:
        assert list(action.choices) == list(eval(entry['choices'], {}))


def test_training_flags(table):
    ours = actions(build_parser())
    for entry in table['train']:
        check(entry, ours)
    additions = [words.split() for words in table['train_1.0.31_additions_incomplete']]
    for flag, *value in additions:
        assert flag in ours
        if value:  # --resume auto, --sched wsd
            assert getattr(build_parser().parse_args([flag, *value]), ours[flag].dest) == value[0]
    timms = {name for entry in table['train'] for name in entry['flags']} | {flag for flag, *_ in additions}
    own = {name for name in ours if name.startswith('--')} - timms - {'--help'}
    ours_alone = (
        '--debias',
        '--no-debias',
        '--freeze-backbone',
        '--checkpoint-steps',
        '--on-bad-image',
        '--on-nonfinite',
        '--fsdp',
        '--log-tensorboard',
    )
    assert all(name.startswith(ours_alone) for name in own), own


def test_validation_flags(table):
    ours = actions(build_validation_parser())
    for entry in table['validate']:
        check(entry, ours)


def test_defaults_in_an_args_yaml_of_timm():
    """The same without the table: what timm's script writes where nothing is given is our default."""
    theirs = yaml.safe_load(ARGS.read_text())
    ours = vars(build_parser().parse_args([]))
    assert set(theirs) <= set(ours)
    for key, value in theirs.items():
        if key not in DEPENDENT:
            assert value == GIVEN.get(key, ours[key]), key


def test_dependent_defaults():
    theirs = yaml.safe_load(ARGS.read_text())
    config = config_from_args(build_parser().parse_args([]))
    assert (config.augment.smoothing, config.run.eval_metric) == (theirs['smoothing'], theirs['eval_metric'])
    config = config_from_args(build_parser().parse_args(['--task', 'multilabel']))
    assert (config.augment.smoothing, config.run.eval_metric) == (0, 'map')
    # Where None is passed on, timm's own schedule takes it for the 90 of its script.
    from timm.scheduler import create_scheduler_v2

    rates = []
    for decay_epochs in (None, theirs['decay_epochs']):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule, _ = create_scheduler_v2(optimizer, 'step', 200, decay_epochs=decay_epochs)
        rates.append([schedule._get_lr(epoch)[0] for epoch in range(200)])
    assert rates[0] == rates[1]


def test_args_yaml_of_timm_trains_unchanged(tmp_path, monkeypatch):
    make_folder(tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-c', str(ARGS)]) == 0
    flags = [word for key, value in GIVEN.items() for word in (f'--{key.replace("_", "-")}', str(value))]
    assert main(['train', *flags, '--experiment', 'flags']) == 0
    by_yaml, by_flags = (
        torch.load(f'output/train/{name}/last.pth.tar', weights_only=False)['state_dict'] for name in ('timm', 'flags')
    )
    assert all(torch.equal(by_yaml[key], by_flags[key]) for key in by_yaml)
    assert main(['train', '-c', str(ARGS), '--debias', '--experiment', 'debiased']) == 0
