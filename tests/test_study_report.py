"""The report of a study against figures computed another way, and what it says of runs that are missing."""

import csv
import json
import math
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.corruptions import MAIN
from timm_debias.study.analysis import group_rows
from timm_debias.study.collect import Collected, Row, collect, format_csv, read_csv, read_stored, store
from timm_debias.study.config import read_study
from timm_debias.study.figures import draw_group
from timm_debias.study.grid import Run, expand
from timm_debias.study.report import write_report

STUDY = {
    'name': 'made-up',
    'title': 'Made-up figures',
    'description': 'One paragraph with `code`.\n\nAnother & one.',
    'discussion': '- **First** point.\n- Second\n  point.',
    'train': {'model': 'test_resnet', 'device': 'cpu'},
    'validate': {'benchmarks': 'folder'},
    'methods': {'plain': {}, 'double': {'label': 'plain | doubled'}, 'debiased': {}},
    'seeds': [0, 1, 2, 3, 4],
    'baselines': ['plain', 'double'],
    'measures': {
        'clean': 'folder_top1',
        'mCE': {'column': 'folder-c_mce', 'better': 'lower'},
        'texture': {'column': 'folder-cue-conflict_texture', 'better': 'none'},
    },
}
T4 = 2.776445
"""The 97.5 % point of Student's t with 4 degrees of freedom, from published tables."""


def figures(method: str, seed: int) -> dict[str, float]:
    rng = np.random.default_rng([len(method), seed])
    gain = {'plain': 0.0, 'double': 0.5, 'debiased': 4.0}[method]
    errors = {
        f'folder-c/{name}/{severity}': 20 + 5 * severity + number - gain + rng.normal()
        for number, name in enumerate(MAIN)
        for severity in range(1, 6)
    }
    conflict = {
        f'folder-cue-conflict/{name}/{cue}': value + gain + rng.normal()
        for name in ('hat', 'shoe')
        for cue, value in (('shape', 30.0), ('texture', 50.0))
    }
    return {
        **errors,
        **conflict,
        'folder_top1': 80 + rng.normal(),
        'folder-cue-conflict_texture': 50 - gain,
        'folder-cue-conflict_shape_bias': 40 + gain,
        'folder-fgsm_top1_eps1': 50 + gain,
        'folder-fgsm_top1_eps4': 20 + gain,
        'autoattack_top1_eps0.5': 40 + gain,
        'autoattack_top1_eps4': 10 + gain,
        'pgd_top1_eps4': 10 + gain,
        'seconds_train': 90.0,
        'seconds_validate': 30.0,
    }


FLAGS = Run('', '', '', 0, STUDY['train'], STUDY['validate'] | STUDY['train']).flags
ROWS = [
    Row('', '', method, seed, 'finished', weights='0123456789ab', flags=FLAGS, figures=figures(method, seed))
    for seed in range(5)
    for method in STUDY['methods']
]
MEASURED = {
    'benchmarks': [
        {
            'data': '', 'model': '', 'benchmark': 'folder', 'protocol': 'top-1 among 2 classes', 'images': 1234,
            'fingerprint': 'f' * 64, 'subset': None, 'partial': False, 'notes': [], 'skipped': 0,
        }
    ],
    'versions': [{'torch': '2.99'}],
}  # fmt: skip


def study_file(folder: Path, **changes) -> Path:
    path = folder / 'study.yaml'
    path.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    return path


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """The study file and the folder of its report."""
    folder = tmp_path_factory.mktemp('report')
    path = study_file(folder)
    store(Collected(ROWS, MEASURED), folder)
    write_report(read_study(path), folder)
    return path, folder


def table(markdown: str, title: str) -> dict[str, list[str]]:
    """The first table below a heading: cells by the text of the first column."""
    section = markdown.split(f' {title}\n', 1)[1]
    lines = section[section.index('|') :].split('\n\n', 1)[0].splitlines()
    cells = [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in cells[2:]}


def values(method: str, column: str) -> list[float]:
    return [row.figures[column] for row in ROWS if row.method == method]


def mce(method: str) -> list[float]:
    """mCE by the definition: CE of each corruption over the baseline's mean error, then the mean."""
    result = []
    for row in ROWS:
        if row.method == method:
            ce = []
            for name in MAIN:
                own = statistics.mean(row.figures[f'folder-c/{name}/{severity}'] for severity in range(1, 6))
                every = [value for severity in range(1, 6) for value in values('plain', f'folder-c/{name}/{severity}')]
                ce.append(100 * own / statistics.mean(every))
            result.append(statistics.mean(ce))
    return result


def half_width(numbers: list[float]) -> float:
    return T4 * statistics.stdev(numbers) / math.sqrt(5)


def interval(numbers: list[float], sign: str = '') -> str:
    return f'{statistics.mean(numbers):{sign}.1f} ± {half_width(numbers):.1f}'


def test_means(written):
    rows = table((written[1] / 'report.md').read_text(), 'Figures')
    assert list(rows) == ['plain', 'plain \\| doubled', 'debiased']
    for label, method in (('plain', 'plain'), ('plain \\| doubled', 'double'), ('debiased', 'debiased')):
        seeds, clean, relative, texture, minutes = rows[label]
        assert (seeds, minutes) == ('5', '2.0')
        assert clean == interval(values(method, 'folder_top1'))
        assert relative == interval(mce(method))
        assert texture == f'{values(method, "folder-cue-conflict_texture")[0]:.1f}'  # The same in all seeds.
    assert rows['plain'][2].startswith('100.0 ± ')


def test_differences(written):
    markdown = (written[1] / 'report.md').read_text()
    for title, baseline in (('Difference to plain', 'plain'), ('Difference to plain | doubled', 'double')):
        clean, relative, texture = table(markdown, title)['debiased']
        points = [
            a - b for a, b in zip(values('debiased', 'folder_top1'), values(baseline, 'folder_top1'), strict=True)
        ]
        assert clean.strip('*† ') == interval(points, '+')
        points = [a - b for a, b in zip(mce('debiased'), mce(baseline), strict=True)]
        assert relative == f'**{interval(points, "+")}** †'
        assert '†' not in texture  # Neither direction is better: not among the tests.
    assert 'debiased. better: mCE' in markdown


def test_tests_csv(written):
    with open(written[1] / 'tests.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    row = next(row for row in rows if (row['method'], row['baseline'], row['measure']) == ('debiased', 'plain', 'mCE'))
    points = [a - b for a, b in zip(mce('debiased'), mce('plain'), strict=True)]
    mean, half = statistics.mean(points), half_width(points)
    found = [float(row[key]) for key in ('difference', 'low', 'high')]
    assert found == pytest.approx([mean, mean - half, mean + half], abs=1e-3)
    assert (row['data'], row['seeds'], row['verdict']) == ('', '5', 'better')
    family = [item for item in rows if item['baseline'] == 'plain' and item['measure'] != 'texture']
    assert len(family) == 4
    ordered = sorted(float(item['p']) for item in family)
    for item in family:
        before = ordered[: ordered.index(float(item['p'])) + 1]
        adjusted = max(min(1, (4 - rank) * p) for rank, p in enumerate(before))
        assert float(item['p_holm']) == pytest.approx(adjusted, rel=0.02)
    assert all(item['p_holm'] == item['verdict'] == '' for item in rows if item['measure'] == 'texture')


def test_corruptions_and_classes(written):
    markdown = (written[1] / 'report.md').read_text()
    rows = table(markdown, 'Error by corruption')
    assert list(rows) == [name.replace('_', ' ') for name in MAIN]
    every = [value for severity in range(1, 6) for value in values('debiased', f'folder-c/fog/{severity}')]
    assert rows['fog'][2] == f'{statistics.mean(every):.1f}'
    shape, texture = (
        statistics.mean(values('plain', f'folder-cue-conflict/hat/{cue}')) for cue in ('shape', 'texture')
    )
    assert table(markdown, 'Shape bias by class')['hat'][0] == f'{100 * shape / (shape + texture):.1f}'


def test_drawings_are_drawings(written):
    _, folder = written
    markdown = (folder / 'report.md').read_text()
    files = re.findall(r'!\[[^]]*\]\(([^)]+)\)', markdown)
    assert set(files) == {
        'differences-plain.svg', 'differences-double.svg', 'severities-folder-c.svg', 'folder-fgsm.svg',
        'autoattack.svg', 'bias-folder-cue-conflict.svg',
    }  # fmt: skip
    # One epsilon, of pgd, is no curve.
    for file in files:
        root = ElementTree.parse(folder / file).getroot()
        assert root.tag == '{http://www.w3.org/2000/svg}svg'
        words = ' '.join(element.text or '' for element in root.iter())
        assert 'debiased' in words
    words = ' '.join(element.text or '' for element in ElementTree.parse(folder / 'differences-plain.svg').iter())
    assert 'mCE ↓' in words
    assert 'debiased, mCE: -' in words


def test_page_loads_nothing(written):
    page = (written[1] / 'report.html').read_text()

    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags = []

        def handle_starttag(self, tag, attributes):
            self.tags.append(tag)
            for name, value in attributes:
                assert name != 'src' or value.startswith('data:')
                assert name != 'href' or tag == 'a'

    checker = Checker()
    checker.feed(page)
    assert checker.tags.count('svg') == 6
    assert '<p>One paragraph with <code>code</code>.</p>\n<p>Another &amp; one.</p>' in page
    assert '<ul><li><b>First</b> point.</li><li>Second\n  point.</li></ul>' in page


def test_report_from_its_tables_alone(written, tmp_path):
    """`--from-results` needs results.csv, measured.json and the study file, and writes the same bytes."""
    path, folder = written
    for name in ('results.csv', 'measured.json', 'study.yaml'):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert main(['study', str(path), '--from-results', '--report-dir', str(tmp_path)]) == 0
    for name in ('report.md', 'report.html', 'tests.csv', 'severities-folder-c.svg'):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_mean_over_data_sets(tmp_path):
    """Of the seeds that every data set has; the data sets themselves follow."""
    study = read_study(study_file(tmp_path, data={'noto': {'label': 'Noto'}, 'twemoji': {}}))
    rows = [
        replace(row, data=data, figures={name: value + shift for name, value in row.figures.items()})
        for row in ROWS
        for data, shift in (('noto', 0.0), ('twemoji', 3.0))
        if (data, row.seed) != ('twemoji', 4)
    ]
    groups = group_rows(study, rows)
    assert [group.title for group in groups] == ['Mean over Noto, twemoji', 'Noto', 'twemoji']
    pooled = groups[0].values('plain', 'folder_top1')
    assert sorted(pooled) == [0, 1, 2, 3]
    assert pooled[2] == pytest.approx(figures('plain', 2)['folder_top1'] + 1.5)
    store(Collected(rows, MEASURED), tmp_path)
    write_report(study, tmp_path)
    markdown = (tmp_path / 'report.md').read_text()
    assert '![Error by severity, folder-c](mean.severities-folder-c.svg)' in markdown
    assert table(markdown.split('## twemoji')[1], 'Figures')['plain'][0] == '4'
    with open(tmp_path / 'tests.csv', newline='') as file:
        clean = {row['data']: row for row in csv.DictReader(file) if row['measure'] == 'clean'}
    assert {name: row['seeds'] for name, row in clean.items()} == {'mean': '4', 'noto': '5', 'twemoji': '4'}


def test_csv_goes_round(tmp_path):
    rows = [*ROWS[:2], Row('', '', 'plain', 7, 'failed', error='no, "really"'), Row('d', 'm', 'x', 1, 'missing')]
    path = tmp_path / 'results.csv'
    path.write_text(format_csv(rows), encoding='utf-8')
    again = read_csv(path)
    assert [(row.data, row.method, row.seed, row.status, row.error) for row in again] == [
        (row.data, row.method, row.seed, row.status, row.error) for row in rows
    ]
    assert again[2].figures is None
    assert again[0].figures == pytest.approx(rows[0].figures, abs=5e-5)
    path.write_text('a,b\n1,2\n')
    with pytest.raises(DebiasError, match=r'not the results\.csv of a study'):
        read_csv(path)


def test_missing_and_failed_runs_are_named(tmp_path):
    rows = [*ROWS[:7], Row('', '', 'debiased', 2, 'failed', error='out of memory (exit code 1)')]
    rows += [Row('', '', 'debiased', seed, 'missing') for seed in (3, 4)]
    store(Collected(rows, MEASURED), tmp_path)
    write_report(read_study(study_file(tmp_path)), tmp_path)
    markdown = (tmp_path / 'report.md').read_text()
    assert '7 of 10 runs finished' in markdown
    assert '- debiased: missing, seeds 3, 4' in markdown
    assert '- debiased.2: failed, out of memory (exit code 1)' in markdown
    assert table(markdown, 'Figures')['debiased'][0] == '2'


def test_one_seed_has_no_interval(tmp_path):
    store(Collected(ROWS[:3], MEASURED), tmp_path)
    write_report(read_study(study_file(tmp_path)), tmp_path)
    markdown = (tmp_path / 'report.md').read_text()
    assert '±' not in ''.join(table(markdown, 'Figures')['debiased'])
    assert '**' not in ''.join(table(markdown, 'Difference to plain')['debiased'])


def test_measures_that_no_run_has(tmp_path):
    study = read_study(study_file(tmp_path, measures={'clean': 'folder_top11'}))
    with pytest.raises(DebiasError, match=r"clean: no run has 'folder_top11'\. Did you mean 'folder_top1'"):
        group_rows(study, ROWS)
    store(Collected([Row('', '', 'plain', 0, 'missing')], MEASURED), tmp_path)
    with pytest.raises(DebiasError, match='no finished run'):
        write_report(study, tmp_path)


def write_run(folder: Path, run: Run, fingerprint: str) -> None:
    """Write what a finished run leaves."""
    (folder / 'results').mkdir(parents=True)
    state = {'train': run.train, 'validate': run.validate, 'status': 'finished', 'seconds': {}, 'versions': {}}
    (folder / 'run.json').write_text(json.dumps(state))
    (folder / 'summary.csv').write_text('epoch,eval_top1\n0,12.5\n1,50.0\n')
    entry = dict(MEASURED['benchmarks'][0], headline={'top1': 50.0}, metrics={}, skipped=[], fingerprint=fingerprint)
    results = {'model': 'test_resnet', 'param_count': 0.1, 'img_size': 32, 'absent': {}, 'weights': 'a' * 64}
    results |= {'benchmarks': {'folder': entry}}
    (folder / 'results/results.json').write_text(json.dumps(results))


def test_runs_measured_on_other_images_are_refused(tmp_path):
    study = read_study(study_file(tmp_path))
    runs = expand(study)[:2]
    for number, run in enumerate(runs):
        write_run(tmp_path / 'runs' / run.name, run, fingerprint=str(number))
    figures = {'folder_top1': 50.0, 'validation_top1': 50.0, 'param_count': 0.1}
    assert collect(runs[:1], tmp_path / 'runs').rows[0].figures == figures
    with pytest.raises(DebiasError, match=r'double\.0 and plain\.0 were not measured alike on folder: fingerprint'):
        collect(runs, tmp_path / 'runs')


def test_validation_accuracy_is_that_of_the_weights_that_were_measured(tmp_path):
    for checkpoint, top1 in (('best', 75.0), ('last', 50.0)):
        (run, *_) = expand(read_study(study_file(tmp_path, checkpoint=checkpoint)))
        write_run(tmp_path / checkpoint / run.name, run, fingerprint='a')
        (tmp_path / checkpoint / run.name / 'summary.csv').write_text('epoch,eval_top1\n0,12.5\n1,75.0\n2,50.0\n')
        state = json.loads((tmp_path / checkpoint / run.name / 'run.json').read_text())
        (tmp_path / checkpoint / run.name / 'run.json').write_text(json.dumps(state | {'checkpoint': run.checkpoint}))
        assert collect([run], tmp_path / checkpoint).rows[0].figures['validation_top1'] == top1


def test_corruptions_that_no_two_methods_share(tmp_path):
    """There is no mean over them to draw."""
    figures = {'plain': {'imagenet-c/fog/1': 10.0, 'folder_top1': 50.0}, 'debiased': {'imagenet-c/snow/1': 9.0}}
    rows = [Row('', '', name, 0, 'finished', figures=values) for name, values in figures.items()]
    study = read_study(study_file(tmp_path, methods={'plain': {}, 'debiased': {}}, baselines=['plain'],
                                  measures={'clean': 'folder_top1'}))  # fmt: skip
    (group,) = group_rows(study, rows)
    assert not [figure for figure in draw_group(group) if 'severities' in figure.file]


def test_stored_runs_count_as_finished(tmp_path):
    """Those with the same flags only; new runs must have been measured as the stored ones were."""
    study = read_study(study_file(tmp_path))
    runs = expand(study)[:3]
    figures = {'folder_top1': 40.0}
    rows = [
        Row('', '', run.method, run.seed, 'finished', weights='a', flags=run.flags, figures=figures) for run in runs
    ]
    rows[1] = replace(rows[1], flags='of another')
    rows[2] = replace(rows[2], status='failed', figures=None)
    another = dict(MEASURED['benchmarks'][0], model='of another study')
    store(Collected(rows, MEASURED | {'benchmarks': [*MEASURED['benchmarks'], another]}), tmp_path / 'stored')
    stored = read_stored(tmp_path / 'stored', runs)
    assert set(stored.rows) == {runs[0].name}

    write_run(tmp_path / 'runs' / runs[1].name, runs[1], fingerprint=MEASURED['benchmarks'][0]['fingerprint'])
    collected = collect(runs, tmp_path / 'runs', stored)
    assert [row.status for row in collected.rows] == ['finished', 'finished', 'missing']
    assert [row.figures['folder_top1'] for row in collected.rows[:2]] == [40.0, 50.0]
    assert collected.measured['benchmarks'] == MEASURED['benchmarks']

    write_run(tmp_path / 'other' / runs[1].name, runs[1], fingerprint='of other images')
    with pytest.raises(DebiasError, match=rf'{runs[1].name} and the stored runs were not measured alike'):
        collect(runs, tmp_path / 'other', stored)
