"""The command `timm-debias export`: a model as ONNX, TorchScript or an exported program, compared with the model."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import DebiasError, reason
from ..files import atomic_path, check_output
from ..flags import ParseKwargs, Parser, add_flags, config_from, flag
from ..log import setup_logging
from ..validation.config import (
    SuiteConfig,
    ValidateConfig,
    ValidateDataConfig,
    ValidateModelConfig,
    ValidateRunConfig,
)
from ..validation.model import build_model, check_model, resolve_input

_logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of a logit that is accepted, as a share of the largest logit, at least of 1."""

Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ExportConfig:
    """Export a model"""

    model: str = flag(
        '', 'name of a timm model, or local-dir:DIR, with its pretrained weights', 'model', metavar='MODEL'
    )
    output: str = flag('', 'file to write: .onnx, .pt2 (torch.export) or .torchscript', metavar='FILE')
    checkpoint: str = flag('', 'checkpoint to load instead of pretrained weights', metavar='PATH')
    use_ema: bool = flag(False, 'use the moving average of the checkpoint')
    num_classes: int | None = flag(None, "number of classes, the model's default if not given", type=int, metavar='N')
    img_size: int | None = flag(None, "image size in pixels, the model's default if not given", type=int, metavar='N')
    model_kwargs: dict = flag({}, 'keyword arguments for the model, key=value', nargs='*', action=ParseKwargs)
    overwrite: bool = flag(False, 'write over a file that is there')


def main(argv: Sequence[str] | None = None) -> int:
    """Export a model as the flags say; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags, a model that cannot be exported, or one whose logits differ after it;
            nothing is written then.
    """
    setup_logging()
    parser = Parser(
        prog='timm-debias export',
        description='Write a model to a file that runs without timm: normalised images [N, 3, H, W] to logits [N, C], '
        'for any number N of images. The file is read again and compared with the model before it is kept.',
    )
    add_flags(parser, ExportConfig)
    config = config_from(ExportConfig, parser.parse_args(argv))
    output = Path(config.output)
    _check(config, output)
    settings = ValidateConfig(
        ValidateDataConfig(),
        ValidateModelConfig(
            model=config.model,
            checkpoint=config.checkpoint,
            use_ema=config.use_ema,
            num_classes=config.num_classes,
            img_size=config.img_size,
            model_kwargs=config.model_kwargs,
        ),
        ValidateRunConfig(device='cpu'),
        SuiteConfig(),
    )
    check_model(settings.model)
    model = build_model(settings).eval()
    size = tuple(resolve_input(settings, model)['input_size'])
    with atomic_path(output) as temporary:
        difference = export(model, size, temporary)
    print(f'{output}: largest difference from the model {difference:.3g}')
    return 0


def _check(config: ExportConfig, output: Path) -> None:
    if output.suffix not in FORMATS:
        raise DebiasError(f"--output '{config.output}': expected a file that ends in {' or '.join(FORMATS)}")
    if output.exists() and not config.overwrite:
        raise DebiasError(f'{output} exists; choose another --output or give --overwrite')
    check_output(output.parent)
    if config.num_classes and not config.checkpoint:
        raise DebiasError(
            '--num-classes is for a --checkpoint; pretrained weights have a classifier for their own classes'
        )
    missing = [name for name in FORMATS[output.suffix].needs if importlib.util.find_spec(name) is None]
    if missing:
        raise DebiasError(f"{output.suffix} needs {', '.join(missing)}: pip install 'timm-debias[export]'")


@torch.no_grad()
def export(model: nn.Module, size: Sequence[int], path: Path) -> float:
    """Write a model and return the largest difference of a logit between the file, read again, and the model.

    Args:
        model: In eval mode.
        size: Channels, height and width of its images.
        path: File to write; its suffix names the format.

    Raises:
        DebiasError: the model cannot be exported, or its logits differ by more than `TOLERANCE`.
    """
    form = FORMATS[path.suffix]
    generator = torch.Generator().manual_seed(0)
    example, *others = (torch.randn(count, *size, generator=generator) for count in (2, 1, 3))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Exporters warn of their own insides and of TorchScript's age.
            form.write(model, example, path)
            exported = form.read(path)
            pairs = [(exported(images), model(images)) for images in others]
    except Exception as error:  # Exporters raise almost anything on a model they cannot take.
        why = reason(error)[:300]
        raise DebiasError(f'{type(model).__name__} cannot be exported as {path.suffix} ({why})') from error
    difference = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    limit = TOLERANCE * max(1.0, *(float(theirs.abs().max()) for _, theirs in pairs))
    if not difference <= limit:
        raise DebiasError(f'logits of the exported model differ by {difference:.3g}, more than {limit:.3g}')
    return difference


def _write_onnx(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    for name in ('onnx_ir', 'onnxscript'):
        logging.getLogger(name).setLevel(logging.WARNING)  # They tell of every pass of their optimiser.
    torch.onnx.export(
        model,
        (example,),
        path,
        input_names=['images'],
        output_names=['logits'],
        dynamic_shapes=({0: torch.export.Dim('batch')},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _read_onnx(path: Path) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda images: torch.from_numpy(session.run(['logits'], {'images': images.numpy()})[0])


def _write_program(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim('batch')},))
    torch.export.save(program, path)


def _read_program(path: Path) -> Network:
    return torch.export.load(path).module()


def _write_torchscript(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    torch.jit.save(torch.jit.trace(model, example), path)


def _read_torchscript(path: Path) -> Network:
    loaded: Any = torch.jit.load(path)
    return loaded


@dataclass(frozen=True)
class Format:
    """How a format is written and read."""

    write: Callable[[nn.Module, torch.Tensor, Path], None]
    read: Callable[[Path], Network]
    needs: tuple[str, ...] = ()
    """Packages it needs."""


FORMATS = {
    '.onnx': Format(_write_onnx, _read_onnx, ('onnx', 'onnxscript', 'onnxruntime')),
    '.pt2': Format(_write_program, _read_program),
    '.torchscript': Format(_write_torchscript, _read_torchscript),
}
"""Suffix of the file -> format."""
