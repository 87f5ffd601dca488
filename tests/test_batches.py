"""Batches of changing size."""

import pytest
import torch

from timm_debias.machine import Machine
from timm_debias.training.batches import batch_length, loss_scale, mean_batch_size
from timm_debias.training.main import build_parser, config_from_args

ALONE = Machine(torch.device('cpu'))


def parse(argv: str):
    return config_from_args(build_parser().parse_args(argv.split()))


def test_length():
    assert batch_length(torch.zeros(5, 3, 8, 8)) == 5
    assert batch_length({'patches': torch.zeros(7, 10, 48), 'patch_coord': torch.zeros(7, 10, 2)}) == 7


@pytest.mark.parametrize(
    ('argv', 'scale'),
    [
        ('', 1),
        ('--variable-batch-loss-scale linear', 1),  # Batches do not vary without --train-img-sizes.
        ('--train-img-sizes 32 64', 1),
        ('--train-img-sizes 32 64 --variable-batch-loss-scale linear', 0.25),
        ('--train-img-sizes 32 64 --variable-batch-loss-scale sqrt', 0.5),
        ('--naflex-loader', 0.25),
        ('--naflex-loader --naflex-loss-scale sqrt', 0.5),
        ('--naflex-loader --naflex-loss-scale none', 1),
    ],
)
def test_scale_of_a_quarter_of_the_batch(argv, scale):
    assert loss_scale(parse(argv), 3, 12.0, ALONE) == pytest.approx(scale)


def test_naflex_batches_of_processes_count_by_their_images(monkeypatch):
    """The other process has 9 images: of 12 in all, this one's 3 are a quarter, times 2 processes."""
    monkeypatch.setattr('torch.distributed.all_reduce', lambda tensor: tensor.add_(9))
    machine = Machine(torch.device('cpu'), world_size=2, distributed=True)
    assert loss_scale(parse('--naflex-loader --naflex-loss-scale none'), 3, 12.0, machine) == pytest.approx(0.5)


def test_mean():
    assert mean_batch_size(parse('-b 24'), None) == 24
    loader = torch.utils.data.DataLoader(range(4), batch_sampler=Sampler())
    assert mean_batch_size(parse('-b 24 --train-img-sizes 32 64'), loader) == 7.5


class Sampler(list):
    average_batch_size = 7.5
