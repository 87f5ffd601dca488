"""Entrypoints of the released models in timm's registry: stock architectures under names of their own.

Importing this module is what makes `timm.create_model` and `timm.list_models` know them.
"""

from typing import Any

from timm.models import generate_default_cfgs, get_pretrained_cfg, model_entrypoint, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._pretrained import PretrainedCfg
from torch import nn

from .manifest import Entry, entries, get_entry
from .zoo import load_weights, source_of

_SOURCES = ('source', 'url', 'file', 'state_dict', 'hf_hub_id')


def _key(entry: Entry) -> str:
    """Return the key for `generate_default_cfgs`, in which a star marks the tag that a bare name means."""
    return f'{entry.name}*' if get_entry(entry.name.partition('.')[0]) == entry else entry.name


def _pretrained_cfg(entry: Entry) -> dict[str, Any]:
    stock: Any = get_pretrained_cfg(entry.architecture)
    return dict(
        **source_of(entry),
        num_classes=entry.num_classes,
        label_names=entry.label_names or None,
        **entry.data_config,
        first_conv=stock.first_conv,
        classifier=stock.classifier,
        **entry.about,
    )


default_cfgs = generate_default_cfgs({_key(entry): _pretrained_cfg(entry) for entry in entries().values()})


def _create(
    name: str, pretrained: bool, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None, **kwargs: Any
) -> nn.Module:
    """Make the stock architecture; pretrained weights come from the zoo unless the caller names others."""
    config = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    entry = entries().get(f'{name}.{config.tag}') or get_entry(name)
    # The stock name, so that what is saved from this model loads where this package is not installed.
    settings: dict[str, Any] = {**config.to_dict(), 'architecture': entry.architecture}
    if pretrained and not _names_weights(config, get_pretrained_cfg(entry.name)):
        settings['state_dict'] = load_weights(entry)
    model: Any = model_entrypoint(entry.architecture)(pretrained=pretrained, pretrained_cfg=settings, **kwargs)
    model.pretrained_cfg.pop('state_dict', None)
    return model


def _names_weights(config: PretrainedCfg, registered: Any) -> bool:
    """Return whether a configuration names other weights than the registry."""
    return any(getattr(config, key) and getattr(config, key) != getattr(registered, key) for key in _SOURCES)


@register_model
def resnet18_debiased(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18, trained on the embedded data set `shapes_textures`."""
    return _create('resnet18_debiased', pretrained, **kwargs)


@register_model
def resnet50_debiased(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 of Li et al. (ICLR 2021)."""
    return _create('resnet50_debiased', pretrained, **kwargs)


@register_model
def resnet101_debiased(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 of Li et al. (ICLR 2021)."""
    return _create('resnet101_debiased', pretrained, **kwargs)


@register_model
def resnet152_debiased(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-152 of Li et al. (ICLR 2021)."""
    return _create('resnet152_debiased', pretrained, **kwargs)


@register_model
def resnext101_32x4d_debiased(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-101 32x4d of Li et al. (ICLR 2021), trained with Mixup or CutMix."""
    return _create('resnext101_32x4d_debiased', pretrained, **kwargs)
