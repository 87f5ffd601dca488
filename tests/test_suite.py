"""`validate.py --benchmarks` as its user runs it, on a few photographs in the layout of every benchmark."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from miniatures import IMG_SIZE, SUITE_FLAGS, error, result, wnid_labels
from PIL import Image
from timm.models import save_for_hf
from torchvision.transforms.functional import pil_to_tensor

from timm_debias.cli import main
from timm_debias.hashing import hash_weights
from timm_debias.metrics import ALEXNET_ERRORS
from timm_debias.validation.benchmarks import Contents, Part, get_benchmark, list_benchmarks
from timm_debias.validation.benchmarks.categories import category_classes
from timm_debias.validation.benchmarks.classes import imagenet_classes, subset_classes
from timm_debias.validation.benchmarks.layout import FolderImages
from timm_debias.validation.bits import unpack
from timm_debias.validation.loading import AsPublished
from timm_debias.validation.results import PartResults
from timm_debias.validation.scores import TopK
from timm_debias.validation.suite import Measured, _collect


@pytest.fixture(scope='module')
def model(suite_checkpoint):
    return timm.create_model('test_resnet', checkpoint_path=str(suite_checkpoint)).eval()


@pytest.fixture(scope='module')
def whole(miniatures, suite_checkpoint, tmp_path_factory):
    """The folder of an uninterrupted run of everything."""
    folder = tmp_path_factory.mktemp('whole') / 'results'
    arguments = [*SUITE_FLAGS, '--checkpoint', suite_checkpoint, '--data-root', miniatures, '--benchmarks', 'all']
    assert main(['validate', *map(str, [*arguments, '--results-dir', folder])]) == 0
    return folder


def logits_of(model, paths, size=None):
    """Logits of image files, one by one: resized and cropped by timm's transform, or as they are."""
    config = timm.data.resolve_data_config({'img_size': IMG_SIZE}, model=model)
    transform = timm.data.create_transform(**config)
    if size is not None:
        normalize = transform.transforms[-1]
        transform = lambda image: normalize(pil_to_tensor(image) / 255)  # noqa: E731
    with torch.no_grad():
        return torch.cat([model(transform(Image.open(path).convert('RGB'))[None]) for path in paths])


def test_everything_is_measured(whole):
    results = json.loads((whole / 'results.json').read_text())
    assert set(results['benchmarks']) == {
        'cue-conflict', 'fgsm', 'fgsm-ref', 'imagenet', 'imagenet-a', 'imagenet-c', 'imagenet-o', 'imagenet-r',
        'imagenet-real', 'imagenet-sketch', 'imagenet-v2', 'pgd', 'stylized-imagenet',
    }  # fmt: skip
    assert results['absent'] == {
        'autoattack': "the package pyautoattack is not installed (pip install 'timm-debias[autoattack]')",
        'shapes_textures': 'made for models of 8 classes, this one has 1,000',
    }
    for entry in results['benchmarks'].values():
        assert entry['partial']
        assert entry['protocol']
        assert len(entry['fingerprint']) == 64
        assert not entry['skipped']
    assert 'resized by bilinear' in results['benchmarks']['imagenet']['protocol']
    assert 'no resize, no crop' in results['benchmarks']['imagenet-c']['protocol']
    assert list(results)[:9] == [
        'model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation'
    ]  # fmt: skip
    assert results['top1'] is None  # A partial ImageNet does not pass for ImageNet.


def test_weights_are_hashed(whole, model):
    assert json.loads((whole / 'results.json').read_text())['weights'] == hash_weights(model)
    other = timm.create_model('test_resnet')
    assert hash_weights(other) != hash_weights(model)


def test_tables(whole):
    (row,) = csv.DictReader((whole / 'results.csv').open())
    results = json.loads((whole / 'results.json').read_text())
    assert next(iter(row)) == 'model'
    assert float(row['imagenet-c_mce_partial']) == results['imagenet-c_mce_partial']
    text = (whole / 'results.md').read_text()
    for name, key in (
        ('imagenet-a', 'top1'), ('imagenet-a', 'aurra'), ('imagenet-a', 'rms_calibration_error'), ('imagenet', 'top5'),
        ('imagenet-o', 'auroc'), ('imagenet-o', 'fpr95'), ('imagenet-c', 'reference_mean_error_19'),
    ):  # fmt: skip
        assert f'| {name} | {key} | {results["benchmarks"][name]["metrics"][key]:.2f}' in text
    assert re.search(r'\| fgsm \| top1_eps16 \| [\d.]+ \[[^|]*\] \| 7, partial \|', text)
    assert '| negatives |' not in text  # A number of images, no percentage.
    metrics = results['benchmarks']['imagenet-c']['metrics']
    errors = [metrics['errors']['fog'][str(severity)]['error'] for severity in range(1, 6)]
    cells = [f'{value:.2f}' for value in (*errors, sum(errors) / 5, metrics['ce']['fog'])]
    assert f'| fog | {" | ".join(cells)} |' in text
    assert re.search(r'\| spatter( \| [\d.]+){6} \| – \|', text)
    assert 'humans, published |  |  |  | 95.87' in text
    assert 'shapes_textures: not measured' in text


def test_accuracy_against_a_plain_loop(whole, miniatures, model):
    measured = json.loads((whole / 'results.json').read_text())['benchmarks']
    for name, folder in (('imagenet', 'imagenet/val'), ('imagenet-v2', 'imagenetv2-matched-frequency-format-val')):
        paths = sorted((miniatures / folder).glob('*/*'))
        labels = torch.tensor([int(path.parent.name) for path in paths]) if 'v2' in name else wnid_labels(paths)
        right = logits_of(model, paths).argsort(dim=1, descending=True)[:, :5] == labels[:, None]
        assert measured[name]['images'] == len(paths)
        assert measured[name]['metrics']['top1'] == pytest.approx(100 * right[:, 0].float().mean().item())
        assert measured[name]['metrics']['top5'] == pytest.approx(100 * right.any(dim=1).float().mean().item())
    assert 0 < measured['imagenet-v2']['metrics']['top1'] < 100


def test_subset_against_a_plain_loop(whole, miniatures, model):
    metrics = json.loads((whole / 'results.json').read_text())['benchmarks']['imagenet-r']['metrics']
    paths = sorted((miniatures / 'imagenet-r').glob('*/*'))
    indices = list(subset_classes('r').values())
    logits = logits_of(model, paths)
    probabilities = logits[:, indices].softmax(dim=1)
    right = torch.tensor(indices)[probabilities.argmax(dim=1)] == wnid_labels(paths)
    assert 0 < metrics['top1'] < 100
    assert metrics['top1'] == pytest.approx(100 * right.float().mean().item())
    of_all = (logits.argmax(dim=1) == wnid_labels(paths)).float().mean().item()
    assert metrics['top1_of_1000'] == pytest.approx(100 * of_all)
    gap = (probabilities.amax(dim=1).mean() - right.float().mean()).abs()  # All five images are in one bin.
    assert metrics['rms_calibration_error'] == pytest.approx(100 * gap.item(), rel=1e-4)


def test_imagenet_o_against_a_plain_loop(whole, miniatures, model):
    metrics = json.loads((whole / 'results.json').read_text())['benchmarks']['imagenet-o']['metrics']
    indices = list(subset_classes('o').values())
    inside = [path for path in (miniatures / 'imagenet' / 'val').glob('*/*') if path.parent.name in subset_classes('o')]
    scores = [
        -logits_of(model, paths)[:, indices].softmax(dim=1).amax(dim=1)
        for paths in (inside, list((miniatures / 'imagenet-o').glob('*/*')))
    ]
    above = (scores[1][:, None] > scores[0][None]).float().mean().item()
    assert metrics['auroc'] == pytest.approx(100 * above)
    assert (metrics['negatives'], metrics['positives']) == (len(inside), 5)


def test_imagenet_c_against_a_plain_loop(whole, miniatures, model):
    metrics = json.loads((whole / 'results.json').read_text())['benchmarks']['imagenet-c']['metrics']
    assert len(metrics['errors']) == 19
    for corruption, row in metrics['errors'].items():
        paths = sorted((miniatures / 'imagenet-c' / corruption / '4').glob('*/*'))
        wrong = logits_of(model, paths, 224).argmax(dim=1) != wnid_labels(paths)
        assert row['4']['error'] == 100 * wrong.float().mean().item()
    assert 0 < metrics['mean_error_15'] < 100
    assert 0 < metrics['reference_mean_error_19'] < 100
    assert metrics['relative_mce'] is not None


def test_cue_conflict_against_a_plain_loop(whole, miniatures, model):
    metrics = json.loads((whole / 'results.json').read_text())['benchmarks']['cue-conflict']['metrics']
    equal = 'cat1-cat2.png'
    assert (miniatures / 'cue-conflict' / 'cat' / equal).is_file()
    paths = [path for path in (miniatures / 'cue-conflict').glob('*/*') if path.name != equal]
    probabilities = logits_of(model, paths, 224).softmax(dim=1)
    names = list(category_classes())
    means = torch.stack([probabilities[:, group].mean(dim=1) for group in category_classes().values()], dim=1)
    decisions = [names[index] for index in means.argmax(dim=1)]
    by_shape = sum(path.name.startswith(f'{name}1-') for path, name in zip(paths, decisions, strict=True))
    by_texture = sum(path.name.endswith(f'-{name}2.png') for path, name in zip(paths, decisions, strict=True))
    assert sum(row['images'] for row in metrics['categories'].values()) == len(paths)
    assert by_shape + by_texture > 0
    assert metrics['shape'] == pytest.approx(100 * by_shape / len(paths))
    assert metrics['texture'] == pytest.approx(100 * by_texture / len(paths))


def test_amp_is_for_what_is_no_attack(suite, monkeypatch, capsys):
    kinds = []
    update = TopK.update
    monkeypatch.setattr(TopK, 'update', lambda *arguments: kinds.append(arguments[1].dtype) or update(*arguments))
    assert suite('--benchmarks', 'fgsm,imagenet', '--amp', '--amp-dtype', 'bfloat16', '-b', 8) == 0
    assert kinds == [torch.float32, torch.bfloat16]


def test_compiled_and_channels_last(suite, whole, capsys):
    assert suite('--benchmarks', 'imagenet,fgsm', '--torchcompile', 'eager', '--channels-last') == 0
    before = json.loads((whole / 'results.json').read_text())['benchmarks']
    for name, entry in result(capsys)['benchmarks'].items():
        assert entry['metrics'] == before[name]['metrics']


@pytest.mark.parametrize(('partial', 'known'), [(False, True), (True, False)])
def test_complete_imagenet_c_needs_a_complete_imagenet(partial, known):
    def measured(name, names, partial):
        parts = [
            Part(part, FolderImages(Path(), ['a'], [1]), torch.zeros(1, dtype=torch.int64), TopK) for part in names
        ]
        return Measured(get_benchmark(name), Contents(parts, partial), AsPublished(224), 'protocol')

    names = [f'imagenet-c/{corruption}/{severity}' for corruption in ALEXNET_ERRORS for severity in range(1, 6)]
    state = {'state': {'images': 10, 'top1': 5, 'top5': 7}, 'images': 10, 'skipped': [], 'batch_size': 4}
    header = dict.fromkeys(('model', 'weights', 'param_count', 'img_size', 'crop_pct', 'interpolation'))
    run = [measured('imagenet', ['imagenet'], partial), measured('imagenet-c', names, False)]
    results = _collect(header, {}, run, {}, dict.fromkeys(['imagenet', *names], state))
    assert (results['imagenet-c_relative_mce'] is not None) == known
    assert results['top1'] == (50 if known else None)


@pytest.mark.parametrize('parts', [0, 40])
def test_killed_and_resumed(suite, whole, tmp_path, capsys, monkeypatch, parts):
    folder = tmp_path / 'results'
    save = PartResults.save
    saved = []

    def save_some(self, name, *arguments):
        if len(saved) == parts:
            raise KeyboardInterrupt
        saved.append(name)
        return save(self, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PartResults, 'save', save_some)
        assert suite('--benchmarks', 'all', '--results-dir', folder) == 130
    assert not (folder / 'results.json').exists()
    assert len(list(folder.glob('parts/**/*.json'))) == parts
    again = []
    monkeypatch.setattr(PartResults, 'save', lambda self, name, *rest: again.append(name) or save(self, name, *rest))
    assert suite('--benchmarks', 'all', '--results-dir', folder, '--resume') == 0
    assert not set(again) & set(saved)
    assert len(again) + len(saved) == len(list(whole.glob('parts/**/*.json')))
    for path in (path for path in whole.rglob('*') if path.is_file()):
        assert (folder / path.relative_to(whole)).read_bytes() == path.read_bytes()


def test_right_images_are_stored(whole):
    parts = {path: json.loads(path.read_text())['result'] for path in whole.glob('parts/**/*.json')}
    for part in parts.values():
        if 'top1' in part['state']:
            assert unpack(part['right'], part['images']).sum() == part['state']['top1']
    assert {path.name for path, part in parts.items() if part['right'] is None} == {'out.json', 'in.json'}


def test_nothing_is_measured_twice(suite, whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / 'results')
    monkeypatch.setattr(PartResults, 'save', lambda *_: pytest.fail('measured again'))
    assert suite('--benchmarks', 'all', '--results-dir', folder, '--resume') == 0
    assert (folder / 'results.json').read_bytes() == (whole / 'results.json').read_bytes()


def test_data_workers_change_nothing(suite, whole, capsys):
    assert suite('--benchmarks', 'imagenet-c,imagenet-a', '-j', '2') == 0
    before = json.loads((whole / 'results.json').read_text())['benchmarks']
    after = result(capsys)['benchmarks']
    assert after['imagenet-a'] == before['imagenet-a']
    assert after['imagenet-c']['metrics']['errors'] == before['imagenet-c']['metrics']['errors']
    assert after['imagenet-c']['metrics']['relative_mce'] is None


def test_results_of_another_run_are_refused(suite, whole, miniatures, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / 'results')
    assert suite('--benchmarks', 'imagenet-a', '--results-dir', folder) == 2
    assert 'give --resume' in error(capsys)
    assert suite('--benchmarks', 'imagenet-a', '--results-dir', folder, '--resume', '--amp', '--amp-dtype',
                 'bfloat16') == 2  # fmt: skip
    assert "amp was None and is 'bfloat16'" in error(capsys)
    assert suite('--benchmarks', 'imagenet-a', '--results-dir', folder, '--resume', '--crop-pct', '1') == 2
    assert 'crop_pct was' in error(capsys)
    assert suite('--benchmarks', 'pgd', '--results-dir', folder, '--resume', '--pgd-steps', '3') == 2
    assert 'protocol was' in error(capsys)
    torch.manual_seed(1)
    other = tmp_path / 'other.pth'
    torch.save(timm.create_model('test_resnet').state_dict(), other)
    assert suite('--benchmarks', 'imagenet-a', '--results-dir', folder, '--resume', '--checkpoint', other) == 2
    assert 'weights was' in error(capsys)
    data = shutil.copytree(miniatures / 'imagenet-a', tmp_path / 'data')
    next(data.glob('*/*.jpg')).rename(next(data.glob('*/*.jpg')).with_name('9.jpg'))
    place = ['--benchmark-dir', f'imagenet-a={data}']
    assert suite('--benchmarks', 'imagenet-a', '--results-dir', folder, '--resume', *place) == 2
    assert 'fingerprint was' in error(capsys)


def test_other_labels_are_refused(suite, miniatures, tmp_path, capsys):
    (tmp_path / 'imagenet').symlink_to(miniatures / 'imagenet')
    labels = [[1]] * 50_000
    (tmp_path / 'real.json').write_text(json.dumps(labels))
    place = ['--benchmarks', 'imagenet-real', '--results-dir', tmp_path / 'results', '--resume']
    assert suite(*place, root=tmp_path) == 0
    labels[0] = [2]
    (tmp_path / 'real.json').write_text(json.dumps(labels))
    assert suite(*place, root=tmp_path) == 2
    assert 'targets was' in error(capsys)


def test_reduced_imagenet_c_is_marked(suite, capsys):
    assert suite('--benchmarks', 'imagenet-c', '--subset', 1) == 0
    results = result(capsys)
    assert results['imagenet-c_mce_subset1_partial'] > 0
    entry = results['benchmarks']['imagenet-c']
    assert entry['subset'] == 'subset of 1'
    assert entry['images'] == 95
    assert 'reduced' in entry['protocol']


def test_benchmark_dir(suite, whole, miniatures, tmp_path, capsys):
    shutil.copytree(miniatures / 'imagenet-r', tmp_path / 'elsewhere')
    assert suite('--benchmarks', 'imagenet-r', '--benchmark-dir', f'imagenet-r={tmp_path / "elsewhere"}') == 0
    before = json.loads((whole / 'results.json').read_text())['benchmarks']['imagenet-r']
    assert result(capsys)['benchmarks']['imagenet-r'] == before


def test_headline_is_printed(suite, tmp_path, capsys):
    folder = tmp_path / 'results'
    assert suite('--benchmarks', 'imagenet-a,pgd', '--results-dir', folder) == 0
    *table, empty, last = capsys.readouterr().out.splitlines()
    assert (empty, last) == ('', f'Results: {folder}')
    headline = json.loads((folder / 'results.json').read_text())['benchmarks']
    expected = [[name, key] for name, entry in headline.items() for key in entry['headline']]
    assert [row.split(' | ')[:2] for row in (line.strip('| ') for line in table[2:])] == expected
    assert set(table) < set((folder / 'results.md').read_text().splitlines())


def test_absent_benchmarks_are_named(suite, tmp_path, miniatures, capsys):
    (tmp_path / 'imagenet-a').symlink_to(miniatures / 'imagenet-a')
    assert suite('--benchmarks', 'all', root=tmp_path) == 0
    output = capsys.readouterr()
    results = json.loads(output.out.split('--result\n')[1])
    assert set(results['benchmarks']) == {'imagenet-a'}
    assert 'no folder of imagenet in --data-root' in results['absent']['fgsm']
    assert 'imagenet-c: left out, no folder of imagenet-c' in output.err
    assert suite('--benchmarks', 'imagenet-c', root=tmp_path) == 2
    message = error(capsys)
    for part in ('imagenet-c', str(tmp_path), 'looked for imagenet-c, ImageNet-C', '--benchmark-dir imagenet-c=PATH'):
        assert part in message


def test_shapes_textures(tmp_path, capsys):
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=8)
    path = tmp_path / 'model.pth'
    torch.save(model.state_dict(), path)
    flags = f'--model test_resnet --device cpu -j 0 --img-size 32 --num-classes 8 --checkpoint {path}'.split()
    assert main(['validate', *flags, '--benchmarks', 'shapes_textures']) == 0
    ours = result(capsys)
    assert main(['validate', *flags, '--dataset', 'shapes_textures']) == 0
    theirs = result(capsys)
    assert ours['shapes_textures_top1'] == theirs['top1']
    assert ours['shapes_textures_shape'] == theirs['conflict_shape']
    assert ours['shapes_textures_texture'] == theirs['conflict_texture']
    assert main(['validate', *flags, '--benchmarks', 'imagenet-a']) == 2
    message = error(capsys)
    for part in ('imagenet-a', '1,000 classes', 'has 8', 'shapes_textures', '--data-dir'):
        assert part in message


def test_model_of_other_wnids(suite, model, tmp_path, capsys):
    """A thousand classes, named by wnid in its configuration, but not sorted as ImageNet's are."""
    wnids = list(imagenet_classes())
    for names, code in ((wnids, 0), (wnids[:500] + wnids[:499:-1], 2)):
        folder = tmp_path / str(code)
        save_for_hf(model, folder, {'label_names': names, 'num_classes': 1000}, safe_serialization=True)
        assert suite('--benchmarks', 'imagenet-a', '--model', f'local-dir:{folder}', '--checkpoint', '') == code
    message = error(capsys)
    for part in ('imagenet-a', f'class 500 of this model is {wnids[-1]}', f'expected {wnids[500]}'):
        assert part in message


def test_nothing_to_measure(suite, tmp_path, capsys):
    assert suite('--benchmarks', 'all', root=tmp_path) == 2
    message = error(capsys)
    assert '(fgsm, fgsm-ref, imagenet, imagenet-real, pgd)' in message
    assert message.count('made for models of 8 classes, this one has 1,000 (shapes_textures)') == 1
    assert 'give --data-dir without --benchmarks' in message


def test_list_benchmarks(capsys):
    assert main(['validate', '--list-benchmarks']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('| name | images |')
    assert len(lines) == len(list_benchmarks()) + 2
