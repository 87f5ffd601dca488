"""The flags of `timm-debias train-stylizer`."""

from dataclasses import dataclass

from ..flags import flag


@dataclass(frozen=True)
class StylizerTrainConfig:
    """Training of a stylizer"""

    data_dir: list[str] | None = flag(None, 'folders of images, read with their sub-folders', nargs='+', metavar='DIR')
    stylizer: str = flag('adain_lite', 'network to train', choices=['adain_lite', 'adain_vgg19'])
    encoder_weights: str | None = flag(
        None, 'folder with vgg_normalised.pth; with --stylizer adain_vgg19, whose encoder stays as it is', metavar='DIR'
    )
    output: str = flag('output/stylizer', 'folder of the run', metavar='DIR')
    steps: int = flag(3000, 'number of updates', metavar='N')
    batch_size: int = flag(8, 'images in a batch', '-b', '--batch-size', metavar='N')
    img_size: int = flag(80, 'size of the crops in pixels', metavar='N')
    max_images: int = flag(4000, 'images to use at most, a seeded choice', metavar='N')
    lr: float = flag(2e-3, 'highest learning rate')
    seed: int = flag(0, 'random seed')
    device: str = flag('cpu', 'device to train on')
    log_interval: int = flag(50, 'updates between two lines of the log', metavar='N')
    checkpoint_interval: int = flag(250, 'updates between two checkpoints and pictures', metavar='N')
    resume: bool = flag(False, 'go on from the checkpoint in --output')
