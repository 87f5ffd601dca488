"""Steps of training on a batch in memory, plain and debiased."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.utils import NativeScaler
from torch import nn

from ..errors import DebiasError, reason, told_as
from ..multi_grid import MultiGrid
from ..stylizers import Stylizer
from ..stylizers.base import Features, Style
from ..task import DebiasTask, create_debias_task

_SEED = 0
_LR = 1e-4  # Steps repeat on one batch with arbitrary labels, so that no model may be thrown off.
ALPHA = 0.5


@dataclass(frozen=True)
class Setup:
    """What a step is measured with.

    Attributes:
        model: Name of a timm model.
        img_size: Side of the images in pixels.
        batch_size: Number n of clean images.
        device: Where it runs.
        amp_dtype: Lower precision of mixed precision; None without.
        model_dtype: Precision of the model and the images.
        channels_last: Whether model and images are in channels_last layout.
        torchcompile: Backend that the model is compiled with; None without.
    """

    model: str
    img_size: int
    batch_size: int
    device: torch.device
    amp_dtype: torch.dtype | None = None
    model_dtype: torch.dtype = torch.float32
    channels_last: bool = False
    torchcompile: str | None = None

    def autocast(self) -> AbstractContextManager:
        """Return the context of each forward."""
        if self.amp_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def create_model(self) -> Any:
        """Return the model in train mode, with the same weights at every call.

        Raises:
            DebiasError: timm cannot create it.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            try:
                model: Any = timm.create_model(self.model)
            except (RuntimeError, TypeError, OSError, ValueError) as error:
                raise DebiasError(f'{self.model}: {reason(error)[:300]}') from error
        return self.placed(model).train()

    def placed(self, module: nn.Module) -> nn.Module:
        """Return `module` on the device, in precision and layout of the setup."""
        module.to(device=self.device, dtype=self.model_dtype)
        return module.to(memory_format=torch.channels_last) if self.channels_last else module

    def images(self, count: int | None = None) -> torch.Tensor:
        """Return random images [count, 3, img_size, img_size] in [0, 1], as many as the setup says if not given."""
        generator = torch.Generator().manual_seed(_SEED)
        images = torch.rand(count or self.batch_size, 3, self.img_size, self.img_size, generator=generator)
        images = images.to(self.device, self.model_dtype)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def labels(self, num_classes: int, count: int | None = None) -> torch.Tensor:
        """Return class indices [count]."""
        return (torch.arange(count or self.batch_size) % num_classes).to(self.device)


class Step:
    """A step of training: forward, backward, update of the weights by SGD with momentum.

    Args:
        setup: How to run it.
        trained: What trains, with its optimizer.
        loss: Forward pass up to the loss.
        held: Further tensors that are there between steps: images, labels, a stylizer's weights.
    """

    def __init__(
        self, setup: Setup, trained: 'Trained', loss: Callable[[], torch.Tensor], held: tuple[torch.Tensor, ...] = ()
    ) -> None:
        self.setup = setup
        self.trained = trained
        self.loss = loss
        self.held = held

    def __call__(self) -> None:
        with self.setup.autocast():
            loss = self.loss()
        if self.trained.scaler is not None:
            self.trained.scaler(loss, self.trained.optimizer)
        else:
            loss.backward()
            self.trained.optimizer.step()
        self.trained.optimizer.zero_grad()

    def held_bytes(self) -> int:
        """Return the bytes held between steps."""
        return sum(tensor.nbytes for tensor in chain(self.held, self.trained.tensors()))


class Trained:
    """A module and what trains it.

    Args:
        setup: How it is run.
        module: Model in train mode.
    """

    def __init__(self, setup: Setup, module: Any) -> None:
        self.module = module
        self.optimizer = create_optimizer_v2(module, 'sgd', lr=_LR, momentum=0.9)
        needs_scaler = setup.device.type == 'cuda' and setup.amp_dtype == torch.float16
        self.scaler = NativeScaler(device='cuda') if needs_scaler else None

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield weights, buffers and the optimizer's state."""
        yield from chain(self.module.parameters(), self.module.buffers())
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))


class PlainModel:
    """A model under timm's plain task.

    Args:
        setup: How to run it.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.trained = Trained(setup, setup.create_model())
        self.task = ClassificationTask(self.trained.module, device=setup.device, verbose=False)
        if setup.torchcompile is not None:
            with told_as('--torchcompile', RuntimeError):
                self.task.compile(backend=setup.torchcompile)

    def step(self, count: int) -> Step:
        """Return the step on `count` images."""
        batch = self.setup.images(count), self.setup.labels(self.trained.module.num_classes, count)
        return Step(self.setup, self.trained, lambda: self.task(*batch)['loss'], batch)


class DebiasedModel:
    """A model under debiased tasks, one for each stylizer.

    Args:
        setup: How to run it.
        module: The model; the setup's where None.
    """

    def __init__(self, setup: Setup, module: nn.Module | None = None) -> None:
        self.setup = setup
        self.module = setup.create_model() if module is None else module
        self.compiled: nn.Module | None = None
        # The first task adds what optimizer and compilation have to know: auxiliary batch norms and the second pass.
        self.task(Unchanged(), setup.img_size)
        self.trained = Trained(setup, self.module)

    def task(self, stylizer: Stylizer, side: int | None = None) -> DebiasTask:
        """Return the debiased task with `stylizer`.

        Args:
            stylizer: Style transfer.
            side: Side of the stylised images in pixels, as multi-grid makes them: from half of the clean images' up.
                None without multi-grid.
        """
        task = create_debias_task(
            self.module,
            stylizer.to(self.setup.device),
            alpha=ALPHA,
            aux_bn=any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.module.modules()),
            # The first update takes the smallest size there is.
            multi_grid=None if side is None else MultiGrid((1,), min_size=side),
            generator=torch.Generator().manual_seed(_SEED),
            verbose=False,
        )
        if self.setup.torchcompile is not None:
            if self.compiled is None:
                with told_as('--torchcompile', RuntimeError):
                    self.compiled = task.compile(backend=self.setup.torchcompile)
            task.trainable_module = self.compiled
        return task

    def step(self, stylizer: Stylizer, side: int | None = None) -> Step:
        """Return the whole debiased step; the arguments are those of `task`."""
        task = self.task(stylizer, side)
        batch = task.normalize(self.setup.images()), self.setup.labels(self.trained.module.num_classes)
        held = (*batch, *stylizer.parameters(), *stylizer.buffers())
        return Step(self.setup, self.trained, lambda: task(*batch)['loss'], held)

    def classify_step(self) -> Step:
        """Return the step on n clean images and n others that are there already, taken for stylised ones."""
        task = self.task(Unchanged())
        clean, stylised = self.setup.images(2 * self.setup.batch_size).chunk(2)
        labels = self.setup.labels(self.trained.module.num_classes)

        def loss() -> torch.Tensor:
            clean_logits, stylised_logits = task.classify(clean, stylised)
            loss_stylised = task.criterion(stylised_logits, labels, labels.roll(1))
            return (task.criterion(clean_logits, labels) + loss_stylised) / 2

        return Step(self.setup, self.trained, loss, (clean, stylised, labels))


def stylise_call(setup: Setup, stylizer: Stylizer) -> Callable[[], object]:
    """Return a call that stylises n images with each other, as the step does it."""
    stylizer = stylizer.to(setup.device)
    pixels = setup.images().float()
    partners = torch.arange(setup.batch_size, device=setup.device).roll(1)

    @torch.no_grad()
    def call() -> None:
        with setup.autocast():
            stylizer.mix(pixels, partners, ALPHA)

    return call


def rest_step(setup: Setup) -> Step:
    """Return the debiased step without what costs: its stylizer changes nothing, its model looks at mean colours.

    What remains is drawing partners, undoing and redoing the normalisation, joining the halves, loss and accuracies.
    """
    return DebiasedModel(setup, setup.placed(_MeanColours())).step(Unchanged())


class Unchanged(Stylizer):
    """Leaves the content as it is."""

    def encode(self, images: torch.Tensor) -> Features:
        return (images,)

    def style(self, features: Features) -> Style:
        return (features[0].new_zeros(len(features[0])),)

    def decode(self, features: Features, style: Style, alpha: float) -> torch.Tensor:
        return features[0]


class _MeanColours(nn.Module):
    """The cheapest classifier that has a gradient."""

    num_classes = 1000

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, self.num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.mean((2, 3)))
