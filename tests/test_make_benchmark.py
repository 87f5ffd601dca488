"""`timm-debias make-benchmark`: layouts, pixels and manifest of each kind."""

import hashlib
import re

import numpy as np
import pytest
from made_benchmarks import CLASSES, FEW, draw_classes, manifest, pixels, run, square, tree
from PIL import Image

import timm_debias
from timm_debias import create_stylizer
from timm_debias.corruptions import MAIN, corrupt
from timm_debias.hashing import hash_weights
from timm_debias.make_benchmark.source import fingerprint, generator_for, read_square


@pytest.fixture
def data(tmp_path):
    """Three classes of three images each, below the split `val`."""
    return draw_classes(tmp_path / 'data/val')


class TestStylized:
    def test_layout_and_pixels(self, data, tmp_path, capsys):
        out = tmp_path / 'out'
        assert run('stylized', data, out, '-b', 4) == 0
        names = {f'{name}/image{index}.png' for name in CLASSES for index in range(3)}
        assert set(tree(out)) == names | {'manifest.json'}
        words = 'Stylised images (in the manner of Stylized-ImageNet, not it): 9 files of 9 images'
        assert all(text.startswith(words) for text in capsys.readouterr())
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
        words = 'Corrupted images (in the manner of ImageNet-C, not it): 675 files'
        assert all(text.startswith(words) for text in capsys.readouterr())

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


def test_fingerprint_is_of_paths_sizes_and_contents(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/x').write_bytes(b'one')
    (tmp_path / 'b').write_bytes(b'')
    lines = [
        f'{name}\0{len(text)}\0{hashlib.sha256(text).hexdigest()}\n' for name, text in (('a/x', b'one'), ('b', b''))
    ]
    assert fingerprint(tmp_path, ['b', 'a/x']) == hashlib.sha256(''.join(lines).encode()).hexdigest()
