"""`timm-debias make-benchmark`: layout, determinism, going on after an interruption, and what is refused."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import timm_debias
from timm_debias import cli, create_stylizer
from timm_debias.corruptions import MAIN, corrupt
from timm_debias.hashing import hash_weights
from timm_debias.make_benchmark import corrupt as corrupt_module
from timm_debias.make_benchmark import stylise
from timm_debias.make_benchmark.source import fingerprint, generator_for, read_square

CLASSES = ('boat', 'cat', 't-shirt')
SIZES = ('--resize', 40, '--img-size', 32)
FEW = ('--corruptions', 'contrast', 'gaussian_noise', '--workers', 1)


@pytest.fixture
def data(tmp_path):
    """Three classes of three images each, below the split `val`."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        for index in range(3):
            path = tmp_path / 'data/val' / name / f'image{index}.{"png" if index else "jpg"}'
            path.parent.mkdir(parents=True, exist_ok=True)
            tint = np.array([60 * number, 40 * index, 80])
            pixels = (rng.integers(0, 100, (48, 60, 3)) + tint).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return tmp_path / 'data/val'


def run(kind, data, output, *argv) -> int:
    words = ['make-benchmark', kind, '--data-dir', data, '--output', output, *SIZES, *argv]
    return cli.main(list(map(str, words)))


def tree(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob('*') if path.is_file()}


def manifest(output: Path) -> dict:
    return json.loads((output / 'manifest.json').read_text(encoding='utf-8'))


def square(path: Path) -> torch.Tensor:
    pixels = np.array(read_square(path, 40, 32))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float() / 255


class Interrupt:
    """Wraps a function; Ctrl-C at call `after` + 1."""

    def __init__(self, function, after):
        self.function = function
        self.left = after

    def __call__(self, *args):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.function(*args)


class TestStylized:
    def test_layout_and_pixels(self, data, tmp_path, capsys):
        out = tmp_path / 'out'
        assert run('stylized', data, out, '-b', 4) == 0
        names = {f'{name}/image{index}.png' for name in CLASSES for index in range(3)}
        assert set(tree(out)) == names | {'manifest.json'}
        assert 'not Stylized-ImageNet: 9 files of 9 images' in capsys.readouterr().out
        # Each is its content in the style of some image of another class.
        stylizer = create_stylizer('adain_lite')
        for name in sorted(names)[:4]:
            content = next(data.glob(f'{name[:-4]}.*'))
            others = [path for path in data.rglob('*.*') if path.parent != content.parent]
            made = [stylizer(square(content), square(path), 1.0).clamp(0, 1) for path in others]
            assert min((pixels(out / name) - image).abs().max() for image in made) < 0.003

    def test_style_dir_and_alpha(self, data, tmp_path):
        styles = tmp_path / 'paintings/of/one'
        styles.mkdir(parents=True)
        Image.new('RGB', (50, 50), (200, 10, 10)).save(styles / 'red.png')
        out = tmp_path / 'out'
        assert run('stylized', data, out, '--style-dir', tmp_path / 'paintings', '--alpha', 0.5) == 0
        expected = create_stylizer('adain_lite')(square(data / 'cat/image1.png'), square(styles / 'red.png'), 0.5)
        assert (pixels(out / 'cat/image1.png') - expected.clamp(0, 1)).abs().max() < 0.003
        assert manifest(out)['styles'] == {
            'images': 1,
            'sha256': fingerprint(tmp_path / 'paintings', ['of/one/red.png']),
        }
        Image.new('RGB', (50, 50), (10, 200, 10)).save(styles / 'green.png')
        assert run('stylized', data, out, '--style-dir', tmp_path / 'paintings', '--alpha', 0.5) == 2

    def test_manifest(self, data, tmp_path):
        out = tmp_path / 'out'
        assert run('stylized', data, out, '--seed', 3, '--stylizer', 'band_statistics') == 0
        found = manifest(out)
        assert found['kind'] == 'stylized'
        assert found['complete'] is True
        assert found['files'] == 9
        assert found['parameters']['seed'] == 3
        assert found['parameters']['alpha'] == 1.0
        assert found['stylizer']['name'] == 'band_statistics'
        assert found['source']['images'] == 9
        assert found['source']['classes'] == list(CLASSES)
        assert found['versions']['timm_debias'] == timm_debias.__version__

    def test_hash_of_weights_sees_every_value(self):
        stylizer = create_stylizer('adain_lite')
        before = hash_weights(stylizer)
        assert before == hash_weights(create_stylizer('adain_lite'))
        list(stylizer.parameters())[-1].view(-1)[0] += 1
        assert hash_weights(stylizer) != before


class TestCorrupted:
    def test_layout(self, data, tmp_path, capsys):
        out = tmp_path / 'out'
        assert run('corrupted', data, out, '--workers', 1) == 0
        names = {
            f'{corruption}/{severity}/{name}/image{index}.JPEG'
            for corruption in MAIN
            for severity in range(1, 6)
            for name in CLASSES
            for index in range(3)
        }
        assert set(tree(out)) == names | {'manifest.json'}
        assert all(Image.open(out / name).size == (32, 32) for name in sorted(names)[::50])
        assert manifest(out)['label'] == 'ImageNet-C-style, not ImageNet-C'
        assert manifest(out)['parameters']['corruptions'] == list(MAIN)
        assert manifest(out)['parameters']['jpeg_quality'] == 85
        assert 'ImageNet-C-style, not ImageNet-C: 675 files' in capsys.readouterr().out

    def test_pixels_and_quality(self, data, tmp_path):
        out = tmp_path / 'out'
        assert run('corrupted', data, out, *FEW, '--seed', 5) == 0
        image = np.array(read_square(data / 'cat/image0.jpg', 40, 32))
        expected = corrupt(image, 'gaussian_noise', 4, generator_for(5, 'gaussian_noise', 4, 'cat/image0.jpg'))
        Image.fromarray(expected).save(tmp_path / 'expected.jpg', quality=85, optimize=True)
        made = out / 'gaussian_noise/4/cat/image0.JPEG'
        assert made.read_bytes() == (tmp_path / 'expected.jpg').read_bytes()
        assert Image.open(made).quantization == Image.open(tmp_path / 'expected.jpg').quantization

    def test_workers_change_nothing(self, data, tmp_path):
        assert run('corrupted', data, tmp_path / 'one', *FEW) == 0
        assert run('corrupted', data, tmp_path / 'two', *FEW[:-1], 2) == 0
        assert tree(tmp_path / 'one') == tree(tmp_path / 'two')

    def test_an_image_depends_on_nothing_but_itself(self, data, tmp_path):
        assert run('corrupted', data, tmp_path / 'all', *FEW) == 0
        (data / 'boat/image0.jpg').unlink()
        assert run('corrupted', data, tmp_path / 'fewer', '--corruptions', 'gaussian_noise', '--workers', 1) == 0
        fewer, everything = tree(tmp_path / 'fewer'), tree(tmp_path / 'all')
        del fewer['manifest.json']
        assert len(fewer) == 8 * 5
        assert all(everything[name] == content for name, content in fewer.items())


class TestCueConflict:
    def test_layout(self, data, tmp_path):
        out = tmp_path / 'out'
        assert run('cue-conflict', data, out, '--per-pair', 4) == 0
        names = sorted(set(tree(out)) - {'manifest.json'})
        assert len(names) == 3 * 2 * 4
        pairs = []
        for name in names:
            shape, texture = re.fullmatch(r'(boat|cat|t-shirt)/\1[1-3]-(boat|cat|t-shirt)[1-3]\.png', name).groups()
            assert shape != texture
            pairs.append((shape, texture))
        assert all(pairs.count(pair) == 4 for pair in pairs)

    def test_numbers_name_the_images(self, data, tmp_path):
        out = tmp_path / 'out'
        assert run('cue-conflict', data, out, '--per-pair', 9) == 0
        # All 3 × 3 pairs, so that any may be looked at.
        expected = create_stylizer('adain_lite')(square(data / 'cat/image0.jpg'), square(data / 'boat/image2.png'), 1.0)
        assert (pixels(out / 'cat/cat1-boat3.png') - expected.clamp(0, 1)).abs().max() < 0.003

    def test_no_image_twice_while_others_are_left(self, data, tmp_path):
        out = tmp_path / 'out'
        assert run('cue-conflict', data, out, '--per-pair', 3) == 0
        for shape in CLASSES:
            for texture in set(CLASSES) - {shape}:
                names = [path.stem for path in (out / shape).glob(f'{shape}*-{texture}*.png')]
                assert {name.split(f'-{texture}')[0] for name in names} == {f'{shape}{n}' for n in (1, 2, 3)}
                assert {name.split(f'-{texture}')[1] for name in names} == {'1', '2', '3'}


KINDS = [('stylized', ('-b', 4)), ('corrupted', FEW), ('cue-conflict', ('-b', 4, '--per-pair', 2))]


class TestGoingOn:
    @pytest.mark.parametrize(('kind', 'flags'), KINDS)
    def test_two_runs_are_the_same_bits(self, kind, flags, data, tmp_path):
        assert run(kind, data, tmp_path / 'one', *flags) == 0
        assert run(kind, data, tmp_path / 'two', *flags) == 0
        assert tree(tmp_path / 'one') == tree(tmp_path / 'two')

    @pytest.mark.parametrize(('kind', 'flags'), KINDS)
    def test_another_seed_makes_other_images(self, kind, flags, data, tmp_path):
        assert run(kind, data, tmp_path / 'one', *flags) == 0
        assert run(kind, data, tmp_path / 'two', *flags, '--seed', 1) == 0
        assert tree(tmp_path / 'one') != tree(tmp_path / 'two')

    @pytest.mark.parametrize(('kind', 'flags'), KINDS)
    @pytest.mark.parametrize('after', [0, 2, 6])
    def test_interrupted_and_gone_on_is_the_same(self, kind, flags, after, data, tmp_path, monkeypatch):
        assert run(kind, data, tmp_path / 'whole', *flags) == 0
        module, name = (corrupt_module, 'corrupt') if kind == 'corrupted' else (stylise, 'to_picture')
        with monkeypatch.context() as patch:
            patch.setattr(module, name, Interrupt(getattr(module, name), after))
            assert run(kind, data, tmp_path / 'part', *flags) == 130
        part = tree(tmp_path / 'part')
        assert len(part) == after + 1  # And the manifest.
        assert manifest(tmp_path / 'part')['complete'] is False
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / 'part').rglob('*.*G') if path.is_file()}
        assert run(kind, data, tmp_path / 'part', *flags) == 0
        assert tree(tmp_path / 'part') == tree(tmp_path / 'whole')
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())

    def test_a_complete_one_is_left_alone(self, data, tmp_path, monkeypatch):
        assert run('corrupted', data, tmp_path / 'out', *FEW) == 0
        monkeypatch.setattr(corrupt_module, 'corrupt', Interrupt(None, 0))
        assert run('corrupted', data, tmp_path / 'out', *FEW) == 0

    def test_temporary_files_of_a_killed_run_go(self, data, tmp_path):
        out = tmp_path / 'out'
        assert run('corrupted', data, out, *FEW) == 0
        whole = tree(out)
        (out / 'contrast/1/cat/.image0-x1y2.JPEG').write_bytes(b'half')
        assert run('corrupted', data, out, *FEW) == 0
        assert tree(out) == whole

    @pytest.mark.parametrize(
        ('flags', 'parts'),
        [
            (['--seed', 1], ['seed was 0, now 1']),
            (['--img-size', 36], ['img_size was 32, now 36']),
            (['--corruptions', 'contrast'], ['corruptions was ["contrast", "gaussian_noise"], now ["contrast"]']),
        ],
    )
    def test_other_parameters(self, flags, parts, data, tmp_path, capsys):
        assert run('corrupted', data, tmp_path / 'out', *FEW) == 0
        before = tree(tmp_path / 'out')
        assert run('corrupted', data, tmp_path / 'out', *FEW, *flags) == 2
        message = capsys.readouterr().err
        assert 'another benchmark' in message
        assert all(part in message for part in parts)
        assert tree(tmp_path / 'out') == before

    def test_other_kind_weights_and_source(self, data, tmp_path, capsys):
        out = tmp_path / 'out'
        assert run('stylized', data, out) == 0
        assert run('cue-conflict', data, out) == 2
        assert 'kind was "stylized", now "cue-conflict"' in capsys.readouterr().err
        assert run('stylized', data, out, '--stylizer', 'fourier_amplitude') == 2
        assert 'stylizer name was "adain_lite"' in capsys.readouterr().err
        path = data / 'cat/image1.png'
        Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
        assert run('stylized', data, out) == 2
        assert 'source sha256 was' in capsys.readouterr().err

    def test_other_versions(self, data, tmp_path, capsys):
        out = tmp_path / 'out'
        assert run('corrupted', data, out, *FEW) == 0
        old = manifest(out)
        old['versions']['numpy'] = '0.9'
        (out / 'manifest.json').write_text(json.dumps(old))
        assert run('corrupted', data, out, *FEW) == 2
        assert 'versions numpy was "0.9"' in capsys.readouterr().err

    @pytest.mark.parametrize('content', ['{"kind": ', '[1]'])
    def test_damaged_manifest(self, content, data, tmp_path, capsys):
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out/manifest.json').write_text(content)
        assert run('corrupted', data, tmp_path / 'out', *FEW) == 2
        assert 'manifest.json' in capsys.readouterr().err


def test_fingerprint_is_of_paths_sizes_and_contents(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/x').write_bytes(b'one')
    (tmp_path / 'b').write_bytes(b'')
    lines = [
        f'{name}\0{len(text)}\0{hashlib.sha256(text).hexdigest()}\n' for name, text in (('a/x', b'one'), ('b', b''))
    ]
    assert fingerprint(tmp_path, ['b', 'a/x']) == hashlib.sha256(''.join(lines).encode()).hexdigest()


class TestRefused:
    """Every mistake is one line that names it, and nothing is written."""

    @staticmethod
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
    def test_flags(self, kind, flags, part, data, tmp_path, capsys):
        assert run(kind, data, tmp_path / 'out', *flags) == 2
        self.refused(capsys, tmp_path, part)

    def test_no_folders_named(self, data, capsys, tmp_path):
        assert cli.main(['make-benchmark', 'corrupted', '--output', str(tmp_path / 'out')]) == 2
        self.refused(capsys, tmp_path, 'no --data-dir')
        assert cli.main(['make-benchmark', 'corrupted', '--data-dir', str(data)]) == 2
        self.refused(capsys, tmp_path, 'no --output')

    def test_a_folder_of_splits(self, data, tmp_path, capsys):
        assert run('corrupted', data.parent, tmp_path / 'out', *FEW) == 2
        self.refused(capsys, tmp_path, 'boat, cat, t-shirt', 'give --split val')
        assert run('corrupted', data.parent, tmp_path / 'out', *FEW, '--split', 'val') == 0

    def test_no_classes(self, tmp_path, capsys):
        (tmp_path / 'flat').mkdir()
        Image.new('RGB', (40, 40)).save(tmp_path / 'flat/image.png')
        assert run('corrupted', tmp_path / 'flat', tmp_path / 'out') == 2
        self.refused(capsys, tmp_path, 'has no class folders')

    def test_empty_class(self, data, tmp_path, capsys):
        (data / 'dog').mkdir()
        assert run('corrupted', data, tmp_path / 'out') == 2
        self.refused(capsys, tmp_path, 'class folders without images: dog')

    def test_unreadable_images(self, data, tmp_path, capsys):
        (data / 'cat/torn.png').write_bytes((data / 'cat/image1.png').read_bytes()[:200])
        assert run('corrupted', data, tmp_path / 'out') == 2
        self.refused(capsys, tmp_path, 'unreadable images', 'torn.png')

    @pytest.mark.parametrize('kind', ['stylized', 'cue-conflict'])
    def test_small_images(self, kind, data, tmp_path, capsys):
        Image.new('RGB', (15, 40)).save(data / 'cat/thin.png')
        assert run(kind, data, tmp_path / 'out') == 2
        self.refused(capsys, tmp_path, 'thin.png: 15×40 pixels', '16×16')

    def test_files_that_would_become_one(self, data, tmp_path, capsys):
        Image.new('RGB', (40, 40)).save(data / 'cat/image0.png')
        assert run('corrupted', data, tmp_path / 'out') == 2
        self.refused(capsys, tmp_path, 'image0.jpg and image0.png')

    @pytest.mark.parametrize('kind', ['stylized', 'cue-conflict'])
    def test_one_class(self, kind, tmp_path, capsys):
        (tmp_path / 'data/cat').mkdir(parents=True)
        Image.new('RGB', (40, 40)).save(tmp_path / 'data/cat/image.png')
        assert run(kind, tmp_path / 'data', tmp_path / 'out') == 2
        self.refused(capsys, tmp_path, 'one class')
        if kind == 'stylized':
            assert run(kind, tmp_path / 'data', tmp_path / 'out', '--style-dir', tmp_path / 'data') == 0

    def test_class_names_that_file_names_would_mix_up(self, data, tmp_path, capsys):
        (data / 'boat').rename(data / 'cat1')
        assert run('cue-conflict', data, tmp_path / 'out') == 2
        self.refused(capsys, tmp_path, "'cat' and 'cat1'")

    def test_output_inside_the_source(self, data, tmp_path, capsys):
        for inside in (data, data / 'out'):
            assert run('corrupted', data, inside) == 2
            self.refused(capsys, tmp_path, 'lies inside')
        styles = tmp_path / 'paintings'
        styles.mkdir()
        assert run('stylized', data, styles / 'out', '--style-dir', styles) == 2
        self.refused(capsys, tmp_path, 'lies inside', 'paintings')
        assert {path.name for path in data.iterdir()} == set(CLASSES)

    def test_output_that_holds_something_else(self, data, tmp_path, capsys):
        (tmp_path / 'mine').mkdir()
        (tmp_path / 'mine/thesis.txt').write_text('mine')
        assert run('corrupted', data, tmp_path / 'mine') == 2
        self.refused(capsys, tmp_path, 'is no benchmark of this command')
        assert tree(tmp_path / 'mine') == {'thesis.txt': b'mine'}
        assert run('corrupted', data, tmp_path / 'mine/thesis.txt') == 2
        self.refused(capsys, tmp_path, 'thesis.txt')

    def test_a_full_disk(self, data, tmp_path, capsys, monkeypatch):
        def full(*args, **options):
            raise OSError(28, 'No space left on device')

        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, 'save', full)
            assert run('corrupted', data, tmp_path / 'part', *FEW) == 2
        assert 'No space left on device; once that is mended' in capsys.readouterr().err
        assert run('corrupted', data, tmp_path / 'part', *FEW) == 0
