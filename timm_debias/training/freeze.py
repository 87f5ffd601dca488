"""Training the classifier alone on features that stay as they are: a linear probe."""

from typing import Any

from timm.utils.model import unwrap_model
from torch import nn

from ..errors import DebiasError


def freeze_backbone(model: Any) -> None:
    """Let only the classifier of a timm model train.

    Raises:
        DebiasError: a model without a classifier.
    """
    model.requires_grad_(False)
    for classifier in _classifiers(model):
        classifier.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DebiasError(f'--freeze-backbone: {type(model).__name__} has no classifier to train (--num-classes 0?)')


def train_classifier(model: nn.Module) -> None:
    """Put the classifier in train mode and everything else in eval mode, so that batch norm keeps its statistics."""
    model.eval()
    for classifier in _classifiers(unwrap_model(model)):
        classifier.train()


def _classifiers(model: Any) -> tuple[nn.Module, ...]:
    classifier = model.get_classifier()
    return tuple(classifier) if isinstance(classifier, (tuple, list)) else (classifier,)
