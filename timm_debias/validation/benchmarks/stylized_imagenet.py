"""Stylized-ImageNet."""

from .imagenet import TopKBenchmark
from .registry import register_benchmark


@register_benchmark
class StylizedImageNet(TopKBenchmark):
    """The validation set with the textures of paintings; everyone builds their own copy, so compare fingerprints."""

    name = 'stylized-imagenet'
    folders = ('stylized-imagenet/val', 'Stylized-ImageNet/val', 'stylized-imagenet', 'Stylized-ImageNet')
    needs = ('stylized-imagenet',)
    layout = '`stylized-imagenet/val/<wnid>/*`, 224×224'
    num_images = 50_000
    image_size = 224
    source = 'Geirhos et al., ICLR 2019'
