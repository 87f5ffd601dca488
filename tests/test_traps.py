"""What a port of the method gets wrong without a word: each of these fails if the care for it is taken away.

docs/training.md lists them. What is already tested where it is made is not repeated here: the auxiliary batch norm in
tests/test_aux_bn.py, partners in tests/test_mix.py, the learning rate in tests/test_warmup_multistep.py.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import FastCollateMixup, Mixup
from torchvision.models.resnet import Bottleneck, ResNet

from timm_debias import DebiasError, create_debias_task
from timm_debias.clean_augment import CleanAugment
from timm_debias.flags import parse_with_yaml
from timm_debias.machine import Machine
from timm_debias.multi_grid import MultiGrid
from timm_debias.stylizers import Stylizer
from timm_debias.training import debias as debias_module
from timm_debias.training.data import build_datasets, build_train_loader
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.model import build_model, build_task, resolve_input
from timm_debias.training.optim import build_optimizer

HPARAMS = Path(__file__).parents[1] / 'hparams'
OF_THE_PAPER = ['resnet50', 'resnet101', 'resnet152', 'resnext101_32x4d_mixup', 'resnext101_32x4d_cutmix',
                'resnet50_shape_biased', 'resnet50_texture_biased']  # fmt: skip
COLOURS = [(40, 90, 160), (200, 60, 30), (70, 180, 50), (220, 210, 190)]
CPU = Machine(torch.device('cpu'))
FLAGS = ['--model', 'test_resnet', '--num-classes', '4', '--img-size', '32', '--device', 'cpu', '-j', '0', '-b', '5']
FLAGS += ['--scale', '1', '1', '--ratio', '1', '1', '--color-jitter', '0']  # With --no-aug, timm would not erase.
FLAGS += ['--debias', '--mean', '0.4', '0.5', '0.6', '--std', '0.2', '0.25', '0.3', '--smoothing', '0']


class Spy(Stylizer):
    """Gives an image its partner's colours, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = []

    def mix(self, images, permutation, alpha=1.0):
        self.shown.append(images.clone())
        return images[permutation]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """22 images of one colour each, whose class is the colour."""
    root = tmp_path_factory.mktemp('data')
    for label, colour in enumerate(COLOURS):
        (root / 'train' / str(label)).mkdir(parents=True)
        for number in range(4 + label):
            Image.new('RGB', (32, 32), colour).save(root / 'train' / str(label) / f'{number}.png')
    return root


@pytest.fixture
def build(folder, monkeypatch):
    """Build loader, task and the stylizer that spies, from further flags."""

    def make(*flags):
        spy = Spy()
        monkeypatch.setattr(debias_module, 'create_stylizer', lambda *_: spy)
        argv = ['--data-dir', str(folder), '--val-split', '', *FLAGS, *map(str, flags)]
        config = config_from_args(parse_with_yaml(build_parser(), argv))
        torch.manual_seed(0)
        model = build_model(config, CPU)
        input_config = resolve_input(config, model, verbose=False)
        dataset, _ = build_datasets(config, input_config, 4)
        loader, mixup_fn = build_train_loader(config, dataset, None, input_config, 4, CPU)
        assert mixup_fn is None
        return loader, build_task(config, model, input_config, 4, CPU), spy

    return make


def classes(images: torch.Tensor) -> torch.Tensor:
    """The class of images in [0, 1], by their mean colour."""
    colours = torch.tensor(COLOURS) / 255
    return torch.cdist(images.mean((2, 3)), colours).argmin(dim=1)


class TestStylisedImages:
    def test_texture_labels_are_those_of_the_partners_in_the_shuffled_batch(self, build):
        loader, task, _ = build()
        orders = []
        for images, labels in loader:
            stylised, texture_labels = task.stylise(images, labels, task.mix.sample(len(images)), (32, 32))
            assert torch.equal(classes(task.normalize.inverse(images)), labels)
            assert torch.equal(classes(task.normalize.inverse(stylised)), texture_labels)
            orders += labels.tolist()
        assert orders != sorted(orders)

    def test_they_are_made_before_normalisation(self, build):
        """The stylizer is shown the colours of the files, in [0, 1], and the model what the loader would give it."""
        loader, task, spy = build()
        images, labels = next(iter(loader))
        passed = []
        task.trainable_module.register_forward_pre_hook(lambda _, call: passed.append(call[0]))
        task.train()(images, labels)
        torch.testing.assert_close(spy.shown[0].amax((2, 3)), torch.tensor(COLOURS)[labels] / 255)
        assert torch.equal(passed[0][:5], images)
        torch.testing.assert_close(passed[0][5:].mean(), images.mean())

    @pytest.mark.parametrize('prefetcher', [[], ['--no-prefetcher']], ids=['prefetcher', 'no prefetcher'])
    def test_they_are_neither_erased_nor_mixed(self, build, prefetcher):
        loader, task, spy = build('-b', 6, '--reprob', 1, '--remode', 'const', '--mixup', 1, '--cutmix', 1, *prefetcher)
        assert not isinstance(getattr(loader, 'collate_fn', None), FastCollateMixup)
        passed = []
        task.trainable_module.register_forward_pre_hook(lambda _, call: passed.append(call[0]))
        for images, labels in loader:
            assert labels.dtype == torch.int64
            result = task.train()(images, labels)
            assert result['loss'].isfinite()
            torch.testing.assert_close(spy.shown[-1].amax((2, 3)), torch.tensor(COLOURS)[labels] / 255)
            clean, stylised = passed[-1].chunk(2)
            assert (clean == 0).flatten(1).any(dim=1).all()  # Erased, in normalised images.
            assert stylised.flatten(2).std(dim=2).max() < 1e-6  # Still of one colour.

    @pytest.mark.parametrize('policy', ['rand-m9-n2-mstd0', 'v0', 'augmix-m9-w3'])
    def test_single_images_are_augmented_before(self, build, policy):
        """The stylizer is shown what RandAugment, AutoAugment or AugMix have made, as the clean half has it."""
        loader, task, spy = build('--aa', policy)
        colours, clean = [], []
        task.trainable_module.register_forward_pre_hook(lambda _, call: clean.append(call[0][:5]))
        for images, labels in loader:
            task.train()(images, labels)
            colours.append(torch.tensor(COLOURS)[labels] / 255)
        shown = torch.cat(spy.shown)
        torch.testing.assert_close(shown, task.normalize.inverse(torch.cat(clean)))
        as_in_the_file = (shown - torch.cat(colours)[..., None, None]).abs().amax((1, 2, 3)) < 1e-3
        assert not as_in_the_file.all()


class TestBatches:
    def test_incomplete_batches_are_dropped(self, build):
        loader, _, _ = build()
        assert [len(images) for images, _ in loader] == [5, 5, 5, 5]

    def test_odd_and_smallest_batches_train(self, build):
        _, task, _ = build()
        for size in (2, 3, 7):
            result = task.train()(torch.randn(size, 3, 32, 32), torch.arange(size) % 4)
            assert result['loss'].isfinite()
            assert result['output'].shape == (size, 4)

    def test_a_batch_of_one_is_refused(self, build):
        with pytest.raises(DebiasError, match='a batch of 1'):
            build()[1](torch.randn(1, 3, 32, 32), torch.tensor([0]))


@pytest.mark.parametrize('grid', [None, MultiGrid((1, 2))], ids=['one size', 'multi-grid'])
class TestAuxiliaryBatchNorm:
    """Statistics of the two halves, in training, in the moving average and in evaluation."""

    def create(self, stylizer, grid):
        torch.manual_seed(0)
        model = timm.create_model('test_resnet', num_classes=10)
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = 0.25
        task = create_debias_task(model, stylizer, num_classes=10, multi_grid=grid, mean=(0, 0, 0), std=(1, 1, 1),
                                  generator=torch.Generator().manual_seed(0), verbose=False)  # fmt: skip
        return task, task.trainable_module

    def test_momentum_and_count_of_batches(self, grid, colour_stylizer, images):
        """Each statistic moves by the momentum towards that of its half, once a step."""
        task, model = self.create(colour_stylizer, grid)
        norm = next(module for module in model.modules() if hasattr(module, 'aux_bn'))
        seen = {name: torch.zeros(norm.num_features) for name in ('main', 'aux')}
        before_norm = []
        norm.register_forward_pre_hook(lambda _, call: before_norm.append(call[0].detach()))
        for step in range(3):
            before_norm.clear()
            task.set_position(0, step)
            task.train()(images, torch.arange(8))
            halves = before_norm if len(before_norm) == 2 else before_norm[0].chunk(2)
            for name, half in zip(('main', 'aux'), halves, strict=True):
                seen[name] = 0.75 * seen[name] + 0.25 * half.mean((0, 2, 3))
        torch.testing.assert_close(norm.running_mean, seen['main'])
        torch.testing.assert_close(norm.aux_bn.running_mean, seen['aux'])
        counts = {int(buffer) for name, buffer in model.named_buffers() if name.endswith('num_batches_tracked')}
        assert counts == {3}

    def test_moving_average_covers_it(self, grid, colour_stylizer, images):
        task, model = self.create(colour_stylizer, grid)
        task.setup_ema(decay=0.75)
        averages = {name: tensor.clone().double() for name, tensor in model.state_dict().items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            task.train()(images, torch.arange(8))['loss'].backward()
            optimizer.step()
            task.update_ema()
            for name, tensor in model.state_dict().items():
                averages[name] = 0.75 * averages[name] + 0.25 * tensor.double()
        found = task.get_trainable_module(ema=True).module.state_dict()
        auxiliary = [name for name in found if '.aux_bn.' in name and 'num_batches' not in name]
        assert len(auxiliary) >= 8
        for name in auxiliary:
            torch.testing.assert_close(found[name].double(), averages[name], atol=1e-6, rtol=1e-5)

    def test_evaluation_uses_the_statistics_of_clean_images(self, grid, colour_stylizer, images):
        task, model = self.create(colour_stylizer, grid)
        task.train()(images, torch.arange(8))
        before = model.eval()(images)
        for name, tensor in model.state_dict().items():
            if '.aux_bn.' in name:
                tensor.fill_(7)
        assert torch.equal(model(images), before)


class TestWeightDecay:
    """The paper decays all parameters; timm leaves out those of one dimension unless told."""

    def groups(self, stylizer, *argv):
        config = config_from_args(parse_with_yaml(build_parser(), [*map(str, argv), '--lr', '0.1']))
        model = timm.create_model('test_resnet')
        create_debias_task(model, stylizer, verbose=False)
        optimizer = build_optimizer(config, model)
        decays = {
            id(parameter): group['weight_decay'] for group in optimizer.param_groups for parameter in group['params']
        }
        return optimizer, {name: decays[id(parameter)] for name, parameter in model.named_parameters()}

    @pytest.mark.parametrize('name', OF_THE_PAPER)
    def test_recipes_decay_all_parameters(self, colour_stylizer, name):
        optimizer, decays = self.groups(colour_stylizer, '-c', HPARAMS / f'{name}.yaml')
        assert set(decays.values()) == {1e-4}
        assert any('.aux_bn.' in name for name in decays)
        assert not optimizer.defaults['nesterov']

    def test_by_default_as_timm(self, colour_stylizer):
        _, decays = self.groups(colour_stylizer)
        model = timm.create_model('test_resnet')
        create_debias_task(model, colour_stylizer, verbose=False)
        for name, parameter in model.named_parameters():
            assert decays[name] == (2e-5 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize('name', OF_THE_PAPER)
def test_recipes_start_as_torchvision_does(name):
    """timm starts the last batch norm of a block at 0, the reference's models at 1; the rest starts alike."""
    config = config_from_args(parse_with_yaml(build_parser(), ['-c', str(HPARAMS / f'{name}.yaml'), '--device', 'cpu']))
    shallow = config.model.model_kwargs | {'layers': [1, 2, 1, 1]}
    model = build_model(replace(config, model=replace(config.model, model_kwargs=shallow)), CPU)
    width = {'groups': 32, 'width_per_group': 4} if 'resnext' in name else {}
    expected = ResNet(Bottleneck, shallow['layers'], **width).state_dict()
    ours = model.state_dict()
    assert set(ours) == set(expected)
    for key in (key for key, tensor in expected.items() if tensor.is_floating_point()):
        # Draws differ, distributions do not.
        found, theirs = ours[key], expected[key]
        noise = float(theirs.std()) / theirs.numel() ** 0.5
        assert float(found.mean()) == pytest.approx(float(theirs.mean()), abs=8 * noise), key
        assert float(found.std()) == pytest.approx(float(theirs.std()), rel=0.1), key


def test_mixing_keeps_the_labels_of_stylised_images(colour_stylizer, images):
    """With γ = 1 the stylised half is trained on its own label, whatever the clean half is mixed with."""
    augment = CleanAugment(Mixup(mixup_alpha=1.0, label_smoothing=0.0, num_classes=10))
    model = timm.create_model('test_resnet', num_classes=10)
    task = create_debias_task(
        model, colour_stylizer, gamma=1.0, clean_augment=augment, aux_bn=False, verbose=False,
    )  # fmt: skip
    np.random.seed(0)
    logits = []
    model.register_forward_hook(lambda *call: logits.append(call[-1]))
    result = task.eval()(images, torch.arange(8))
    expected = torch.nn.functional.cross_entropy(logits[0][8:], torch.arange(8))
    torch.testing.assert_close(result['loss_stylised'], expected.detach())
