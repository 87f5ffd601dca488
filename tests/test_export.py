"""Exported files give what the model gives, for any number of images, read by what is to run them."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.weights.export import export


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=5)
    with torch.no_grad():
        model.fc.weight.normal_()
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    return model.eval(), tmp_path / 'model.pth'


def run(*argv) -> int:
    return main(['export', *map(str, argv)])


def error(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith('timm-debias export: error: '), lines
    return lines[-1]


def flags(checkpoint, output):
    return ['test_resnet', '--checkpoint', checkpoint, '--num-classes', 5, '--img-size', 64, '--output', output]


@torch.no_grad()
def compare(model, exported, atol):
    """On images of other numbers and values than those of the export."""
    for count in (1, 5):
        images = 3 * torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))
        torch.testing.assert_close(exported(images), model(images), rtol=0, atol=atol)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('suffix', ['.pt2', '.torchscript'])
def test_torch_formats(checkpoint, tmp_path, capsys, suffix):
    model, path = checkpoint
    assert run(*flags(path, tmp_path / f'model{suffix}')) == 0
    assert 'largest difference' in capsys.readouterr().out
    read = {'.pt2': lambda path: torch.export.load(path).module(), '.torchscript': torch.jit.load}[suffix]
    compare(model, read(tmp_path / f'model{suffix}'), atol=0)
    assert run(*flags(path, tmp_path / f'model{suffix}')) == 2
    assert '--overwrite' in error(capsys)


@pytest.mark.filterwarnings('ignore')
def test_onnx(checkpoint, tmp_path):
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(name)
    import onnx
    import onnxruntime

    model, path = checkpoint
    assert run(*flags(path, tmp_path / 'model.onnx')) == 0
    onnx.checker.check_model(onnx.load(tmp_path / 'model.onnx'))
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx', providers=['CPUExecutionProvider'])
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[1:], got.name, got.shape[1:]) == ('images', [3, 64, 64], 'logits', [5])
    compare(model, lambda images: torch.from_numpy(np.asarray(session.run(None, {'images': images.numpy()})[0])), 1e-4)


def test_local_dir(checkpoint, tmp_path):
    model, path = checkpoint
    folder = tmp_path / 'converted'
    assert main(['convert', str(path), '--arch', 'test_resnet', '--img-size', '64', '--out', str(folder)]) == 0
    assert run(f'local-dir:{folder}', '--output', tmp_path / 'model.pt2') == 0
    compare(model, torch.export.load(tmp_path / 'model.pt2').module(), atol=0)


class Stubborn(nn.Module):
    """Decides by a value of its input, which no exporter can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if float(x.sum()) > 0 else x.amax((2, 3))


class Noisy(nn.Module):
    """Gives other logits at every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + torch.rand(x.shape[0], 3)


@pytest.mark.filterwarnings('ignore')
def test_models_that_cannot_be_exported(tmp_path):
    with pytest.raises(DebiasError, match=r'Stubborn cannot be exported as \.pt2'):
        export(Stubborn().eval(), (3, 8, 8), tmp_path / 'model.pt2')
    with pytest.raises(DebiasError, match='logits of the exported model differ by'):
        export(Noisy().eval(), (3, 8, 8), tmp_path / 'model.pt2')


def test_mistakes(checkpoint, tmp_path, capsys, monkeypatch):
    _, path = checkpoint
    assert run(*flags(path, tmp_path / 'model.h5')) == 2
    assert '.onnx or .pt2 or .torchscript' in error(capsys)
    assert run('resnet50_debiased.in1k', '--num-classes', 10, '--output', tmp_path / 'model.pt2') == 2
    assert '--num-classes is for a --checkpoint' in error(capsys)
    assert run(*flags(tmp_path / 'none.pth', tmp_path / 'model.pt2')) == 2
    assert 'no such file' in error(capsys)
    assert run(*flags(path, path / 'model.pt2')) == 2
    assert error(capsys).endswith(f'{path} is a file; name a folder')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert run(*flags(path, tmp_path / 'model.onnx')) == 2
    assert "pip install 'timm-debias[export]'" in error(capsys)
    assert not list(tmp_path.glob('*model.*[!h]'))
