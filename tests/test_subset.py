"""`--subset`: which images of a folder are measured, and lists of them that cannot be used."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from miniatures import error

from timm_debias import DebiasError
from timm_debias.validation.benchmarks import Setting, get_benchmark
from timm_debias.validation.benchmarks import subset as subset_module
from timm_debias.validation.benchmarks.subset import parse_subset
from timm_debias.validation.config import SuiteConfig

SETTING = Setting(SuiteConfig(), img_size=64, seed=42)


def reduced(subset, **suite) -> Setting:
    return replace(SETTING, suite=SuiteConfig(subset=str(subset), **suite))


def files(part) -> list[str]:
    return ['/'.join(Path(part.images.name(index)).parts[-2:]) for index in range(len(part.images))]


@pytest.fixture
def corrupted(miniatures, tmp_path):
    """A copy of the miniature ImageNet-C and its two images."""
    root = shutil.copytree(miniatures / 'imagenet-c', tmp_path / 'imagenet-c')
    return root, sorted(path.relative_to(root / 'fog/1').as_posix() for path in (root / 'fog/1').glob('*/*'))


@pytest.fixture
def listing(tmp_path):
    """Writes a list."""

    def write(*lines, end='\n') -> Path:
        path = tmp_path / 'list.txt'
        path.write_text('\n'.join(lines) + end, encoding='utf-8')
        return path

    return write


def test_drawn_images_are_the_same_in_every_folder(corrupted):
    root, images = corrupted
    contents = get_benchmark('imagenet-c').contents({'imagenet-c': root}, reduced(1, allow_partial=True))
    assert len({tuple(files(part)) for part in contents.parts}) == 1
    assert len(contents.parts) == 95
    assert files(contents.parts[0])[0] in images
    assert contents.partial
    assert contents.subset.number == 1
    assert '1 images, drawn with seed 42, the same of every folder' in contents.notes[0]
    for path in (root / 'snow' / '2').glob('*/*'):
        path.rename(path.with_name('other.JPEG'))
    with pytest.raises(DebiasError, match=r'imagenet-c/snow/2: .*lacks 1 of the 1 images of --subset, such as n0'):
        get_benchmark('imagenet-c').contents({'imagenet-c': root}, reduced(1, allow_partial=True))
    with pytest.raises(DebiasError, match=r'--subset 3: .* has 2 images'):
        get_benchmark('imagenet-c').contents({'imagenet-c': root}, reduced(3, allow_partial=True))


def test_seeds_draw_differently(miniatures):
    def drawn(seed):
        setting = replace(reduced(3, allow_partial=True), seed=seed)
        return tuple(files(get_benchmark('fgsm').contents({'imagenet': miniatures / 'imagenet/val'}, setting).parts[0]))

    assert drawn(0) == drawn(0)
    assert len({drawn(seed) for seed in range(5)}) > 1


def test_of_a_list_nothing_else_has_to_be_there(corrupted, listing):
    root, images = corrupted
    contents = get_benchmark('imagenet-c').contents({'imagenet-c': root}, reduced(listing(images[1], end='')))
    assert {tuple(files(part)) for part in contents.parts} == {(images[1],)}
    assert not contents.partial
    digest = hashlib.sha256(images[1].encode()).hexdigest()[:12]
    assert f'list of 1 images (SHA-256 {digest})' in contents.notes[0]


def test_order_and_empty_lines_of_a_list_mean_nothing(listing):
    lines = ['n01440764/b.JPEG', 'n01443537/a.JPEG']
    one, other = (parse_subset(str(listing(*order)), 0) for order in (lines, ['', *reversed(lines), '']))
    assert one == other
    assert one.number == 2


def test_missing_images_of_a_list(corrupted, listing):
    root, images = corrupted
    (root / 'fog/3' / images[0]).unlink()
    path = listing(*images)
    with pytest.raises(DebiasError, match=rf'imagenet-c/fog/3: .* lacks 1 of the 2 images of --subset, .* {images[0]}'):
        get_benchmark('imagenet-c').contents({'imagenet-c': root}, reduced(path))
    contents = get_benchmark('imagenet-c').contents({'imagenet-c': root}, reduced(path, allow_partial=True))
    assert contents.partial
    assert {part.name for part in contents.parts if len(part.images) == 1} == {'imagenet-c/fog/3'}
    path = listing('n01440764/none.JPEG')
    with pytest.raises(DebiasError, match='lacks 1 of the 1 images'):
        get_benchmark('imagenet-c').contents({'imagenet-c': root}, reduced(path, allow_partial=True))


def test_attacks_take_the_same_list(miniatures, listing):
    root = miniatures / 'imagenet/val'
    chosen = sorted(path.relative_to(root).as_posix() for path in root.glob('*/*'))[2:5]
    for name in ('fgsm', 'fgsm-ref', 'pgd', 'autoattack'):
        contents = get_benchmark(name).contents({'imagenet': root}, reduced(listing(*chosen)))
        assert files(contents.parts[0]) == chosen
        assert not contents.partial
        assert contents.subset.column == 'list3'


def test_the_list_of_robustbench_is_known(listing, monkeypatch):
    lines = ['n01440764/b.JPEG', 'n01440764/a.JPEG']
    monkeypatch.setattr(subset_module, '_ROBUSTBENCH', hashlib.sha256('\n'.join(sorted(lines)).encode()).hexdigest())
    subset = parse_subset(str(listing(*lines)), 0)
    assert subset.words == "RobustBench's list of 2"
    assert subset.column == 'robustbench2'


@pytest.mark.parametrize(
    ('lines', 'words'),
    [
        (['n01440764/a.JPEG', 'n01440764/b.JPEG', 'n01440764/a.JPEG'], 'n01440764/a.JPEG is listed 2 times'),
        (['n01440764/a.JPEG', 'val/n01440764/b.JPEG'], "line 2 is 'val/n01440764/b.JPEG'; expected"),
        (['/a.JPEG'], "line 1 is '/a.JPEG'"),
        (['n01440764/'], "line 1 is 'n01440764/'"),
        (['ILSVRC2012_val_00000293.JPEG'], "line 1 is 'ILSVRC"),
        (['', ' '], 'no image is listed'),
    ],
)
def test_lists_that_are_none(listing, lines, words):
    with pytest.raises(DebiasError) as caught:
        parse_subset(str(listing(*lines)), 0)
    assert words in str(caught.value)
    assert 'list.txt' in str(caught.value)


def test_a_list_that_is_no_text(tmp_path):
    (tmp_path / 'image.png').write_bytes(b'\x89PNG\r\n\x1a\n\xff\xfe')
    for path in (tmp_path / 'image.png', tmp_path):
        with pytest.raises(DebiasError, match=r'a text file with a path such as n01440764/ILSVRC2012_val'):
            parse_subset(str(path), 0)


def test_results_say_so(suite, miniatures, listing, tmp_path, capsys):
    """Relative mCE would compare the errors of some images with that of all."""
    images = sorted(path.relative_to(miniatures / 'imagenet-c/fog/1').as_posix() for path in
                    (miniatures / 'imagenet-c/fog/1').glob('*/*'))  # fmt: skip
    place = ['--results-dir', tmp_path / 'results']
    assert suite('--benchmarks', 'imagenet,imagenet-c,fgsm', '--subset', listing(images[0]), *place) == 0
    results = json.loads((tmp_path / 'results' / 'results.json').read_text())
    entry = results['benchmarks']['imagenet-c']
    assert (entry['images'], entry['subset'], entry['partial']) == (95, 'list of 1', False)
    assert entry['metrics']['relative_mce'] is None
    assert results['imagenet-c_mce_list1'] > 0
    assert results['benchmarks']['fgsm']['images'] == 1
    assert results['benchmarks']['imagenet']['subset'] is None
    text = (tmp_path / 'results' / 'results.md').read_text()
    assert '| 95, list of 1 |' in text
    assert 'no relative mCE' in text
    assert suite('--benchmarks', 'imagenet-c', '--subset', 1, '--resume', *place) == 2
    assert 'is of another run' in error(capsys)
