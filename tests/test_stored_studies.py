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
    for name in (RESULTS, MEASURED, SAMPLES):
        if (path.parent / name).is_file():
            (tmp_path / name).write_bytes((path.parent / name).read_bytes())
    write_report(read_study(path), tmp_path)
    for file in [*path.parent.glob('*.svg'), path.parent / 'report.md', path.parent / 'tests.csv']:
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


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


def test_page_of_imagenet_has_the_published_figures():
    page = (ROOT / 'docs/studies/imagenet.md').read_text(encoding='utf-8')
    for row in PUBLISHED:
        assert f'| {" | ".join([row.name, *(row.figures.get(column, "–") for column in COLUMNS)])} |' in page
