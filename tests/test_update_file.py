"""Files of updates that were not finite."""

import argparse
import math

import pytest
import torch
from test_nonfinite import batches, run_of, train

from timm_debias import DebiasError
from timm_debias.training.checkpoint import ENTRY
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.update_file import UPDATE, held_elsewhere, read_update, save_update, value_range


def test_range():
    assert value_range(torch.tensor([1.0, math.nan, -2.5, math.inf, -math.inf])) == (-2.5, 1.0, 3)
    low, high, bad = value_range(torch.full((2, 2), math.nan))
    assert (math.isnan(low), math.isnan(high), bad) == (True, True, 4)
    assert value_range(torch.tensor([0.5], dtype=torch.bfloat16)) == (0.5, 0.5, 0)


def test_what_is_saved(colour_stylizer, tmp_path):
    run = run_of(colour_stylizer, batches(6, {3}), '--grad-accum-steps', '2')
    args = build_parser().parse_args(['--model', 'test_resnet'])
    run.guard.save = lambda update: save_update(run, args, tmp_path, update)
    with pytest.raises(DebiasError, match=r'update 1: .*nonfinite-0-1-0.pt; `timm-debias replay .*nonfinite-0-1-0.pt`'):
        train(run)
    content = read_update(tmp_path / 'nonfinite-0-1-0.pt')
    assert (content[ENTRY]['epoch'], content[ENTRY]['batch']) == (0, 1)
    first, second = content[UPDATE]['batches']
    assert torch.equal(second['images'], batches(6, {3})[3][0])
    assert math.isfinite(first['losses']['loss'])
    assert not math.isfinite(second['losses']['loss'])
    assert second['ranges']['images'][1] == pytest.approx(3e38)
    assert isinstance(content['args'], argparse.Namespace)
    assert all(value.isfinite().all() for value in content['state_dict'].values())


@pytest.mark.parametrize(
    'flags', [['--debias', '--debias-global-partners'], ['--sync-bn']], ids=lambda flags: flags[-1]
)
def test_what_other_processes_hold(flags):
    config = config_from_args(build_parser().parse_args(flags))
    assert held_elsewhere(config, 2).startswith(f'{flags[-1]} took ')
    assert held_elsewhere(config, 1) is None
    assert held_elsewhere(config_from_args(build_parser().parse_args(flags[:-1])), 2) is None


@pytest.mark.parametrize('content', [b'', b'garbage'])
def test_no_update(tmp_path, content):
    (tmp_path / 'file.pt').write_bytes(content)
    with pytest.raises(DebiasError, match=r'file\.pt: damaged'):
        read_update(tmp_path / 'file.pt')


def test_a_checkpoint_is_no_update(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'last.pth.tar')
    with pytest.raises(DebiasError, match='holds no update'):
        read_update(tmp_path / 'last.pth.tar')
