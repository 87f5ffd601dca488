"""Folders of images: what is found, and at which size it is read."""

import numpy as np
import pytest
import torch
from PIL import Image

from timm_debias import DebiasError
from timm_debias.data.images import find_images, read_image


@pytest.fixture
def picture(tmp_path):
    """60×40 pixels whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:40, :60]
    path = tmp_path / 'folder' / 'deep' / 'b.png'
    path.parent.mkdir(parents=True)
    Image.fromarray(np.stack([columns, rows, rows * 0], axis=-1).astype(np.uint8)).save(path)
    return path


def test_own_size(picture):
    image = read_image(picture)
    assert image.shape == (3, 40, 60)
    torch.testing.assert_close(image[0, 5] * 255, torch.arange(60.0))


@pytest.mark.parametrize(('size', 'rows', 'columns'), [((40, 40), (0, 39), (10, 49)), ((20, 60), (10, 29), (0, 59))])
def test_largest_centre_crop(picture, size, rows, columns):
    image = (read_image(picture, size) * 255).round()
    assert image.shape == (3, *size)
    assert (image[0, 0, 0], image[0, 0, -1]) == columns
    assert (image[1, 0, 0], image[1, -1, 0]) == rows


def test_enlarges(picture):
    assert read_image(picture, (224, 224)).shape == (3, 224, 224)


def test_finds_sorted_images_of_all_depths(picture):
    other = picture.parents[1] / 'a.jpg'
    Image.new('RGB', (32, 32)).save(other)
    (picture.parent / 'notes.txt').write_text('')
    assert find_images(str(picture.parents[1]), '--style-dir') == [other, picture]


def test_refusals(picture, tmp_path):
    (tmp_path / 'empty').mkdir()
    for folder, message in ((None, 'no --style-dir'), ('nowhere', 'no such folder'), (tmp_path / 'empty', 'no images')):
        with pytest.raises(DebiasError, match=message):
            find_images(folder and str(folder), '--style-dir')
    Image.new('RGB', (12, 40)).save(picture.parent / 'small.png')
    with pytest.raises(DebiasError, match=r'small\.png: 12×40 pixels'):
        find_images(str(picture.parent), '--style-dir')
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(DebiasError, match=r'unreadable images: .*b\.png'):
        find_images(str(picture.parent), '--style-dir')
