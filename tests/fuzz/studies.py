"""Study files, and the tables that their reports are made of."""

import json
from pathlib import Path

import yaml
from hypothesis import strategies as st

from timm_debias.study.collect import read_csv
from timm_debias.study.config import read_study
from timm_debias.study.grid import expand
from timm_debias.study.report import write_report

from .mutations import changed, damaged
from .results import Page
from .target import target

STUDY = {
    'name': 'made-up', 'title': 'Made-up', 'description': 'Some words.', 'discussion': '- A point.',
    'train': {'model': 'test_resnet', 'epochs': 2}, 'validate': {'benchmarks': 'folder'},
    'methods': {'plain': {'label': 'Plain'}, 'double': {'times': {'epochs': 2}}, 'debiased': {'debias': True}},
    'data': {'emoji': {'data_dir': 'x'}}, 'seeds': [0, 1], 'baselines': ['plain'],
    'measures': {'accuracy': 'folder_top1', 'mean error': {'column': 'folder-c_mean_error_15', 'better': 'lower'}},
}  # fmt: skip
CSV = (
    'data,model,method,seed,status,error,weights,folder_top1,folder-c_mean_error_15,folder-c/fog/1,folder-fgsm_top1_eps4\n'
    + ''.join(
        f'emoji,,{method},{seed},finished,,abc,{70 + place + seed},{40 - place},{30 + seed},{5 + place}\n'
        for place, method in enumerate(('plain', 'double', 'debiased'))
        for seed in (0, 1)
    )
).encode()
MEASURED = {
    'benchmarks': [
        {'data': 'emoji', 'model': '', 'benchmark': 'folder', 'protocol': 'p', 'images': 10, 'fingerprint': 'f' * 64,
         'subset': None, 'partial': False, 'notes': [], 'skipped': 0}
    ],
    'versions': [{'timm': '1.0.31', 'torch': '2.6'}],
}  # fmt: skip


FILES = changed(STUDY).map(lambda study: json.dumps(study).encode()) | damaged(yaml.safe_dump(STUDY).encode())


@target('study files', FILES, 70)
def read_file(data: bytes, folder: Path) -> None:
    path = folder / 'study.yaml'
    path.write_bytes(data)
    study = read_study(path)
    said = yaml.safe_load(path.read_text(encoding='utf-8'))
    assert study.name == said['name']
    assert study.title == said['title']
    assert list(study.methods) == list(said['methods'])
    runs = expand(study)
    assert len({run.name for run in runs}) == len(runs)
    assert all(set(run.name) & set('/\\') == set() and run.name[0] != '.' for run in runs)


@st.composite
def _report(draw) -> tuple[dict, bytes, bytes]:
    """A study, results.csv and measured.json, of which one is not as it was."""
    study, table, measured = STUDY, CSV, json.dumps(MEASURED).encode()
    which = draw(st.integers(0, 2))
    if which == 0:
        study = draw(changed(STUDY))
    elif which == 1:
        table = draw(damaged(CSV))
    else:
        measured = json.dumps(draw(changed(MEASURED))).encode()
    return study, table, measured


@target('reports of studies', _report(), 60)
def write(files: tuple[dict, bytes, bytes], folder: Path) -> None:
    study, table, measured = files
    (folder / 'study.yaml').write_text(json.dumps(study))
    (folder / 'results.csv').write_bytes(table)
    (folder / 'measured.json').write_bytes(measured)
    write_report(read_study(folder / 'study.yaml'), folder)
    page = (folder / 'report.html').read_text(encoding='utf-8')
    Page(page.replace('</body>', '<script></script></body>'))  # It has none of its own.
    markdown = (folder / 'report.md').read_text(encoding='utf-8')
    assert '<script' not in markdown
    assert '<img' not in markdown


@target('results of studies', damaged(CSV), 40)
def read_table(data: bytes, folder: Path) -> None:
    path = folder / 'results.csv'
    path.write_bytes(data)
    rows = read_csv(path)
    text = data.decode()
    if not rows or '"' in text or '\r' in text:
        return
    head, *lines = [line.split(',') for line in text.split('\n') if line]
    said = [dict(zip(head, line, strict=True)) for line in lines]
    assert [(row.method, row.seed, row.error) for row in rows] == [
        (line['method'], int(line['seed']), line['error']) for line in said
    ]
    for row, line in zip(rows, said, strict=True):
        for column, value in (row.figures or {}).items():
            assert float(line[column]) == value
