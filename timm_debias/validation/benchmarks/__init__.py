"""The benchmarks of the field: a file each, known by their names through the registry."""

from . import (  # noqa: F401 (importing a module registers its benchmarks)
    attacks,
    autoattack,
    cue_conflict,
    folder,
    folder_made,
    imagenet,
    imagenet_a,
    imagenet_c,
    imagenet_o,
    imagenet_r,
    imagenet_real,
    imagenet_sketch,
    imagenet_v2,
    shapes_textures,
    stylized_imagenet,
)
from .base import Benchmark, Contents, Images, Part, Setting, Summary
from .registry import format_benchmarks, get_benchmark, list_benchmarks, register_benchmark

__all__ = [
    'Benchmark',
    'Contents',
    'Images',
    'Part',
    'Setting',
    'Summary',
    'format_benchmarks',
    'get_benchmark',
    'list_benchmarks',
    'register_benchmark',
]
