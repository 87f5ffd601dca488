"""A study of two methods, for tests of what its report says."""

from pathlib import Path

import yaml

from timm_debias.study.collect import Collected, Row, store
from timm_debias.study.config import read_study
from timm_debias.study.report import write_report

STUDY = {
    'name': 'small',
    'title': 'Small',
    'train': {'model': 'test_resnet', 'device': 'cpu', 'epochs': 3, 'scale': [0.5, 1.0]},
    'validate': {'benchmarks': 'folder'},
    'methods': {'plain': {}, 'debiased': {'debias': True, 'times': {'epochs': 2}}},
    'seeds': [0, 1, 2],
    'baselines': ['plain'],
    'measures': {'clean': 'folder_top1', 'mCE': {'column': 'folder-c_mce', 'better': 'lower'}},
}


def report(folder: Path, rows: list[Row], name: str = 'study.yaml', **changes) -> str:
    """Write the report of rows, and return report.md."""
    path = folder / name
    path.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    store(Collected(rows, {'benchmarks': [], 'versions': []}), folder)
    write_report(read_study(path), folder)
    return (folder / 'report.md').read_text(encoding='utf-8')
