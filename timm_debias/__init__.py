"""Shape-texture debiased training for timm (Li et al., ICLR 2021)."""

from .aux_bn import aux_bn_branch, convert_aux_bn, split_aux_state
from .errors import DebiasError
from .loss import DualTargetLoss
from .mix import ShapeTextureMix
from .registration import register, unregister
from .style_bank import StyleBank
from .stylizers import Stylizer, create_stylizer, list_stylizers, register_stylizer
from .task import DebiasTask, create_debias_task
from .weights import debiased as debiased

__version__ = '0.1.0'

__all__ = [
    'DebiasError',
    'DebiasTask',
    'DualTargetLoss',
    'ShapeTextureMix',
    'StyleBank',
    'Stylizer',
    'aux_bn_branch',
    'convert_aux_bn',
    'create_debias_task',
    'create_stylizer',
    'list_stylizers',
    'register',
    'register_stylizer',
    'split_aux_state',
    'unregister',
]
