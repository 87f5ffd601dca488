"""The studies of this repository: their files name flags that exist, and their reports say what their tables say."""

import json
import re
from pathlib import Path

import pytest

from timm_debias.report.published import COLUMNS, PUBLISHED
from timm_debias.study.collect import check_rows, figures_of
from timm_debias.study.config import read_study
from timm_debias.study.grid import check_runs, expand, filled
from timm_debias.study.prepare import check_steps
from timm_debias.study.report import MEASURED, RESULTS, SAMPLES, write_report
from timm_debias.validation.benchmarks import get_benchmark, list_benchmarks

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
IMAGENET = ROOT / 'hparams/study_imagenet.yaml'
STUDIES = [*sorted(ROOT.glob('docs/studies/*/study.yaml')), IMAGENET]
STORED = [path for path in STUDIES if (path.parent / RESULTS).is_file()]


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: f'{path.parent.name}-{path.stem}')
def test_every_run_can_start(path, tmp_path, monkeypatch):
    study = read_study(path)
    assert study.name == (path.parent.name if path.stem == 'study' else path.stem.removeprefix('study_'))
    monkeypatch.setattr('timm_debias.training.checks.check_device', lambda device: None)  # Here is no GPU.
    names = set(re.findall(r'\$\{([A-Z_]+)\}', path.read_text()))
    variables = dict.fromkeys(names, str(tmp_path))
    check_steps(study, variables, path.name)
    runs = expand(study)
    runs = runs[: len(runs) // len(study.seeds)]  # One seed.
    for run in runs:
        if 'pretrained_path' in run.train:  # What another study is to leave.
            weights = Path(filled(run.train['pretrained_path'], run.variables | variables))
            weights.parent.mkdir(parents=True, exist_ok=True)
            weights.touch()
        for item in filled(run.validate.get('benchmark_dir', []), run.variables | variables):
            Path(item.partition('=')[2]).mkdir(parents=True, exist_ok=True)
    for name in list_benchmarks():
        for folder in get_benchmark(name).folders[:1]:
            (tmp_path / folder).mkdir(parents=True)
    check_runs(runs, variables, study.make, path.name)


@pytest.mark.parametrize('path', STORED, ids=lambda path: path.parent.name)
def test_reports_are_made_from_their_tables(path, tmp_path):
    """No figure was typed: the report is made anew from results.csv, byte by byte."""
    for name in (RESULTS, MEASURED, SAMPLES, path.name):
        if (path.parent / name).is_file():
            (tmp_path / name).write_bytes((path.parent / name).read_bytes())
    write_report(read_study(path), tmp_path)
    written = {file.name for file in tmp_path.iterdir()} - {'report.html'}  # Large, and not kept.
    assert {file.name for file in path.parent.iterdir()} - {'report.html'} == written
    for name in written:
        assert (path.parent / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize('path', STORED, ids=lambda path: path.parent.name)
def test_study_files_describe_what_was_run(path):
    """Name and flags of every stored run are those that its study file gives."""
    check_rows(expand(read_study(path)), path.parent / RESULTS)


def test_measures_of_imagenet(suite, tmp_path):
    """Every measure of the ImageNet study is a column of what its benchmarks give, found on a few images of each."""
    study = read_study(IMAGENET)
    words = ['--benchmarks', study.validate['benchmarks'], '--epsilons', *study.validate['epsilons']]
    assert suite(*words, '--results-dir', tmp_path) == 0
    columns = dict(figures_of(json.loads((tmp_path / 'results.json').read_text())['benchmarks']))
    assert {measure.column for measure in study.measures} <= set(columns)


def test_hours_of_imagenet_are_those_of_its_recipes():
    """What the page expects of GPUs is the hours of docs/training.md for one seed and 100 epochs, for all of them."""
    rows = [line.split('|')[1:-1] for page in ('training', 'studies/imagenet')
            for line in (ROOT / f'docs/{page}.md').read_text(encoding='utf-8').splitlines()
            if line.count('|') in (5, 6) and re.search(r'\d', line)]  # fmt: skip
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    plain, debiased = (int(hours) for hours in cells['`resnet50`'][2:])
    assert cells['plain'][:2] == ['300', str(3 * plain)]
    assert cells['plain, twice the epochs'][:2] == ['600', str(6 * plain)]
    assert cells['debiased, adain_vgg19'][:2] == ['300', str(3 * debiased)]
    assert cells['debiased, adain_lite'][:2] == ['300', '–']
    for kind in ('shape', 'texture'):
        hours = int(cells[f'`resnet50_{kind}_biased`'][3])
        assert cells[f'{kind}-biased'][:2] == ['300', str(3 * hours)]


def test_page_of_imagenet_has_the_published_figures():
    page = (ROOT / 'docs/studies/imagenet.md').read_text(encoding='utf-8')
    for row in PUBLISHED:
        assert f'| {" | ".join([row.name, *(row.figures.get(column, "–") for column in COLUMNS)])} |' in page


def test_main_table_of_the_readme():
    """Every cell stands in the report of clothing; all methods do but half the epochs, whose baseline is plain."""
    against = differences('clothing', 'twice')
    shown = cells_of(README.split('\nThe same as a table', 1)[1])
    assert set(against) - set(shown) == {'debiased, half the epochs'}
    for method, cells in shown.items():
        assert len(cells) > 4
        assert cells == {measure: against[method][measure] for measure in cells}


def test_table_of_drawn_images_of_the_readme():
    """Every cell stands in the report that its row links: debiased training less plain training of as many images."""
    shown = cells_of(README.split('\nDebiased training on [drawn', 1)[1])
    link = '[`shapes_textures`](docs/studies/shapes_textures/report.md)'
    longer = '[`longer`](docs/studies/longer/report.md)'
    architectures = {
        'ResNet': 'ResNet-10-T, its stages half as wide',
        'ConvNeXt': 'ConvNeXt of 5 blocks',
        'ViT': 'ViT of 4 blocks on a convolutional stem',
    }
    compared = {}
    for name, label in architectures.items():
        compared[f'{link}, {name}'] = ('shapes_textures', 'twice', 'debiased', label)
        if name == 'ResNet':
            small = ('shapes_textures', 'twice', 'debiased, batches of 16', label)
            compared[f'{link}, {name}, debiased in batches of 16'] = small
        compared[f'{longer}, {name}'] = ('longer', 'four times', 'debiased, twice the epochs', label)
    assert list(shown) == list(compared)
    for row, cells in shown.items():
        study, epochs, method, architecture = compared[row]
        against = differences(study, epochs, architecture)[method]
        assert len(cells) > 4
        assert cells == {measure: against[measure] for measure in cells}


def test_minutes_of_the_readme():
    """What style transfer costs stands beside the main table as in the report."""
    figures = table_of('clothing', 'Figures')
    debiased, plain = (
        figures[method]['CPU minutes a run, median'] for method in ('debiased', 'plain, twice the epochs')
    )
    text = ' '.join(README.split())
    assert f'{debiased} CPU minutes a run of debiased training, {plain} of plain training of twice the epochs' in text


def differences(study, epochs, architecture=''):
    """Cells of a report's table of differences to plain training of so many times the epochs."""
    return table_of(study, f'Difference to plain, {epochs} the epochs', architecture)


def table_of(study, heading, architecture=''):
    """Cells of the first table of a report below a heading, in the section of an architecture where it has several."""
    report = (ROOT / f'docs/studies/{study}/report.md').read_text(encoding='utf-8')
    section = report.split(f'\n## {architecture}\n', 1)[1] if architecture else report
    return cells_of(section.split(f'# {heading}\n', 1)[1])


def cells_of(text):
    """Cells of the first table, by the first of their row and that of their column."""
    table = text[text.index('\n| ') + 1 :].split('\n\n', 1)[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
