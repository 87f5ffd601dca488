"""`validate.py --benchmarks folder…`: class folders of one's own, and what make-benchmark makes of them."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from miniatures import error, result
from PIL import Image
from timm.models import save_for_hf
from torchvision.transforms.functional import pil_to_tensor

from timm_debias.cli import main
from timm_debias.corruptions import MAIN
from timm_debias.validation.attacks import PixelModel, fgsm, pgd

CLASSES = ('1-a', 'b-2c', 'c')
COUNTS = (4, 3, 6)
SIZE = 32


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """An image folder of three unequal classes, with all that make-benchmark makes of it, and a model that knows it."""
    root = tmp_path_factory.mktemp('own')
    rng = np.random.default_rng(0)
    for index, (name, count) in enumerate(zip(CLASSES, COUNTS, strict=True)):
        (root / 'test' / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 200, (40, 40, 3))
            pixels[..., (index + (number == 2)) % 3] += 55  # One of each class looks like the next.
            Image.fromarray(pixels.astype(np.uint8)).save(root / 'test' / name / f'{number}.png')
    make = ['--data-dir', root / 'test', '--img-size', SIZE, '--resize', SIZE, '--workers', 1]
    for kind, more in (
        ('corrupted', ['--corruptions', *MAIN]),
        ('stylized', ['--stylizer', 'band_statistics']),
        ('cue-conflict', ['--stylizer', 'band_statistics', '--per-pair', 2]),
    ):
        assert main(['make-benchmark', kind, *map(str, [*make, '--output', root / kind, *more])]) == 0
    torch.save(knowing_model(root / 'test').state_dict(), root / 'model.pth')
    return root


def knowing_model(folder: Path) -> torch.nn.Module:
    """A random network with a head of class means: right on more images than by chance, wrong on some."""
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=3).eval()
    paths = sorted(folder.glob('*/*.png'))
    labels = torch.tensor([CLASSES.index(path.parent.name) for path in paths])
    pixels = torch.stack([pil_to_tensor(Image.open(path).resize((SIZE, SIZE))) / 127.5 - 1 for path in paths])
    with torch.no_grad():
        features = model.forward_head(model.forward_features(pixels), pre_logits=True)
        means = torch.stack([features[labels == index][:1].mean(dim=0) for index in range(3)])
        model.fc.weight.copy_(2 * means)
        model.fc.bias.copy_(-means.square().sum(dim=1))
    return model


@pytest.fixture(scope='module')
def model(data):
    return timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(data / 'model.pth')).eval()


def arguments(data, benchmarks, *argv):
    words = ['--model', 'test_resnet', '--num-classes', 3, '--checkpoint', data / 'model.pth', '--device', 'cpu']
    words += ['-j', 0, '-b', 5, '--img-size', SIZE, '--crop-pct', 1, '--benchmarks', benchmarks, '--benchmark-dir']
    words += [f'folder={data / "test"}', f'folder-c={data / "corrupted"}', f'folder-stylized={data / "stylized"}']
    return ['validate', *map(str, [*words, f'folder-cue-conflict={data / "cue-conflict"}', *argv])]


def without(words, flag):
    """Take a flag and its value out of a command."""
    place = words.index(flag)
    return words[:place] + words[place + 2 :]


def decisions(model, paths, resize=False):
    """What the model decides, image by image, without anything of the suite."""
    config = timm.data.resolve_data_config({'img_size': SIZE, 'crop_pct': 1.0}, model=model)
    transform = timm.data.create_transform(**config)
    found = []
    for path in paths:
        image = Image.open(path).convert('RGB')
        tensor = transform(image) if resize else pil_to_tensor(image) / 127.5 - 1
        with torch.no_grad():
            found.append(int(model(tensor[None]).argmax()))
    return found


def accuracy(model, root, resize=False) -> float:
    paths = sorted(root.glob('*/*.*'))
    found = decisions(model, paths, resize)
    return 100 * np.mean([CLASSES[index] == path.parent.name for index, path in zip(found, paths, strict=True)])


@pytest.fixture(scope='module')
def measured(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('measured') / 'results'
    names = 'folder,folder-c,folder-stylized,folder-cue-conflict,folder-fgsm,folder-pgd'
    more = ['--results-dir', folder, '--epsilons', 4, 1, '--pgd-steps', 2]
    assert main(arguments(data, names, *more)) == 0
    return folder


def test_accuracy_and_balanced_accuracy(measured, data, model):
    metrics = json.loads((measured / 'results.json').read_text())['benchmarks']['folder']['metrics']
    paths = sorted((data / 'test').glob('*/*.png'))
    right = Counter(
        path.parent.name
        for index, path in zip(decisions(model, paths, resize=True), paths, strict=True)
        if CLASSES[index] == path.parent.name
    )
    assert 0 < right.total() < len(paths)
    assert metrics['top1'] == pytest.approx(100 * right.total() / 13)
    recalls = [right[name] / count for name, count in zip(CLASSES, COUNTS, strict=True)]
    assert metrics['balanced_accuracy'] == pytest.approx(100 * sum(recalls) / 3)
    assert metrics['balanced_accuracy'] != pytest.approx(metrics['top1'])
    assert metrics['classes'] == {
        name: {'images': count, 'right': right[name]} for name, count in zip(CLASSES, COUNTS, strict=True)
    }


def test_made_images_are_measured_as_they_are(measured, data, model):
    results = json.loads((measured / 'results.json').read_text())['benchmarks']
    stylized = results['folder-stylized']
    assert stylized['metrics']['top1'] == pytest.approx(accuracy(model, data / 'stylized'))
    assert 'no resize, no crop' in stylized['protocol']
    errors = results['folder-c']['metrics']['errors']
    assert list(errors) == list(MAIN)
    for corruption, severity in (('fog', 5), ('gaussian_noise', 1), ('jpeg_compression', 3)):
        expected = 100 - accuracy(model, data / 'corrupted' / corruption / str(severity))
        assert errors[corruption][str(severity)]['error'] == pytest.approx(expected)
    every = [row['error'] for severities in errors.values() for row in severities.values()]
    assert len(every) == 75
    assert results['folder-c']['headline']['mean_error_15'] == pytest.approx(np.mean(every))


def test_cue_conflict(measured, data, model):
    """Shape and texture are read from the file names once more, by a plain loop over the class names."""
    metrics = json.loads((measured / 'results.json').read_text())['benchmarks']['folder-cue-conflict']['metrics']
    paths = sorted((data / 'cue-conflict').glob('*/*.png'))
    assert len(paths) == 3 * 2 * 2
    counts = {name: [0, 0, 0] for name in CLASSES}
    for index, path in zip(decisions(model, paths), paths, strict=True):
        shape = path.parent.name
        texture = next(name for name in CLASSES if f'-{name}' in path.name.removeprefix(shape) and name != shape)
        counts[shape][0] += 1
        counts[shape][1] += CLASSES[index] == shape
        counts[shape][2] += CLASSES[index] == texture
    assert {
        name: [row['images'], row['shape'], row['texture']] for name, row in metrics['categories'].items()
    } == counts
    total, shape, texture = np.sum(list(counts.values()), axis=0)
    assert metrics['shape'] == pytest.approx(100 * shape / total)
    assert metrics['texture'] == pytest.approx(100 * texture / total)


def test_attacks(measured, data, model):
    results = json.loads((measured / 'results.json').read_text())['benchmarks']
    paths = sorted((data / 'test').glob('*/*.png'))
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config({'img_size': SIZE, 'crop_pct': 1.0}, model=model)
    )
    images = torch.stack([transform(Image.open(path)) for path in paths]).mul(0.5).add(0.5).clamp(0, 1)
    labels = torch.tensor([CLASSES.index(path.parent.name) for path in paths])
    pixel_model = PixelModel(model, (0.5,) * 3, (0.5,) * 3)
    for point in results['folder-fgsm']['metrics']['curve']:
        attacked = fgsm(pixel_model, images, labels, point['epsilon'] / 255)
        right = (pixel_model(attacked).argmax(dim=1) == labels).float().mean()
        assert point['top1'] == pytest.approx(100 * float(right))
    assert [point['epsilon'] for point in results['folder-pgd']['metrics']['curve']] == [4, 1]
    generators = [torch.Generator().manual_seed((1_000_003 * 42 + index) % 2**32) for index in range(13)]
    attacked = pgd(pixel_model, images, labels, 4 / 255, steps=2, step_size=2.5 * 4 / 255 / 2, generator=generators)
    right = (pixel_model(attacked).argmax(dim=1) == labels).float().mean()
    assert results['folder-pgd']['headline']['top1_eps4'] == pytest.approx(100 * float(right))


def test_tables_and_comparison(measured, capsys):
    row = next(csv.DictReader((measured / 'results.csv').open()))
    assert {'folder_top1', 'folder_balanced_accuracy', 'folder-c_mean_error_15', 'folder-fgsm_top1_eps4'} <= set(row)
    assert main(['compare', str(measured), str(measured)]) == 0
    table = capsys.readouterr().out
    text = (measured / 'results.md').read_text()
    assert '| corruption | 1 | 2 | 3 | 4 | 5 | mean error |\n' in text
    assert '| folder-fgsm | top1_eps4 | ' in text
    assert text.count('| 13 |\n') == 4 * 2  # Not 26 for two epsilons.
    assert 'not the images of Geirhos et al.\n' in text
    assert '| folder-c/fog | 13 × 5 |' in table
    assert '| folder-c, 15 corruptions | 13 × 75 |' in table
    assert 'folder-cue-conflict, by shape' in table


def test_subset_takes_the_same_images_everywhere(data, capsys):
    assert main(arguments(data, 'folder-c,folder-fgsm', '--subset', 7)) == 0
    entries = result(capsys)['benchmarks']
    assert entries['folder-c']['images'] == 75 * 7
    assert (entries['folder-fgsm']['images'], entries['folder-fgsm']['subset']) == (7, 'subset of 7')
    assert 'reduced to 7 images, drawn with seed' in entries['folder-c']['protocol']


def test_configuration_file(data, tmp_path, capsys):
    """`-c` gives validate.py the flags of its command line."""
    _, *words = arguments(data, 'folder')
    flags = {'model': 'test_resnet', 'num_classes': 3, 'checkpoint': str(data / 'model.pth'), 'device': 'cpu'}
    flags |= {'workers': 0, 'img_size': SIZE, 'crop_pct': 1.0, 'benchmarks': 'folder'}
    path = tmp_path / 'validate.yaml'
    path.write_text(json.dumps(flags | {'benchmark_dir': [f'folder={data / "test"}']}))  # JSON is YAML.
    assert main(['validate', *words]) == 0
    expected = result(capsys)
    assert main(['validate', '-c', str(path)]) == 0
    assert result(capsys)['folder_top1'] == expected['folder_top1']
    path.write_text('benchmark: folder')
    assert main(['validate', '-c', str(path)]) == 2
    assert "unknown key 'benchmark'. Did you mean 'benchmarks'" in error(capsys)


class TestMistakes:
    def refused(self, capsys, argv, *parts):
        assert main(argv) == 2
        message = error(capsys)
        for part in parts:
            assert part in message

    def test_folders_that_do_not_fit(self, data, tmp_path, capsys):
        shutil.copytree(data / 'test', tmp_path / 'test')
        place = f'folder={tmp_path / "test"}'
        (tmp_path / 'test' / 'd').mkdir()
        self.refused(capsys, arguments(data, 'folder', '--benchmark-dir', place), '4 class folders', '3 classes')
        shutil.rmtree(tmp_path / 'test' / 'c')
        self.refused(capsys, arguments(data, 'folder', '--benchmark-dir', place), 'test/d has no images')
        shutil.copytree(data / 'test' / 'c', tmp_path / 'test' / 'd' / 'below')
        self.refused(capsys, arguments(data, 'folder', '--benchmark-dir', place), 'test/d holds folders (below)')

    @pytest.mark.parametrize('name', ['folder', 'folder-c', 'folder-cue-conflict', 'folder-fgsm'])
    def test_classes_in_another_order(self, data, model, tmp_path, capsys, name):
        """By what a model that comes with its configuration says of them, where the names are those of the folders."""
        for names, code in ((CLASSES, 0), (('1-a', 'c', 'b-2c'), 2), (('boot', 'coat', 'hat'), 0)):
            folder = tmp_path / names[1]
            save_for_hf(model, folder, {'label_names': list(names), 'num_classes': 3}, safe_serialization=True)
            assert main(without(arguments(data, name, '--model', f'local-dir:{folder}'), '--checkpoint')) == code
            if code:
                message = error(capsys)
        for part in (f'{name}', "class 1 of the model is 'c'", "folder 1 is 'b-2c'", 'rename the folders'):
            assert part in message

    def test_no_folder(self, data, capsys):
        argv = arguments(data, 'folder')
        argv = argv[: argv.index('--benchmark-dir')]
        self.refused(capsys, argv, 'folder: give its images by --benchmark-dir folder=PATH')

    def test_not_made_by_make_benchmark(self, data, tmp_path, capsys):
        shutil.copytree(data / 'stylized', tmp_path / 'made')
        place = f'folder-stylized={tmp_path / "made"}'
        argv = arguments(data, 'folder-stylized', '--benchmark-dir', place)
        manifest = json.loads((tmp_path / 'made' / 'manifest.json').read_text())
        (tmp_path / 'made' / 'manifest.json').write_text(json.dumps(manifest | {'complete': False}))
        self.refused(capsys, argv, 'folder-stylized: ', 'is not finished')
        (tmp_path / 'made' / 'manifest.json').unlink()
        self.refused(capsys, argv, 'has no manifest.json', 'make-benchmark stylized')
        place = f'folder-c={data / "stylized"}'
        argv = arguments(data, 'folder-c', '--benchmark-dir', place)
        self.refused(capsys, argv, 'made by make-benchmark stylized, expected corrupted')

    def test_all_leaves_them_out(self, data, capsys):
        self.refused(
            capsys, arguments(data, 'all'), 'no benchmark to measure', '1,000 classes, this one has 3 (', 'imagenet-c'
        )
