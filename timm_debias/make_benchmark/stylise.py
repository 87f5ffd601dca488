"""Stylises pairs of images in batches."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torchvision.transforms.functional import to_tensor

from ..files import atomic_path
from ..pictures import to_picture
from ..progress import Progress
from ..stylizers import Stylizer
from .config import CommonConfig, StylizerConfig
from .pairs import Pair
from .source import read_square


@torch.no_grad()
def write_pairs(
    pairs: Sequence[Pair], stylizer: Stylizer, alpha: float, common: CommonConfig, config: StylizerConfig, output: Path
) -> None:
    """Stylise `pairs` with strength `alpha` and write those that `output` does not have yet, as PNG.

    Batches always hold the same pairs, even where some are written already: the last bits of a convolution may depend
    on what else is in its batch.
    """
    batches = [pairs[start : start + config.batch_size] for start in range(0, len(pairs), config.batch_size)]
    batches = [batch for batch in batches if not all((output / pair.target).exists() for pair in batch)]
    progress = Progress(sum(map(len, batches)))
    with ThreadPoolExecutor(common.workers) as pool:

        def read(path: Path) -> torch.Tensor:
            return to_tensor(read_square(path, common.resize, common.img_size))

        for batch in batches:
            contents = torch.stack(list(pool.map(read, [pair.content for pair in batch])))
            styles = torch.stack(list(pool.map(read, [pair.style for pair in batch])))
            stylised = stylizer(contents.to(config.device), styles.to(config.device), alpha).cpu()
            for pair, image in zip(batch, stylised, strict=True):
                if not (output / pair.target).exists():
                    with atomic_path(output / pair.target) as temporary:
                        to_picture(image).save(temporary)
            progress.add(len(batch))
