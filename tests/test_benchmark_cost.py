"""The cost model, traffic between processes and the projection of recipes, against simulations and hand calculation."""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

from timm_debias import DebiasError, create_stylizer
from timm_debias.benchmark import recipe as recipes
from timm_debias.benchmark.archs import ArchResult, format_archs, measure_archs, predict
from timm_debias.benchmark.config import ProjectConfig, SetupConfig
from timm_debias.benchmark.cost_model import CostModel, Measured, debiased_ratio, fit, leave_one_out, size_shares
from timm_debias.benchmark.recipe import (
    Cost,
    format_projection,
    read_recipe,
    recipe_side,
    relative_work,
    trained_epochs,
)
from timm_debias.benchmark.size import Size, count_macs, model_size
from timm_debias.benchmark.steps import Setup
from timm_debias.benchmark.timing import Ratio
from timm_debias.benchmark.traffic import (
    Payload,
    all_reduce_bytes,
    exchanged_style_bytes,
    gathered_style_bytes,
    payload,
    waiting_seconds,
)
from timm_debias.multi_grid import MultiGrid

SIZES = [Size(0, int(macs), int(activations)) for macs, activations in ((1e9, 1e7), (4e9, 2e7), (3e8, 9e6), (2e8, 1e6))]

ROOT = Path(__file__).parents[1]


class TestCostModel:
    def test_recovers_a_machine_that_follows_it(self):
        truth = CostModel(2e-11, 3e-10)
        measured = [Measured(size, truth.seconds(size)) for size in SIZES]
        assert fit(measured) == pytest.approx(truth)
        assert leave_one_out(measured) == pytest.approx([one.seconds for one in measured])

    @pytest.mark.parametrize('truth', [CostModel(-1e-12, 3e-9), CostModel(2e-10, -1e-9)])
    def test_nothing_costs_less_than_nothing(self, truth):
        """The least squares with one coefficient alone, found by trying."""
        measured = [Measured(size, truth.seconds(size)) for size in SIZES]
        found = fit(measured)
        assert min(found) == 0

        def error(model):
            return sum((model.seconds(one.size) / one.seconds - 1) ** 2 for one in measured)

        for factor in (0.98, 1.02):
            assert error(found) < error(CostModel(*(factor * coefficient for coefficient in found)))

    def test_debiased_ratio(self):
        """Two plain steps and the stylisation."""
        assert debiased_ratio(plain=2.0, stylisation=0.5) == 2.25

    def test_size_shares(self):
        """Decays at epochs 30, 60 and 90 of 100, as the reference trains ResNet-50."""
        shares = size_shares(MultiGrid((30, 60, 90, 100)), 224, 100)
        assert shares == {112: 0.25, 158: 0.5, 224: 0.25}
        assert size_shares(MultiGrid((1, 3), min_size=200), 224, 3) == pytest.approx({200: 5 / 6, 224: 1 / 6})


class TestTraffic:
    def test_ring_all_reduce(self):
        """Every process passes on a chunk N − 1 times to sum up, and N − 1 times to hand the sums out."""
        for world in (2, 3, 8):
            sent = [0.0] * world
            for _, process in itertools.product(range(2 * (world - 1)), range(world)):
                sent[process] += 1000 / world
            assert sent == pytest.approx([all_reduce_bytes(1000, world)] * world)

    def test_styles(self):
        """All permutations of a batch of three processes with two images each."""
        received = 0
        permutations = list(itertools.permutations(range(6)))
        for permutation in permutations:
            received += sum(100 for image, partner in enumerate(permutation) if image // 2 != partner // 2)
        mean = received / len(permutations) / 3
        assert mean == pytest.approx(exchanged_style_bytes(100, 2, 3))
        assert gathered_style_bytes(100, 2, 3) == 2 * 2 * 100

    def test_waiting(self):
        """At 10 bytes a second a backward pass of 2 seconds hides 20 bytes."""
        assert waiting_seconds(hidden=20, exposed=0, bandwidth=10, step=3) == 0
        assert waiting_seconds(hidden=25, exposed=0, bandwidth=10, step=3) == pytest.approx(0.5)
        assert waiting_seconds(hidden=5, exposed=7, bandwidth=10, step=3) == pytest.approx(0.7)

    def test_payload_with_one_batch_norm(self):
        model = timm.create_model('test_resnet')
        found = payload(model, create_stylizer('band_statistics'), 32, aux_bn=False)
        assert found.aux_gradients == 0
        assert found.gradients == sum(4 * parameter.numel() for parameter in model.parameters())

    def test_payload(self):
        model = timm.create_model('test_resnet')
        channels = sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found = payload(model, create_stylizer('band_statistics'), 32)
        assert found.aux_gradients == 4 * 2 * channels
        assert found.gradients == 4 * (parameters + 2 * channels)
        norms = 2 * sum(isinstance(module, nn.BatchNorm2d) for module in timm.create_model('test_resnet').modules())
        assert found.buffers == 2 * 4 * 2 * channels + 8 * norms
        assert found.style == 4 * 2 * 3 * 4  # Mean and deviation of three colours in four bands.


def write_recipe(folder, name='tiny', **changes):
    values = dict(model='test_resnet', img_size=64, batch_size=64, epochs=100, debias=True) | changes
    folder.mkdir(exist_ok=True)
    (folder / f'{name}.yaml').write_text(yaml.safe_dump(values))


def replace_model(recipe, model):
    return replace(recipe, model=replace(recipe.model, model=model, img_size=None))


class TestProjection:
    def test_hours_by_hand(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_recipe(tmp_path / 'hparams')
        cost = Cost(plain=0.001, ratio=2.1, source='Given')
        sent = Payload(gradients=100_000_000, aux_gradients=200_000, buffers=400_000, style=100_000)
        options = ProjectConfig(world_size=8, num_images=1_000_000)
        text = format_projection('tiny', read_recipe('tiny'), cost, sent, options)
        # 100 epochs of a million images at 1 ms: 27.8 hours; a step of 64 images takes 134 ms.
        assert '| device hours | 27.8 | 58.3 |' in text
        assert '| hours on 8 devices | 3.5 | 7.3 |' in text
        assert '| clean images a second and device | 1,000 | 476 |' in text
        # Ring all-reduce of 100 MB in two thirds of 134.4 ms: 175 MB in 89.6 ms.
        assert '| 8 | 7.29 | 175.0 | 1.95 | 5.6 | 45 |' in text
        assert '| 1,024 | 0.06 | 199.8 | 2.23 | 6.4 | 6,547 |' in text

    @pytest.mark.parametrize(
        ('changes', 'hours'),
        [
            # A step of 134.4 ms hides 89.6 ms; 175 MB take 175 ms, statistics 0.4 ms: 85.8 ms more.
            ({}, 7.29 * (1 + 85.8 / 134.4)),
            # Styles of 5.6 MB take 5.6 ms.
            ({'debias_global_partners': True}, 7.29 * (1 + 91.4 / 134.4)),
            # Of four steps the last hides the gradients, and each sends statistics.
            ({'grad_accum_steps': 4}, 7.29 * (1 + 87.0 / 537.6)),
        ],
    )
    def test_waiting_by_hand(self, tmp_path, monkeypatch, changes, hours):
        monkeypatch.chdir(tmp_path)
        write_recipe(tmp_path / 'hparams', **changes)
        cost = Cost(plain=0.001, ratio=2.1, source='Given')
        sent = Payload(gradients=100_000_000, aux_gradients=200_000, buffers=400_000, style=100_000)
        options = ProjectConfig(num_images=1_000_000, bandwidth=1.0)
        text = format_projection('tiny', read_recipe('tiny'), cost, sent, options)
        assert '| devices | hours | hours at 1 GB/s | all-reduce, MB |' in text
        row = next(line for line in text.splitlines() if line.startswith('| 8 |')).split(' | ')
        assert float(row[2]) == pytest.approx(hours, abs=0.01)

    def test_styles_that_are_sent_or_not(self, tmp_path, monkeypatch, capsys):
        from timm_debias import cli

        monkeypatch.chdir(tmp_path)
        for changes, expected in (
            ({}, 'kB each) are not sent'),
            ({'debias_global_partners': True}, 'kB each) is sent to the process that draws it'),
            ({'debias_style_dir': 'x', 'debias_mode': 'shape'}, 'so that none are sent'),
        ):
            write_recipe(tmp_path / 'hparams', **changes)
            assert cli.run('benchmark', ['--project-recipe', 'tiny', '--images-per-second', '500']) == 0
            text = capsys.readouterr().out
            assert expected in text
            assert ('| 0.0 | 0 |' in text) == ('debias_style_dir' in changes)

    @pytest.mark.parametrize(
        ('changes', 'expected'),
        [
            ({}, 100),
            ({'stop_epoch': 40}, 40),
            ({'sched': 'cosine', 'cooldown_epochs': 10}, 110),
            ({'sched': 'cosine', 'warmup_epochs': 5, 'warmup_prefix': True}, 105),
        ],
    )
    def test_epochs_are_those_that_are_trained(self, tmp_path, monkeypatch, changes, expected):
        monkeypatch.chdir(tmp_path)
        write_recipe(tmp_path / 'hparams', **changes)
        assert trained_epochs(read_recipe('tiny')) == expected

    @pytest.mark.parametrize(('multi_grid', 'sides'), [(False, [64] * 4), (True, [32, 45, 45, 64])])
    def test_relative_work(self, tmp_path, monkeypatch, multi_grid, sides):
        """A step is three forward passes; stylising is one of the stylizer."""
        monkeypatch.chdir(tmp_path)
        write_recipe(tmp_path / 'hparams', debias_multi_grid=multi_grid)
        stylizer = create_stylizer('adain_lite')
        macs = {side: model_size('test_resnet', side).macs for side in (32, 45, 64)}
        stylised = sum(3 * macs[side] + count_macs(stylizer, side) for side in sides) / 4
        assert relative_work(read_recipe('tiny'), partial(count_macs, stylizer)) == pytest.approx(
            1 + stylised / (3 * macs[64])
        )

    def test_multi_grid_is_measured_at_its_sizes(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_recipe(tmp_path / 'hparams', debias_multi_grid=True)
        costs = {'plain': [0.2], '32': [0.3], '45': [0.4], '64': [0.46]}

        def timed(calls, repeats, device):
            assert list(calls) == list(costs)
            return costs

        monkeypatch.setattr(recipes, 'time_in_turns', timed)
        config = SetupConfig(model='test_resnet', img_size=64, batch_size=2, device='cpu')
        cost = recipes._measured_cost(read_recipe('tiny'), config, create_stylizer('band_statistics'), 1)
        assert cost.plain == 0.1
        assert cost.ratio == pytest.approx((0.3 + 2 * 0.4 + 0.46) / 4 / 0.2)

    def test_measured_or_given(self, tmp_path, monkeypatch, capsys):
        from timm_debias import cli

        monkeypatch.chdir(tmp_path)
        write_recipe(tmp_path / 'hparams', img_size=32, epochs=1)
        assert cli.run('benchmark', ['--project-recipe', 'tiny', '--images-per-second', '500']) == 0
        assert '| clean images a second and device | 500 |' in capsys.readouterr().out
        flags = ['--device', 'cpu', '-b', '2', '--repeats', '1']
        assert cli.run('benchmark', ['--project-recipe', 'hparams/tiny.yaml', *flags]) == 0
        assert 'Measured on this cpu, 2 clean images' in capsys.readouterr().out

    def test_page_has_what_the_command_prints(self, monkeypatch, capsys):
        from timm_debias import cli

        monkeypatch.chdir(ROOT)
        page = (ROOT / 'docs/speed.md').read_text(encoding='utf-8')
        command = next(line for line in page.splitlines() if '--bandwidth 1' in line and '#' not in line)
        assert cli.run('benchmark', command.split()[2:]) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
        assert len(rows) == 16
        assert all(f'{row}\n' in page for row in rows)

    def test_mistakes(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DebiasError, match='no folder hparams'):
            read_recipe('tiny')
        write_recipe(tmp_path / 'hparams')
        write_recipe(tmp_path / 'hparams', 'plain', debias=False)
        with pytest.raises(DebiasError, match="Did you mean 'tiny'"):
            read_recipe('tiiny')
        with pytest.raises(DebiasError, match='does not train debiased'):
            read_recipe('plain')
        with pytest.raises(DebiasError, match=r'absent\.yaml'):
            read_recipe('absent.yaml')

    def test_size_of_the_model_where_the_recipe_names_none(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_recipe(tmp_path / 'hparams')
        for model, side in (('test_vit', 160), ('resnet50.a1_in1k', 224)):
            assert recipe_side(replace_model(read_recipe('tiny'), model)) == side


class TestArchs:
    def results(self):
        truth = CostModel(1e-11, 1e-9)
        return [
            ArchResult(f'model{number}', 64, size, truth.seconds(size), 0.01, Ratio(2.2, 2.1, 2.3))
            for number, size in enumerate(SIZES)
        ]

    def test_predictions(self):
        results = self.results()
        for result, prediction in zip(results, predict(results), strict=True):
            assert prediction['plain'] == pytest.approx(result.plain)
            assert prediction['debiased'] == pytest.approx(2 + 0.01 / result.plain)
        assert predict(results[:2]) == []

    def test_table(self):
        lines = format_archs(self.results()).splitlines()
        assert lines[2] == '| model0, 64 | 1.00 | 10.0 | 20.0 | 2.20 | 2.10 – 2.30 | 20.0 | 2.50 |'
        assert len({line.count('|') for line in lines}) == 1

    def test_measured_at_their_own_sizes(self):
        setup = Setup('', 32, 2, torch.device('cpu'))
        found = measure_archs(setup, ['test_resnet', 'test_resnet@64'], create_stylizer('band_statistics'), 1)
        assert [(result.model, result.img_size) for result in found] == [('test_resnet', 32), ('test_resnet', 64)]
        assert found[1].size.macs == pytest.approx(4 * found[0].size.macs, rel=0.05)

    @pytest.mark.parametrize(
        ('arch', 'message'),
        [
            ('test_resnett', "Did you mean 'test_resnet"),
            ('test_resnet@big', 'NAME@IMG_SIZE'),
            ('test_vit@33', '33 pixels'),
            ('test_resnet@8', 'at least 16 pixels'),
            ('test_resnet@', 'NAME@IMG_SIZE'),
        ],
    )
    def test_mistakes_are_found_before_any_work(self, monkeypatch, arch, message):
        monkeypatch.setattr('timm_debias.benchmark.archs.time_in_turns', lambda *arguments: pytest.fail('measured'))
        setup, stylizer = Setup('', 32, 2, torch.device('cpu')), create_stylizer('adain_lite')
        with pytest.raises(DebiasError, match=message):
            measure_archs(setup, ['test_resnet', arch], stylizer, 1)
