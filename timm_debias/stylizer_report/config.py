"""The flags of `timm-debias stylizer-report`."""

from dataclasses import dataclass

from ..flags import flag


@dataclass(frozen=True)
class StylizerReportConfig:
    """Measuring stylizers"""

    stylizers: list[str] = flag(
        ['adain_lite', 'band_statistics', 'fourier_amplitude'], 'stylizers to measure', nargs='+', metavar='NAME'
    )
    weights: list[str] | None = flag(
        None, 'weights for stylizers that need or may have others', nargs='+', metavar='NAME=PATH'
    )
    data_dir: list[str] | None = flag(
        None, 'folders of photographs, of which every 20th is measured, as in train-stylizer', nargs='+', metavar='DIR'
    )
    output: str = flag('output/stylizer-report', 'folder for report.json, report.md and report.png', metavar='DIR')
    img_size: int = flag(128, 'size of the crops of photographs in pixels', metavar='N')
    max_images: int = flag(4000, 'images to choose from at most, a seeded choice', metavar='N')
    pairs: int = flag(560, 'pairs of drawn images whose shape and texture are read', metavar='N')
    repeats: int = flag(5, 'turns of timing; 0 leaves timing out', metavar='N')
    seed: int = flag(0, 'random seed')
