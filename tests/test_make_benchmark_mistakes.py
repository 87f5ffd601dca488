"""Mistakes at `timm-debias make-benchmark`: each is one line that names it, and nothing is written."""

import multiprocessing

import pytest
from made_benchmarks import CLASSES, FEW, draw_classes, run, tree
from PIL import Image

from timm_debias import cli
from timm_debias.progress import Progress


@pytest.fixture
def data(tmp_path):
    """Three classes of three images each, below the split `val`."""
    return draw_classes(tmp_path / 'data/val')


def refused(capsys, tmp_path, *parts):
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith('timm-debias make-benchmark: error: ')
    for part in parts:
        assert part in message
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('kind', 'flags', 'part'),
    [
        ('corupted', [], "'corupted'"),
        ('corrupted', ['--data-dir', 'nowhere'], "--data-dir 'nowhere': no such folder"),
        ('corrupted', ['--split', 'test'], "no folder for --split 'test' (boat, cat, t-shirt)"),
        ('corrupted', ['--corruptions', 'fogg'], "unknown corruption 'fogg'. Did you mean 'fog'?"),
        ('corrupted', ['--corruptions', 'fog', 'fog'], "names 'fog' twice"),
        ('corrupted', ['--img-size', 31], '--img-size is 31; expected at least 32'),
        ('corrupted', ['--resize', 31], '--resize is 31; expected at least 32'),
        ('corrupted', ['--workers', 0], '--workers is 0'),
        ('corrupted', ['--alpha', 0.5], '--alpha does not belong to corrupted'),
        ('corrupted', ['--seed', 'x'], "'x'"),
        ('stylized', ['--per-pair', 3], '--per-pair does not belong to stylized'),
        ('stylized', ['--img-size', 15], '--img-size is 15; expected at least 16'),
        ('stylized', ['--alpha', 1.5], '--alpha is 1.5'),
        ('stylized', ['--alpha', 'nan'], '--alpha is nan'),
        ('stylized', ['-b', 0], '--batch-size is 0'),
        ('stylized', ['--style-dir', 'nowhere'], "--style-dir 'nowhere': no such folder"),
        ('stylized', ['--stylizer', 'adain_light'], "Did you mean 'adain_lite'"),
        ('stylized', ['--stylizer-weights', 'nowhere'], 'nowhere'),
        ('stylized', ['--device', 'gpu'], "'gpu'"),
        ('stylized', ['--no-such-flag'], '--no-such-flag'),
        ('cue-conflict', ['--per-pair', 0], '--per-pair is 0'),
        ('cue-conflict', ['--per-pair', 10], 'have only 9 different pairs'),
    ],
)
def test_flags(kind, flags, part, data, tmp_path, capsys):
    assert run(kind, data, tmp_path / 'out', *flags) == 2
    refused(capsys, tmp_path, part)


def test_no_folders_named(data, capsys, tmp_path):
    assert cli.main(['make-benchmark', 'corrupted', '--output', str(tmp_path / 'out')]) == 2
    refused(capsys, tmp_path, 'no --data-dir')
    assert cli.main(['make-benchmark', 'corrupted', '--data-dir', str(data)]) == 2
    refused(capsys, tmp_path, 'no --output')


def test_a_folder_of_splits(data, tmp_path, capsys):
    assert run('corrupted', data.parent, tmp_path / 'out', *FEW) == 2
    refused(capsys, tmp_path, 'boat, cat, t-shirt', 'give --split val')
    assert run('corrupted', data.parent, tmp_path / 'out', *FEW, '--split', 'val') == 0


def test_no_classes(tmp_path, capsys):
    (tmp_path / 'flat').mkdir()
    Image.new('RGB', (40, 40)).save(tmp_path / 'flat/image.png')
    assert run('corrupted', tmp_path / 'flat', tmp_path / 'out') == 2
    refused(capsys, tmp_path, 'has no class folders')


def test_empty_class(data, tmp_path, capsys):
    (data / 'dog').mkdir()
    assert run('corrupted', data, tmp_path / 'out') == 2
    refused(capsys, tmp_path, 'class folders without images: dog')


def test_unreadable_images(data, tmp_path, capsys):
    (data / 'cat/torn.png').write_bytes((data / 'cat/image1.png').read_bytes()[:200])
    assert run('corrupted', data, tmp_path / 'out') == 2
    refused(capsys, tmp_path, 'unreadable images', 'torn.png')


@pytest.mark.parametrize('kind', ['stylized', 'cue-conflict'])
def test_small_images(kind, data, tmp_path, capsys):
    Image.new('RGB', (15, 40)).save(data / 'cat/thin.png')
    assert run(kind, data, tmp_path / 'out') == 2
    refused(capsys, tmp_path, 'thin.png: 15×40 pixels', '16×16')


def test_files_that_would_become_one(data, tmp_path, capsys):
    Image.new('RGB', (40, 40)).save(data / 'cat/image0.png')
    assert run('corrupted', data, tmp_path / 'out') == 2
    refused(capsys, tmp_path, 'image0.jpg and image0.png')


@pytest.mark.parametrize('kind', ['stylized', 'cue-conflict'])
def test_one_class(kind, tmp_path, capsys):
    (tmp_path / 'data/cat').mkdir(parents=True)
    Image.new('RGB', (40, 40)).save(tmp_path / 'data/cat/image.png')
    assert run(kind, tmp_path / 'data', tmp_path / 'out') == 2
    refused(capsys, tmp_path, 'one class')
    if kind == 'stylized':
        assert run(kind, tmp_path / 'data', tmp_path / 'out', '--style-dir', tmp_path / 'data') == 0


def test_class_names_that_file_names_would_mix_up(data, tmp_path, capsys):
    (data / 'boat').rename(data / 'cat1')
    assert run('cue-conflict', data, tmp_path / 'out') == 2
    refused(capsys, tmp_path, "'cat' and 'cat1'")


def test_output_inside_the_source(data, tmp_path, capsys):
    for inside in (data, data / 'out'):
        assert run('corrupted', data, inside) == 2
        refused(capsys, tmp_path, 'lies inside')
    styles = tmp_path / 'paintings'
    styles.mkdir()
    assert run('stylized', data, styles / 'out', '--style-dir', styles) == 2
    refused(capsys, tmp_path, 'lies inside', 'paintings')
    assert {path.name for path in data.iterdir()} == set(CLASSES)


def test_output_that_holds_something_else(data, tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/thesis.txt').write_text('mine')
    assert run('corrupted', data, tmp_path / 'mine') == 2
    refused(capsys, tmp_path, 'is no benchmark of this command')
    assert tree(tmp_path / 'mine') == {'thesis.txt': b'mine'}
    assert run('corrupted', data, tmp_path / 'mine/thesis.txt') == 2
    refused(capsys, tmp_path, 'thesis.txt')


def test_a_full_disk(data, tmp_path, capsys, monkeypatch):
    def full(*args, **options):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, 'save', full)
        assert run('corrupted', data, tmp_path / 'part', *FEW) == 2
    assert 'No space left on device; once that is mended' in capsys.readouterr().err
    assert run('corrupted', data, tmp_path / 'part', *FEW) == 0


def test_a_worker_that_dies(data, tmp_path, capsys, monkeypatch):
    """As by the system where memory runs out."""
    flags, killed = [*FEW[:-1], 2], []

    def kill(self, count):
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()
            killed[0].join()

    with monkeypatch.context() as patch:
        patch.setattr(Progress, 'add', kill)
        assert run('corrupted', data, tmp_path / 'part', *flags) == 2
    assert 'one of the --workers died' in capsys.readouterr().err.splitlines()[-1]
    assert run('corrupted', data, tmp_path / 'part', *flags) == 0
    assert run('corrupted', data, tmp_path / 'whole', *flags) == 0
    assert tree(tmp_path / 'part') == tree(tmp_path / 'whole')
