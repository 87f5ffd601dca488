"""Style transfer networks, by name."""

from . import adain_lite, adain_vgg19, weight_free  # noqa: F401 (importing a module registers its stylizer)
from .base import Stylizer
from .registry import create_stylizer, list_stylizers, register_stylizer
from .weights import save_stylizer

__all__ = ['Stylizer', 'create_stylizer', 'list_stylizers', 'register_stylizer', 'save_stylizer']
