"""The script that makes the shipped models, in its parts."""

import importlib.util
import sys
from pathlib import Path

import pytest

from timm_debias import DebiasError
from timm_debias.hashing import hash_file
from timm_debias.weights.manifest import entries

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
