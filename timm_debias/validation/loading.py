"""One pool of data workers for the images of many parts, in batches that never mix parts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from ..data.reading import Failure
from ..errors import reason
from .benchmarks import Benchmark, Images
from .benchmarks.layout import size_error

Transform = Callable[[Image.Image], torch.Tensor]
"""From an RGB image to uint8 pixels [3, H, W]."""

_AS_DRAWN = 'no resize, no crop'
_AS_PUBLISHED = 'images as published'


class WrongSizeError(ValueError):
    """An image has not the published size."""


@dataclass(frozen=True)
class AsPublished:
    """Neither resizes nor crops: takes images of `size` × `size` pixels only."""

    size: int

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the pixels.

        Raises:
            WrongSizeError: another size.
        """
        if image.size != (self.size, self.size):
            raise WrongSizeError(size_error(image.size, self.size))
        return pil_to_tensor(image)


def preprocessing(
    benchmark: Benchmark, input_config: dict[str, Any], crop_border_pixels: int | None, image_size: int | None = None
) -> tuple[Transform, str]:
    """Return how the images of a benchmark reach the model, and the same in words.

    Args:
        benchmark: Says whether its images are taken as they are.
        input_config: timm's data configuration of the model.
        crop_border_pixels: Pixels to trim from the border first.
        image_size: Size of the images of its folder, where they are taken as they are.
    """
    if not benchmark.needs:
        size = input_config['input_size'][-1]
        return AsPublished(size), _AS_DRAWN
    size = image_size or benchmark.image_size
    if size is not None:
        return AsPublished(size), f'{_AS_PUBLISHED}, {size}×{size}, no resize, no crop'
    height, width = input_config['input_size'][-2:]
    names = ('interpolation', 'crop_pct', 'crop_mode')
    options = {name: input_config[name] for name in names}
    transform = create_transform(
        input_config['input_size'], is_training=False, normalize=False, crop_border_pixels=crop_border_pixels, **options
    )
    border = f', border of {crop_border_pixels} pixels trimmed' if crop_border_pixels else ''
    return transform, (
        f'resized by {options["interpolation"]} and cropped ({options["crop_mode"]}) to {width}×{height}, '
        f'crop_pct {options["crop_pct"]:g}{border}'
    )


def resizing_of(protocol: str) -> tuple[str, ...]:
    """Return which of `img_size`, `crop_pct` and `interpolation` of a model its images went by, by their protocol."""
    if protocol.startswith(_AS_PUBLISHED):
        return ()
    return ('img_size',) if protocol.startswith(_AS_DRAWN) else ('img_size', 'crop_pct', 'interpolation')


@dataclass(frozen=True)
class Batch:
    """Images of one part."""

    pixels: torch.Tensor | None
    """uint8 [B, 3, H, W]; None where no image of the batch could be read."""

    indices: torch.Tensor
    """[B], which images of the part these are."""

    failures: list[Failure]

    def pin_memory(self) -> 'Batch':
        """Return the batch in pinned memory, for the DataLoader."""
        return Batch(None if self.pixels is None else self.pixels.pin_memory(), self.indices, self.failures)


class PartBatches:
    """The batches of many parts, loaded by one pool of workers.

    Args:
        parts: Images of each part, and their transform.
        batch_size: Images in a batch; the last batch of a part has what is left.
        workers: Processes; 0 to load in this one.
        pin_memory: For the transfer to a GPU.
        rank: Which process this is of `world_size`; each loads the images of `share`.
        world_size: Processes that share the images.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Images, Transform]],
        batch_size: int,
        workers: int,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        order = _Order([share(len(images), batch_size, rank, world_size) for images, _ in parts], batch_size)
        self._lengths = order.batches
        loader = DataLoader(
            _Parts(parts),
            batch_sampler=order,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
        )
        self._batches = iter(loader)

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        """Yield the batches of each part in turn; take all of one before the next."""
        for length in self._lengths:
            yield (next(self._batches) for _ in range(length))


def share(length: int, batch_size: int, rank: int, world_size: int) -> range:
    """Return which of the images of a part a process loads: consecutive whole batches, each image on one process.

    Shares are of whole batches so that every batch has the same images whatever the number of processes: results are
    then the same to the last bit. The shares of all ranks, one after the other, are the part.
    """
    batches = -(-length // batch_size)
    first, end = batches * rank // world_size, batches * (rank + 1) // world_size
    return range(first * batch_size, min(end * batch_size, length))


class _Order:
    """Yields the batches of all parts, as lists of (part, index); lazily, for there may be millions of images."""

    def __init__(self, shares: Sequence[range], batch_size: int) -> None:
        self._shares, self._batch_size = shares, batch_size
        self.batches = [-(-len(indices) // batch_size) for indices in shares]

    def __len__(self) -> int:
        return sum(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for part, indices in enumerate(self._shares):
            for start in range(0, len(indices), self._batch_size):
                yield [(part, index) for index in indices[start : start + self._batch_size]]


class _Parts(Dataset):
    def __init__(self, parts: Sequence[tuple[Images, Transform]]) -> None:
        self._parts = parts

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, torch.Tensor | None, Failure | None]:
        part, index = key
        images, transform = self._parts[part]
        try:
            return index, transform(images[index]), None
        except WrongSizeError as error:
            return index, None, Failure(index, str(error), fatal=True)
        except Exception as error:  # Image decoders raise almost anything on a broken file.
            return index, None, Failure(index, reason(error))


def _collate(samples: list[tuple[int, torch.Tensor | None, Failure | None]]) -> Batch:
    read = [(index, pixels) for index, pixels, _ in samples if pixels is not None]
    pixels = torch.stack([pixels for _, pixels in read]) if read else None
    indices = torch.tensor([index for index, _ in read], dtype=torch.int64)
    return Batch(pixels, indices, [failure for _, _, failure in samples if failure is not None])
