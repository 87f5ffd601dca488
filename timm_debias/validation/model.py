"""The model to measure: its weights, what it expects as input, and where it runs."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from functorch.compile import memory_efficient_fusion
from timm.data import resolve_data_config
from timm.layers import apply_test_time_pool, set_fast_norm
from timm.models import create_model
from timm.utils import reparameterize_model, set_jit_fuser
from torch import nn

from ..checks import check_model_name
from ..data.factory import SHAPES_TEXTURES
from ..errors import DebiasError, reason, told_as
from ..machine import Machine
from ..training.input_size import forward_error
from ..weight_files import check_weights
from ..weights.network import load_as_timm
from .config import ValidateConfig, ValidateModelConfig


def check_model(options: ValidateModelConfig) -> None:
    """Raise `DebiasError` for an unknown model or a checkpoint that is not there."""
    check_model_name(options.model)
    if options.checkpoint and not os.path.isfile(options.checkpoint):
        raise DebiasError(f"--checkpoint '{options.checkpoint}': no such file")
    if options.use_ema and not options.checkpoint:
        raise DebiasError('--use-ema chooses among the weights of a --checkpoint, and none is given')


def build_model(config: ValidateConfig) -> nn.Module:
    """Create the timm model with the weights to measure."""
    options = config.model
    if options.fuser:
        set_jit_fuser(options.fuser)
    if options.fast_norm:
        set_fast_norm()
    try:
        model = create_model(
            options.model,
            pretrained=options.pretrained or not options.checkpoint,
            num_classes=options.num_classes,
            in_chans=options.in_chans or (options.input_size[0] if options.input_size else 3),
            global_pool=options.gp,
            scriptable=options.torchscript,
            **options.model_kwargs,
        )
    except DebiasError:
        raise  # It says all there is to say.
    except Exception as error:  # Model code and hub clients raise almost anything; all of it is about these flags.
        why = reason(error)[:300]
        raise DebiasError(f'--model {options.model}: {why} (give --checkpoint PATH for weights of yours)') from error
    if options.checkpoint:
        check_weights(Path(options.checkpoint), '--checkpoint')
        if options.use_ema and not _has_average(options.checkpoint):
            raise DebiasError(f'--checkpoint {options.checkpoint}: it holds no moving average; leave --use-ema out')
        load_as_timm(model, options.checkpoint, '--checkpoint', options.model, options.use_ema)
    return reparameterize_model(model) if options.reparam else model


def _has_average(checkpoint: str) -> bool:
    """Return whether a checkpoint holds weights for `--use-ema`; where it does not, timm would take the others."""
    if checkpoint.endswith(('.safetensors', '.npz', '.npy')):
        return False
    with torch.serialization.safe_globals([argparse.Namespace]):  # timm keeps its flags in one.
        contents = torch.load(checkpoint, map_location='cpu', weights_only=True)
    names = ('state_dict_ema', 'model_ema')
    return isinstance(contents, dict) and any(contents.get(name) is not None for name in names)


def class_names(config: ValidateConfig, model: Any) -> tuple[str, ...]:
    """Return the names of a model's classes in their order; empty where its weights do not come with them."""
    names = None if config.model.checkpoint else model.pretrained_cfg.get('label_names')
    if not isinstance(names, (list, tuple)) or len(names) != model.num_classes:
        return ()
    return tuple(map(str, names))


def resolve_input(config: ValidateConfig, model: nn.Module) -> dict[str, Any]:
    """Return timm's data configuration: input_size, mean, std, interpolation, crop_pct, crop_mode."""
    args = asdict(config.model)
    if config.data.dataset == SHAPES_TEXTURES and args['crop_pct'] is None:
        args['crop_pct'] = 1.0  # Its images are drawn at the input size: a crop would only cut silhouettes.
    return resolve_data_config(args, model=model, use_test_size=not config.model.use_train_size, verbose=True)


def check_input_size(
    config: ValidateConfig, model: nn.Module, input_size: Sequence[int], machine: Machine, published: str = ''
) -> None:
    """Raise `DebiasError` where the model does not take images of a size [C, H, W]; `published` says whose it is."""
    why = forward_error(model, input_size, machine)
    if why is not None:
        height, width = input_size[-2:]
        raise DebiasError(
            f'{config.model.model} does not take {width}×{height} images{published} ({why}); see --img-size and '
            '--model-kwargs img_size=N'
        )


def pool_at_test(
    config: ValidateConfig, model: nn.Module, input_config: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return model and data configuration with the pooling of `--test-pool`, which takes whole images."""
    if not config.model.test_pool:
        return model, input_config
    try:
        model, pooled = apply_test_time_pool(model, input_config)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        why = reason(error)[:200]
        raise DebiasError(f'--test-pool: {config.model.model} is no model to pool so ({why})') from error
    return model, input_config | {'crop_pct': 1.0} if pooled else input_config


def prepare_model(config: ValidateConfig, model: nn.Module) -> nn.Module:
    """Return `model` as the flags want it to run: device, dtype, memory layout, compiled.

    Raises:
        DebiasError: a backend or a mode of compilation that torch does not have.
    """
    run = config.run
    model = model.to(
        device=torch.device(run.device), dtype=getattr(torch, run.model_dtype) if run.model_dtype else None
    )
    if run.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.model.torchcompile:
        torch.compiler.reset()  # What was compiled for a model before only takes memory.
        with told_as('--torchcompile, --torchcompile-mode', RuntimeError):
            model = torch.compile(model, backend=config.model.torchcompile, mode=config.model.torchcompile_mode)  # type: ignore[assignment]
    elif config.model.torchscript or config.model.aot_autograd:
        model = _compile(config.model, model)
    return nn.DataParallel(model, device_ids=list(range(run.num_gpu))) if run.num_gpu > 1 else model


def _compile(options: ValidateModelConfig, model: nn.Module) -> nn.Module:
    try:
        return torch.jit.script(model) if options.torchscript else memory_efficient_fusion(model)
    except Exception as error:  # These compilers raise almost anything on what they cannot compile.
        flag = '--torchscript' if options.torchscript else '--aot-autograd'
        why = reason(error)[:300]
        raise DebiasError(f'{flag}: {options.model} cannot be compiled ({why})') from error


def autocast(config: ValidateConfig) -> torch.autocast:
    """Return the context of each forward: mixed precision where `--amp` asks for it."""
    run = config.run
    return torch.autocast(torch.device(run.device).type, getattr(torch, run.amp_dtype), enabled=run.amp)
