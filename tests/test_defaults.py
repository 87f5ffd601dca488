"""Short names of losses, and flags that name different ones."""

import pytest

from timm_debias import DebiasError
from timm_debias.training.main import build_parser, config_from_args


def parse(*argv: str):
    return config_from_args(build_parser().parse_args(argv))


@pytest.mark.parametrize(
    ('argv', 'loss'),
    [
        ([], 'ce'),
        (['--task', 'multilabel'], 'bce'),
        (['--bce-loss'], 'bce'),
        (['--bce-loss', '--loss', 'bce'], 'bce'),
        (['--jsd-loss'], 'jsd'),
        (['--loss', 'poly'], 'poly'),
    ],
)
def test_loss(argv, loss):
    assert parse(*argv).task.loss == loss


@pytest.mark.parametrize(
    ('argv', 'parts'),
    [
        (['--bce-loss', '--loss', 'asl'], ['--loss asl', '--bce-loss']),
        (['--bce-loss', '--jsd-loss'], ['--bce-loss', '--jsd-loss']),
        (['--bce-pos-weight', '2', '--loss-pos-weight', '3'], ['--bce-pos-weight', '--loss-pos-weight']),
    ],
)
def test_contradictions(argv, parts):
    with pytest.raises(DebiasError) as caught:
        parse(*argv)
    assert all(part in str(caught.value) for part in parts)


def test_values_that_are_given_stay():
    config = parse('--smoothing', '0.3', '--eval-metric', 'loss', '--bce-loss', '--bce-pos-weight', '2')
    assert (config.augment.smoothing, config.run.eval_metric) == (0.3, 'loss')
    assert float(config.task.loss_pos_weight) == 2
