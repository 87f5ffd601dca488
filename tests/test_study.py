"""`timm-debias study` as its user runs it: killed half way, gone on with, and equal to the commands run by hand."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from timm_debias.cli import main


def write_study(folder: Path) -> Path:
    """A study of 2 methods × 2 seeds on pictures of three colours, one epoch each."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('validation', 2), ('test', 3)):
        for index, name in enumerate(('blue', 'green', 'red')):
            (folder / 'data' / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 200, (32, 32, 3))
                pixels[..., index] += 55
                Image.fromarray(pixels.astype(np.uint8)).save(folder / 'data' / split / name / f'{number}.png')
    make = {'command': 'make-benchmark', 'kind': 'corrupted', 'data_dir': '${DATA}', 'split': 'test', 'workers': 1}
    study = {
        'name': 'colours',
        'title': 'Colours',
        'pictures': True,
        'make': {'corrupted': make | {'img_size': 32, 'resize': 32, 'corruptions': ['gaussian_noise', 'fog']}},
        'train': {
            'data_dir': '${DATA}', 'model': 'test_resnet', 'num_classes': 3, 'img_size': 32, 'crop_pct': 1.0,
            'device': 'cpu', 'workers': 0, 'batch_size': 4, 'epochs': 1, 'warmup_epochs': 0, 'lr': 0.01,
        },
        'validate': {
            'benchmarks': 'folder,folder-c,folder-fgsm', 'epsilons': [1, 4],
            'benchmark_dir': ['folder=${DATA}/test', 'folder-c=${MADE}/corrupted'],
        },
        'methods': {'plain': {}, 'debiased': {'debias': True}},
        'seeds': [0, 1],
        'baselines': ['plain'],
        'measures': {'clean': 'folder_top1', 'fog': {'column': 'folder-c/fog/3', 'better': 'lower'}},
    }  # fmt: skip
    path = folder / 'study.yaml'
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


@pytest.mark.slow
def test_a_killed_study_goes_on_and_gives_the_same_results(tmp_path):
    """Its runs are those of train.py and validate.py run by hand, whether before the kill or after."""
    path, out = write_study(tmp_path), tmp_path / 'out'
    words = ['study', str(path), '--output', str(out), '--set', f'DATA={tmp_path / "data"}', '--threads', '1']
    study = subprocess.Popen([sys.executable, '-m', 'timm_debias.cli', *words])
    first, second = out / 'runs/plain.0', out / 'runs/debiased.0'
    while study.poll() is None and not (second / 'log.txt').exists():
        time.sleep(0.02)
    study.send_signal(signal.SIGKILL)
    study.wait()
    assert json.loads((first / 'run.json').read_text())['status'] == 'finished'
    assert json.loads((second / 'run.json').read_text())['status'] == 'started'
    before = (first / 'last.pth.tar').stat().st_mtime_ns

    assert main(words) == 0
    assert (first / 'last.pth.tar').stat().st_mtime_ns == before
    with open(out / 'report/results.csv', newline='') as file:
        rows = {(row['method'], row['seed']): row for row in csv.DictReader(file)}
    assert set(rows) == {(method, seed) for method in ('plain', 'debiased') for seed in '01'}
    assert all(row['status'] == 'finished' for row in rows.values())
    for method in ('plain', 'debiased'):
        by_hand = run_by_hand(tmp_path, method, seed=0)
        row = rows[method, '0']
        assert row['weights'] == by_hand['weights'][:12]
        assert float(row['folder_top1']) == pytest.approx(by_hand['folder_top1'], abs=1e-4)
        fog = by_hand['benchmarks']['folder-c']['metrics']['errors']['fog']['3']['error']
        assert float(row['folder-c/fog/3']) == pytest.approx(fog, abs=1e-4)
    assert rows['plain', '0']['weights'] != rows['plain', '1']['weights']
    check_report(out / 'report')

    elsewhere = ['--output', str(tmp_path / 'elsewhere'), '--stored', str(out / 'report')]
    assert main([*words, *elsewhere]) == 0  # The last --output counts.
    assert not (tmp_path / 'elsewhere/runs').exists()
    for name in ('report.md', 'results.csv', 'measured.json', 'tests.csv'):
        assert (tmp_path / 'elsewhere/report' / name).read_bytes() == (out / 'report' / name).read_bytes()


def run_by_hand(root: Path, method: str, seed: int) -> dict:
    """Train and measure with the flags written out once more, in this process."""
    common = ['--model', 'test_resnet', '--num-classes', '3', '--img-size', '32', '--crop-pct', '1', '--device', 'cpu']
    common += ['-j', '0']
    train = ['--data-dir', root / 'data', '-b', '4', '--epochs', '1', '--warmup-epochs', '0', '--lr', '0.01']
    train += ['--seed', seed, '--output', root / 'hand', '--experiment', method]
    train += ['--debias'] if method == 'debiased' else []
    assert main(['train', *common, *map(str, train)]) == 0
    validate = ['--checkpoint', root / 'hand' / method / 'last.pth.tar', '--epsilons', '1', '4']
    validate += ['--benchmarks', 'folder,folder-c,folder-fgsm', '--results-dir', root / 'hand' / method / 'results']
    validate += ['--benchmark-dir', f'folder={root / "data/test"}', f'folder-c={root / "out/made/corrupted"}']
    assert main(['validate', *common, *map(str, validate)]) == 0
    return json.loads((root / 'hand' / method / 'results/results.json').read_text())


def check_report(folder: Path) -> None:
    markdown = (folder / 'report.md').read_text()
    assert '4 of 4 runs finished' in markdown
    assert '![Images of the tests](samples.png)' in markdown
    assert (folder / 'samples.png').stat().st_size > 1000
    assert 'corruptions' in (folder / 'severities-folder-c.svg').read_text()
    measured = json.loads((folder / 'measured.json').read_text())
    assert [entry['benchmark'] for entry in measured['benchmarks']] == ['folder', 'folder-c', 'folder-fgsm']
    assert str(folder.parents[1]) not in json.dumps(measured) + markdown  # No path of this machine.


def test_a_run_that_fails_is_reported(tmp_path, capsys, monkeypatch):
    """A mistake that shows only in training: the other runs go on, the report names it, the exit code is 1."""
    monkeypatch.setitem(os.environ, 'OMP_NUM_THREADS', '1')
    path = write_study(tmp_path)
    study = yaml.safe_load(path.read_text())
    study['methods'] = {'plain': {}, 'large': {'batch_size': 400}}
    study['seeds'] = [3]
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    words = ['study', str(path), '--output', str(tmp_path / 'out'), '--set', f'DATA={tmp_path / "data"}']
    assert main([*words, '--shard', '2/2']) == 1
    errors = capsys.readouterr().err
    assert 'large.3 failed: timm-debias train: error: --batch-size 400 is more than the 12 training images' in errors
    assert not (tmp_path / 'out/report').exists()
    assert main([*words, '--runs', 'plain.*']) == 0
    assert main([*words, '--report-only']) == 0
    markdown = (tmp_path / 'out/report/report.md').read_text()
    assert '1 of 2 runs finished' in markdown
    assert '- large.3: failed, timm-debias train: error: --batch-size 400' in markdown
