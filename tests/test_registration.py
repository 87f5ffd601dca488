"""timm's factories before, while and after timm_debias is registered."""

import pickle
import random

import numpy as np
import pytest
import timm.data.auto_augment as auto_augment
import timm.loss
import timm.task
import timm.task.classification
import torch
from PIL import Image
from timm.data import create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.task import ClassificationTask

from timm_debias import DebiasError, DualTargetLoss, StyleBank, register, unregister
from timm_debias.registration import uses_stylize


@pytest.fixture(autouse=True)
def clean_timm():
    yield
    unregister()


@pytest.fixture
def bank(colour_stylizer, images):
    return StyleBank(colour_stylizer, images)


def test_loss_type_wherever_timm_has_imported_it():
    register()
    for module in (timm.loss, timm.task, timm.loss._loss_factory):
        assert 'shape_texture' in module.LOSS_TYPES
    for module in (timm.loss, timm.task, timm.loss._loss_factory, timm.task.classification):
        loss = module.create_classification_loss('shape_texture', shape_texture_gamma=0.3)
        assert isinstance(loss, DualTargetLoss)
        assert loss.gamma == 0.3
    smooth = timm.loss.create_classification_loss(loss_type='shape_texture', smoothing=0.1, shape_texture_base='bce')
    assert type(smooth.base) is timm.loss.BinaryCrossEntropy
    assert type(timm.loss.create_classification_loss('ce')) is torch.nn.CrossEntropyLoss
    with pytest.raises(ValueError, match='shape_texture'):
        timm.loss.create_classification_loss('nonsense')


def test_plain_timm_task_trains_with_the_loss_type(images):
    register()
    kwargs = dict(loss_type='shape_texture', soft_targets=True)
    task = ClassificationTask(torch.nn.Flatten(), criterion_kwargs=kwargs, verbose=False)
    target = torch.rand(8, 3 * 32 * 32).softmax(-1)
    torch.testing.assert_close(task(images, target)['loss'], SoftTargetCrossEntropy()(images.flatten(1), target))


def test_idempotent_and_undone(bank):
    before = {
        'types': timm.loss.LOSS_TYPES,
        'create': timm.loss.create_classification_loss,
        'task': timm.task.classification.create_classification_loss,
        'choices': auto_augment.rand_augment_choices,
        'ops': dict(auto_augment.NAME_TO_OP),
        'levels': dict(auto_augment.LEVEL_TO_ARG),
    }
    register()
    once = timm.loss.create_classification_loss
    register(bank)
    register(bank)
    assert timm.loss.create_classification_loss is once
    assert timm.loss.LOSS_TYPES.count('shape_texture') == 1
    unregister()
    unregister()
    after = {
        'types': timm.loss.LOSS_TYPES,
        'create': timm.loss.create_classification_loss,
        'task': timm.task.classification.create_classification_loss,
        'choices': auto_augment.rand_augment_choices,
        'ops': auto_augment.NAME_TO_OP,
        'levels': auto_augment.LEVEL_TO_ARG,
    }
    assert before == after


def test_timm_whose_internals_moved(monkeypatch):
    monkeypatch.delattr(auto_augment, 'LEVEL_TO_ARG')
    with pytest.raises(DebiasError, match=rf'timm {timm.__version__} has no timm.data.auto_augment.LEVEL_TO_ARG'):
        register()


def picture(images, index=0):
    return Image.fromarray((images[index] * 255).byte().permute(1, 2, 0).numpy())


def test_auto_augment_string_names_the_operation(bank, images):
    register(bank)
    transform = create_transform(
        (3, 32, 32), is_training=True, auto_augment='rand-m10-n1-p1-tstylize', scale=(1, 1), ratio=(1, 1), hflip=0,
        color_jitter=0, use_prefetcher=True,
    )  # fmt: skip
    random.seed(0)
    np.random.seed(0)
    original = picture(images)
    means = {tuple(np.round(np.asarray(transform(original)).mean((1, 2)))) for _ in range(40)}
    # At strength 1 the result has the mean colour of one of the bank's images, drawn anew each time.
    expected = (images.mean((2, 3)) * 255).numpy()
    assert len(means) > 3
    for mean in means:
        assert np.abs(expected - np.array(mean)).max(1).min() < 12  # uint8 clipping moves the mean a little


def test_operation_beside_those_of_randaugment(bank):
    register(bank)
    transform = auto_augment.rand_augment_transform('rand-m9-trandstylize-inc1', {})
    names = [op.name for op in transform.ops]
    assert names == [*auto_augment._RAND_INCREASING_TRANSFORMS, 'Stylize']
    assert [op.name for op in auto_augment.rand_augment_transform('rand-m9', {}).ops].count('Stylize') == 0


@pytest.mark.parametrize(('magnitude', 'alpha'), [(0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0)])
def test_magnitude_is_ten_times_alpha(bank, magnitude, alpha):
    register(bank)
    assert auto_augment.LEVEL_TO_ARG['Stylize'](magnitude, {}) == (alpha,)


def test_operation_keeps_mode_and_size_and_travels_to_workers(bank, images):
    register(bank)
    op = pickle.loads(pickle.dumps(auto_augment.NAME_TO_OP['Stylize']))
    grey = picture(images).convert('L')
    assert op(grey, 1.0).mode == 'L'
    assert op(grey, 1.0).size == (32, 32)
    identical = np.abs(np.asarray(op(picture(images), 0.0), int) - np.asarray(picture(images), int)).max()
    assert identical <= 1


def test_without_styles_the_set_is_refused():
    register()
    with pytest.raises(DebiasError, match=r'register\(style_bank'):
        auto_augment.rand_augment_transform('rand-m5-tstylize', {})


def test_bank_needs_images(colour_stylizer):
    with pytest.raises(DebiasError, match='at least one image'):
        StyleBank(colour_stylizer, [])


@pytest.mark.parametrize(
    ('config', 'expected'),
    [('rand-m5-tstylize', True), ('rand-trandstylize-m9', True), ('rand-m9-tweights', False), ('augmix-m3', False),
     (None, False), ('', False), ('rand-m9', False)],
)  # fmt: skip
def test_uses_stylize(config, expected):
    assert uses_stylize(config) is expected
