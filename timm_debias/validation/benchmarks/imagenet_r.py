"""ImageNet-R."""

from .imagenet_a import SubsetBenchmark
from .registry import register_benchmark


@register_benchmark
class ImageNetR(SubsetBenchmark):
    """Renditions: art, cartoons, sculptures, toys of 200 classes."""

    name = 'imagenet-r'
    subset = 'r'
    folders = ('imagenet-r',)
    needs = ('imagenet-r',)
    layout = '`imagenet-r/<wnid>/*.jpg`'
    num_images = 30_000
    source = 'Hendrycks et al., ICCV 2021'
