"""The debiased training task: one train step of shape-texture debiased training as a straight pipe."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.task import ClassificationTask
from timm.utils.model import unwrap_model
from torch import nn

from .aux_bn import aux_bn_branch, convert_aux_bn, split_aux_state
from .errors import DebiasError
from .loss import DualTargetLoss
from .mix import ShapeTextureMix
from .normalize import Normalize
from .stylizers import Stylizer, create_stylizer

_logger = logging.getLogger(__name__)


class DebiasTask(ClassificationTask):
    """Trains a classifier on clean images and on their stylised twins (Li et al., ICLR 2021).

    The model is the only thing that trains: optimizer, DDP, EMA and checkpoints hold it and nothing of the stylizer.
    Checkpoints keep the auxiliary batch norm in `task_state`, so `state_dict` is that of the plain timm model.

    Args:
        model: Classifier with or without auxiliary batch norm (`convert_aux_bn`).
        mix: Draws partners and stylises.
        criterion: Loss for both halves.
        normalize: The normalisation that the loader has applied to the images.
        device: Device for criterion, stylizer and normalisation.
        dtype: Kept for timm; the task computes in the dtype of its input.
        verbose: Log the criterion.
    """

    criterion: DualTargetLoss

    def __init__(
        self,
        model: nn.Module,
        mix: ShapeTextureMix,
        criterion: DualTargetLoss,
        normalize: Normalize,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(model, criterion, device=device, dtype=dtype, verbose=verbose)
        self.mix = mix
        self.normalize = normalize.to(self.device)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take one debiased forward pass.

        Args:
            input: Normalised images [B, 3, H, W], B ≥ 2.
            target: Class indices [B].

        Returns:
            `loss`, the mean over all 2B images; `output`, the logits [B, C] of the clean images; and for logging
            `loss_clean`, `loss_stylised` (scalars) and `top1_clean`, `top1_stylised` (percent; a stylised image counts
            as correct by its shape), all detached.
        """
        stylised, texture_target = self.stylise(input, target)
        clean_logits, stylised_logits = self.classify(input, stylised)
        loss_clean = self.criterion(clean_logits, target)
        loss_stylised = self.criterion(stylised_logits, target, texture_target)
        return {
            'loss': (loss_clean + loss_stylised) / 2,
            'output': clean_logits,
            'loss_clean': loss_clean.detach(),
            'loss_stylised': loss_stylised.detach(),
            'top1_clean': _top1(clean_logits, target),
            'top1_stylised': _top1(stylised_logits, target),
        }

    def stylise(self, input: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the stylised twins of normalised images [B, 3, H, W], normalised again, and the textures' labels."""
        stylised, texture_target = self.mix(self.normalize.inverse(input), target)
        return self.normalize(stylised).to(input.dtype), texture_target

    def classify(self, clean: torch.Tensor, stylised: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of both halves from one forward: main batch norm for clean, auxiliary for stylised."""
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
    gamma: float = 0.8,
    alpha: float = 0.5,
    aux_bn: bool = True,
    base_loss: nn.Module | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    generator: torch.Generator | None = None,
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
        gamma: Weight of the shape's label in [0, 1]: 0.8 debiased, 1 shape-biased, 0 texture-biased.
        alpha: Strength of stylisation in [0, 1].
        aux_bn: Give the stylised images batch norms of their own.
        base_loss: Loss on logits and one target; cross-entropy where None.
        mean: Normalisation of the loader; the model's `pretrained_cfg` where None, else ImageNet's.
        std: As `mean`.
        generator: CPU source of the partners; torch's global one where None.
        device: Where the step runs; that of the model's parameters where None.
        dtype: Passed to timm's task.
        verbose: Log what is set up.

    Raises:
        DebiasError: a model that cannot be trained so (wrapped in DataParallel, other than 3 input channels, another
            number of classes), an unknown stylizer or its weights missing, gamma or alpha outside [0, 1].
    """
    _check_model(model, num_classes)
    criterion = DualTargetLoss(base_loss if base_loss is not None else nn.CrossEntropyLoss(), gamma)
    if isinstance(stylizer, str):
        stylizer = create_stylizer(stylizer, stylizer_weights)
    elif stylizer_weights is not None:
        raise DebiasError('stylizer_weights goes with the name of a stylizer, not with a stylizer')
    mix = ShapeTextureMix(stylizer, alpha, generator)
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    normalize = Normalize(
        mean if mean is not None else cfg.get('mean', IMAGENET_DEFAULT_MEAN),
        std if std is not None else cfg.get('std', IMAGENET_DEFAULT_STD),
    )
    if aux_bn:
        convert_aux_bn(model)
    if device is None:
        device = next(model.parameters()).device
    return DebiasTask(model, mix, criterion, normalize, device=device, dtype=dtype, verbose=verbose)


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
