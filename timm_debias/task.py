"""The debiased training task: one train step of shape-texture debiased training as a straight pipe."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.task import ClassificationTask
from timm.utils.model import unwrap_model
from torch import nn

from .aux_bn import aux_bn_branch, convert_aux_bn, split_aux_state
from .clean_augment import CleanAugment
from .errors import DebiasError
from .global_mix import GlobalMix
from .loss import DualTargetLoss
from .mix import ShapeTextureMix, StyleBankMix, finite_images, nan_unless
from .multi_grid import MultiGrid
from .normalize import Normalize
from .style_bank import StyleBank
from .stylizers import Stylizer, create_stylizer
from .two_pass import convert_two_pass

_logger = logging.getLogger(__name__)


class DebiasTask(ClassificationTask):
    """Trains a classifier on clean images and on their stylised twins (Li et al., ICLR 2021).

    The model is the only thing that trains: optimizer, DDP, EMA and checkpoints hold it and nothing of the stylizer.
    Checkpoints keep the auxiliary batch norm in `task_state`, so `state_dict` is that of the plain timm model.

    Args:
        model: Classifier with or without auxiliary batch norm (`convert_aux_bn`).
        mix: Draws partners, or styles of a bank, and stylises.
        criterion: Loss for both halves.
        normalize: The normalisation that the loader has applied to the images.
        clean_augment: What happens to the clean images after stylisation.
        multi_grid: Sizes of the stylised images, for a model of `convert_two_pass`; that of the clean ones where None.
        device: Device for criterion, stylizer and normalisation.
        dtype: Kept for timm; the task computes in the dtype of its input.
        verbose: Log the criterion.

    Attributes:
        stylise_timer: Entered for the time in which images are stylised; a training loop may set it.
    """

    criterion: DualTargetLoss

    def __init__(
        self,
        model: nn.Module,
        mix: ShapeTextureMix | StyleBankMix,
        criterion: DualTargetLoss,
        normalize: Normalize,
        clean_augment: CleanAugment | None = None,
        multi_grid: MultiGrid | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(model, criterion, device=device, dtype=dtype, verbose=verbose)
        self.mix = mix
        self.normalize = normalize.to(self.device)
        self.clean_augment = clean_augment or CleanAugment()
        self.multi_grid = multi_grid
        self.stylise_timer: AbstractContextManager[Any] = nullcontext()
        self.epoch = self.update = 0

    def set_position(self, epoch: int, update: int) -> None:
        """Say which update of which epoch the next forward belongs to, both from 0: multi-grid's sizes depend on it."""
        self.epoch, self.update = epoch, update

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take one debiased forward pass.

        Args:
            input: Normalised images [B, 3, H, W], B ≥ 2.
            target: Class indices [B].

        Returns:
            `loss`, the mean over all 2B images, NaN where a stylised image is not finite (the model gets zeros in its
            place then, which spoil no statistics); `output`, the logits [B, C] of the clean images; and for logging
            `loss_clean`, `loss_stylised` (scalars) and `top1_clean`, `top1_stylised` (percent; a stylised image counts
            as correct by its shape, a mixed one by the image it was mixed into), all detached.
        """
        drawn = self.mix.sample(len(input))
        size = self.stylised_size(input)
        shape_target = self.clean_augment.targets(target)
        with self.stylise_timer:
            stylised, texture_target = self.stylise(input, shape_target, drawn, size)
        stylised, finite = finite_images(stylised)
        clean, clean_target = self.clean_augment(input, target)
        clean_logits, stylised_logits = self.classify(clean, stylised)
        loss_clean = self.criterion(clean_logits, clean_target)
        loss_stylised = self.criterion(stylised_logits, shape_target, texture_target)
        return {
            'loss': nan_unless(finite, (loss_clean + loss_stylised) / 2),
            'output': clean_logits,
            'loss_clean': loss_clean.detach(),
            'loss_stylised': loss_stylised.detach(),
            'top1_clean': _top1(clean_logits, target),
            'top1_stylised': _top1(stylised_logits, target),
        }

    def stylised_size(self, input: torch.Tensor) -> tuple[int, int]:
        """Return height and width of the stylised images in this update, for clean images [B, 3, H, W]."""
        height, width = input.shape[-2:]
        if self.multi_grid is None:
            return height, width
        return self.multi_grid.size((height, width), self.epoch, self.update)

    def stylise(
        self, input: torch.Tensor, target: torch.Tensor, drawn: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Stylise normalised images and normalise them again.

        Args:
            input: Normalised images [B, 3, H, W].
            target: Their class indices [B] or soft targets [B, C].
            drawn: What `mix.sample` returned.
            size: Height and width to shrink them to first.

        Returns:
            Stylised images [B, 3, *size], normalised, and the textures' targets, None where textures have no label.
        """
        pixels = MultiGrid.shrink(self.normalize.inverse(input), size)
        stylised, texture_target = self.mix.apply(pixels, target, drawn)
        stylised = self.normalize(stylised).to(input.dtype)
        if input.is_contiguous(memory_format=torch.channels_last):
            stylised = stylised.contiguous(memory_format=torch.channels_last)
        return stylised, texture_target

    def classify(self, clean: torch.Tensor, stylised: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of both halves from one forward: main batch norm for clean, auxiliary for stylised."""
        if self.multi_grid is not None:
            return self.trainable_module(clean, stylised)
        with aux_bn_branch(self.trainable_module, 'split'):
            logits = self.trainable_module(torch.cat([clean, stylised]))
        clean_logits, stylised_logits = logits.chunk(2)
        return clean_logits, stylised_logits

    def get_checkpoint_state(
        self, ema: bool = False, unwrap_fn: Callable[[nn.Module], nn.Module] = unwrap_model
    ) -> dict[str, Any]:
        """Return timm's checkpoint entries, the auxiliary batch norm moved from the state dict to the task state."""
        state = super().get_checkpoint_state(ema=ema, unwrap_fn=unwrap_fn)
        model_key, task_key = ('state_dict_ema', 'task_state_ema') if ema else ('state_dict', 'task_state')
        if model_key in state:
            state[model_key], aux_state = split_aux_state(state[model_key])
            if aux_state:
                state[task_key] = {**state.get(task_key, {}), 'aux_bn': aux_state}
        return state

    def load_checkpoint_state(
        self,
        state_dict: dict[str, Any],
        task_state: dict[str, Any] | None = None,
        ema: bool = False,
        strict: bool = True,
    ) -> None:
        """Load a checkpoint of a debiased run; see timm's `TrainingTask.load_checkpoint_state`.

        Raises:
            DebiasError: the model has auxiliary batch norm and the checkpoint has none, or the other way round.
        """
        aux_state = (task_state or {}).get('aux_bn', {})
        _, expected = split_aux_state(unwrap_model(self.get_eval_model(ema=ema)).state_dict())
        if bool(aux_state) != bool(expected):
            raise DebiasError(
                'the checkpoint was saved without auxiliary batch norm and the model has it: resume with '
                '--no-debias-aux-bn, or start a new run from its weights with --initial-checkpoint'
                if expected
                else 'the checkpoint was saved with auxiliary batch norm and the model has none: resume with --debias '
                'and without --no-debias-aux-bn'
            )
        super().load_checkpoint_state({**state_dict, **aux_state}, task_state, ema=ema, strict=strict)


def create_debias_task(
    model: nn.Module,
    stylizer: str | Stylizer = 'adain_lite',
    stylizer_weights: str | None = None,
    num_classes: int | None = None,
    gamma: float | None = None,
    alpha: float = 0.5,
    aux_bn: bool = True,
    base_loss: nn.Module | None = None,
    clean_augment: CleanAugment | None = None,
    multi_grid: MultiGrid | None = None,
    style_bank: StyleBank | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    generator: torch.Generator | None = None,
    global_partners: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    verbose: bool = True,
) -> DebiasTask:
    """Turn a timm model into a debiased training task.

    Args:
        model: A timm classifier of RGB images. Its batch norms are converted in place.
        stylizer: A registered name or a stylizer.
        stylizer_weights: Passed to `create_stylizer` with a name.
        num_classes: Number of classes the labels come from; checked against the model's.
        gamma: Weight of the shape's label in [0, 1]: 0.8 debiased, 1 shape-biased, 0 texture-biased. 0.8 where None, 1
            with a style bank.
        alpha: Strength of stylisation in [0, 1].
        aux_bn: Give the stylised images batch norms of their own.
        base_loss: Loss on logits and one target; cross-entropy where None. With Mixup it has to take soft targets.
        clean_augment: Mixup, CutMix and random erasing of the clean images, after stylisation.
        multi_grid: Sizes of the stylised images; the model's forward is made to take two batches then.
        style_bank: Styles to draw from instead of the images of the batch, with their stylizer.
        mean, std: Normalisation of the loader; the model's `pretrained_cfg` where None, else ImageNet's.
        generator: CPU source of the partners; torch's global one where None.
        global_partners: Draw the partners from the batches of all processes (`GlobalMix`).
        device: Where the step runs; that of the model's parameters where None.
        dtype: Passed to timm's task.
        verbose: Log what is set up.

    Raises:
        DebiasError: a model that cannot be trained so (wrapped in DataParallel, other than 3 input channels, another
            number of classes), an unknown stylizer or its weights missing, gamma or alpha outside [0, 1], or gamma
            other than 1 with a style bank.
    """
    _check_model(model, num_classes)
    gamma = _gamma_of(gamma, style_bank)
    criterion = DualTargetLoss(base_loss if base_loss is not None else nn.CrossEntropyLoss(), gamma)
    source = style_bank if style_bank is not None else _resolve_stylizer(stylizer, stylizer_weights)
    mix = _mix_of(source, alpha, generator, global_partners)
    if aux_bn:
        convert_aux_bn(model)
    if multi_grid is not None:
        convert_two_pass(model)
    device = device if device is not None else next(model.parameters()).device
    return DebiasTask(
        model, mix, criterion, _normalize_of(model, mean, std), clean_augment, multi_grid, device, dtype, verbose
    )


def _gamma_of(gamma: float | None, style_bank: StyleBank | None) -> float:
    if style_bank is None:
        return 0.8 if gamma is None else gamma
    if gamma not in (None, 1):
        raise DebiasError(f'gamma is {gamma}, and styles of a bank have no label: leave it out')
    return 1.0


def _mix_of(
    source: StyleBank | Stylizer, alpha: float, generator: torch.Generator | None, global_partners: bool
) -> ShapeTextureMix | StyleBankMix:
    if isinstance(source, StyleBank):
        return StyleBankMix(source, alpha, generator)
    kind = GlobalMix if global_partners else ShapeTextureMix
    return kind(source, alpha, generator)


def _normalize_of(model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalize:
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    return Normalize(
        mean if mean is not None else cfg.get('mean', IMAGENET_DEFAULT_MEAN),
        std if std is not None else cfg.get('std', IMAGENET_DEFAULT_STD),
    )


def _resolve_stylizer(stylizer: str | Stylizer, weights: str | None) -> Stylizer:
    if isinstance(stylizer, str):
        return create_stylizer(stylizer, weights)
    if weights is not None:
        raise DebiasError('stylizer_weights goes with the name of a stylizer, not with a stylizer')
    return stylizer


def _check_model(model: nn.Module, num_classes: int | None) -> None:
    if isinstance(model, nn.DataParallel):
        raise DebiasError(
            'the model is wrapped in DataParallel, which would split [clean; stylised] batches in the middle; '
            'pass the bare model and use torchrun for several GPUs'
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise DebiasError('the model is wrapped in DistributedDataParallel; pass the bare model, then call '
                          'task.prepare_distributed()')  # fmt: skip
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    in_chans = getattr(model, 'in_chans', None) or cfg.get('input_size', (3,))[0]
    if in_chans != 3:
        raise DebiasError(f'the model takes {in_chans} input channels; stylisation needs RGB images (3 channels)')
    outputs = getattr(model, 'num_classes', None)
    if num_classes is not None and outputs is not None and outputs != num_classes:
        raise DebiasError(f'the model has {outputs} outputs and num_classes is {num_classes}')


@torch.no_grad()
def _top1(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(dim=-1) == target).float().mean() * 100
