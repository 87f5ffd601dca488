"""The flags of `train.py` for batches of changing size and shape; names and defaults are those of timm's train.py."""

from dataclasses import dataclass

from ..flags import flag


@dataclass(frozen=True)
class SizesConfig:
    """Scheduled resolution parameters"""

    train_img_sizes: list[int] | None = flag(None, 'image sizes that batches change between', nargs='+', type=int)
    train_batch_sizes: list[int] | None = flag(
        None, 'batch size for each of them, --batch-size for all if not given', nargs='+', type=int
    )
    train_size_probs: list[float] | None = flag(
        None, 'weights to draw them by, equal if not given', nargs='+', type=float
    )
    train_size_schedule: str = flag(
        'constant', 'progressive moves from the first size to the last', choices=['constant', 'progressive']
    )
    train_size_schedule_spread: float = flag(0.65, 'width of the progressive schedule, in sizes')
    train_size_random_mix: float = flag(0.1, 'share of sizes that the progressive schedule draws from all')
    train_batches_per_epoch: int | None = flag(
        None, 'batches in an epoch', '--train-batches-per-epoch', '--train-steps-per-epoch', type=int, metavar='N'
    )
    variable_batch_loss_scale: str = flag(
        'none', 'scale the loss by the batch size over its mean', choices=['none', 'sqrt', 'linear']
    )


@dataclass(frozen=True)
class NaflexConfig:
    """NaFlex loader parameters"""

    naflex_loader: bool = flag(False, 'give a NaFlex model images of their own aspect ratio')
    naflex_train_seq_lens: list[int] = flag([128, 256, 576, 784, 1024], 'sequence lengths', nargs='+', type=int)
    naflex_max_seq_len: int = flag(576, 'sequence length of validation')
    naflex_patch_sizes: list[int] | None = flag(
        None, "patch sizes to draw from, the model's if not given", nargs='+', type=int
    )
    naflex_patch_size_probs: list[float] | None = flag(None, 'their probabilities', nargs='+', type=float)
    naflex_loss_scale: str = flag('linear', 'scale the loss by the batch size', choices=['none', 'sqrt', 'linear'])
    naflex_patchify_channels_first: bool = flag(False, 'flatten patches channels first, as some models want them')
