"""ImageNet-Sketch."""

from .imagenet import TopKBenchmark
from .registry import register_benchmark


@register_benchmark
class ImageNetSketch(TopKBenchmark):
    """Black-and-white sketches; its README says 50,000 images, the archive holds 50,889."""

    name = 'imagenet-sketch'
    folders = ('imagenet-sketch', 'sketch')
    needs = ('imagenet-sketch',)
    layout = '`imagenet-sketch/<wnid>/*.JPEG`'
    num_images = 50_889
    source = 'Wang et al., NeurIPS 2019'
