"""Makes timm's factories know shape-texture debiased training: a loss type and an auto-augment operation."""

import functools
import inspect
import sys
from typing import Any

import timm
import timm.data.auto_augment as auto_augment
import timm.loss as timm_loss
import timm.task
from torch import nn

from .errors import DebiasError
from .loss import DualTargetLoss
from .style_bank import StyleBank, Stylize

LOSS_TYPE = 'shape_texture'
OPERATION = 'Stylize'
TRANSFORM_SETS = {'stylize': 'Stylize alone', 'randstylize': "RandAugment's operations and Stylize"}
"""Names of transform sets for `--aa rand-…-t<name>`."""

_PATCHED_LOSS = ('LOSS_TYPES', 'create_classification_loss')
_PATCHED_AUGMENT = ('rand_augment_choices',)
_undo: list[tuple[Any, str, Any]] = []


def register(style_bank: StyleBank | None = None) -> None:
    """Register with timm's factories; calling it again only replaces the style bank.

    Adds the loss type `shape_texture` to `timm.loss.LOSS_TYPES` and `create_classification_loss`, wherever timm's
    modules have imported them: a `DualTargetLoss` with the options `shape_texture_gamma` (0.8) and
    `shape_texture_base` ('ce'). With a `style_bank` it adds the operation `Stylize` to timm's auto-augment, with
    magnitude / 10 as its strength alpha, and two sets of operations that name it: `rand-m5-n1-tstylize` for
    Stylize alone, `rand-m9-n2-trandstylize` for RandAugment's operations and Stylize.

    Raises:
        DebiasError: this version of timm keeps its factories elsewhere.
    """
    if not _undo:
        _check_timm()
        _replace_everywhere(timm_loss.LOSS_TYPES, 'LOSS_TYPES', (*timm_loss.LOSS_TYPES, LOSS_TYPE))
        create = timm_loss.create_classification_loss
        _replace_everywhere(create, 'create_classification_loss', _loss_factory(create))
        choices = auto_augment.rand_augment_choices
        _replace_everywhere(choices, 'rand_augment_choices', _choices(choices))
    if style_bank is not None:
        operations: dict[str, Any] = auto_augment.NAME_TO_OP
        operations[OPERATION] = Stylize(style_bank)
        auto_augment.LEVEL_TO_ARG[OPERATION] = _level_to_alpha


def unregister() -> None:
    """Give timm back as it was; does nothing where nothing is registered."""
    while _undo:
        module, name, original = _undo.pop()
        setattr(module, name, original)
    auto_augment.NAME_TO_OP.pop(OPERATION, None)
    auto_augment.LEVEL_TO_ARG.pop(OPERATION, None)


def uses_stylize(auto_augment_config: str | None) -> bool:
    """Return whether an `--aa` string names a transform set with the operation Stylize."""
    sections = (auto_augment_config or '').split('-')
    return sections[0] == 'rand' and any(section[:1] == 't' and section[1:] in TRANSFORM_SETS for section in sections)


def _check_timm() -> None:
    missing = [f'timm.loss.{name}' for name in _PATCHED_LOSS if not hasattr(timm_loss, name)]
    missing += [
        f'timm.data.auto_augment.{name}'
        for name in (*_PATCHED_AUGMENT, 'NAME_TO_OP', 'LEVEL_TO_ARG', '_RAND_INCREASING_TRANSFORMS')
        if not hasattr(auto_augment, name)
    ]
    if not missing and 'loss_type' not in inspect.signature(timm_loss.create_classification_loss).parameters:
        missing = ['loss_type of timm.loss.create_classification_loss']
    if missing:
        raise DebiasError(
            f'timm {timm.__version__} has no {", ".join(missing)}: this version of timm_debias knows timm from 1.0.31; '
            'install timm 1.0.31 or a newer timm_debias'
        )


def _replace_everywhere(original: Any, name: str, replacement: Any) -> None:
    """Replace `name` in every loaded module of timm that holds the original, because timm imports by name."""
    for module_name, module in list(sys.modules.items()):
        if module_name.split('.')[0] == 'timm' and getattr(module, '__dict__', {}).get(name) is original:
            _undo.append((module, name, original))
            setattr(module, name, replacement)


def _loss_factory(create: Any) -> Any:
    @functools.wraps(create)
    def create_classification_loss(
        loss_type: str | None = None,
        *args: Any,
        shape_texture_gamma: float = 0.8,
        shape_texture_base: str = 'ce',
        **kwargs: Any,
    ) -> nn.Module:
        if loss_type != LOSS_TYPE:
            return create(loss_type, *args, **kwargs)
        return DualTargetLoss(create(shape_texture_base, *args, **kwargs), shape_texture_gamma)

    return create_classification_loss


def _choices(original: Any) -> Any:
    @functools.wraps(original)
    def rand_augment_choices(name: str, increasing: bool = True) -> Any:
        if name not in TRANSFORM_SETS:
            return original(name, increasing)
        if OPERATION not in auto_augment.NAME_TO_OP:
            raise DebiasError(
                f"auto-augment set '{name}' needs styles to draw from: call timm_debias.register(style_bank=…) first"
            )
        return [OPERATION] if name == 'stylize' else [*original('', increasing), OPERATION]

    return rand_augment_choices


def _level_to_alpha(level: float, _hparams: dict[str, Any]) -> tuple[float]:
    return (min(max(level / auto_augment._LEVEL_DENOM, 0.0), 1.0),)
