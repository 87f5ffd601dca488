"""The flags of `timm-debias make-benchmark`."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..checks import check_device
from ..corruptions import MAIN, SEVERITIES
from ..corruptions import MIN_SIZE as MIN_CORRUPTED
from ..errors import DebiasError, did_you_mean
from ..flags import flag
from ..stylizers.base import MIN_SIZE as MIN_STYLISED


@dataclass(frozen=True)
class CommonConfig:
    """Making any of the three"""

    data_dir: str | None = flag(None, 'folder of class folders of images', metavar='DIR')
    split: str | None = flag(None, 'folder of --data-dir that holds the class folders', metavar='NAME')
    output: str | None = flag(None, 'folder for the benchmark; a second call goes on where one stopped', metavar='DIR')
    resize: int = flag(256, 'length of the shorter side in pixels before the crop', metavar='N')
    img_size: int = flag(224, 'side of the square cut from the centre, in pixels', metavar='N')
    seed: int = flag(0, 'seed of everything that is drawn')
    workers: int = flag(4, 'processes that corrupt images; for stylizers, threads that read them', metavar='N')


@dataclass(frozen=True)
class StylizerConfig:
    """Only stylized and cue-conflict"""

    stylizer: str = flag('adain_lite', 'style transfer network', metavar='NAME')
    stylizer_weights: str | None = flag(None, 'file or folder of its weights', metavar='PATH')
    batch_size: int = flag(16, 'images stylised at once', '-b', '--batch-size', metavar='N')
    device: str = flag('cpu', 'device of the stylizer')


@dataclass(frozen=True)
class StylizedConfig:
    """Only stylized"""

    style_dir: str | None = flag(
        None, "folder of images that give the texture; images of the data's other classes if not given", metavar='DIR'
    )
    alpha: float = flag(1.0, 'strength of stylisation in [0, 1]')


@dataclass(frozen=True)
class CorruptedConfig:
    """Only corrupted"""

    corruptions: list[str] = flag(list(MAIN), f'some of: {", ".join(SEVERITIES)}', nargs='+', metavar='NAME')


@dataclass(frozen=True)
class CueConflictConfig:
    """Only cue-conflict"""

    per_pair: int = flag(5, 'images for each shape class with each other texture class', metavar='N')


KINDS: dict[str, tuple[type, ...]] = {
    'stylized': (CommonConfig, StylizerConfig, StylizedConfig),
    'corrupted': (CommonConfig, CorruptedConfig),
    'cue-conflict': (CommonConfig, StylizerConfig, CueConflictConfig),
}
"""What can be made -> the flags that belong to it."""

CONFIGS = (CommonConfig, StylizerConfig, StylizedConfig, CorruptedConfig, CueConflictConfig)


def check_numbers(kind: str, configs: dict[type, Any]) -> None:
    """Raise `DebiasError` for a flag of another kind, a value out of range or an unknown corruption.

    Args:
        kind: A key of `KINDS`.
        configs: An instance of each of `CONFIGS`, by its class.
    """
    for config in [config for config in CONFIGS if config not in KINDS[kind]]:
        for field in dataclasses.fields(config):
            if getattr(configs[config], field.name) != getattr(config(), field.name):
                raise DebiasError(f'--{field.name.replace("_", "-")} does not belong to {kind}')
    common, stylizer = configs[CommonConfig], configs[StylizerConfig]
    least = [
        ('--img-size', common.img_size, MIN_CORRUPTED if kind == 'corrupted' else MIN_STYLISED),
        ('--resize', common.resize, common.img_size),
        ('--workers', common.workers, 1),
        ('--batch-size', stylizer.batch_size, 1),
        ('--per-pair', configs[CueConflictConfig].per_pair, 1),
    ]
    for name, value, lowest in least:
        if value < lowest:
            raise DebiasError(f'{name} is {value}; expected at least {lowest}')
    alpha = configs[StylizedConfig].alpha
    if not 0 <= alpha <= 1:
        raise DebiasError(f'--alpha is {alpha}; expected a number in [0, 1]')
    check_device(stylizer.device)
    names = configs[CorruptedConfig].corruptions
    for name in names:
        if name not in SEVERITIES:
            raise DebiasError(f"--corruptions: unknown corruption '{name}'. {did_you_mean(name, SEVERITIES)}")
        if names.count(name) > 1:
            raise DebiasError(f"--corruptions names '{name}' twice")
