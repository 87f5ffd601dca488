"""Batches that do not fit into memory."""

import json
import pickle

import pytest
import torch
from miniatures import SUITE_FLAGS

from timm_debias.cli import main
from timm_debias.out_of_memory import BatchTooLargeError, halve, is_out_of_memory
from timm_debias.validation import main as command
from timm_debias.validation import suite as suite_module
from timm_debias.validation.model import build_model


def error(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def small_memory(monkeypatch):
    """Makes models that take no more images than given at a time; the sizes of batches they were given."""
    sizes: list[int] = []

    def limit(images: int) -> list[int]:
        def check(module, arguments):
            sizes.append(len(arguments[0]))
            if sizes[-1] > images:
                raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB.')

        def build(config):
            model = build_model(config)
            model.register_forward_pre_hook(check)
            return model

        for module in (suite_module, command):
            monkeypatch.setattr(module, 'build_model', build)
        return sizes

    return limit


def results(folder) -> dict:
    return json.loads((folder / 'results.json').read_text())


def test_the_batch_is_halved_until_it_fits(suite, small_memory, tmp_path, capsys):
    names = ['--benchmarks', 'imagenet,imagenet-a,imagenet-r,pgd']
    assert suite(*names, '--results-dir', tmp_path / 'whole', '-b', 1) == 0
    sizes = small_memory(3)
    assert suite(*names, '--results-dir', tmp_path / 'results', '-b', 8, '--retry') == 0
    assert 'Out of memory with batches of 8: trying again with 4.' in capsys.readouterr().err
    assert max(sizes) > 3
    expected, found = results(tmp_path / 'whole'), results(tmp_path / 'results')
    for name, entry in found['benchmarks'].items():
        assert entry.pop('batch_sizes') == [2]
        assert expected['benchmarks'][name].pop('batch_sizes') == [1]
        assert entry['images'] == expected['benchmarks'][name]['images']
        assert entry['headline'] == expected['benchmarks'][name]['headline']
        assert entry['protocol'] == expected['benchmarks'][name]['protocol']


def test_finished_parts_are_not_measured_again(suite, small_memory, tmp_path, monkeypatch):
    saved = []
    save = suite_module.PartResults.save
    monkeypatch.setattr(
        suite_module.PartResults, 'save', lambda self, name, *rest: saved.append(name) or save(self, name, *rest)
    )
    small_memory(5)
    # ImageNet-A has five images and fits; ImageNet has seven.
    assert suite('--benchmarks', 'imagenet,imagenet-a', '--results-dir', tmp_path / 'results', '-b', 8, '--retry') == 0
    assert saved == ['imagenet', 'imagenet-a']
    sizes = [results(tmp_path / 'results')['benchmarks'][name]['batch_sizes'] for name in saved]
    assert sizes == [[4], [4]]


def test_one_image_is_too_large(suite, small_memory, capsys):
    small_memory(0)
    assert suite('--benchmarks', 'imagenet-a', '--retry') == 2
    assert 'out of memory' in error(capsys)


def test_without_retry_the_message_says_what_to_do(suite, small_memory, capsys):
    small_memory(3)
    assert suite('--benchmarks', 'imagenet-a') == 2
    message = error(capsys)
    for part in ('imagenet-a', 'batches of 4', '-b', '--retry'):
        assert part in message


@pytest.mark.parametrize('retry', [True, False])
def test_a_data_set_of_ones_own(miniatures, suite_checkpoint, small_memory, capsys, retry):
    flags = [*SUITE_FLAGS[:-1], '--num-classes', 1000, '--checkpoint', suite_checkpoint]
    flags += ['--data-dir', miniatures / 'stylized-imagenet', *['--retry'] * retry]
    sizes = small_memory(1)
    assert main(['validate', *map(str, flags)]) == (0 if retry else 2)
    assert sizes[:2] == [1, 4]  # One image shows whether the model takes its size.
    if retry:
        assert sizes[2:4] == [1, 2]
        assert set(sizes[4:]) == {1}
    else:
        assert '--retry' in error(capsys)


def test_other_failures_are_not_a_lack_of_memory():
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"))
    assert is_out_of_memory(RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate'))
    assert not is_out_of_memory(RuntimeError('CUDA error: an illegal memory access was encountered'))


def test_halves():
    shortage = BatchTooLargeError('fog', 5)
    assert halve(5, shortage) == 2
    with pytest.raises(BatchTooLargeError, match='batches of 1; free some memory'):
        halve(1, BatchTooLargeError('fog', 1))
    assert str(pickle.loads(pickle.dumps(shortage))) == str(shortage)
