"""What a study's report says where figures are missing, are all the same, or are too many for a drawing."""

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from small_study import report

from timm_debias import DebiasError
from timm_debias.study.blocks import Text, to_html
from timm_debias.study.collect import Row
from timm_debias.study.config import read_study
from timm_debias.study.report import write_report


def errors(fog: float, jpeg: float) -> dict[str, float]:
    """Errors under two corruptions, the same at all severities."""
    every = {f'folder-c/fog/{severity}': fog for severity in range(1, 6)}
    return every | {f'folder-c/jpeg_compression/{severity}': jpeg for severity in range(1, 6)}


def rows_of(plain: dict[str, float], debiased: dict[str, float], data: str = '') -> list[Row]:
    return [
        Row(data, '', method, seed, 'finished', figures={'folder_top1': 90.0 + seed, **figures})
        for seed in range(3)
        for method, figures in (('plain', plain), ('debiased', debiased))
        if figures
    ]


def read_tests(folder: Path) -> list[dict[str, str]]:
    """Lines of tests.csv."""
    with open(folder / 'tests.csv', newline='') as file:
        return list(csv.DictReader(file))


def line_of(markdown: str, start: str) -> list[str]:
    """Cells of the first line of a table that starts so."""
    line = next(line for line in markdown.splitlines() if line.startswith(f'| {start} |'))
    return [cell.strip() for cell in line.split('|')[2:-1]]


def test_corruptions_without_errors_to_speak_of_are_named(tmp_path):
    """Fog: 10 over 20; JPEG: 3 over 1.5. So mCE is (50 + 200) / 2, and the second half of it is noise."""
    markdown = report(tmp_path, rows_of(errors(20, 1.5), errors(10, 3)))
    assert line_of(markdown, 'debiased')[:3] == ['3', '91.0 ± 2.5', '125.0']
    assert 'below 2 % for jpeg compression (1.5 %): there a few images move mCE much' in markdown
    assert 'below 2 %' not in report(tmp_path, rows_of(errors(20, 2.0), errors(10, 3)))


def test_one_of_a_kind(tmp_path):
    rows = [row for row in rows_of(errors(20, 5), errors(10, 3), 'a') if row.seed == 0]
    markdown = report(tmp_path, rows, data={'a': {}}, seeds=[0])
    assert '2 of 2 runs finished: 2 methods, 1 data set, 1 seed. Figures' in markdown


def test_no_mce_without_errors_of_the_baseline(tmp_path):
    markdown = report(tmp_path, rows_of(errors(20, 0), errors(10, 3)))
    assert line_of(markdown, 'debiased')[2] == line_of(markdown, 'plain')[2] == '–'
    assert 'There is none (–): plain makes no error under jpeg compression.' in markdown


def test_no_mce_without_the_baseline(tmp_path):
    markdown = report(tmp_path, rows_of({}, errors(10, 3)))
    assert line_of(markdown, 'debiased')[2] == '–'
    assert 'No mCE (–): it is relative to plain, of which no run with errors by corruption is finished.' in markdown


def test_no_mce_without_errors_of_the_method(tmp_path):
    markdown = report(tmp_path, rows_of(errors(20, 5), {'b': 50.0}))
    assert line_of(markdown, 'plain')[2] == '100.0'
    assert line_of(markdown, 'debiased')[2] == '–'


def test_no_mean_mce_where_a_data_set_has_none(tmp_path):
    rows = rows_of(errors(20, 5), errors(10, 3), 'a') + rows_of(errors(20, 0), errors(10, 3), 'b')
    markdown = report(tmp_path, rows, data={'a': {}, 'b': {}})
    assert 'No mCE (–), for not every data set has one; their sections say why.' in markdown
    assert markdown.count('There is none (–)') == 1


def test_mce_is_of_its_own_benchmark(tmp_path):
    """Errors on ImageNet-C count for nothing in the mCE of one's own images, and have a table of their own."""
    other = {f'imagenet-c/fog/{severity}': 80.0 for severity in range(1, 6)}
    markdown = report(tmp_path, rows_of(errors(20, 5) | other, errors(10, 5) | other))
    assert line_of(markdown, 'debiased')[2] == '75.0'
    assert line_of(markdown, 'fog') == ['20.0', '10.0']
    assert line_of(markdown.split('| imagenet-c, mean over', 1)[1], 'fog') == ['80.0', '80.0']
    assert {'severities-folder-c.svg', 'severities-imagenet-c.svg'} <= {file.name for file in tmp_path.iterdir()}


def test_order_of_the_rows_does_not_matter(tmp_path):
    rows = rows_of(errors(20, 5), errors(10, 5))
    markdown = report(tmp_path, rows)
    assert markdown.index('| plain |') < markdown.index('| debiased |')
    assert report(tmp_path, rows[::-1]) == markdown


def test_a_method_that_the_study_has_not(tmp_path):
    """What was measured of it alone has no table."""
    other = Row('', '', 'other', 0, 'finished', figures={'imagenet-c/fog/1': 80.0})
    assert 'imagenet-c' not in report(tmp_path, [*rows_of(errors(20, 5), errors(10, 5)), other])


@pytest.mark.parametrize(('line', 'run'), [(0, 'plain, seed 0'), (3, 'debiased, seed 1')])
def test_a_blank_cell_is_named(tmp_path, line, run):
    report(tmp_path, rows_of(errors(20, 5), errors(10, 5)))
    path = tmp_path / 'results.csv'
    with open(path, newline='') as file:
        lines = list(csv.DictReader(file))
    lines[line]['folder-c/fog/4'] = ''
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(DebiasError, match=f"{run}: no figure in 'folder-c/fog/4'"):
        write_report(read_study(tmp_path / 'study.yaml'), tmp_path)


def test_the_same_in_all_seeds_is_no_proof(tmp_path):
    """Three seeds that all gain a quarter of a point: one image of 400."""
    rows = [
        Row('', '', method, seed, 'finished', figures={'folder_top1': 90.0 + seed + gain, 'b': 50.0 + gain * seed**2})
        for seed in range(3)
        for method, gain in (('plain', 0.0), ('debiased', 0.25))
    ]
    markdown = report(tmp_path, rows, measures={'clean': 'folder_top1', 'b': 'b'})
    difference = markdown.split('## Difference to plain')[1]
    # Gains of b: 0, 0.25 and 1, mean 5/12, standard error sqrt(13/48/3), t of two degrees 4.3027.
    assert line_of(difference, 'debiased') == ['+0.2', '+0.4 ± 1.3']
    assert 'Without ±: the same in all seeds, which gives no interval and no p.' in difference
    assert 'undecided: clean, b' in difference
    clean, other = read_tests(tmp_path)
    assert [clean[key] for key in ('difference', 'low', 'high', 'p', 'p_holm')] == ['0.2500', '', '', '', '']
    # t = (5/12) / sqrt(13/144) = 5 / sqrt(13); with two degrees p = 1 - t / sqrt(2 + t²) = 1 - 5 / sqrt(51).
    assert float(other['p']) == pytest.approx(1 - 5 / 51**0.5, rel=2e-3)
    assert float(other['p_holm']) == pytest.approx(2 * (1 - 5 / 51**0.5), rel=2e-3)  # Of two that were looked at.


def test_one_seed_has_blank_ends_and_formulas_are_texts(tmp_path):
    rows = rows_of(errors(20, 5), errors(10, 5))[:2]
    report(tmp_path, rows, measures={'=1+1': 'folder_top1'})
    (row,) = read_tests(tmp_path)
    assert [row[key] for key in ('measure', 'seeds', 'low', 'high', 'verdict')] == ["'=1+1", '1', '', '', '']


def test_one_seed_is_not_among_the_tests(tmp_path):
    """Holm's correction is for what was seen in several seeds."""
    rows = [
        Row('', '', method, seed, 'finished', figures={'folder_top1': 90.0 + gain * seed, **more})
        for seed, more in enumerate(({'b': 50.0}, {}, {}))
        for method, gain in (('plain', 0.0), ('debiased', 1.0))
    ]
    report(tmp_path, rows, measures={'clean': 'folder_top1', 'b': 'b'})
    clean, other = read_tests(tmp_path)
    # Gains of 0, 1 and 2: t = sqrt(3); with two degrees p = 1 - t / sqrt(2 + t²).
    assert float(clean['p']) == pytest.approx(1 - 0.6**0.5, rel=2e-3)
    assert clean['p_holm'] == clean['p']
    assert [other[key] for key in ('seeds', 'p', 'p_holm')] == ['1', '', '']


@pytest.mark.parametrize(
    ('seconds', 'head', 'cell'),
    [
        ({'seconds_train': 180.0, 'seconds_validate': 60.0}, 'CPU minutes a run, median', '4.0'),
        ({'gpu_seconds_train': 5400.0, 'gpu_seconds_validate': 1800.0}, 'GPU hours a run, median', '2.0'),
        ({}, 'CPU minutes a run, median', '–'),
    ],
)
def test_cost(seconds, head, cell, tmp_path):
    """Three minutes of processor time and one; an hour and a half of GPUs and half an hour; none measured."""
    figures = seconds | {'b': 1.0}
    changes = {'measures': {'clean': 'folder_top1'}}
    markdown = report(tmp_path, rows_of(figures, figures), **changes)
    assert f'| {head} |' in markdown
    assert line_of(markdown, 'plain')[-1] == cell
    assert f'\n\n{head.split(" a run")[0]}: ' in markdown


def test_sections_without_content_are_left_out(tmp_path):
    """No method has a seed in both data sets; one run of each has nothing to draw."""
    rows = [
        Row('a', '', 'plain', 0, 'finished', figures={'folder_top1': 90.0}),
        Row('b', '', 'plain', 1, 'finished', figures={'folder_top1': 90.0}),
    ]
    markdown = report(tmp_path, rows, data={'a': {}, 'b': {}}, measures={'clean': 'folder_top1'})
    assert 'Mean over' not in markdown
    assert 'Drawings' not in markdown
    assert re.findall('^## [ab]$', markdown, re.MULTILINE) == ['## a', '## b']


def test_links():
    page = to_html('', [Text('See [`one`](../one.md#a), [two](https://example.org/x) and [bad](javascript:alert).')])
    assert '<a href="../one.md#a"><code>one</code></a>' in page
    assert '<a href="https://example.org/x">two</a>' in page
    assert 'href="javascript' not in page


def test_drawings_hold_their_keys(tmp_path):
    """Sixteen methods with long names: all that is drawn lies inside, words at 6 pixels a letter."""
    methods = {f'm{number}': {'label': f'debiased, one batch norm, alpha 1, number {number}'} for number in range(15)}
    shape = {f'shapes_textures/{name}/{cue}': 40.0 for name in ('disc', 'star') for cue in ('shape', 'texture')}
    figures = errors(20, 5) | shape
    rows = [
        Row('', '', method, 0, 'finished', figures={'folder_top1': 90.0, **figures}) for method in ('plain', *methods)
    ]
    long = 'a measure with a name of some forty letters'
    report(tmp_path, rows, methods={'plain': {}, **methods}, measures={long: 'folder_top1'})
    files = ['differences-plain.svg', 'severities-folder-c.svg', 'bias-shapes_textures.svg']
    for file in files:
        root = ElementTree.parse(tmp_path / file).getroot()
        width, height = int(root.get('width')), int(root.get('height'))
        words = [item for item in root.iter('{http://www.w3.org/2000/svg}text') if item.get('transform') is None]
        assert len([item for item in words if item.text.startswith('debiased, one')]) == 15
        for item in words:
            assert float(item.get('y')) < height, (file, item.text)
            if item.get('text-anchor') == 'start':
                assert float(item.get('x')) + 6 * len(item.text) < width, (file, item.text)
            if item.get('text-anchor') == 'end':
                assert float(item.get('x')) - 6 * len(item.text) > 0, (file, item.text)
