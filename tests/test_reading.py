"""Images from files that may hold anything."""

import errno
import io
import os

import numpy as np
import pytest
import timm.data
import torch
from bad_files import BAD, picture
from PIL import Image

from timm_debias.data.factory import create_dataset
from timm_debias.data.reading import (
    BadImageError,
    CheckedImages,
    decode_image,
    image_name,
    is_bad_image,
    label_error,
)


@pytest.mark.parametrize('kind', BAD)
def test_bad_files_say_why(tmp_path, kind):
    write, expected = BAD[kind]
    path = tmp_path / 'bad.png'
    write(path)
    with pytest.raises(BadImageError, match=expected) as error:
        decode_image(path)
    assert '\n' not in str(error.value)


def test_cmyk_as_pillow_reads_it(tmp_path):
    path = tmp_path / 'cmyk.jpg'
    cyan = Image.new('CMYK', (16, 16), (255, 0, 0, 0))
    cyan.save(path)
    assert np.abs(np.array(decode_image(path)).astype(int) - (0, 255, 255)).max() < 4


def test_palette_with_transparency(tmp_path):
    """Transparent pixels have the colour that they have."""
    image = Image.new('P', (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / 'palette.png', transparency=1)
    assert np.unique(np.array(decode_image(tmp_path / 'palette.png')).reshape(-1, 3), axis=0).tolist() == [
        [10, 200, 30]
    ]


def test_colours_of_16_bits_keep_their_high_byte(tmp_path):
    """Unlike grey values: a PNG of 48 bits a pixel, written by hand."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    row = b'\0' + struct.pack('>HHH', 0x12FF, 0x8000, 0xFF01) * 4
    body = struct.pack('>IIBBBBB', 4, 2, 16, 2, 0, 0, 0)
    data = chunk(b'IHDR', body) + chunk(b'IDAT', zlib.compress(row * 2)) + chunk(b'IEND', b'')
    pixels = np.array(decode_image(io.BytesIO(b'\x89PNG\r\n\x1a\n' + data)))
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[0x12, 0x80, 0xFF]]


@pytest.mark.parametrize('kind', [np.uint16, np.int32, np.float32], ids=lambda kind: kind.__name__)
def test_deep_grey_is_refused_not_whitened(tmp_path, kind):
    values = np.full((8, 8), 300, dtype=kind)
    path = tmp_path / 'deep.tiff'
    Image.fromarray(values).save(path)
    assert np.array(Image.open(path).convert('RGB')).min() == 255  # What Pillow makes of 300.
    with pytest.raises(BadImageError, match='clip at 255: convert the file to 8 bits'):
        decode_image(path)
    assert np.array_equal(np.array(decode_image(path, None)), values)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new('RGB', (8, 8), colour) for colour in ('red', 'green', 'blue')]
    frames[0].save(tmp_path / 'moving.png', save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / 'moving.png').n_frames == 3
    assert decode_image(tmp_path / 'moving.png').getpixel((3, 3)) == (255, 0, 0)


def test_exif_rotation_is_not_applied(tmp_path):
    """As in Pillow and timm, so that models see what they saw elsewhere."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture((20, 40)).save(tmp_path / 'turned.jpg', exif=exif)
    assert decode_image(tmp_path / 'turned.jpg').size == (40, 20)
    assert timm.data.ImageDataset(tmp_path.parent, reader=Readers(tmp_path / 'turned.jpg'))[0][0].size == (40, 20)


def test_same_pixels_as_timm(tmp_path):
    for number, suffix in enumerate(('png', 'jpg', 'jpeg')):
        (tmp_path / 'train' / 'a').mkdir(parents=True, exist_ok=True)
        picture(seed=number).save(tmp_path / 'train' / 'a' / f'{number}.{suffix}')
    theirs = timm.data.create_dataset('', str(tmp_path), 'train')
    ours = create_dataset('', str(tmp_path), 'train', 32)
    assert type(ours) is CheckedImages
    assert [(np.array(image).tobytes(), label) for image, label in ours] == [
        (np.array(image).tobytes(), label) for image, label in theirs
    ]


class Readers:
    """A reader of one file."""

    def __init__(self, path):
        self.path = path

    def __getitem__(self, index):
        return open(self.path, 'rb'), 0

    def __len__(self):
        return 1

    def filename(self, index, basename=False, absolute=False):
        return str(self.path)


def test_no_other_image_in_the_place_of_a_bad_one(tmp_path):
    """timm's data set shows the next one."""
    folder = tmp_path / 'train' / 'a'
    folder.mkdir(parents=True)
    picture().save(folder / '1.png')
    (folder / '0.png').write_bytes(b'')
    theirs, ours = timm.data.create_dataset('', str(tmp_path), 'train'), create_dataset('', str(tmp_path), 'train', 32)
    assert np.array_equal(np.array(theirs[0][0]), np.array(theirs[1][0]))
    with pytest.raises(BadImageError):
        ours[0]
    assert image_name(ours, 0) == str(folder / '0.png')


@pytest.mark.parametrize('number', [errno.EMFILE, errno.ENOMEM])
def test_faults_of_the_machine_are_not_the_images(tmp_path, monkeypatch, number):
    picture().save(tmp_path / 'good.png')
    monkeypatch.setattr(Image, 'open', lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        decode_image(tmp_path / 'good.png')
    assert not isinstance(error.value, BadImageError)
    assert not is_bad_image(error.value)


def test_names_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path / 'train') + b'/cl\xe4ss'
    os.makedirs(folder)
    picture().save(tmp_path / 'a.png')
    os.rename(tmp_path / 'a.png', folder + b'/\xff\xfe.png')
    dataset = create_dataset('', str(tmp_path), 'train', 32)
    assert dataset[0][1] == 0
    assert os.fsencode(image_name(dataset, 0)) == folder + b'/\xff\xfe.png'


@pytest.mark.parametrize('wrong', [-1, 3, 1000, np.int64(3)])
def test_labels_of_no_class(wrong):
    assert 'classes 0 to 2' in label_error(wrong, 3)


@pytest.mark.parametrize('right', [0, 2, np.int64(1), torch.ones(3), [5, 7], (9, 9)], ids=str)
def test_labels_of_a_class_and_targets_that_are_no_index(right):
    assert label_error(right, 3) is None
