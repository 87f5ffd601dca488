"""The command `timm-debias benchmark` on tiny models."""

import json
from types import SimpleNamespace

import pytest
import torch
from torchvision.io import decode_image

from timm_debias import cli, create_stylizer
from timm_debias.benchmark import loading, suite
from timm_debias.benchmark.steps import Setup
from timm_debias.benchmark.timing import Ratio

TINY = ['--model', 'test_resnet', '--img-size', '32', '-b', '2', '--device', 'cpu', '--repeats', '1']


@pytest.fixture
def quick(monkeypatch):
    """Loading unmeasured, and a small matrix product."""
    found = {'loading': Ratio(1.0, 0.9, 1.1), 'decoding': Ratio(1.2, 1.1, 1.3)}
    monkeypatch.setattr(suite, 'measure_loading', lambda setup, workers, repeats: found)
    monkeypatch.setattr(suite, 'matmul_rate', lambda setup, repeats: 1e12)


def test_suite(quick, tmp_path, capsys):
    assert cli.run('benchmark', ['--suite', *TINY, '--output', str(tmp_path)]) == 0
    report = json.loads((tmp_path / 'benchmark.json').read_text())
    assert [row['name'] for row in report['rows']] == [
        'plain step, 2n images',
        'auxiliary batch norm',
        'debiased step, adain_lite',
        'debiased step, adain_lite, stylised at 16',
        'debiased step, adain_lite, stylised at 23',
        'debiased step, adain_lite, stylised at 32',
        'rest of the debiased step',
        "reference's step",
        'stylisation, adain_lite',
        'stylisation, adain_vgg19',
        'stylisation, band_statistics',
        'stylisation, fourier_amplitude',
        'debiased step, adain_lite, multi-grid',
        'peak memory',
        'arithmetic a second, plain step',
        'arithmetic a second, debiased step, adain_lite',
        'data loading',
        'JPEG decoding, torchvision',
    ]
    assert all(0 < row['low'] <= row['value'] <= row['high'] for row in report['rows'])
    assert all(row['limit'] is None for row in report['rows']), 'targets are those of ResNet-50'
    assert report['settings']['precision'] == 'float32'
    assert report['settings']['threads'] == torch.get_num_threads()
    assert set(report['images_per_second']) == {'plain step', 'debiased step, adain_lite'}
    assert capsys.readouterr().out == (tmp_path / 'benchmark.md').read_text()


def test_check(quick, tmp_path, capsys):
    argv = [*TINY, '--stylizers', 'band_statistics']
    assert cli.run('benchmark', [*argv, '--output', str(tmp_path)]) == 0
    path = tmp_path / 'benchmark.json'
    report = json.loads(path.read_text())
    for row in report['rows']:
        row['value'] *= 1e-3 if row['at_least'] else 1e3
    path.write_text(json.dumps(report))
    again = [*argv, '--output', str(tmp_path / 'again'), '--check', str(path)]
    assert cli.run('benchmark', again) == 0
    next(row for row in report['rows'] if row['name'] == 'peak memory')['value'] = 0.01
    path.write_text(json.dumps(report))
    capsys.readouterr()
    assert cli.run('benchmark', again) == 1
    assert 'Regression: peak memory' in capsys.readouterr().err


def test_ratios_are_to_plain_steps():
    """The one of auxiliary batch norm to the step on as many images."""
    seconds = {'plain step': [1.0], 'plain step, 2n images': [1.8], 'classify': [1.98], 'debiased step, x': [2.2]}
    found = {row.name: (round(row.value, 6), row.unit) for row in suite._rows(seconds)}
    assert found == {
        'plain step, 2n images': (1.8, 'plain steps'),
        'auxiliary batch norm': (1.1, 'plain steps on 2n images'),
        'debiased step, x': (2.2, 'plain steps'),
    }


def test_memory_is_compared_on_2n_images(quick, monkeypatch):
    passed = []
    monkeypatch.setattr(suite, 'peak_bytes', lambda step, device: passed.append(step) or 1)
    setup = Setup('test_resnet', 32, 3, torch.device('cpu'))
    suite.measure_steps(setup, {'band_statistics': create_stylizer('band_statistics')}, 1, is_suite=False)
    assert [len(step.held[0]) for step in passed] == [3, 6]  # The first takes as many stylised ones with them.
    assert any('aux_bn' in name for name, _ in passed[0].trained.module.named_parameters())


def test_multi_grid_is_the_mean_over_its_updates(monkeypatch):
    """Of four updates one is at 112 pixels, two at 158, one at 224."""
    setup = Setup('resnet50', 224, 8, torch.device('cpu'))
    seconds = {'plain step': [2.0, 4.0]}
    for side, cost in ((112, 1.5), (158, 1.8), (224, 2.5)):
        seconds[f'debiased step, x, stylised at {side}'] = [2 * cost, 4 * cost]
    (row,) = suite._multi_grid_rows(seconds, ['x'], suite._multi_grid_shares(setup))
    assert row.name == 'debiased step, x, multi-grid'
    assert row.value == row.low == pytest.approx((1.5 + 2 * 1.8 + 2.5) / 4)


def test_models_of_one_size_have_no_rows_for_multi_grid(caplog):
    with caplog.at_level('INFO'):
        shares = suite._multi_grid_shares(Setup('test_vit', 160, 2, torch.device('cpu')))
    assert suite._multi_grid_rows({}, ['x'], shares) == []
    assert 'No rows for multi-grid: test_vit does not take images of 113 pixels' in caplog.text


def test_archs(tmp_path):
    argv = ['--archs', 'test_resnet', 'test_resnet@48', '--stylizers', 'band_statistics', *TINY[2:]]
    assert cli.run('benchmark', [*argv, '--output', str(tmp_path)]) == 0
    report = json.loads((tmp_path / 'benchmark.json').read_text())
    assert [(row['model'], row['img_size']) for row in report['archs']] == [('test_resnet', 32), ('test_resnet', 48)]
    assert report['cost_model'] is None
    assert report['settings']['stylizer'] == 'band_statistics'


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--suite', '--archs', 'test_vit'], '--suite and --archs'),
        (['--model', 'test_resnett'], "Did you mean 'test_resnet"),
        (['--stylizers', 'adain_light'], "Did you mean 'adain_lite'"),
        (['--stylizer-weights', 'adain_lite'], 'NAME=PATH'),
        (['--archs', 'test_vit', '--stylizers', 'adain_lite', 'band_statistics'], 'one stylizer'),
        (['--archs', 'test_vit', '--check', 'x.json'], 'does not go with --archs'),
        (['--archs', 'test_vit', '--model', 'test_resnet'], 'leave --model out'),
        (['--project-recipe', 'x', '--stylizers', 'band_statistics'], 'the stylizer of the recipe'),
        (['--project-recipe', 'x', '--stylizer-weights', 'adain_vgg19=x'], 'leave --stylizer-weights out'),
        (['--project-recipe', 'x', '--output', 'x'], 'leave --output out'),
        (['--project-recipe', 'x', '--images-per-second', '9', '-b', '4'], 'leave out --device, -b/--batch-size'),
        (['--project-recipe', 'x', '--images-per-second', '0'], '--images-per-second is 0'),
        (['--project-recipe', 'x', '--bandwidth', '-1'], '--bandwidth is -1'),
        (['--project-recipe', 'x', '--world-size', '0'], '--world-size is 0'),
        (['--project-recipe', 'x'], "no recipe 'x'"),
        (['--world-size', '16'], 'belong to --project-recipe'),
        (['--bandwidth', '100'], 'belong to --project-recipe'),
        (['--repeats', '0'], '--repeats is 0'),
        (['--batch-size', '1'], '--batch-size is 1'),
        (['--img-size', '8'], '--img-size is 8'),
        (['--model', 'test_vit', '--img-size', '33'], 'test_vit does not take images of 33 pixels'),
        (['--amp', '--model-dtype', 'bfloat16'], '--amp needs a float32 model'),
        (['--device', 'meta'], 'measures on cpu and cuda'),
        (['--check', 'absent.json'], 'No such file'),
    ],
)
def test_mistakes(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    device = [] if '--device' in argv else ['--device', 'cpu']
    assert cli.run('benchmark', [*argv, *device]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('mode', [['--suite'], ['--archs', 'test_resnet']])
def test_output_that_cannot_be_written(mode, tmp_path, monkeypatch, capsys):
    for name in ('measure_steps', 'measure_archs'):
        monkeypatch.setattr(f'timm_debias.benchmark.main.{name}', lambda *arguments: pytest.fail('measured'))
    (tmp_path / 'file').touch()
    assert cli.run('benchmark', [*mode, '--device', 'cpu', '--output', str(tmp_path / 'file')]) == 2
    assert 'file is a file; name a folder' in capsys.readouterr().err


class TestLoading:
    setup = Setup('test_resnet', 48, 4, torch.device('cpu'))

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(loading, '_PHOTOGRAPH', (40, 60))
        self.files = loading.draw_photographs(tmp_path / 'train', 8)
        return str(tmp_path)

    def test_photographs(self, folder):
        images = [decode_image(str(file)).float() for file in self.files]
        assert {image.shape for image in images} == {(3, 40, 60)}
        assert all(image.std() > 20 for image in images)
        assert len({file.parent.name for file in self.files}) == 2

    def test_both_loaders_do_the_same(self, folder):
        ours = loading._our_loader(self.setup, folder, 4, 0)
        theirs = loading._timm_loader(self.setup, folder, 4, 0)
        assert str(ours.loader.loader.dataset.samples.dataset.transform) == str(theirs.dataset.transform)
        assert ours.loader.loader.num_workers == theirs.loader.num_workers == 0
        torch.testing.assert_close(ours.loader.mean, theirs.mean)
        shapes = [[images.shape for images, _ in loader] for loader in (ours, theirs)]
        assert shapes == [[(4, 3, 48, 48)] * 2] * 2

    def test_ratios(self, folder, monkeypatch):
        took = {'ours': [2.0], 'timm': [1.0], 'torchvision': [1.0], 'Pillow': [3.0]}
        monkeypatch.setattr(loading, '_IMAGES', 4)

        def timed(calls, repeats):
            for call in calls.values():
                call()
            return {name: took[name] for name in calls}

        monkeypatch.setattr(loading, 'time_in_turns', timed)
        found = loading.measure_loading(self.setup, 0, 1)
        assert found['loading'].median == 0.5, 'half the images a second'
        assert found['decoding'].median == 3.0


def test_a_cuda_device_is_the_default_where_there_is_one(monkeypatch):
    from timm_debias.benchmark.config import SetupConfig, setup_from

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    assert setup_from(SetupConfig()).device.type == 'cuda'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert setup_from(SetupConfig()).device.type == 'cpu'


class TestOnCudaByStandIn:
    """What is asked of torch.cuda, without a device."""

    def test_rows(self, monkeypatch):
        cuda = SimpleNamespace(device=torch.device('cuda'))
        monkeypatch.setattr(suite, 'busy_share', lambda step, device: 0.97)
        monkeypatch.setattr(suite, 'host_waits', lambda step: 0)
        rows = suite._cuda_rows(cuda, step=None)
        assert [(row.name, row.value) for row in rows] == [('device busy', 0.97), ('waits of the host', 0.0)]

    def test_waits_are_counted_from_the_warnings_of_torch(self, monkeypatch):
        import warnings

        from timm_debias.benchmark.device_use import host_waits

        modes = []
        monkeypatch.setattr(torch.cuda, 'get_sync_debug_mode', lambda: 0)
        monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', modes.append)

        def step():
            for _ in range(3):
                warnings.warn('called a synchronizing CUDA operation', stacklevel=1)
            warnings.warn('something else', stacklevel=1)

        assert host_waits(step) == 3
        assert modes == ['warn', 0]
