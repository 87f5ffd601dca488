"""Whether the model takes images of a size."""

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import DebiasError, reason
from ..machine import Machine
from ..out_of_memory import BatchTooLargeError, is_out_of_memory


def check_input_size(model: nn.Module, input_size: Sequence[int], machine: Machine) -> None:
    """Raise `DebiasError` where the model does not take images of a size [C, H, W]."""
    why = forward_error(model, input_size, machine)
    if why is not None:
        size = '×'.join(str(number) for number in input_size)
        raise DebiasError(
            f'the model does not take {size} images ({why}); models of a fixed size take another one by '
            '--model-kwargs img_size=N'
        )


def forward_error(model: nn.Module, input_size: Sequence[int], machine: Machine) -> str | None:
    """Return why the model does not take an image of `input_size` [C, H, W], None where it does: tried on zeros.

    Raises:
        BatchTooLargeError: the memory does not hold one image.
    """
    parameter = next(model.parameters())
    images = torch.zeros(1, *input_size, device=machine.device, dtype=parameter.dtype)
    was_training = model.training
    try:
        # Not inference mode: some models keep tensors of their first forward, which training then needs.
        with torch.no_grad(), torch.random.fork_rng(enabled=machine.device.type == 'cpu'):
            model.eval()(images)
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise BatchTooLargeError('the model', 1) from error
        return reason(error)[:200]
    finally:
        model.train(was_training)
    return None
