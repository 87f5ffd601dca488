"""The studies of this repository: their files name flags that exist, and their reports say what their tables say."""

import re
from pathlib import Path

import pytest

from timm_debias.study.config import read_study
from timm_debias.study.grid import check_runs, expand, filled
from timm_debias.study.prepare import check_steps
from timm_debias.study.report import MEASURED, RESULTS, SAMPLES, write_report

ROOT = Path(__file__).parents[1]
STUDIES = sorted(ROOT.glob('docs/studies/*/study.yaml'))
STORED = [path for path in STUDIES if (path.parent / RESULTS).is_file()]


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.parent.name)
def test_every_run_can_start(path, tmp_path):
    study = read_study(path)
    assert study.name == path.parent.name
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
    check_runs(runs, variables, path.name)


@pytest.mark.parametrize('path', STORED, ids=lambda path: path.parent.name)
def test_reports_are_made_from_their_tables(path, tmp_path):
    """No figure was typed: the report is made anew from results.csv, byte by byte."""
    for name in (RESULTS, MEASURED, SAMPLES):
        if (path.parent / name).is_file():
            (tmp_path / name).write_bytes((path.parent / name).read_bytes())
    write_report(read_study(path), tmp_path)
    for file in [*path.parent.glob('*.svg'), path.parent / 'report.md', path.parent / 'tests.csv']:
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name
