"""Packed weights: what comes back is on the stated grid, near what went in, and the same everywhere."""

import numpy as np
import pytest
import timm
import torch

from timm_debias import DebiasError
from timm_debias.weights.packed import load_packed, pack, save_packed, unpack


@pytest.fixture
def state():
    torch.manual_seed(0)
    state = timm.create_model('test_resnet', num_classes=5).state_dict()
    state['fc.weight'][0] = 0  # A channel without a scale of its own.
    return state


@pytest.mark.parametrize('bits', [2, 4, 6, 8])
def test_weights_are_rounded_to_a_grid_for_each_channel(state, bits):
    found = unpack(pack(state, bits))
    assert found.keys() == state.keys()
    levels = 2 ** (bits - 1) - 1
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        if value.ndim < 2:
            assert torch.equal(found[key], value)
            continue
        for before, after in zip(value.numpy().astype(np.float64), found[key].numpy().astype(np.float64), strict=True):
            step = np.abs(before).max() / levels
            assert np.abs(after - before).max() <= step * (0.5 + 1e-5)
            if step:
                np.testing.assert_allclose(after / step, np.round(after / step), atol=1e-4)
            assert len(np.unique(after)) <= 2 * levels + 1


def test_packing_what_was_unpacked_changes_nothing(state):
    once = unpack(pack(state, 6))
    twice = unpack(pack(once, 6))
    assert all(torch.equal(once[key], value) for key, value in twice.items())


def test_files(state, tmp_path):
    arrays = pack(state, 6)
    for name in ('a', 'b'):
        save_packed(tmp_path / f'{name}.npz', arrays)
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
    expected = unpack(arrays)
    found = load_packed(tmp_path / 'a.npz')
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    parameters = sum(value.numel() for value in state.values())
    assert (tmp_path / 'a.npz').stat().st_size < parameters  # Less than a byte a weight, and 6 bits hold less.


def test_damaged_files(state, tmp_path):
    path = tmp_path / 'a.npz'
    save_packed(path, pack(state, 6))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DebiasError, match='damaged'):
        load_packed(path)
    with pytest.raises(DebiasError, match='no such file'):
        load_packed(tmp_path / 'none.npz')
    np.savez(path, evil=np.array([object()]), allow_pickle=True)
    with pytest.raises(DebiasError, match='damaged, or not packed weights'):
        load_packed(path)
