"""Labels and measures of `validate.py` beyond top-1: ReaL labels, some of the classes, precision and recall."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.data import RealLabelsImagenet

from ..errors import DebiasError


def read_valid_labels(path: str, num_classes: int) -> torch.Tensor | None:
    """Return the class indices in the file of `--valid-labels`, one a line; None where no file is given.

    Raises:
        DebiasError: a file that holds something else, or indices that the model does not have.
    """
    if not path:
        return None
    try:
        with open(path, encoding='utf-8') as file:
            indices = [int(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise DebiasError(f'--valid-labels {path}: expected a class index on each line ({error})') from error
    wrong = [index for index in indices if not 0 <= index < num_classes]
    if wrong or not indices:
        raise DebiasError(f'--valid-labels {path}: {wrong[:1] or "no index"} for a model of {num_classes} classes')
    return torch.tensor(indices)


class RealLabels:
    """Top-1 and top-5 by ImageNet ReaL (Beyer et al., 2020): any of an image's labels is right.

    Args:
        path: JSON file of the labels of ImageNet's validation images in their order.
        filenames: Names of the images in the order in which they come.

    Raises:
        DebiasError: a file that is not of this kind, or images other than the 50,000 of ImageNet.
    """

    def __init__(self, path: str, filenames: Sequence[str]) -> None:
        try:
            self._labels = RealLabelsImagenet(filenames, real_json=path)
            known = self._labels.real_labels
        except (AssertionError, OSError, ValueError, TypeError) as error:
            reason = ' '.join(str(error).split()) or f'{len(filenames):,} images'
            raise DebiasError(
                f"--real-labels {path}: expected a JSON list of labels, one entry for each of the data set's images, "
                f'which are the validation images of ImageNet ({reason})'
            ) from error
        unknown = [name for name in filenames if name not in known]
        if unknown:
            raise DebiasError(f'--real-labels {path}: {unknown[0]} is no validation image of ImageNet')

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        self._labels.add_result(logits)

    def metrics(self) -> dict[str, float]:
        """Return `top1` and `top5` in percent, over the images that have labels."""
        accuracy: Any = self._labels.get_accuracy()
        return {'top1': accuracy[1], 'top5': accuracy[5]}


class AveragedMetrics:
    """Precision, recall and F1, averaged over the classes as scikit-learn does; 0 where nothing is divided by.

    Args:
        average: `micro` counts over all images, `macro` averages the classes, `weighted` averages them by their number
            of images. Only classes that occur as a label or a prediction count.
    """

    def __init__(self, average: str) -> None:
        self._average = average
        self._predictions: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        self._predictions.append(logits.argmax(dim=1).cpu())
        self._targets.append(target.cpu())

    def metrics(self) -> dict[str, float]:
        """Return `<average>_precision`, `_recall` and `_f1_score` in percent."""
        predictions, targets = torch.cat(self._predictions), torch.cat(self._targets)
        size = int(max(predictions.max(), targets.max())) + 1
        right = torch.bincount(targets[predictions == targets], minlength=size).double()
        predicted = torch.bincount(predictions, minlength=size).double()
        actual = torch.bincount(targets, minlength=size).double()
        if self._average == 'micro':
            right, predicted, actual = (counts.sum().unsqueeze(0) for counts in (right, predicted, actual))
        weights = actual if self._average == 'weighted' else (predicted + actual > 0).double()
        values = {
            'precision': right / predicted.clamp(min=1),
            'recall': right / actual.clamp(min=1),
            'f1_score': 2 * right / (predicted + actual).clamp(min=1),
        }
        return {
            f'{self._average}_{name}': 100 * float((value * weights).sum() / weights.sum())
            for name, value in values.items()
        }
