"""`benchmarks/validation_throughput.py`: both sides see the same images, and ratios are of neighbouring turns."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn


@pytest.fixture(scope='module')
def script():
    path = Path(__file__).parents[1] / 'benchmarks' / 'validation_throughput.py'
    spec = importlib.util.spec_from_file_location('validation_throughput', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_turns(script, monkeypatch):
    """By a clock that stands still but for the sides: the suite takes 2 s for 10 images, the other 1, then 4."""
    now, order = [0.0], []
    monkeypatch.setattr(script.time, 'perf_counter', lambda: now[0])
    others = iter([1.0, 4.0])

    def suite():
        order.append('suite')
        now[0] += 2
        return 10

    def other():
        order.append('other')
        now[0] += next(others)
        return 10

    measured = script.in_turns(suite, other, 2)
    assert order == ['suite', 'other', 'suite', 'suite', 'other']  # The first is not counted.
    assert measured['ratios'] == [0.5, 2.0]
    assert measured['median'] == 1.25


def test_both_sides_see_the_same_images(script, tmp_path):
    """Means of the pixels that reach the model, whichever way they come."""
    photographs = script.draw_photographs(tmp_path, 3)
    script.place_corruptions(photographs, tmp_path)
    seen = []

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, images):
            seen.extend(images.mean(dim=(1, 2, 3)).tolist())
            return images.mean(dim=(2, 3)).repeat(1, 334)[:, :1000] * self.scale

    model = Recorder()
    args = script.get_args_parser().parse_args(['-b', '2', '-j', '0'])
    assert script.Suite(args, 'imagenet-c', tmp_path / 'imagenet-c', model)() == 95 * 3
    suite = seen[1:]  # The first is a black image, to see whether the model takes the size.
    seen.clear()
    assert script.run_folders(model, tmp_path / 'imagenet-c', args) == 95 * 3
    assert seen == pytest.approx(suite, abs=1e-5)
    assert len(set(seen)) == 3


def test_command(script, monkeypatch, capsys):
    monkeypatch.setattr(script, 'IMAGES_OF_FOLDER', 1)
    script.main(['--images', '2', '--repeats', '1', '-j', '0', '--threads', '1'])
    *table, last = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    results = json.loads(last)
    assert results['bare']['median'] == results['bare']['ratios'][0] > 0
    assert len(results['folders']['suite']) == 1
    assert results['settings']['threads'] == 1
