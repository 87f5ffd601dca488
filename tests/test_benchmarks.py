"""The benchmarks: registry, class subsets, layouts, and what is refused."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from timm_debias import DebiasError
from timm_debias.validation.benchmarks import (
    Setting,
    format_benchmarks,
    get_benchmark,
    list_benchmarks,
    register_benchmark,
)
from timm_debias.validation.benchmarks.attacks import Fgsm
from timm_debias.validation.benchmarks.categories import category_classes
from timm_debias.validation.benchmarks.classes import imagenet_classes, subset_classes
from timm_debias.validation.benchmarks.cue_conflict import CueConflict
from timm_debias.validation.benchmarks.imagenet import ImageNet
from timm_debias.validation.config import SuiteConfig
from timm_debias.validation.scores import TopK

PARTIAL = Setting(SuiteConfig(allow_partial=True), img_size=64, seed=42)
STRICT = replace(PARTIAL, suite=SuiteConfig())


def roots(root: Path) -> dict[str, Path]:
    """The folder of each benchmark of the miniatures."""
    return {
        name: next(root / folder for folder in get_benchmark(name).folders if (root / folder).is_dir())
        for name in list_benchmarks()
        if name in get_benchmark(name).needs and get_benchmark(name).folders
    }


@pytest.fixture
def copied(miniatures, tmp_path):
    """Copies the folder of a benchmark, to be spoiled."""

    def copy(name: str) -> Path:
        shutil.copytree(roots(miniatures)[name], tmp_path / name)
        return tmp_path / name

    return copy


def refused(name: str, where: dict[str, Path], *parts: str, setting: Setting = PARTIAL) -> None:
    with pytest.raises(DebiasError) as caught:
        get_benchmark(name).contents(where, setting)
    for part in (name, *parts):
        assert part in str(caught.value)


def test_registry():
    names = list_benchmarks()
    assert len(names) == 21
    assert names == sorted(names)
    assert all(name in format_benchmarks() for name in names)
    with pytest.raises(DebiasError, match=r"'imagenet-k'.*'imagenet-"):
        get_benchmark('imagenet-k')
    with pytest.raises(DebiasError, match='registered already'):
        register_benchmark(ImageNet)


def test_documentation_has_the_table():
    text = (Path(__file__).parents[1] / 'docs' / 'benchmarks.md').read_text(encoding='utf-8')
    assert format_benchmarks() in text


@pytest.mark.parametrize('name', list_benchmarks())
def test_declarations(name):
    benchmark = get_benchmark(name)
    assert benchmark.layout
    assert benchmark.metric
    assert benchmark.source
    assert benchmark.num_images is None or benchmark.num_images > 0
    assert benchmark.protocol(PARTIAL)
    own = benchmark.num_classes is None
    assert all(bool(get_benchmark(other).folders) != own for other in benchmark.needs)
    assert type(benchmark).__doc__


def test_class_subsets():
    classes = imagenet_classes()
    assert list(classes) == sorted(classes)
    assert len(classes) == 1000
    a, o, r = (set(subset_classes(subset)) for subset in 'aor')
    assert (len(a), len(o), len(r)) == (200, 200, 200)
    assert len(a & r) == 86
    assert a != o
    assert subset_classes('a')['n01498041'] == 6
    for subset in 'aor':
        assert all(classes[wnid] == index for wnid, index in subset_classes(subset).items())
        assert list(subset_classes(subset).values()) == sorted(subset_classes(subset).values())


def test_categories():
    counts = {category: len(indices) for category, indices in category_classes().items()}
    assert counts == {
        'airplane': 1, 'bear': 4, 'bicycle': 2, 'bird': 49, 'boat': 5, 'bottle': 7, 'car': 3, 'cat': 6, 'chair': 4,
        'clock': 3, 'dog': 109, 'elephant': 2, 'keyboard': 2, 'knife': 1, 'oven': 1, 'truck': 8,
    }  # fmt: skip
    # The indices that human_categories.py of rgeirhos/texture-vs-shape lists beside its wnids.
    published = {
        'airplane': {404}, 'bear': {*range(294, 298)}, 'bicycle': {444, 671}, 'boat': {472, 554, 625, 814, 914},
        'bottle': {440, 720, 737, 898, 899, 901, 907}, 'car': {436, 511, 817}, 'cat': {*range(281, 287)},
        'chair': {423, 559, 765, 857}, 'clock': {409, 530, 892}, 'elephant': {385, 386}, 'keyboard': {508, 878},
        'knife': {499}, 'oven': {766}, 'truck': {555, 569, 656, 675, 717, 734, 864, 867},
        'dog': {*range(152, 269)} - {192, 204, 227, 242, 251, 258, 260, 264},
        'bird': {8, *range(10, 25), *range(80, 101), *range(127, 146)} - {17, 21, 84, 85, 86, 97, 134},
    }  # fmt: skip
    assert {category: set(indices) for category, indices in category_classes().items()} == published
    every = [index for indices in category_classes().values() for index in indices]
    assert len(every) == len(set(every)) == 207
    assert list(counts) == sorted(counts)


OF_THE_FIELD = [
    name for name in list_benchmarks() if get_benchmark(name).needs and get_benchmark(name).num_classes is not None
]


@pytest.mark.parametrize('name', OF_THE_FIELD)
def test_layout_of_every_benchmark(name, miniatures):
    benchmark = get_benchmark(name)
    where = {other: roots(miniatures)[other] for other in benchmark.needs}
    contents = benchmark.contents(where, PARTIAL)
    assert contents.partial
    assert len({part.name for part in contents.parts}) == len(contents.parts)
    for part in contents.parts:
        assert part.name.split('/')[0] == name
        assert len(part.images) == len(part.targets) > 0
        assert part.images[0].mode == 'RGB'
        assert Path(part.images.name(0)).is_file()
        part.score()
    again = benchmark.contents(where, PARTIAL)
    assert [part.images.fingerprint for part in again.parts] == [part.images.fingerprint for part in contents.parts]
    refused(name, where, 'expected', '--allow-partial', setting=STRICT)


def test_targets_are_class_indices(miniatures):
    classes = imagenet_classes()
    for name in ('imagenet', 'imagenet-a', 'imagenet-o', 'imagenet-r', 'imagenet-sketch', 'stylized-imagenet'):
        for part in get_benchmark(name).contents(roots(miniatures), PARTIAL).parts:
            wnids = [Path(part.images.name(index)).parent.name for index in range(len(part.images))]
            assert part.targets.tolist() == [classes[wnid] for wnid in wnids]


def test_v2_folders_are_numbers(miniatures, tmp_path):
    (part,) = get_benchmark('imagenet-v2').contents(roots(miniatures), PARTIAL).parts
    folders = [int(Path(part.images.name(index)).parent.name) for index in range(len(part.images))]
    assert part.targets.tolist() == folders
    assert sorted(map(str, folders)) != list(map(str, sorted(folders)))  # As names they sort in another order.
    shutil.copytree(roots(miniatures)['imagenet'], tmp_path / 'v2')
    (part,) = get_benchmark('imagenet-v2').contents({'imagenet-v2': tmp_path / 'v2'}, PARTIAL).parts
    assert set(part.targets.tolist()) <= set(imagenet_classes().values())


def test_negatives_of_imagenet_o_are_of_its_classes(miniatures):
    out, inside = get_benchmark('imagenet-o').contents(roots(miniatures), PARTIAL).parts
    assert set(inside.targets.tolist()) <= set(subset_classes('o').values())
    assert 0 < len(inside.images) < 7
    assert len(out.images) == 5


def test_real_labels(miniatures, tmp_path):
    labels = [[]] * 50_000
    labels[1], labels[2] = [3, 8, 9], [4]
    path = tmp_path / 'real.json'
    path.write_text(str(labels))
    setting = replace(PARTIAL, suite=replace(PARTIAL.suite, data_root=str(tmp_path)))
    contents = get_benchmark('imagenet-real').contents(roots(miniatures), setting)
    assert contents.parts[0].targets.tolist() == [[3, 8, 9], [4, -1, -1]]
    assert str(path) in contents.notes[0]
    path.write_text('[[1], [2]]')
    refused('imagenet-real', roots(miniatures), str(path), '50,000', setting=setting)
    shipped = get_benchmark('imagenet-real').contents(roots(miniatures), PARTIAL)
    assert 'timm' in shipped.notes[0]


def test_real_needs_the_official_names(copied):
    root = copied('imagenet')
    folder = next(path for path in root.iterdir() if path.is_dir())
    (image,) = folder.iterdir()
    image.rename(folder / 'cat.JPEG')
    refused('imagenet-real', {'imagenet': root}, 'cat.JPEG', 'ILSVRC2012_val_00000001.JPEG')


def test_parts_of_imagenet_c(miniatures):
    parts = get_benchmark('imagenet-c').contents(roots(miniatures), PARTIAL).parts
    assert len(parts) == 95
    assert Counter(part.name.split('/')[1] for part in parts)['fog'] == 5


def test_imagenet_c_without_the_extra_corruptions(copied):
    root = copied('imagenet-c')
    for name in ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate'):
        shutil.rmtree(root / name)
    assert len(get_benchmark('imagenet-c').contents({'imagenet-c': root}, PARTIAL).parts) == 75
    shutil.rmtree(root / 'fog' / '3')
    refused('imagenet-c', {'imagenet-c': root}, 'lacks 1 of the 75', 'fog/3', '--allow-partial', setting=STRICT)
    assert len(get_benchmark('imagenet-c').contents({'imagenet-c': root}, PARTIAL).parts) == 74


def test_cue_conflict_leaves_equal_categories_out(miniatures):
    (part,) = get_benchmark('cue-conflict').contents(roots(miniatures), PARTIAL).parts
    cues = sorted(map(tuple, part.targets.tolist()))
    assert cues == [(0, 1), (0, 2), (3, 4), (5, 3), (15, 0)]


def test_official_counts_need_no_flag(photographs, monkeypatch):
    """The photographs are a complete set of 1,000 class folders, but of one image each."""
    samples = photographs / 'imagenet_samples'
    refused('imagenet', {'imagenet': samples}, '1,000 images in 1000', 'expected 50,000', setting=STRICT)
    monkeypatch.setattr(ImageNet, 'num_images', 1000)
    contents = ImageNet().contents({'imagenet': samples}, STRICT)
    assert not contents.partial
    assert contents.parts[0].targets.tolist() == list(range(1000))


@pytest.mark.parametrize('name', ['imagenet', 'imagenet-a', 'imagenet-sketch'])
def test_unknown_class_folders(copied, name):
    root = copied(name)
    (root / 'n00000000').mkdir()
    refused(name, {name: root}, 'n00000000', 'none of the', str(root))


def test_another_benchmark_in_the_folder(miniatures):
    refused('imagenet-a', {'imagenet-a': roots(miniatures)['imagenet-c']}, 'none of the 200 classes', 'brightness')
    refused('imagenet-c', {'imagenet-c': roots(miniatures)['imagenet-a']}, 'lacks', 'gaussian_noise/1')
    refused('cue-conflict', {'cue-conflict': roots(miniatures)['imagenet']}, 'none of the 16 classes', 'airplane')


def test_flattened_validation_folder(copied):
    root = copied('imagenet')
    for path in list(root.glob('*/*')):
        path.rename(root / path.name)
        path.parent.rmdir()
    refused('imagenet', {'imagenet': root}, 'without class folders', 'n01440764', 'ground_truth')


def test_empty_folder(tmp_path):
    refused('imagenet', {'imagenet': tmp_path}, 'none', 'n01440764')
    (tmp_path / 'n01440764').mkdir()
    refused('imagenet', {'imagenet': tmp_path}, 'without images')


@pytest.mark.parametrize('name', ['imagenet-c', 'stylized-imagenet', 'cue-conflict'])
def test_size_of_fixed_size_images(copied, name):
    root = copied(name)
    path = sorted(root.rglob('*-*.png' if name == 'cue-conflict' else '*.[pJ]*'))[0]
    Image.new('RGB', (256, 224)).save(path)
    refused(name, {name: root}, str(path), '256×224', '224×224')


def test_names_of_cue_conflict(copied):
    root = copied('cue-conflict')
    (root / 'airplane' / 'airplane1-bear2.png').rename(root / 'airplane' / 'bear1-airplane2.png')
    refused('cue-conflict', {'cue-conflict': root}, 'bear1-airplane2.png', 'airplane1-car2.png')


def test_fingerprint_knows_names_and_sizes(copied):
    root = copied('imagenet-r')
    before = get_benchmark('imagenet-r').contents({'imagenet-r': root}, PARTIAL).parts[0].images.fingerprint
    path = next(root.glob('*/*'))
    path.write_bytes(path.read_bytes() + b' ')
    grown = get_benchmark('imagenet-r').contents({'imagenet-r': root}, PARTIAL).parts[0].images.fingerprint
    path.rename(path.with_name('2.jpg'))
    renamed = get_benchmark('imagenet-r').contents({'imagenet-r': root}, PARTIAL).parts[0].images.fingerprint
    assert len({before, grown, renamed}) == 3


def test_epsilons(miniatures):
    setting = replace(PARTIAL, suite=replace(PARTIAL.suite, epsilons=[0.5, 8]))
    names = [part.name for part in Fgsm().contents(roots(miniatures), setting).parts]
    assert names == ['fgsm/eps0.5', 'fgsm/eps8']
    assert 'float32' in Fgsm().protocol(setting)


def test_imagenet_c_summary_against_alexnet_itself():
    """A model with AlexNet's errors has an mCE and a relative mCE of 100."""
    from timm_debias.metrics import ALEXNET_ERRORS

    benchmark = get_benchmark('imagenet-c')
    states = {
        f'imagenet-c/{corruption}/{severity}': {'images': 1_000_000, 'top1': round(1_000_000 * (1 - error)), 'top5': 0}
        for corruption, error in ALEXNET_ERRORS.items()
        for severity in range(1, 6)
    }
    alone = benchmark.summarize(states, {})
    assert alone.metrics['mce'] == pytest.approx(100)
    assert alone.metrics['relative_mce'] is None
    assert 'imagenet' in alone.notes[0]
    assert alone.metrics['reference_mean_error_19'] is None
    assert 0 < alone.metrics['errors']['fog']['3']['error_interval'][0] < 100
    clean = ImageNet().summarize({'imagenet': {'images': 10_000, 'top1': 5652, 'top5': 0}}, {})
    both = benchmark.summarize(states, {'imagenet': clean})
    assert both.metrics['relative_mce'] == pytest.approx(100)
    del states['imagenet-c/fog/2']
    lacking = benchmark.summarize(states, {})
    assert lacking.metrics['mce'] is None
    assert 'fog' in lacking.notes[0]
    assert len(lacking.metrics['ce']) == 14


def test_cue_conflict_summary_of_published_decisions():
    counts = {'images': [1200] + [0] * 15, 'shape': [162] + [0] * 15, 'texture': [572] + [0] * 15}
    summary = CueConflict().summarize({'cue-conflict': counts}, {})
    assert summary.metrics['shape_bias'] == pytest.approx(22.07, abs=0.005)
    assert summary.metrics['shape'] == pytest.approx(13.5)
    assert summary.metrics['published_shape_bias'] == pytest.approx({'humans': 95.87, 'ResNet-50': 22.07}, abs=0.005)
    assert summary.metrics['categories']['bear']['shape_bias'] is None


def test_target_of_attacks_is_the_true_class(miniatures):
    (part,) = Fgsm().contents(roots(miniatures), PARTIAL).parts
    clean = ImageNet().contents(roots(miniatures), PARTIAL).parts[0]
    assert torch.equal(part.targets, clean.targets)
    assert part.score is TopK
