"""ImageNet-V2, the matched-frequency set."""

from collections.abc import Mapping
from pathlib import Path

from .classes import imagenet_classes
from .imagenet import TopKBenchmark
from .registry import register_benchmark


@register_benchmark
class ImageNetV2(TopKBenchmark):
    """Ten new images a class; the archive's folders are class numbers, which do not sort like wnids."""

    name = 'imagenet-v2'
    folders = ('imagenetv2-matched-frequency-format-val', 'imagenet-v2', 'imagenetv2')
    needs = ('imagenet-v2',)
    layout = '`imagenetv2-matched-frequency-format-val/<0…999 or wnid>/*.jpeg`'
    num_images = 10_000
    source = 'Recht et al., ICML 2019'

    def folder_classes(self, root: Path) -> Mapping[str, int]:
        """Return the classes by number where the folders are numbers, by wnid otherwise."""
        if any(path.name.isdecimal() for path in root.iterdir()):
            return {str(index): index for index in range(self.num_classes)}
        return imagenet_classes()
