"""The folders for learning from three vendors' emoji and testing on the fourth's."""

import csv
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / 'benchmarks/emoji_folders.py'
VENDORS = ('noto', 'twemoji', 'openmoji', 'fluent3d')


def call(*argv) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, argv)], capture_output=True, text=True, check=False)


@pytest.fixture(scope='module')
def folders(photographs, tmp_path_factory):
    if not (photographs / 'emoji_concepts.tsv').is_file():
        pytest.skip(f'no emoji in {photographs}')
    output = tmp_path_factory.mktemp('emoji')
    done = call('--data-root', photographs, '--output', output)
    assert done.returncode == 0, done.stderr
    return photographs, output


def test_neither_concepts_nor_vendors_of_the_test_are_trained_on(folders):
    data, output = folders
    with open(data / 'emoji_concepts.tsv', newline='') as file:
        concepts = {row['codepoint']: row for row in csv.DictReader(file, delimiter='\t')}
    for held_out in VENDORS:
        seen = {}
        for split in ('train', 'test'):
            paths = list((output / held_out / split).glob('*/*.png'))
            vendors, codepoints = zip(*(path.stem.split('-', 1) for path in paths), strict=True)
            assert all(concepts[code]['split'] == split for code in codepoints)
            assert all(path.parent.name == concepts[path.stem.split('-', 1)[1]]['class'] for path in paths)
            expected = {held_out} if split == 'test' else set(VENDORS) - {held_out}
            assert set(vendors) == expected
            seen[split] = set(codepoints)
            there = Counter()
            for vendor in expected:
                there[vendor] = sum(row[vendor] == '1' and row['split'] == split for row in concepts.values())
            assert Counter(vendors) == there
        assert not seen['train'] & seen['test']
        assert len({path.name for path in (output / held_out / 'test').iterdir()}) == 9


def test_a_second_call_copies_what_is_missing(folders):
    data, output = folders
    path = next((output / 'noto/test').glob('*/*.png'))
    path.unlink()
    assert call('--data-root', data, '--output', output).returncode == 0
    assert Image.open(path).size == (128, 128)


def test_mistakes(tmp_path):
    done = call('--data-root', tmp_path, '--output', tmp_path / 'out')
    assert done.returncode == 2
    assert 'lacks emoji_fluent3d' in done.stderr
    assert not (tmp_path / 'out').exists()


def call_here(monkeypatch, folder: Path) -> int:
    """Call the script in this process: it takes long to start."""
    words = ['--data-root', str(folder / 'data'), '--output', str(folder / 'out')]
    monkeypatch.setattr(sys, 'argv', [str(SCRIPT), *words])
    return runpy.run_path(str(SCRIPT))['main']()


@pytest.fixture
def drawings(tmp_path) -> Path:
    """Two concepts of each vendor, one to train on and one for the test."""
    for vendor in VENDORS:
        for name in ('1f600', '1f601'):
            path = tmp_path / f'data/emoji_{vendor}/face/{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'')
    write_splits(tmp_path, train='1f600', test='1f601')
    return tmp_path


def write_splits(folder: Path, **splits: str) -> None:
    lines = ['codepoint\tsplit', *(f'{concept}\t{split}' for split, concept in splits.items())]
    (folder / 'data/emoji_concepts.tsv').write_text('\n'.join(lines) + '\n')


def test_images_without_a_split(drawings, monkeypatch, capsys):
    (drawings / 'data/emoji_noto/face/1f602.png').touch()
    assert call_here(monkeypatch, drawings) == 2
    error = capsys.readouterr().err
    assert error.startswith('emoji_concepts.tsv does not say whether ')
    assert error.endswith('emoji_noto/face/1f602.png is for training or test\n')


def test_folders_of_other_splits_are_refused(drawings, monkeypatch, capsys):
    """A concept would be trained on and tested."""
    assert call_here(monkeypatch, drawings) == 0
    (drawings / 'out/fluent3d/train/face/.noto-1f600-x.partial.png').touch()  # A killed call leaves such files.
    assert call_here(monkeypatch, drawings) == 0
    assert len(list((drawings / 'out/fluent3d').glob('*/*/*'))) == 4
    write_splits(drawings, train='1f601', test='1f600')
    assert call_here(monkeypatch, drawings) == 2
    error = capsys.readouterr().err
    assert 'test/face/fluent3d-1f601.png is none of the images of' in error
    assert error.endswith(f'remove {drawings / "out/fluent3d"}\n')
    assert not (drawings / 'out/fluent3d/train/face/noto-1f601.png').exists()
