"""NaFlex loaders: images of their own aspect ratio, as sequences of patches."""

from typing import Any

from timm.data import NaFlexMixup, create_naflex_loader
from torch import nn

from ..errors import DebiasError
from ..machine import Machine
from .config import TrainConfig


def naflex_patch_size(model: nn.Module) -> tuple[int, int]:
    """Return the patch size of a NaFlex model.

    Raises:
        DebiasError: a model that takes images only.
    """
    if not hasattr(model, 'get_patch_size'):
        raise DebiasError(
            f'--naflex-loader needs a model that takes patches, such as naflexvit_base_patch16_gap, and '
            f'{type(model).__name__} takes images'
        )
    return model.get_patch_size()  # type: ignore[operator]


def build_naflex_train_loader(
    config: TrainConfig,
    dataset: Any,
    model: nn.Module,
    mixup_options: dict[str, Any],
    machine: Machine,
    **options: Any,
) -> Any:
    """Create the training loader, which draws a sequence length for each batch and mixes where asked to.

    Args:
        config: What to train.
        dataset: Training set, not an iterable one.
        model: A NaFlex model.
        mixup_options: Those of timm's `Mixup`, empty for none.
        machine: Where this process runs.
        options: Those that `timm.data.create_loader` and `create_naflex_loader` share.

    Raises:
        DebiasError: a model that takes images only, or patches of one size where `--naflex-patch-sizes` names several.
    """
    naflex = config.naflex
    mixup_fn = None
    if mixup_options:
        kept = {name: value for name, value in mixup_options.items() if name not in ('mode', 'cutmix_minmax')}
        mixup_fn = NaFlexMixup(mixup_off_epoch=config.augment.mixup_off_epoch, **kept)
    patches: dict[str, Any] = dict(patch_size=naflex_patch_size(model))
    if naflex.naflex_patch_sizes:
        if not getattr(getattr(model, 'embeds', None), 'enable_patch_interpolator', False):
            raise DebiasError(
                '--naflex-patch-sizes: the model takes patches of one size; NaFlexVit takes several with '
                '--model-kwargs enable_patch_interpolator=True'
            )
        patches = dict(
            patch_size_choices=naflex.naflex_patch_sizes, patch_size_choice_probs=naflex.naflex_patch_size_probs
        )
    return create_naflex_loader(
        dataset,
        train_seq_lens=tuple(naflex.naflex_train_seq_lens),
        mixup_fn=mixup_fn,
        rank=machine.rank,
        world_size=machine.world_size,
        patchify_channels_last=not naflex.naflex_patchify_channels_first,
        **patches,
        **options,
    )


def build_naflex_eval_loader(config: TrainConfig, dataset: Any, model: nn.Module, **options: Any) -> Any:
    """Create the loader of validation, with sequences of one length; arguments as in `build_naflex_train_loader`."""
    return create_naflex_loader(
        dataset,
        patch_size=naflex_patch_size(model),
        max_seq_len=config.naflex.naflex_max_seq_len,
        patchify_channels_last=not config.naflex.naflex_patchify_channels_first,
        **options,
    )
