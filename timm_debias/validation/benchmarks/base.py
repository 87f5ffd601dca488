"""What a benchmark is: where its images lie, how they are given to the model, and what is counted."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image
from torch import nn

from ..config import SuiteConfig
from ..scores import Score, State

Attack = Callable[[nn.Module, torch.Tensor, torch.Tensor, Sequence[torch.Generator]], torch.Tensor]
"""From a model of images in [0, 1], images, labels and random numbers for each image to perturbed images."""


class Images(Protocol):
    """Images of one part, in a fixed order."""

    fingerprint: str
    """SHA-256 that says which images these are."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> Image.Image:
        """Return an RGB image; raises what the decoder raises."""

    def name(self, index: int) -> str:
        """Return what to call an image in an error."""


@dataclass(frozen=True)
class Part:
    """Images that are measured together; their result is stored when the last is counted."""

    name: str
    """Benchmark, then what tells the parts apart, such as 'imagenet-c/fog/3'."""

    images: Images
    targets: torch.Tensor
    """[N] or [N, K] int64: what `score` compares the logits with; the true classes for an attack."""

    score: Callable[[], Score]
    attack: Attack | None = None
    cost: float = 1.0
    """Time of an image, in forward passes: for the estimate of the time left."""


@dataclass(frozen=True)
class Setting:
    """What a benchmark may depend on besides the model."""

    suite: SuiteConfig
    img_size: int
    """Width of the model's input in pixels."""

    seed: int
    num_classes: int = 1000
    """Classes of the model."""

    class_names: tuple[str, ...] = ()
    """Their names in their order, where the model tells them."""


@dataclass(frozen=True)
class Subset:
    """Which of the validation images are measured, as `--subset` says."""

    number: int

    files: frozenset[str] | None
    """Their paths below a folder of class folders, with forward slashes; None where they are to be drawn."""

    column: str
    """What to add to the names of columns."""

    words: str
    """What to say beside figures."""

    origin: str
    """Where the choice is from, for the protocol."""


@dataclass(frozen=True)
class Contents:
    """What there is to measure."""

    parts: list[Part]
    partial: bool = False
    """Whether images or classes of the official benchmark are missing."""

    subset: Subset | None = None
    """Which images of each part these are, where `--subset` asked for some."""

    notes: list[str] = field(default_factory=list)
    """Sentences on the data that belong to the protocol."""

    image_size: int | None = None
    """As `Benchmark.image_size`, where the folder says it."""


@dataclass(frozen=True)
class Summary:
    """The result of a benchmark."""

    metrics: dict[str, Any]
    """All figures as JSON values: percent, with intervals."""

    headline: dict[str, float | None]
    """The figures for tables, percent, by a short name such as 'top1' or 'mce'."""

    notes: list[str] = field(default_factory=list)
    """Sentences on figures that are missing."""


class Benchmark(ABC):
    """A benchmark; a subclass with `@register_benchmark` is known everywhere."""

    name: ClassVar[str]
    folders: ClassVar[tuple[str, ...]] = ()
    """Usual names of its folder under the data root; empty where it has none."""

    needs: ClassVar[tuple[str, ...]]
    """Benchmarks whose folders it reads, its own first; empty for images drawn by code."""

    layout: ClassVar[str]
    num_images: ClassVar[int | None]
    """Official number of images; None where the folder is the user's own."""

    metric: ClassVar[str]
    source: ClassVar[str]

    num_classes: ClassVar[int | None] = 1000
    """Classes that the model must have; None: as many as its folder."""

    image_size: ClassVar[int | None] = None
    """Size at which the images were published and are given to the model as they are; None: the model's transform."""

    flags: ClassVar[tuple[str, ...]] = ()
    """Fields of `SuiteConfig` that only this and some other benchmarks heed."""

    package: ClassVar[str] = ''
    """Module that it needs and timm-debias does not install by itself, but as the extra `extra`."""

    extra: ClassVar[str] = ''

    @abstractmethod
    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Check the data and return what there is to measure.

        Args:
            roots: The folder of each benchmark in `needs`.
            setting: What else counts.

        Raises:
            DebiasError: the data is not the benchmark's; says what was found and expected.
        """

    @abstractmethod
    def protocol(self, setting: Setting) -> str:
        """Return one line that says how the logits become the figures, without the preprocessing."""

    @abstractmethod
    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return the figures.

        Args:
            states: The state of each part's score, by name.
            measured: The summaries of benchmarks of this run that come before this one by name.
        """
