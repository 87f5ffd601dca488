"""The script that makes the shipped models, in its parts."""

import importlib.util
import sys
from pathlib import Path

import pytest
import timm
import torch

from timm_debias import DebiasError
from timm_debias.data.shapes_textures import ShapesTextures
from timm_debias.hashing import hash_file
from timm_debias.weights.manifest import entries
from timm_debias.weights.packed import pack, unpack

PATH = Path(__file__).parents[1] / 'benchmarks/make_zoo.py'


@pytest.fixture(scope='module')
def script():
    spec = importlib.util.spec_from_file_location('make_zoo', PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules['make_zoo'] = module
    spec.loader.exec_module(module)
    return module


def test_every_shipped_model_is_made(script):
    assert list(script.MODELS) == [entry.name for entry in entries().values() if entry.packed]


def test_batch_norm_is_measured_with_rounded_weights(script, monkeypatch):
    """Of the first batch norm, against mean and variance computed here from the images."""
    images = ShapesTextures('train', img_size=64, num_samples=100)
    monkeypatch.setattr(script, 'ShapesTextures', lambda split, img_size: images)
    torch.manual_seed(0)
    model = timm.create_model('resnet18', num_classes=8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    after = script.rounded(before)
    expected = unpack(pack(before, script.BITS))
    assert all(torch.equal(after[key], value) for key, value in expected.items() if value.ndim >= 2)

    to_tensor = timm.data.create_transform((3, 64, 64), crop_pct=1.0, interpolation='bilinear')
    drawn = ShapesTextures('train', img_size=64, num_samples=100)
    batch = torch.stack([to_tensor(drawn[index][0]) for index in range(100)])
    output = torch.nn.functional.conv2d(batch, after['conv1.weight'], stride=2, padding=3)
    torch.testing.assert_close(after['bn1.running_mean'], output.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after['bn1.running_var'], output.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_hash_goes_to_the_manifest(script, tmp_path, monkeypatch):
    entry = next(entry for entry in entries().values() if entry.packed)
    path = tmp_path / entry.packed
    path.write_bytes(b'weights')
    text = script.MANIFEST.read_text()
    copy = tmp_path / 'manifest.yaml'
    copy.write_text(text)
    monkeypatch.setattr(script, 'MANIFEST', copy)
    script.write_hash(entry, path)
    before, after = (f"packed: {entry.packed}\n  sha256: '{digest}'" for digest in (entry.sha256, hash_file(path)))
    assert copy.read_text() == text.replace(before, after, 1) != text
    (tmp_path / 'other.npz').write_bytes(b'')
    with pytest.raises(DebiasError, match='has no lines'):
        script.write_hash(entry, tmp_path / 'other.npz')
