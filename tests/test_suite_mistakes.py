"""Mistakes at `validate.py --benchmarks`, and data, weights and disks that fail."""

import json
import os
import shutil
import signal

import pytest
import timm
import torch
from miniatures import error
from PIL import Image

from timm_debias.validation.benchmarks.layout import FolderImages
from timm_debias.validation.bits import unpack


@pytest.fixture
def spoiled(miniatures, tmp_path):
    """A data root whose ImageNet-R has a torn image, and that image."""
    root = tmp_path / 'data'
    shutil.copytree(miniatures / 'imagenet-r', root / 'imagenet-r')
    path = sorted((root / 'imagenet-r').glob('*/*'))[2]
    path.write_bytes(path.read_bytes()[:300])
    return root, path


def test_unreadable_image(suite, spoiled, capsys):
    root, path = spoiled
    assert suite('--benchmarks', 'imagenet-r', root=root) == 2
    message = error(capsys)
    for part in ('imagenet-r', 'unreadable image', str(path), '--on-error skip'):
        assert part in message


def test_another_try_after_a_mistake_needs_no_resume(suite, spoiled, tmp_path, capsys):
    root, _ = spoiled
    place = ['--benchmarks', 'imagenet-r', '--results-dir', tmp_path / 'results']
    assert suite(*place, root=root) == 2
    assert 'unreadable image' in error(capsys)
    assert suite(*place, '--on-error', 'skip', root=root) == 0


@pytest.mark.parametrize('batch_size', [1, 4])
def test_skipped_images_are_counted_and_named(suite, spoiled, tmp_path, batch_size):
    root, path = spoiled
    place = ['--results-dir', tmp_path / 'results']
    assert suite('--benchmarks', 'imagenet-r', '--on-error', 'skip', '-b', batch_size, *place, root=root) == 0
    entry = json.loads((tmp_path / 'results' / 'results.json').read_text())['benchmarks']['imagenet-r']
    assert entry['skipped'] == [str(path)]
    assert entry['images'] == 4
    part = json.loads((tmp_path / 'results' / 'parts' / 'imagenet-r.json').read_text())['result']
    assert unpack(part['right'], 4).astype(int).tolist() == part['state']['correct']


def test_link_to_nowhere(suite, spoiled, capsys):
    root, path = spoiled
    path.unlink()
    path.symlink_to(root / 'gone.jpg')
    assert suite('--benchmarks', 'imagenet-r', root=root) == 2
    assert f'{path} cannot be read: No such file or directory' in error(capsys)


def test_data_worker_that_dies(suite, miniatures, tmp_path, capsys, monkeypatch):
    """As by the system where memory runs out."""
    parent = os.getpid()

    def read(self, index):
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(FolderImages, '__getitem__', read)
    assert suite('--benchmarks', 'imagenet-r', '-j', 1) == 2
    message = error(capsys)
    for part in ('imagenet-r: a data worker died (', 'give fewer of them by -j'):
        assert part in message


def test_no_readable_image(suite, spoiled, capsys):
    root, _ = spoiled
    for path in (root / 'imagenet-r').glob('*/*'):
        path.write_bytes(b'')
    assert suite('--benchmarks', 'imagenet-r', '--on-error', 'skip', root=root) == 2
    assert 'none of its 5 images can be read' in error(capsys)


def test_wrong_size_beyond_the_sample(suite, miniatures, tmp_path, capsys, monkeypatch):
    """The check before the run sees a sample; the others are checked as they are read, even with --on-error skip."""
    shutil.copytree(miniatures / 'stylized-imagenet', tmp_path / 'stylized-imagenet')
    path = sorted((tmp_path / 'stylized-imagenet').rglob('*.png'))[1]
    Image.new('RGB', (225, 224)).save(path)
    monkeypatch.setattr('timm_debias.validation.benchmarks.layout.SIZE_SAMPLE', 1)
    assert suite('--benchmarks', 'stylized-imagenet', '--on-error', 'skip', root=tmp_path) == 2
    message = error(capsys)
    assert f'{path} is 225×224 pixels, expected 224×224' in message


def test_model_that_does_not_take_the_published_size(suite, capsys, tmp_path):
    path = tmp_path / 'vit.pth'
    torch.save(timm.create_model('test_vit', img_size=160).state_dict(), path)
    arguments = ['--model', 'test_vit', '--checkpoint', path, '--img-size', 160]
    arguments += ['--model-kwargs', 'img_size=160', 'dynamic_img_size=False']
    assert suite('--benchmarks', 'imagenet-c', *arguments) == 2
    assert 'test_vit does not take 224×224 images, the size of a benchmark' in error(capsys)
    assert suite('--benchmarks', 'imagenet-a', *arguments, '--img-size', 96) == 2
    assert 'test_vit does not take 96×96 images (' in error(capsys)


@pytest.mark.parametrize('name', ['imagenet-a', 'fgsm'])
def test_logits_that_are_not_finite(suite, suite_checkpoint, tmp_path, capsys, name):
    weights = torch.load(suite_checkpoint)
    weights['fc.weight'][3] = torch.finfo(torch.float32).max  # Finite, what comes out is not.
    torch.save(weights, tmp_path / 'large.pth')
    assert suite('--benchmarks', name, '--checkpoint', tmp_path / 'large.pth') == 2
    message = error(capsys)
    assert name in message
    assert 'not finite' in message


@pytest.fixture
def folder(suite, tmp_path):
    """Results of ImageNet-A and -R."""
    assert suite('--benchmarks', 'imagenet-a,imagenet-r', '--results-dir', tmp_path / 'results') == 0
    return tmp_path / 'results'


def test_disk_full(suite, folder, capsys, monkeypatch):
    before = (folder / 'results.json').read_bytes()
    (folder / 'parts' / 'imagenet-a.json').unlink()

    def full(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', full)
        assert suite('--benchmarks', 'imagenet-a,imagenet-r', '--results-dir', folder, '--resume') == 2
    message = error(capsys)
    assert 'imagenet-a.json' in message
    assert 'No space left on device' in message
    assert (folder / 'results.json').read_bytes() == before
    assert not list(folder.rglob('.*'))
    assert suite('--benchmarks', 'imagenet-a,imagenet-r', '--results-dir', folder, '--resume') == 0
    assert (folder / 'results.json').read_bytes() == before


def test_half_written_results_of_a_killed_run(suite, tmp_path):
    """They are no results, and go when the run goes on."""
    torn = tmp_path / 'results' / 'parts' / '.imagenet-a-x1y2.partial.json'
    torn.parent.mkdir(parents=True)
    torn.write_text('{"identity"')
    place = ['--benchmarks', 'imagenet-a', '--results-dir', tmp_path / 'results']
    assert suite(*place) == 0
    assert suite(*place, '--resume') == 0
    assert not torn.exists()
    assert suite(*place) == 2


def test_results_that_were_not_asked_for(suite, folder, capsys):
    """They stay, and the run says that its tables are without them."""
    capsys.readouterr()
    place = ['--results-dir', folder, '--resume']
    assert suite('--benchmarks', 'imagenet-r', *place) == 0
    assert 'also holds 1 parts that were not asked for now (imagenet-a)' in capsys.readouterr().err
    assert 'imagenet-a' not in json.loads((folder / 'results.json').read_text())['benchmarks']
    assert suite('--benchmarks', 'imagenet-r,imagenet-a', *place) == 0
    output = capsys.readouterr()
    assert 'also holds' not in output.err
    assert '2 of 2 parts were measured before' in output.err


def test_torn_results(suite, folder, capsys):
    (folder / 'parts' / 'imagenet-a.json').write_text('{"identity"')
    assert suite('--benchmarks', 'imagenet-a', '--results-dir', folder, '--resume') == 2
    assert 'imagenet-a.json' in error(capsys)


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--benchmarks', 'imagenet-x'], ["unknown benchmark 'imagenet-x'", "'imagenet-"]),
        (['--benchmarks', 'imagenet', '--benchmark-dir', 'imagenet'], ['NAME=PATH']),
        (['--benchmarks', 'imagenet', '--benchmark-dir', 'imagenet=nowhere'], ['imagenet=nowhere', 'no such folder']),
        (['--benchmarks', 'fgsm', '--benchmark-dir', 'fgsm=.'], ["'fgsm'", 'imagenet']),
        (['--benchmarks', 'imagenet', '--data-root', 'nowhere'], ["--data-root 'nowhere'"]),
        (['--benchmarks', 'imagenet', '--data-dir', '.'], ['--data-dir', '--data-root']),
        (['--benchmarks', 'imagenet', '--dataset', 'shapes_textures'], ['--dataset']),
        (['--benchmarks', 'imagenet', '--results-file', 'a.csv'], ['--results-file', '--results-dir']),
        (['--benchmarks', 'imagenet', '--resume'], ['--resume', '--results-dir']),
        (['--benchmarks', 'imagenet', '--in-chans', '1'], ['RGB']),
        (['--benchmarks', 'imagenet-c', '--subset', '0'], ['--subset is 0', 'at least 1']),
        (['--benchmarks', 'imagenet-c', '--subset', '5k'], ["--subset '5k'", 'no such file', 'ILSVRC2012_val_']),
        (['--benchmarks', 'imagenet-a', '--subset', '5'], ['--subset is for', 'imagenet-c', 'imagenet-a has none']),
        (['--benchmarks', 'fgsm', '--pgd-steps', '5'], ['--pgd-steps is for folder-pgd, pgd']),
        (['--benchmarks', 'imagenet,imagenet-r', '--epsilons', '2'], ['--epsilons is for autoattack, fgsm']),
        (['--benchmarks', 'autoattack'], ['pyautoattack is not installed', "pip install 'timm-debias[autoattack]'"]),
        (['--benchmarks', 'pgd', '--pgd-steps', '0'], ['--pgd-steps is 0']),
        (['--benchmarks', 'pgd', '--epsilons', '-1'], ['--epsilons', '-1']),
        (['--benchmarks', 'fgsm', '--model-dtype', 'bfloat16'], ['fgsm', 'float32']),
        (['--benchmarks', 'pgd', '--epsilons', '2', '2'], ['--epsilons names 2 twice']),
        (['--benchmarks', 'fgsm,imagenet,fgsm'], ['--benchmarks names fgsm twice']),
        (['--benchmarks', 'imagenet', '--std', '0.2', '0', '0.2'], ['--std is 0.2 0 0.2; expected numbers above 0']),
        (['--benchmarks', 'all,imagenet'], ["'all' stands alone"]),
        (['--benchmarks', 'imagenet', '--split', 'val'], ['--split', '--data-root']),
        (['--benchmarks', 'imagenet', '--num-samples', '3'], ['--num-samples', '--data-root']),
        (['--benchmarks', 'imagenet', '--no-prefetcher'], ['--no-prefetcher']),
        (['--benchmarks', 'imagenet', '--results-format', 'json'], ['--results-format', '--results-dir']),
        (['--benchmarks', 'imagenet', '--results-dir', __file__], ['is a file']),
        (['--benchmarks', 'imagenet-a', '--num-classes', '8'], ['1,000 classes', 'has 8', 'shapes_textures']),
        (['--results-dir', 'a'], ['--data-root', '--benchmarks']),
    ],
    ids=lambda value: ' '.join(value) if value[0].startswith('-') else '',
)
def test_mistakes(suite, capsys, flags, parts):
    assert suite(*flags) == 2
    message = error(capsys)
    for part in parts:
        assert part in message
