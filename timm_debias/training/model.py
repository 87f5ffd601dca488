"""Builds the model and the training task."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_data_config
from timm.layers import convert_splitbn_model, convert_sync_batchnorm, set_fast_norm
from timm.models import create_model
from timm.task import ClassificationTask, MultiLabelClassificationTask
from timm.task.task import TrainingTask
from timm.utils import set_jit_fuser
from torch import nn

from ..data.factory import SHAPES_TEXTURES
from ..errors import DebiasError, reason, told_as
from ..machine import Machine
from ..weight_files import check_finite, check_weights
from ..weights.network import load_as_timm
from .config import ModelConfig, TrainConfig
from .criterion import build_criterion
from .debias import build_debias_task
from .distillation import build_distillation_task
from .freeze import freeze_backbone


def build_model(config: TrainConfig, machine: Machine) -> Any:
    """Create the timm model, on its device, batch norms synchronised where asked for."""
    options, norm, augment = config.model, config.norm, config.augment
    if options.fuser:
        set_jit_fuser(options.fuser)
    if options.fast_norm:
        set_fast_norm()
    overlay = dict(options.pretrained_cfg_overlay)
    if options.pretrained_path:
        overlay |= dict(file=options.pretrained_path, num_classes=-1)
    named = {'--initial-checkpoint': options.initial_checkpoint, '--pretrained-path': options.pretrained_path}
    for flag, file in named.items():
        if file:
            check_weights(Path(file), flag)
    # Model code, hub clients and readers of weights raise almost anything.
    with told_as(f'--model {options.model}', Exception):
        model: Any = create_model(
            options.model,
            pretrained=options.pretrained,
            in_chans=_in_chans(options),
            num_classes=options.num_classes,
            drop_rate=augment.drop,
            drop_path_rate=augment.drop_path,
            drop_block_rate=augment.drop_block,
            global_pool=options.gp,
            bn_momentum=norm.bn_momentum,
            bn_eps=norm.bn_eps,
            scriptable=options.torchscript,
            pretrained_cfg_overlay=overlay or None,
            **options.model_kwargs,
        )
    if options.pretrained_path:
        check_finite(model.state_dict(), f'--pretrained-path {options.pretrained_path}')
    if options.initial_checkpoint:
        head = ', or --pretrained --pretrained-path in place of --initial-checkpoint for a new classifier'
        load_as_timm(model, options.initial_checkpoint, '--initial-checkpoint', options.model, True, head)
    model = _adapt(config, model)
    model.to(device=machine.device, dtype=model_dtype(config))
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
    if machine.distributed and norm.sync_bn:
        if machine.device.type == 'cpu':
            raise DebiasError('--sync-bn: torch has no synchronised batch norm for the CPU; leave it out')
        model = convert_sync_batchnorm(model)
    return model


def _in_chans(options: ModelConfig) -> int:
    return options.in_chans or (options.input_size[0] if options.input_size else 3)


def _adapt(config: TrainConfig, model: Any) -> Any:
    """Do to a new model what flags ask for and not every model of timm takes."""
    options = config.model

    def told(flag: str) -> AbstractContextManager[None]:
        return told_as(f'{flag} does not go with --model {options.model}, leave it out', Exception)

    if options.head_init_scale is not None:
        with told('--head-init-scale'), torch.no_grad():
            model.get_classifier().weight.mul_(options.head_init_scale)
            model.get_classifier().bias.mul_(options.head_init_scale)
    if options.head_init_bias is not None:
        with told('--head-init-bias'):
            nn.init.constant_(model.get_classifier().bias, options.head_init_bias)
    if options.freeze_backbone:
        freeze_backbone(model)
    if options.grad_checkpointing:
        with told('--grad-checkpointing'):
            model.set_grad_checkpointing(enable=True)
    if config.norm.split_bn:
        if any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
            raise DebiasError(
                f'--split-bn: --model {options.model} has batch norms of vectors, and timm splits those of images '
                'alone: leave it out'
            )
        model = convert_splitbn_model(model, max(config.augment.aug_splits, 2))
    return model


def model_dtype(config: TrainConfig) -> torch.dtype | None:
    """Return the dtype that `--model-dtype` names, None for the default."""
    return getattr(torch, config.device.model_dtype) if config.device.model_dtype else None


def resolve_input(config: TrainConfig, model: nn.Module, verbose: bool) -> dict[str, Any]:
    """Return timm's data configuration: input_size, mean, std, interpolation, crop_pct."""
    args = asdict(config.model)
    if config.data.dataset == SHAPES_TEXTURES and args['crop_pct'] is None:
        args['crop_pct'] = 1.0  # Its images are drawn at the input size: a crop would only cut silhouettes.
    return resolve_data_config(args, model=model, verbose=verbose)


def build_task(
    config: TrainConfig, model: nn.Module, input_config: dict[str, Any], num_classes: int, machine: Machine
) -> TrainingTask:
    """Create the task of timm that the flags name, or ours with `--debias`; `--torchscript` scripts the model."""
    criterion = build_criterion(config, num_classes)
    if config.model.torchscript:
        model = _script(config, model)
    common: dict[str, Any] = dict(device=machine.device, dtype=model_dtype(config), verbose=machine.is_primary)
    if config.distill.kd_model_name is not None:
        return build_distillation_task(config.distill, model, criterion, **common)
    if config.task.multilabel:
        return MultiLabelClassificationTask(model, criterion, threshold=config.task.multilabel_threshold, **common)
    if not config.debias.debias:
        return ClassificationTask(model, criterion, **common)
    return build_debias_task(config, model, criterion, input_config, num_classes, machine, common)


def _script(config: TrainConfig, model: nn.Module) -> nn.Module:
    try:
        return torch.jit.script(model)
    except Exception as error:  # The compiler raises almost anything on what it cannot compile.
        why = reason(error)[:300]
        raise DebiasError(f'--torchscript: {config.model.model} cannot be scripted ({why})') from error
