"""The benchmark of a recipe's step: it trains at every size and says what it measured."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture
def recipe_step():
    spec = importlib.util.spec_from_file_location('recipe_step', ROOT / 'benchmarks' / 'recipe_step.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('flags', [[], ['--debias-min-size', '40']], ids=' '.join)
def test_table(recipe_step, tmp_path, capsys, monkeypatch, flags):
    generator = np.random.default_rng(0)
    for number in range(10):
        path = tmp_path / 'train' / str(number % 2) / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    ticks = iter(range(1000))
    monkeypatch.setattr(recipe_step.time, 'process_time', lambda: next(ticks))
    argv = ['--repeats', '1', '-c', str(ROOT / 'hparams' / 'resnet50.yaml'), '--data-dir', str(tmp_path), '-b', '2']
    argv += ['--val-split', '', '--device', 'cpu', '-j', '0', '--model', 'test_resnet', '--num-classes', '2']
    recipe_step.main([*argv, '--img-size', '64', '--debias-stylizer', 'adain_lite', *flags])
    output = capsys.readouterr().out
    # Each step takes one tick of this clock.
    assert re.findall(r'^\| (.*) \| 1\.00 \| 1\.00 \|$', output, re.MULTILINE) == [
        'plain', 'debiased, epoch 0, even update', 'debiased, epoch 0, odd update', 'debiased, epoch 29, even update',
        'debiased, epoch 29, odd update', 'debiased, mean',
    ]  # fmt: skip
    assert '2 images a step' in output
    assert f'{1_281_167 / 2 * 100 / 3600:,.0f} hours, plain' in output
