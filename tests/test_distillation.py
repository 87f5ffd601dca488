"""Distillation, against its losses written out."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import save_for_hf
from tiny import FLAGS, make_folder

from timm_debias.cli import main
from timm_debias.machine import Machine
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.model import build_task

TARGET = torch.tensor([0, 2, 1, 1])


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp('teacher')
    torch.manual_seed(1)
    save_for_hf(timm.create_model('test_resnet', num_classes=3), str(folder), safe_serialization=True)
    return f'local-dir:{folder}'


def losses(teacher, model_name, *argv, **options):
    """Return the result of a step, the student, the teacher and the images."""
    config = config_from_args(build_parser().parse_args(['--kd-model-name', teacher, *map(str, argv)]))
    torch.manual_seed(0)
    student = timm.create_model(model_name, num_classes=3, **options)
    task = build_task(config, student, {}, 3, Machine(torch.device('cpu')))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return task(images, TARGET), student, timm.create_model(teacher, pretrained=True).eval(), images


def divergence(student, teacher, temperature):
    """KL(teacher ‖ student) at a temperature, a mean over images, times its square."""
    p, q = (teacher / temperature).softmax(dim=1), (student / temperature).softmax(dim=1)
    return (p * (p.log() - q.log())).sum(dim=1).mean() * temperature**2


def test_logits(teacher):
    result, _, model, images = losses(
        teacher, 'test_resnet', '--task-loss-weight', 0.3, '--kd-temperature', 2, '--smoothing', 0
    )
    task_loss = F.cross_entropy(result['output'], TARGET)
    expected = 0.3 * task_loss + 0.7 * divergence(result['output'], model(images), 2)
    torch.testing.assert_close(result['loss'], expected)


def test_features(teacher):
    result, student, model, images = losses(
        teacher, 'test_resnet', '--kd-distill-type', 'feature', '--distill-loss-weight', 0.5, '--smoothing', 0
    )
    features = [each.forward_head(each.forward_features(images), pre_logits=True) for each in (student, model)]
    expected = F.cross_entropy(result['output'], TARGET) + 0.5 * F.mse_loss(*features)
    torch.testing.assert_close(result['loss'], expected)


def test_tokens(teacher):
    result, _, model, images = losses(
        teacher, 'deit_tiny_distilled_patch16_224', '--kd-distill-type', 'token', '--kd-token-distill-type', 'hard',
        img_size=32, depth=1,
    )  # fmt: skip
    assert result['loss'] == result['task_loss'] + result['distill_loss']
    assert model(images).argmax(dim=1).shape == (4,)


@pytest.mark.parametrize('kind', ['logit', 'feature'])
def test_training(teacher, tmp_path, kind):
    make_folder(tmp_path / 'data')
    arguments = ['--data-dir', str(tmp_path / 'data'), *FLAGS, '--output', str(tmp_path), '--experiment', 'a']
    arguments += ['--kd-distill-type', kind, '--kd-teacher-feature-dim', '96'] if kind == 'feature' else []
    assert main(['train', *arguments, '--kd-model-name', teacher, '--model-ema']) == 0
    checkpoint = tmp_path / 'a' / 'last.pth.tar'
    student = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(checkpoint))
    assert not any('teacher' in key for key in torch.load(checkpoint, weights_only=False)['state_dict'])
    assert student.num_classes == 3


def test_mistakes(teacher, tmp_path, capsys):
    make_folder(tmp_path / 'data')
    arguments = ['train', '--data-dir', str(tmp_path / 'data'), *FLAGS, '--output', str(tmp_path)]
    assert main([*arguments, '--kd-model-name', teacher, '--kd-distill-type', 'token']) == 2
    assert 'set_distilled_training' in capsys.readouterr().err
    assert main([*arguments, '--kd-model-name', f'local-dir:{tmp_path}/nowhere']) == 2
    assert '--kd-model-name' in capsys.readouterr().err.splitlines()[-1]
