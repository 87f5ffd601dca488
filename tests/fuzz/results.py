"""Results of measurements: folders that reports and comparisons are made of, and manifests of made benchmarks."""

import json
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import strategies as st

from timm_debias.compare import compare, format_comparison
from timm_debias.data.shards import check_shards
from timm_debias.make_benchmark.manifest import read_complete
from timm_debias.report.page import format_page
from timm_debias.report.runs import read_runs
from timm_debias.validation.results import read_folders
from timm_debias.validation.tables import format_results, format_row

from .mutations import changed, damaged
from .target import target


def _entry(metrics: dict, headline: dict) -> dict:
    return {
        'protocol': 'centre crop', 'partial': False, 'subset': None, 'images': 10, 'skipped': [], 'batch_sizes': [8],
        'fingerprint': 'f' * 64, 'headline': headline, 'metrics': metrics, 'notes': ['a note'],
    }  # fmt: skip


_ERROR = {'error': 40.0, 'error_interval': [30.0, 50.0]}
RESULTS = {
    'model': 'resnet50', 'top1': 70.0, 'param_count': 25.56, 'img_size': 224, 'crop_pct': 0.875, 'weights': 'a' * 64,
    'settings': {}, 'absent': {'imagenet-o': 'no folder'},
    'benchmarks': {
        'imagenet': _entry({'top1': 70.0, 'top1_interval': [60.0, 80.0]}, {'top1': 70.0}),
        'imagenet-c': _entry({'mce': 70.0, 'errors': {'fog': {'1': _ERROR, '5': _ERROR}}}, {'mce': 70.0}),
        'cue-conflict': _entry(
            {
                'shape_bias': 20.0,
                'categories': {'cat': {'images': 5, 'shape': 1, 'texture': 3, 'shape_bias': 25.0}},
                'published_shape_bias': {'humans': 95.9},
            },
            {'shape_bias': 20.0},
        ),
        'fgsm': _entry({'curve': [{'epsilon': 4.0, 'top1': 9.0, 'top1_interval': [8.0, 10.0]}]}, {'top1_eps4': 9.0}),
    },
}  # fmt: skip
PART = {
    'identity': {'images': 10, 'fingerprint': 'f' * 64, 'targets': 't' * 64, 'protocol': 'p'},
    'result': {'state': {'top1': 7}, 'images': 10, 'skipped': [], 'right': 'fe00', 'batch_size': 8},
}
OTHER_TAGS = {
    'script',
    'img',
    'iframe',
    'object',
    'embed',
    'link',
    'base',
    'form',
    'a',
    'foreignobject',
    'image',
    'use',
}


class Page(HTMLParser):
    """Refuses what a page of this project has no use for: further scripts, and what loads or leads elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.scripts == 1, f'{self.scripts} scripts'

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == 'script'
        assert tag == 'script' or tag not in OTHER_TAGS, f'<{tag}>'
        assert not any(name.startswith('on') or name in ('src', 'href', 'srcdoc') for name, _ in attrs), attrs

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.words.append(data)


def _dumped(sample) -> st.SearchStrategy[bytes]:
    written = json.dumps(sample).encode()
    return changed(sample).map(lambda value: json.dumps(value).encode()) | damaged(written)


@target('results', _dumped(RESULTS), 100)
def read_results(data: bytes, folder: Path) -> None:
    (folder / 'results.json').write_bytes(data)
    runs = read_runs([str(folder)])
    said = json.loads(data)
    if isinstance(said, list):
        assert len(runs) == len(said)
        return
    page = Page(format_page(runs, with_published=True).encode().decode())
    assert any(said['model'] in words for words in page.words) or not said['model'].strip()
    for entry in said['benchmarks'].values():
        for value in entry['headline'].values():
            assert value is None or f'{value:.2f}' in page.words
    table = format_results(said)
    assert '<script' not in table
    assert '<img' not in table
    assert format_row(said).count('\n') >= 2


@target('parts of results', _dumped(PART), 50)
def read_part(data: bytes, folder: Path) -> None:
    for name in ('a', 'b'):
        (folder / name / 'parts').mkdir(parents=True)
        (folder / name / 'results.json').write_text(json.dumps(RESULTS))
        (folder / name / 'parts' / 'imagenet.json').write_bytes(data)
    comparison = compare(folder / 'a', folder / 'b', ['imagenet'])
    right, images = json.loads(data)['result']['right'], json.loads(data)['result']['images']
    bits = bin(int('1' + right, 16))[3 : 3 + images]
    (row,) = comparison['rows']
    assert row['images'] == images
    assert abs(row['a'] - 100 * bits.count('1') / images) < 1e-9
    assert (row['difference'], row['only_a'], row['only_b'], row['p']) == (0, 0, 0, 1)
    assert format_comparison(comparison)


MODELS = [{'folder': 'resnet50', 'model': 'resnet50'}, {'folder': 'vit', 'model': 'vit', 'error': 'no memory'}]


@target('results of many models', _dumped(MODELS), 30)
def read_models(data: bytes, folder: Path) -> None:
    (folder / 'results.json').write_bytes(data)
    said = json.loads(data) if read_folders(folder) else []
    for path, model in zip(read_folders(folder), [item for item in said if 'error' not in item], strict=True):
        assert path.resolve().relative_to(folder.resolve()).as_posix() == model['folder']


MANIFEST = {
    'kind': 'corrupted', 'complete': True, 'files': 10, 'source': {'classes': ['a', 'b'], 'images': 2},
    'parameters': {'img_size': 224, 'corruptions': ['fog', 'snow'], 'severities': [1, 2, 3, 4, 5]},
}  # fmt: skip


@target('manifests of benchmarks', _dumped(MANIFEST), 40)
def read_manifest(data: bytes, folder: Path) -> None:
    (folder / 'manifest.json').write_bytes(data)
    manifest = read_complete(folder, 'corrupted')
    assert manifest == json.loads(data)
    assert all(name.isidentifier() for name in manifest['parameters']['corruptions'])


INFO = {'splits': {'train': {'name': 'train', 'filenames': ['a-0.tar', 'b/1.tar'], 'shard_lengths': [1, 2],
                             'num_samples': 3}}}  # fmt: skip


@target('descriptions of shards', _dumped(INFO), 30)
def read_info(data: bytes, folder: Path) -> None:
    (folder / '_info.json').write_bytes(data)
    check_shards(str(folder))
    for split in json.loads(data).get('splits', {}).values():
        for name in split['filenames']:
            assert (folder / name).resolve().is_relative_to(folder.resolve())
