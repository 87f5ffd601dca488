"""Which flags of timm's validate.py go together."""

import importlib.util

import torch

from ..data.factory import SHAPES_TEXTURES
from ..errors import DebiasError
from .config import ValidateConfig


def check_combinations(config: ValidateConfig) -> None:
    """Raise `DebiasError` for the first flags that contradict each other, or need what is not there."""
    data, model, run = config.data, config.model, config.run
    compilers = {
        '--torchscript': model.torchscript,
        '--torchcompile': model.torchcompile is not None,
        '--aot-autograd': model.aot_autograd,
    }
    given = [flag for flag, is_on in compilers.items() if is_on]
    if len(given) > 1:
        raise DebiasError(f'{" and ".join(given)} do not go together: choose one')
    if model.fuser in ('nvfuser', 'nvf'):
        raise DebiasError(f'--fuser {model.fuser}: torch has it no longer; the others are te and old')
    if model.fuser and not model.torchscript:
        raise DebiasError('--fuser is that of --torchscript, which is not given')
    if run.amp and run.model_dtype not in (None, 'float32'):
        raise DebiasError(f'--amp needs a float32 model; leave out --amp or --model-dtype {run.model_dtype}')
    if run.num_gpu != 1 and not 1 <= run.num_gpu <= torch.cuda.device_count():
        raise DebiasError(f'--num-gpu is {run.num_gpu}, and torch finds {torch.cuda.device_count()} GPUs here')
    if data.real_labels and data.valid_labels:
        raise DebiasError('--real-labels are of all 1,000 classes and --valid-labels leaves some of them')
    if data.real_labels and (data.dataset or data.naflex_loader):
        raise DebiasError("--real-labels needs ImageNet's validation images as a folder: --data-dir without --dataset")
    if data.tf_preprocessing and importlib.util.find_spec('tensorflow') is None:
        raise DebiasError('--tf-preprocessing needs the package tensorflow: pip install tensorflow, or leave it out')
    _check_naflex(config)
    for flag, is_on in (('--valid-labels', data.valid_labels), ('--metrics-avg', run.metrics_avg)):
        if is_on and data.dataset == SHAPES_TEXTURES:
            raise DebiasError(f'{flag} is not measured on --dataset {SHAPES_TEXTURES}, whose conflict images have '
                              'two labels')  # fmt: skip


def _check_naflex(config: ValidateConfig) -> None:
    if not config.data.naflex_loader:
        return
    refused = {
        '--no-prefetcher': config.run.no_prefetcher,
        '--channels-last': config.run.channels_last,
        '--test-pool': config.model.test_pool,
        '--tf-preprocessing': config.data.tf_preprocessing,
    }
    for flag, is_on in refused.items():
        if is_on:
            raise DebiasError(f'{flag} does not go with --naflex-loader, whose batches are patches')
