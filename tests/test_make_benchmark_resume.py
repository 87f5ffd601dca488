"""`timm-debias make-benchmark`: the same bits again, and going on after an interruption."""

import json

import pytest
from made_benchmarks import FEW, KINDS, Interrupt, draw_classes, manifest, run, tree
from PIL import Image

from timm_debias.make_benchmark import corrupt as corrupt_module
from timm_debias.make_benchmark import stylise


@pytest.fixture
def data(tmp_path):
    """Three classes of three images each, below the split `val`."""
    return draw_classes(tmp_path / 'data/val')


@pytest.mark.parametrize(('kind', 'flags'), KINDS)
def test_two_runs_are_the_same_bits(kind, flags, data, tmp_path):
    assert run(kind, data, tmp_path / 'one', *flags) == 0
    assert run(kind, data, tmp_path / 'two', *flags) == 0
    assert tree(tmp_path / 'one') == tree(tmp_path / 'two')


@pytest.mark.parametrize(('kind', 'flags'), KINDS)
def test_another_seed_makes_other_images(kind, flags, data, tmp_path):
    assert run(kind, data, tmp_path / 'one', *flags) == 0
    assert run(kind, data, tmp_path / 'two', *flags, '--seed', 1) == 0
    assert tree(tmp_path / 'one') != tree(tmp_path / 'two')


@pytest.mark.parametrize(('kind', 'flags'), KINDS)
@pytest.mark.parametrize('after', [0, 2, 6])
def test_interrupted_and_gone_on_is_the_same(kind, flags, after, data, tmp_path, monkeypatch):
    assert run(kind, data, tmp_path / 'whole', *flags) == 0
    module, name = (corrupt_module, 'corrupt') if kind == 'corrupted' else (stylise, 'to_picture')
    with monkeypatch.context() as patch:
        patch.setattr(module, name, Interrupt(getattr(module, name), after))
        assert run(kind, data, tmp_path / 'part', *flags) == 130
    part = tree(tmp_path / 'part')
    assert len(part) == after + 1  # And the manifest.
    assert manifest(tmp_path / 'part')['complete'] is False
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / 'part').rglob('*.*G') if path.is_file()}
    assert run(kind, data, tmp_path / 'part', *flags) == 0
    assert tree(tmp_path / 'part') == tree(tmp_path / 'whole')
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_a_complete_one_is_left_alone(data, tmp_path, monkeypatch):
    assert run('corrupted', data, tmp_path / 'out', *FEW) == 0
    monkeypatch.setattr(corrupt_module, 'corrupt', Interrupt(None, 0))
    assert run('corrupted', data, tmp_path / 'out', *FEW) == 0


def test_temporary_files_of_a_killed_run_go(data, tmp_path):
    out = tmp_path / 'out'
    assert run('corrupted', data, out, *FEW) == 0
    whole = tree(out)
    (out / 'contrast/1/cat/.image0-x1y2.partial.JPEG').write_bytes(b'half')
    assert run('corrupted', data, out, *FEW) == 0
    assert tree(out) == whole


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--seed', 1], ['seed was 0, now 1']),
        (['--img-size', 36], ['img_size was 32, now 36']),
        (['--corruptions', 'contrast'], ['corruptions was ["contrast", "gaussian_noise"], now ["contrast"]']),
    ],
)
def test_other_parameters(flags, parts, data, tmp_path, capsys):
    assert run('corrupted', data, tmp_path / 'out', *FEW) == 0
    before = tree(tmp_path / 'out')
    assert run('corrupted', data, tmp_path / 'out', *FEW, *flags) == 2
    message = capsys.readouterr().err
    assert 'another benchmark' in message
    assert all(part in message for part in parts)
    assert tree(tmp_path / 'out') == before


def test_other_kind_weights_and_source(data, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run('stylized', data, out) == 0
    assert run('cue-conflict', data, out) == 2
    assert 'another benchmark: kind was "stylized", now "cue-conflict". Choose' in capsys.readouterr().err
    assert run('stylized', data, out, '--stylizer', 'fourier_amplitude') == 2
    assert 'stylizer name was "adain_lite"' in capsys.readouterr().err
    path = data / 'cat/image1.png'
    Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    assert run('stylized', data, out) == 2
    assert 'source sha256 was' in capsys.readouterr().err


def test_other_versions(data, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run('corrupted', data, out, *FEW) == 0
    old = manifest(out)
    old['versions']['numpy'] = '0.9'
    (out / 'manifest.json').write_text(json.dumps(old))
    assert run('corrupted', data, out, *FEW) == 2
    assert 'versions numpy was "0.9"' in capsys.readouterr().err


@pytest.mark.parametrize('content', ['{"kind": ', '[1]'])
def test_damaged_manifest(content, data, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/manifest.json').write_text(content)
    assert run('corrupted', data, tmp_path / 'out', *FEW) == 2
    assert 'manifest.json' in capsys.readouterr().err
