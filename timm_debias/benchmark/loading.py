"""Data loading: the training loader of this package beside timm's, on JPEG files."""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_dataset, create_loader, resolve_data_config
from torchvision.io import decode_jpeg
from torchvision.transforms.functional import to_pil_image

from ..machine import Machine
from ..training.data import build_datasets, build_train_loader
from ..training.main import build_parser, config_from_args
from ..training.model import resolve_input
from .steps import Setup
from .timing import Ratio, ratio_of, time_in_turns

_IMAGES = 128
_PHOTOGRAPH = (375, 500)
"""Height and width in pixels of the usual photograph of ImageNet."""


def measure_loading(setup: Setup, workers: int, repeats: int) -> dict[str, Ratio]:
    """Return `loading`, images a second of our training loader over timm's, and `decoding`, of torchvision over Pillow.

    An epoch over JPEG files drawn at random, the start of the workers included, as many as the batches hold.

    Args:
        setup: Model, size and device.
        workers: Loading processes of each.
        repeats: Turns.
    """
    batch_size = min(setup.batch_size, _IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        files = draw_photographs(Path(folder) / 'train', _IMAGES)
        loaders = {
            'ours': _our_loader(setup, folder, batch_size, workers),
            'timm': _timm_loader(setup, folder, batch_size, workers),
        }
        seconds = time_in_turns({name: _epoch(loader) for name, loader in loaders.items()}, repeats)
        contents = [file.read_bytes() for file in files[:32]]
    decoders: dict[str, Callable[[], object]] = {
        'torchvision': lambda: [_decode_torchvision(content) for content in contents],
        'Pillow': lambda: [_decode_pillow(content) for content in contents],
    }
    decoding = time_in_turns(decoders, repeats)
    return {
        'loading': ratio_of(seconds['timm'], seconds['ours']),
        'decoding': ratio_of(decoding['Pillow'], decoding['torchvision']),
    }


def draw_photographs(folder: Path, count: int) -> list[Path]:
    """Write `count` JPEG files of soft blobs and noise into two class folders, and return them."""
    generator = torch.Generator().manual_seed(0)
    files = []
    for number in range(count):
        blobs = torch.rand(1, 3, 12, 16, generator=generator)
        image = F.interpolate(blobs, size=_PHOTOGRAPH, mode='bicubic')[0]
        image = (image + 0.05 * torch.randn(3, *_PHOTOGRAPH, generator=generator)).clamp(0, 1)
        file = folder / f'class{number % 2}' / f'{number:04d}.jpg'
        file.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(file, quality=90)
        files.append(file)
    return files


def _our_loader(setup: Setup, folder: str, batch_size: int, workers: int) -> Any:
    flags = ['--data-dir', folder, '--val-split', '', '--model', setup.model, '--device', str(setup.device), '--debias']
    flags += ['--img-size', str(setup.img_size), '-b', str(batch_size), '-j', str(workers)]
    config = config_from_args(build_parser().parse_args(flags))
    with torch.device('meta'):
        model: Any = timm.create_model(setup.model)
    input_config = resolve_input(config, model, verbose=False)
    dataset, _ = build_datasets(config, input_config, model.num_classes)
    machine = Machine(setup.device)
    return build_train_loader(config, dataset, model, input_config, model.num_classes, machine)[0]


def _timm_loader(setup: Setup, folder: str, batch_size: int, workers: int) -> Any:
    """Create the loader as timm's train.py does with its defaults."""
    with torch.device('meta'):
        model: Any = timm.create_model(setup.model)
    config = resolve_data_config({'img_size': setup.img_size}, model=model)
    dataset = create_dataset('', root=folder, split='train', is_training=True, batch_size=batch_size)
    return create_loader(
        dataset,
        input_size=config['input_size'],
        batch_size=batch_size,
        is_training=True,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        color_jitter=0.4,
        interpolation='random',
        mean=config['mean'],
        std=config['std'],
        num_workers=workers,
        device=setup.device,
    )


def _epoch(loader: Any) -> Callable[[], object]:
    def call() -> None:
        for images, _ in loader:
            assert len(images)

    return call


def _decode_torchvision(content: bytes) -> torch.Tensor:
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))


def _decode_pillow(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert('RGB')
