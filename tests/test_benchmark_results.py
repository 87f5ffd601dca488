"""Targets, tables, and the comparison with stored ratios."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from timm_debias import DebiasError
from timm_debias.benchmark.device_use import covered
from timm_debias.benchmark.results import Row, format_rows, read_stored, regressions, to_json
from timm_debias.benchmark.steps import Setup
from timm_debias.benchmark.suite import _with_limits, has_targets, settings_of
from timm_debias.benchmark.timing import Ratio

REPOSITORY = Path(__file__).parents[1]
SETUP = Setup('resnet50', 224, 8, torch.device('cpu'))
LOW = Row('debiased step', 'plain steps', 2.0, 1.9, 2.1, limit=2.3)
HIGH = Row('data loading', "of timm's images a second", 0.9, 0.8, 1.0, limit=0.95, at_least=True)
INFO = Row.of("reference's step", 'plain steps', Ratio(6.0, 5.0, 7.0))


def test_targets():
    assert (LOW.is_met, HIGH.is_met, INFO.is_met) == (True, False, None)
    assert replace(LOW, value=2.4).is_met is False
    assert replace(HIGH, value=0.95).is_met is True


def test_table():
    assert format_rows([LOW, HIGH, INFO]).splitlines()[2:] == [
        '| debiased step | 2.000 | 1.900 – 2.100 | plain steps | ≤ 2.3 | yes |',
        "| data loading | 0.900 | 0.800 – 1.000 | of timm's images a second | ≥ 0.95 | **no** |",
        "| reference's step | 6.000 | 5.000 – 7.000 | plain steps |  |  |",
    ]


class TestTargetsBelongToASetup:
    def test_cpu(self):
        assert has_targets(SETUP)
        for change in (
            {'model': 'resnet18'}, {'img_size': 160}, {'batch_size': 4}, {'amp_dtype': torch.bfloat16},
            {'model_dtype': torch.bfloat16},
        ):  # fmt: skip
            assert not has_targets(replace(SETUP, **change)), change

    def test_cuda(self):
        cuda = replace(SETUP, device=torch.device('cuda'), batch_size=128)
        fast = replace(cuda, amp_dtype=torch.bfloat16, channels_last=True, torchcompile='inductor')
        assert has_targets(fast)
        for change in ({'amp_dtype': torch.float16}, {'channels_last': False}, {'torchcompile': None}):
            assert not has_targets(replace(fast, **change)), change

    def test_limits(self):
        rows = [Row.of(name, 'plain steps', Ratio(1, 1, 1)) for name in ('debiased step, adain_lite', 'other')]
        assert [row.limit for row in _with_limits(SETUP, rows)] == [2.3, None]
        assert [row.limit for row in _with_limits(replace(SETUP, img_size=64), rows)] == [None, None]


class TestCheck:
    settings = settings_of(SETUP, 3)

    def store(self, folder, rows, **changes):
        path = folder / 'benchmark.json'
        path.write_text(to_json(self.settings | changes, rows, seconds={}))
        return str(path)

    def test_a_stored_file_is_read_back(self, tmp_path):
        path = self.store(tmp_path, [LOW, HIGH], threads=99, torch='1.0')
        assert read_stored(path, self.settings) == {'debiased step': 2.0, 'data loading': 0.9}

    def test_bands_are_wide_and_one_sided(self):
        stored = {'debiased step': 2.0, 'data loading': 0.9}
        for low, high, expected in (
            (2.0, 0.9, []),
            (2.5, 0.75, []),
            (0.1, 9.0, []),
            (2.7, 0.9, ['debiased step']),
            (2.0, 0.6, ['data loading']),
        ):
            rows = [replace(LOW, value=low), replace(HIGH, value=high), INFO]
            found = [line.split(':')[0] for line in regressions(rows, stored)]
            assert found == expected, (low, high)

    @pytest.mark.parametrize(
        ('stored', 'found', 'is_worse'), [(0.005, 0.014, False), (0.02, 0.031, True), (0, 1, True)]
    )
    def test_a_hundredth_of_a_step_is_noise(self, stored, found, is_worse):
        assert bool(regressions([replace(LOW, value=found)], {LOW.name: stored})) == is_worse

    def test_nothing_in_common(self):
        with pytest.raises(DebiasError, match='none of the rows'):
            regressions([INFO], {'other': 1.0})

    def test_other_settings(self, tmp_path):
        path = self.store(tmp_path, [LOW], precision='amp bfloat16')
        with pytest.raises(DebiasError, match=r'precision amp bfloat16.*this run has float32'):
            read_stored(path, self.settings)

    @pytest.mark.parametrize(
        'text',
        [
            '', '[]', '{"rows": []}', '{"settings": {}, "rows": [{"name": "x"}]}', '\ufeff{',
            '{"settings": {}, "rows": [{"name": "x", "value": NaN}]}',
            '{"settings": {}, "rows": [{"name": "x", "value": "nan"}]}',
        ],
    )  # fmt: skip
    def test_damaged(self, tmp_path, text):
        path = tmp_path / 'x.json'
        path.write_text(text)
        with pytest.raises(DebiasError, match=r'not a benchmark\.json'):
            read_stored(str(path), self.settings)

    def test_missing(self):
        with pytest.raises(DebiasError, match='No such file'):
            read_stored('absent.json', self.settings)


def test_stored_ratios():
    """Those of the repository: what docs/speed.md shows, with today's targets, all met, and fit for --check."""
    path = REPOSITORY / 'benchmarks/results/speed/benchmark.json'
    entries = json.loads(path.read_text())['rows']
    rows = [Row(**{key: value for key, value in entry.items() if key != 'is_met'}) for entry in entries]
    assert format_rows(rows) in (REPOSITORY / 'docs/speed.md').read_text(encoding='utf-8')
    assert _with_limits(SETUP, rows) == rows
    assert [row.is_met for row in rows if row.limit is not None] == [True] * 8
    assert regressions(rows, read_stored(str(path), settings_of(SETUP, 7))) == []


def test_json_holds_what_was_asked_for():
    found = json.loads(to_json({'model': 'resnet50'}, [LOW], seconds={'plain step': 1.0}))
    assert found['settings'] == {'model': 'resnet50'}
    assert found['seconds'] == {'plain step': 1.0}
    assert found['rows'][0] == {
        'name': 'debiased step', 'unit': 'plain steps', 'value': 2.0, 'low': 1.9, 'high': 2.1, 'limit': 2.3,
        'at_least': False, 'is_met': True,
    }  # fmt: skip


def test_busy_time_counts_overlapping_kernels_once():
    intervals = [(5, 7), (0, 2), (1, 4), (1, 2), (6, 6.5), (9, 9)]
    ticks = torch.arange(0, 10, 0.5)
    brute = sum(0.5 for tick in ticks if any(start <= tick < end for start, end in intervals))
    assert covered(intervals) == brute == 6
    assert covered([]) == 0
