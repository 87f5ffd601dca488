"""`timm-debias draw` as its user runs it."""

import numpy as np
import timm.data
from PIL import Image

from timm_debias.cli import main
from timm_debias.data.shapes_textures import ShapesTextures


def draw(output, *argv) -> int:
    return main(['draw', '--output', str(output), '--img-size', '32', '--num-samples', '16', *argv])


def test_folders_are_the_classes(tmp_path):
    """timm reads the same images with the same labels from the folder as the data set gives."""
    assert draw(tmp_path / 'drawn', '--seed', '3') == 0
    expected = ShapesTextures('test', 32, seed=3, num_samples=16)
    folder = timm.data.create_dataset('', str(tmp_path / 'drawn'), split='test')
    assert len(folder) == 16
    for number in range(16):
        image, label = folder[number]
        index = int(folder.filename(number, basename=True).removesuffix('.png'))
        drawn, shape = expected[index]
        assert label == shape
        assert np.array_equal(np.asarray(image), np.asarray(drawn))


def test_goes_on_and_refuses_another_folder(tmp_path, capsys):
    assert draw(tmp_path) == 0
    path = sorted(tmp_path.glob('*/*.png'))[5]
    kept, pixels = sorted(tmp_path.glob('*/*.png'))[6], np.asarray(Image.open(path))
    path.unlink()
    before = kept.stat().st_mtime_ns
    assert draw(tmp_path) == 0
    assert np.array_equal(np.asarray(Image.open(path)), pixels)
    assert kept.stat().st_mtime_ns == before
    assert draw(tmp_path, '--seed', '1') == 2
    assert 'seed was 0, now 1' in capsys.readouterr().err


def test_mistakes(tmp_path, capsys):
    assert draw(tmp_path / 'a', '--split', 'conflict') == 2
    assert draw(tmp_path / 'a', '--num-samples', '0') == 2
    assert main(['draw']) == 2
    errors = capsys.readouterr().err
    for words in ("invalid choice: 'conflict'", 'needs at least 1 sample', 'no --output'):
        assert words in errors
    assert not (tmp_path / 'a').exists()
