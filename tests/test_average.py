"""Averages of checkpoints against means computed here."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from timm_debias.cli import main


@pytest.fixture
def checkpoints(tmp_path):
    """Four checkpoints of a run, named and ranked as timm does."""
    paths = []
    for number, metric in enumerate((40.0, 70.0, 60.0, 50.0)):
        torch.manual_seed(number)
        state = timm.create_model('test_resnet', num_classes=5).state_dict()
        state = {key: value + number if 'num_batches' in key else value for key, value in state.items()}
        ema = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
        path = tmp_path / 'run' / f'checkpoint-{number}.pth.tar'
        path.parent.mkdir(exist_ok=True)
        torch.save({'state_dict': state, 'state_dict_ema': ema, 'metric': metric}, path)
        paths.append(path)
    torch.save({'state_dict': state, 'metric': 70.0}, tmp_path / 'run' / 'model_best.pth.tar')
    return paths


def average(tmp_path, *argv) -> int:
    return main(['average', *map(str, argv), '--output', str(tmp_path / 'mean.safetensors'), '--overwrite'])


def states(paths, key='state_dict'):
    return [torch.load(path, weights_only=True)[key] for path in paths]


def check(tmp_path, expected):
    found = load_file(tmp_path / 'mean.safetensors')
    assert found.keys() == expected[0].keys()
    for name, value in found.items():
        assert value.dtype == expected[0][name].dtype
        if value.is_floating_point():
            mean = np.mean([state[name].numpy().astype(np.float64) for state in expected], axis=0).astype(np.float32)
            np.testing.assert_array_equal(value.numpy(), mean)
        else:
            assert torch.equal(value, expected[0][name])


def error(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_files(checkpoints, tmp_path):
    assert average(tmp_path, *checkpoints[:3]) == 0
    check(tmp_path, states(checkpoints[:3]))
    timm.create_model('test_resnet', num_classes=5, checkpoint_path=str(tmp_path / 'mean.safetensors'))
    assert average(tmp_path, *checkpoints[:3], '--use-ema') == 0
    check(tmp_path, states(checkpoints[:3], 'state_dict_ema'))


def test_best_of_a_run(checkpoints, tmp_path):
    assert average(tmp_path, tmp_path / 'run', '-n', 2) == 0
    check(tmp_path, states([checkpoints[1], checkpoints[2]]))
    assert average(tmp_path, tmp_path / 'run', '-n', 3, '--ascending') == 0
    check(tmp_path, states([checkpoints[0], checkpoints[3], checkpoints[2]]))


def test_mistakes(checkpoints, tmp_path, capsys):
    assert average(tmp_path, checkpoints[0]) == 2
    assert 'at least 2' in error(capsys)
    assert average(tmp_path, tmp_path / 'run', '-n', 1) == 2
    assert 'at least 2' in error(capsys)
    assert average(tmp_path, tmp_path / 'run', '-n', -1) == 2
    assert '-n/--best -1' in error(capsys)
    for flags, name in ((['-n', 2], '-n/--best'), (['--ascending'], '--ascending')):
        assert average(tmp_path, *checkpoints, *flags) == 2
        assert f'{name} chooses among the checkpoints of one run' in error(capsys)
        assert average(tmp_path, tmp_path / 'nowhere', *flags) == 2
        assert error(capsys).endswith(f'{tmp_path / "nowhere"}: no such file or folder')
    assert average(tmp_path, checkpoints[0], checkpoints[0]) == 2
    assert 'given twice' in error(capsys)
    torch.save(timm.create_model('test_resnet', num_classes=4).state_dict(), tmp_path / 'other.pth')
    assert average(tmp_path, checkpoints[0], tmp_path / 'other.pth') == 2
    assert "other.pth: 'fc.weight' is [4, " in error(capsys)
    torch.save({'state_dict': states(checkpoints[:1])[0]}, tmp_path / 'run' / 'checkpoint-9.pth.tar')
    assert average(tmp_path, tmp_path / 'run') == 2
    assert 'checkpoint-9.pth.tar has no metric' in error(capsys)
    assert not (tmp_path / 'mean.safetensors').exists()
    assert main(['average', *map(str, checkpoints), '--output', str(tmp_path / 'mean.pth')]) == 2
    assert '.safetensors' in error(capsys)
    assert main(['average', *map(str, checkpoints), '--output', f'{checkpoints[0]}/mean.safetensors']) == 2
    assert error(capsys).endswith(f'{checkpoints[0]} is a file; name a folder')
    (tmp_path / 'mean.safetensors').write_text('mine')
    assert main(['average', *map(str, checkpoints), '--output', str(tmp_path / 'mean.safetensors')]) == 2
    assert '--overwrite' in error(capsys)
