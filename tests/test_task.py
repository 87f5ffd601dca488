"""The debiased task: one step against the formula, and checkpoints that plain timm loads."""

import argparse
import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.task import resume_task_checkpoint
from timm.utils import CheckpointSaver
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from timm_debias import (
    DebiasError,
    DebiasTask,
    DualTargetLoss,
    StyleBank,
    convert_aux_bn,
    create_debias_task,
    create_stylizer,
)
from timm_debias.clean_augment import CleanAugment
from timm_debias.multi_grid import MultiGrid

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def create(stylizer, arch='test_resnet', **options) -> DebiasTask:
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=10)
    options = dict(mean=MEAN, std=STD, generator=torch.Generator().manual_seed(5), verbose=False) | options
    return create_debias_task(model, stylizer, num_classes=10, **options)


def normalised(images):
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_step_against_the_formula(colour_stylizer, images):
    """The step, restated with two plain models in place of the auxiliary batch norm."""
    labels = torch.arange(8)
    task = create(colour_stylizer, gamma=0.7, alpha=0.5)
    task.trainable_module.train()
    result = task(normalised(images), labels)

    twin = create(colour_stylizer, gamma=0.7, alpha=0.5)
    partners = twin.mix.sample(8)
    stylised = colour_stylizer(images, images[partners], 0.5)
    clean_model, stylised_model = (timm.create_model('test_resnet', num_classes=10).train() for _ in range(2))
    torch.manual_seed(0)
    state = timm.create_model('test_resnet', num_classes=10).state_dict()
    clean_model.load_state_dict(state)
    stylised_model.load_state_dict(state)
    clean_logits = clean_model(normalised(images))
    stylised_logits = stylised_model(normalised(stylised))
    loss_clean = F.cross_entropy(clean_logits, labels)
    loss_stylised = 0.7 * F.cross_entropy(stylised_logits, labels) + 0.3 * F.cross_entropy(stylised_logits, partners)
    torch.testing.assert_close(result['output'], clean_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result['loss_clean'], loss_clean.detach())
    torch.testing.assert_close(result['loss_stylised'], loss_stylised.detach())
    torch.testing.assert_close(result['loss'], (loss_clean + loss_stylised) / 2)
    assert result['top1_clean'] == 100 * (clean_logits.argmax(-1) == labels).float().mean()
    assert result['top1_stylised'] == 100 * (stylised_logits.argmax(-1) == labels).float().mean()
    logged = ('loss_clean', 'loss_stylised', 'top1_clean', 'top1_stylised')
    assert not any(result[name].requires_grad for name in logged), 'what is logged must not keep the graph'


def test_each_accuracy_is_of_its_half(colour_stylizer, images):
    task = create(colour_stylizer)
    labels = torch.arange(8)
    task.classify = lambda clean, stylised: (torch.eye(10)[labels], torch.eye(10)[labels // 2])
    result = task(normalised(images), labels)
    assert (result['top1_clean'], result['top1_stylised']) == (100, 12.5)


class Unread(TorchDispatchMode):
    """Makes it an error to read a value, which on an accelerator would make the host wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).split('.')[1]
        assert name not in ('_local_scalar_dense', 'nonzero', 'equal', '_unique2'), f'{name} reads a value'
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('multi_grid', [None, MultiGrid((1,), min_size=16)])
def test_no_value_is_read_on_the_host(images, monkeypatch, multi_grid):
    task = create(create_stylizer('adain_lite'), multi_grid=multi_grid)
    optimizer = timm.optim.create_optimizer_v2(task.trainable_module, 'sgd', lr=0.1, momentum=0.9)
    # On a CPU alone, values are read to look for NaN; partners are drawn on the CPU always.
    monkeypatch.setattr('timm_debias.stylizers.base._check_images', lambda images, what: None)
    monkeypatch.setattr('timm_debias.mix.draw_partners', lambda count, generator: torch.arange(count).roll(1))
    task.trainable_module.train()
    with Unread():
        with pytest.raises(AssertionError, match='reads a value'):
            images.sum().item()
        for _ in range(2):
            task(normalised(images), torch.arange(8))['loss'].backward()
            optimizer.step()
            optimizer.zero_grad()


def test_stylizer_is_outside_of_training(colour_stylizer, images):
    colour_stylizer.register_parameter('scale', nn.Parameter(torch.ones(1)))
    task = create(colour_stylizer)
    task.setup_ema()
    task(normalised(images), torch.arange(8))['loss'].backward()
    assert task.mix.stylizer.scale.grad is None
    trainable = {id(parameter) for parameter in task.get_trainable_module().parameters()}
    assert id(task.mix.stylizer.scale) not in trainable
    state = task.get_checkpoint_state() | task.get_checkpoint_state(ema=True)
    keys = [key for part in state.values() for key in part]
    assert keys
    assert not any('scale' in key or 'stylizer' in key for key in keys)


def test_every_parameter_gets_a_gradient(colour_stylizer, images):
    task = create(colour_stylizer)
    task.trainable_module.train()
    task(normalised(images), torch.arange(8))['loss'].backward()
    assert all(parameter.grad is not None for parameter in task.trainable_module.parameters())


def train_some(task, images, optimizer, steps):
    task.trainable_module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        task(normalised(images), torch.arange(8))['loss'].backward()
        optimizer.step()
        task.update_ema()


def save(task, optimizer, folder):
    args = argparse.Namespace(model='test_resnet')
    saver = CheckpointSaver(task.trainable_module, optimizer, args, checkpoint_dir=str(folder), task=task)
    saver.save_checkpoint(0, metric=1.0)
    return str(folder / 'last.pth.tar')


def test_checkpoint_loads_in_plain_timm(colour_stylizer, images, tmp_path):
    task = create(colour_stylizer)
    task.setup_ema(decay=0.5)
    optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=0.1)
    train_some(task, images, optimizer, 3)
    path = save(task, optimizer, tmp_path)
    for use_ema in (False, True):
        plain = timm.create_model('test_resnet', num_classes=10).eval()
        timm.models.load_checkpoint(plain, path, use_ema=use_ema, strict=True)
        trained = task.get_eval_model(ema=use_ema)
        trained = getattr(trained, 'module', trained).eval()
        assert torch.equal(plain(images), trained(images))
    plain = timm.create_model('test_resnet', num_classes=10, checkpoint_path=path).eval()
    assert not any('aux_bn' in key for key in plain.state_dict())


def test_resume_is_exact(colour_stylizer, images, tmp_path):
    whole = create(colour_stylizer)
    optimizer = torch.optim.SGD(whole.trainable_module.parameters(), lr=0.1, momentum=0.9)
    train_some(whole, images, optimizer, 2)
    path = save(whole, optimizer, tmp_path)
    generator_state = whole.mix.generator.get_state()
    train_some(whole, images, optimizer, 2)

    resumed = create(colour_stylizer)
    optimizer = torch.optim.SGD(resumed.trainable_module.parameters(), lr=0.1, momentum=0.9)
    assert resume_task_checkpoint(resumed, path, optimizer=optimizer, log_info=False) == 1
    resumed.mix.generator.set_state(generator_state)
    train_some(resumed, images, optimizer, 2)
    for name, value in whole.trainable_module.state_dict().items():
        assert torch.equal(value, resumed.trainable_module.state_dict()[name]), name


def test_resuming_across_auxiliary_batch_norm_is_refused(colour_stylizer, tmp_path):
    with_aux, without = create(colour_stylizer), create(colour_stylizer, aux_bn=False)
    for name, source, target, hint in (
        ('aux', with_aux, without, 'without --no-debias-aux-bn'),
        ('plain', without, with_aux, '--initial-checkpoint'),
    ):
        folder = tmp_path / name
        folder.mkdir()
        path = save(source, torch.optim.SGD(source.trainable_module.parameters(), lr=0.1), folder)
        with pytest.raises(DebiasError, match=hint):
            resume_task_checkpoint(target, path, log_info=False)


def test_defaults_come_from_the_model(colour_stylizer):
    model = timm.create_model('test_resnet', num_classes=10)
    model.pretrained_cfg = {**model.pretrained_cfg, 'mean': (0.1, 0.2, 0.3), 'std': (0.5, 0.6, 0.7)}
    task = create_debias_task(model, colour_stylizer, verbose=False)
    torch.testing.assert_close(task.normalize.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(task.normalize.std.flatten(), torch.tensor([0.5, 0.6, 0.7]))
    assert (task.criterion.gamma, task.mix.alpha) == (0.8, 0.5)
    assert any('aux_bn' in name for name, _ in model.named_modules())


def test_shared_batch_norm(colour_stylizer, images):
    task = create(colour_stylizer, aux_bn=False)
    task.trainable_module.train()
    task(normalised(images), torch.arange(8))
    assert not any('aux_bn' in name for name in task.trainable_module.state_dict())
    assert 'task_state' not in task.get_checkpoint_state()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_dtype_of_the_model(colour_stylizer, images, dtype):
    task = create(colour_stylizer, dtype=dtype)
    task.trainable_module.to(dtype)
    result = task(normalised(images).to(dtype), torch.arange(8))
    assert result['output'].dtype == dtype
    assert result['loss'].isfinite()


def test_autocast(colour_stylizer, images):
    task = create(colour_stylizer)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert task(normalised(images), torch.arange(8))['loss'].isfinite()


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_stylised_images_that_are_not_finite_do_not_reach_the_model(colour_stylizer, images, value):
    """The loss is NaN, so that whoever looks at losses sees it; what the model has seen and counted is finite."""
    task = create(colour_stylizer)
    model = task.trainable_module.train()
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    colour_stylizer.decode = lambda features, style, alpha: features[0].index_fill(0, torch.tensor([5]), value)
    result = task(normalised(images), torch.arange(8))
    assert result['loss'].isnan()
    assert result['output'].isfinite().all()
    assert seen[0].isfinite().all()
    assert not seen[0][8 + 5].any()
    assert all(buffer.isfinite().all() for buffer in model.buffers())


class TestMultiGrid:
    """Stylised images of another size than the clean ones."""

    def create(self, stylizer, **options):
        return create(stylizer, multi_grid=MultiGrid((2, 4)), **options)

    @pytest.mark.parametrize(('position', 'size'), [((0, 0), 16), ((0, 1), 23), ((1, 0), 23), ((1, 1), 32)])
    def test_step_against_the_formula(self, colour_stylizer, images, position, size):
        labels = torch.arange(8)
        task = self.create(colour_stylizer, gamma=0.7)
        partners = self.create(colour_stylizer).mix.sample(8)
        task.set_position(*position)
        result = task.train()(normalised(images), labels)
        chosen = torch.tensor([int(place * 32 / size) for place in range(size)])
        shrunk = images[:, :, chosen][..., chosen]
        clean_model, stylised_model = (create(colour_stylizer, aux_bn=False).trainable_module.train() for _ in range(2))
        clean_logits = clean_model(normalised(images))
        stylised_logits = stylised_model(normalised(colour_stylizer(shrunk, shrunk[partners], 0.5)))
        expected = 0.7 * F.cross_entropy(stylised_logits, labels) + 0.3 * F.cross_entropy(stylised_logits, partners)
        torch.testing.assert_close(result['loss_stylised'], expected.detach())
        torch.testing.assert_close(result['loss_clean'], F.cross_entropy(clean_logits, labels).detach())

    def test_checkpoint_is_that_of_the_plain_model(self, colour_stylizer, images, tmp_path):
        task = self.create(colour_stylizer)
        optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=0.1)
        train_some(task, images, optimizer, 2)
        plain = timm.create_model('test_resnet', num_classes=10, checkpoint_path=save(task, optimizer, tmp_path)).eval()
        assert torch.equal(plain(images), task.trainable_module.eval()(images))


class TestCleanAugment:
    """Mixup and erasing touch the clean half alone."""

    def create(self, stylizer, **options):
        augment = CleanAugment(Mixup(mixup_alpha=0.4, label_smoothing=0.1, num_classes=10))
        return create(stylizer, clean_augment=augment, base_loss=SoftTargetCrossEntropy(), **options)

    def test_step_against_the_formula(self, colour_stylizer, images):
        labels = torch.arange(8)
        task = self.create(colour_stylizer, gamma=0.7, aux_bn=False)
        partners = self.create(colour_stylizer).mix.sample(8)
        np.random.seed(3)
        result = task.train()(normalised(images), labels)
        draws = np.random.RandomState(3)
        draws.rand()
        share = draws.beta(0.4, 0.4)
        batch = normalised(images)
        mixed = share * batch + (1 - share) * batch.flip(0)
        stylised = normalised(colour_stylizer(images, images[partners], 0.5))
        logits = create(colour_stylizer, aux_bn=False).trainable_module.train()(torch.cat([mixed, stylised]))
        smooth = 0.9 * torch.eye(10) + 0.01
        losses = [
            F.cross_entropy(logits[:8], share * smooth[labels] + (1 - share) * smooth[labels.flip(0)]),
            F.cross_entropy(logits[8:], 0.7 * smooth[labels] + 0.3 * smooth[partners]),
        ]
        torch.testing.assert_close(result['loss_clean'], losses[0].detach())
        torch.testing.assert_close(result['loss_stylised'], losses[1].detach())

    def test_binary_cross_entropy(self, colour_stylizer, images):
        """Its target is the soft target of both labels, not smoothed a second time."""
        task = self.create(colour_stylizer, gamma=0.7, aux_bn=False)
        task.criterion = DualTargetLoss(BinaryCrossEntropy(smoothing=0.0), 0.7)
        partners = self.create(colour_stylizer).mix.sample(8)
        np.random.seed(3)
        logits = []
        task.trainable_module.register_forward_hook(lambda *call: logits.append(call[-1]))
        result = task.train()(normalised(images), torch.arange(8))
        smooth = 0.9 * torch.eye(10)[:8] + 0.01
        expected = F.binary_cross_entropy_with_logits(logits[0][8:], 0.7 * smooth + 0.3 * smooth[partners])
        torch.testing.assert_close(result['loss_stylised'], expected.detach())


class TestStyleBank:
    @pytest.mark.parametrize('alpha', [0.3, 1.0])
    def test_step_against_the_formula(self, colour_stylizer, images, alpha):
        labels = torch.arange(8)
        bank = StyleBank(colour_stylizer, images[:3])
        task = create(colour_stylizer, style_bank=bank, aux_bn=False, alpha=alpha)
        drawn = create(colour_stylizer, style_bank=bank).mix.sample(8)
        assert task.criterion.gamma == 1
        result = task.train()(normalised(images), labels)
        stylised = normalised(colour_stylizer(images, images[drawn], alpha))
        logits = create(colour_stylizer, aux_bn=False).trainable_module.train()(
            torch.cat([normalised(images), stylised])
        )
        torch.testing.assert_close(result['loss'], F.cross_entropy(logits, labels.repeat(2)))

    @pytest.mark.parametrize('gamma', [0, 0.8])
    def test_refuses_a_weight_for_labels_it_has_not(self, colour_stylizer, images, gamma):
        with pytest.raises(DebiasError, match=f'gamma is {gamma}, and styles of a bank have no label'):
            create(colour_stylizer, style_bank=StyleBank(colour_stylizer, images), gamma=gamma)


class TestRefuses:
    def test_data_parallel(self, colour_stylizer):
        model = nn.DataParallel(timm.create_model('test_resnet'))
        with pytest.raises(DebiasError, match=r'DataParallel.*torchrun'):
            create_debias_task(model, colour_stylizer)

    @pytest.mark.parametrize('arch', ['test_resnet', 'test_vit'])
    def test_other_channels(self, colour_stylizer, arch):
        with pytest.raises(DebiasError, match='1 input channels'):
            create_debias_task(timm.create_model(arch, in_chans=1), colour_stylizer)

    @pytest.mark.parametrize('outputs', [7, 12])
    def test_other_classes(self, colour_stylizer, outputs):
        model = convert_aux_bn(timm.create_model('test_resnet', num_classes=outputs))
        with pytest.raises(DebiasError, match=f'{outputs} outputs and num_classes is 10'):
            create_debias_task(model, colour_stylizer, num_classes=10)

    def test_unknown_stylizer(self):
        with pytest.raises(DebiasError, match="unknown stylizer 'adain_light'"):
            create_debias_task(timm.create_model('test_resnet'), 'adain_light')

    @pytest.mark.parametrize('options', [{'gamma': 1.2}, {'alpha': -1}, {'mean': (0.5,), 'std': (0.5,)}])
    def test_values_out_of_range(self, colour_stylizer, options):
        with pytest.raises(DebiasError):
            create_debias_task(timm.create_model('test_resnet'), colour_stylizer, **options)

    def test_a_batch_of_one(self, colour_stylizer, images):
        with pytest.raises(DebiasError, match='a batch of 1'):
            create(colour_stylizer)(normalised(images[:1]), torch.zeros(1, dtype=torch.long))
