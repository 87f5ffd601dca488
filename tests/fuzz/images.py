"""Images, whole and damaged."""

import io
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from timm_debias.data.checks import check_image_folder
from timm_debias.data.factory import create_dataset
from timm_debias.data.images import find_images, read_image

from .mutations import damaged
from .target import target


def _files() -> list[bytes]:
    """Return a small image in each of some formats and modes."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    kinds = [('PNG', 'RGB'), ('PNG', 'P'), ('PNG', 'RGBA'), ('PNG', 'I;16'), ('JPEG', 'RGB'), ('JPEG', 'CMYK'),
             ('JPEG', 'L'), ('GIF', 'P'), ('BMP', 'RGB'), ('WEBP', 'RGB'), ('TIFF', 'RGB'), ('PPM', 'RGB')]  # fmt: skip
    files = []
    for form, mode in kinds:
        file = io.BytesIO()
        (image.convert('L').convert('I;16') if mode == 'I;16' else image.convert(mode)).save(file, form)
        files.append(file.getvalue())
    return files


FILES = st.sampled_from(_files()).flatmap(damaged)


def _pixels(path: Path) -> np.ndarray:
    """Return [H, W, 3] as PIL decodes it."""
    with open(path, 'rb') as file:
        return np.asarray(Image.open(io.BytesIO(file.read())).convert('RGB'))


@target('images of a folder', FILES, 50)
def read_folder(data: bytes, folder: Path) -> None:
    (folder / 'image.png').write_bytes(data)
    (path,) = find_images(str(folder), '--data-dir')
    image = read_image(path)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), _pixels(path).astype(np.float32) / 255)


@target('images of class folders', FILES, 30)
def read_classes(data: bytes, folder: Path) -> None:
    (folder / 'train' / 'a').mkdir(parents=True)
    path = folder / 'train' / 'a' / 'image.png'
    path.write_bytes(data)
    dataset = create_dataset('', str(folder), 'train', 32, input_img_mode='RGB')
    check_image_folder(dataset)
    image, label = dataset[0]
    assert label == 0
    assert np.array_equal(np.asarray(image), _pixels(path))
