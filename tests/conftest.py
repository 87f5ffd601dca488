"""What the tests share."""

import os
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from corruption_pictures import draw_photo
from miniatures import SUITE_FLAGS, build_miniatures, build_model
from training_runs import build_images, train_command
from web_stand_in import PlainHandler, WebStandIn

from timm_debias.cli import main
from timm_debias.stylizers import Stylizer
from timm_debias.stylizers.base import Features, Style, adain, mean_std

os.environ.setdefault('OMP_NUM_THREADS', '1')  # For the processes that tests start.
torch.set_num_threads(1)  # Two test workers share two cores.


class ColourStylizer(Stylizer):
    """The smallest stylizer there is: gives an image the mean and spread of another one's colours."""

    def encode(self, images: torch.Tensor) -> Features:
        return (images,)

    def style(self, features: Features) -> Style:
        return mean_std(features[0])

    def decode(self, features: Features, style: Style, alpha: float) -> torch.Tensor:
        return adain(features[0], *style, alpha)


@pytest.fixture(autouse=True, scope='session')
def without_autoattack():
    """Leave AutoAttack out of `--benchmarks all`, as where its package is not installed: it takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('timm_debias.validation.selection.find_spec', lambda name: None)
        yield


@pytest.fixture
def colour_stylizer() -> Stylizer:
    return ColourStylizer().eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Eight random images [8, 3, 32, 32] in [0, 1], each with colours of its own."""
    generator = torch.Generator().manual_seed(0)
    tint = torch.rand(8, 3, 1, 1, generator=generator)
    return (0.5 * torch.rand(8, 3, 32, 32, generator=generator) + 0.5 * tint).clamp(0, 1)


@pytest.fixture(scope='session')
def photo() -> np.ndarray:
    """A picture to corrupt, [96, 96, 3]."""
    return draw_photo()


@pytest.fixture(scope='session')
def photographs() -> Path:
    """Folder of real photographs; tests that want it skip where it is missing."""
    folder = Path(os.environ.get('TIMM_DEBIAS_DATA') or Path(__file__).parents[1] / '../shared/data')
    if not folder.is_dir():
        pytest.skip(f'no real images at {folder}; set TIMM_DEBIAS_DATA')
    return folder


@pytest.fixture(scope='session')
def miniatures(photographs, tmp_path_factory) -> Path:
    """A data root with a few real photographs in the layout of every benchmark."""
    if not (photographs / 'imagenet_samples').is_dir():
        pytest.skip(f'no ImageNet photographs in {photographs}')
    root = tmp_path_factory.mktemp('miniatures')
    build_miniatures(photographs / 'imagenet_samples', root)
    return root


@pytest.fixture(scope='session')
def suite_checkpoint(miniatures, tmp_path_factory) -> Path:
    """A model of 1,000 classes that is right on some of the miniatures."""
    path = tmp_path_factory.mktemp('model') / 'model.pth'
    torch.save(build_model(miniatures).state_dict(), path)
    return path


@pytest.fixture
def suite(miniatures, suite_checkpoint):
    """Runs validate.py on the miniatures, with further arguments; returns the exit code."""

    def run(*argv, root=miniatures) -> int:
        arguments = [*SUITE_FLAGS, '--checkpoint', suite_checkpoint, '--data-root', root, *argv]
        return main(['validate', *map(str, arguments)])

    return run


@pytest.fixture(scope='session')
def training_images(tmp_path_factory) -> Path:
    """The image folder of tiny training runs."""
    root = tmp_path_factory.mktemp('training_images')
    build_images(root)
    return root


@pytest.fixture(name='train_command')
def train_command_fixture(training_images):
    """Returns the command of a tiny training run into a folder, with further flags."""
    return partial(train_command, training_images)


@pytest.fixture
def web(monkeypatch):
    """A running `WebStandIn`, found under its HTTPS address."""
    monkeypatch.setattr(urllib.request, 'HTTPSHandler', PlainHandler)
    stand_in = WebStandIn()
    stand_in.start()
    yield stand_in
    stand_in.close()
