"""Figures for ResNet-50 that others published, to be shown beside one's own."""

import re
from dataclasses import dataclass

SOURCE = (
    "EasyRobust's README; Gavrikov & Keuper, CVPR 2024 (raw data, mCE computed from it). Measured by others with "
    'protocols and copies of the data of their own'
)

COLUMNS = (
    ('imagenet', 'top1'),
    ('imagenet-a', 'top1'),
    ('imagenet-r', 'top1'),
    ('imagenet-c', 'mce'),
    ('stylized-imagenet', 'top1'),
    ('cue-conflict', 'shape_bias'),
    ('imagenet-v2', 'top1'),
    ('imagenet-sketch', 'top1'),
)
"""Benchmark and headline figure of each column of `PUBLISHED`."""


@dataclass(frozen=True)
class Published:
    """A ResNet-50; figures in percent as they were printed, by benchmark and headline figure."""

    name: str
    figures: dict[tuple[str, str], str]


def bounds(figure: str) -> tuple[float, float]:
    """Return the lowest and the highest value of a printed figure: sources may differ, as in '3.4–3.5'."""
    values = [float(value) for value in re.findall(r'[\d.]+', figure)]
    return min(values), max(values)


def _row(name: str, figures: str) -> Published:
    """Return a row from the figures of all columns, '–' where there is none."""
    columns = zip(COLUMNS, figures.split(), strict=True)
    return Published(name, {key: figure for key, figure in columns if figure != '–'})


PUBLISHED = (
    _row('ResNet-50 of torchvision', '76.15 0.03 36.16 76.43 7.4 21.5 – –'),
    _row('ResNet-50, debiased, official weights', '76.9 3.4–3.5 40.8 67.3–67.6 17.4 25.5 65.04 28.41'),
    _row('ResNet-50, debiased, retrained on timm by EasyRobust', '77.21 3.28 38.59 70.98 14.59 – 65.10 26.09'),
    _row('ResNet-50, shape-biased, official weights', '76.21 3.03 40.64 68.13 – 27.9 – –'),
    _row('ResNet-50, texture-biased, official weights', '75.27 2.25 36.76 75.61 – 19.6 – –'),
    _row('ResNet-50, AugMix', '77.53 3.65 41.03 64.09 – 29.5 – –'),
    _row('ResNet-50, PRIME', '76.91 2.16 42.20 58.20 – 31.9 – –'),
    _row('ResNet-50, DeepAugment + AugMix', '75.80 3.85 46.79 53.02 – 52.4 – –'),
    _row('ResNet-50, timm a1_in1k (no robustness recipe)', '80.10 11.03 40.60 64.51 – 21.0 – –'),
)
