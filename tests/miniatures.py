"""Builds a few images of each benchmark in its real layout."""

import json
from pathlib import Path

import timm
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from timm_debias.metrics import ALEXNET_ERRORS, EXTRA_CORRUPTIONS, SEVERITIES
from timm_debias.validation.benchmarks.categories import category_classes
from timm_debias.validation.benchmarks.classes import imagenet_classes, subset_classes

IMG_SIZE = 48
SUITE_FLAGS = [
    '--model', 'test_resnet', '--device', 'cpu', '-j', '0', '--img-size', IMG_SIZE, '-b', '4', '--allow-partial'
]  # fmt: skip


def build_miniatures(samples: Path, root: Path) -> None:
    """Build all layouts below `root` from photographs `samples`/<wnid>/<wnid>.jpg."""
    wnids = list(imagenet_classes())
    # Among these, some are of the classes of A, O and R.
    chosen = sorted([*wnids[5:8], *list(subset_classes('o'))[:3], wnids[999]])
    for number, wnid in enumerate(chosen, start=1):
        save(samples, wnid, root / 'imagenet' / 'val' / wnid / f'ILSVRC2012_val_{number:08d}.JPEG', 80)
        index = imagenet_classes()[wnid]
        save(samples, wnid, root / 'imagenetv2-matched-frequency-format-val' / str(index) / 'a.jpeg', 70)
        save(samples, wnid, root / 'imagenet-sketch' / wnid / 'sketch_1.JPEG', 90)
        save(samples, wnid, root / 'stylized-imagenet' / 'val' / wnid / 'a.png', 224)
    # Class 0 tells V2's folders from wnids.
    save(samples, wnids[0], root / 'imagenetv2-matched-frequency-format-val' / '0' / 'a.jpeg', 70)
    for subset in 'aor':
        for wnid in list(subset_classes(subset))[:5]:
            save(samples, wnid, root / f'imagenet-{subset}' / wnid / '1.jpg', 75)
    (root / 'imagenet-a' / 'README.txt').write_text('as in the archive')
    for shade, corruption in enumerate([*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS]):
        for severity in SEVERITIES:
            for wnid in chosen[:2]:
                path = root / 'imagenet-c' / corruption / str(severity) / wnid / 'ILSVRC2012_val_00000001.JPEG'
                save(samples, wnid, path, 224, darker=(10 * shade + severity) / 300)
    categories = list(category_classes())
    for shape, texture in ((0, 1), (0, 2), (3, 4), (5, 3), (15, 0), (7, 7)):  # 7 is the cat.
        wnid = wnids[category_classes()[categories[shape]][0]]
        name = f'{categories[shape]}1-{categories[texture]}2.png'
        save(samples, wnid, root / 'cue-conflict' / categories[shape] / name, 224)


def save(samples: Path, wnid: str, path: Path, size: int, darker: float = 0.0) -> None:
    """Save the photograph of a class, resized to a square and darkened by a share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(samples / wnid / f'{wnid}.jpg') as image:
        square = image.convert('RGB').resize((size, size))
    square.point(lambda value: int(value * (1 - darker))).save(path)


def build_model(root: Path) -> torch.nn.Module:
    """Return a random model whose head knows some photographs by heart: right on some images, wrong on others."""
    torch.manual_seed(0)
    model = timm.create_model('test_resnet').eval()
    paths = sorted((root / 'imagenet').rglob('*.JPEG')) + sorted((root / 'imagenet-a').rglob('*.jpg'))[1:]
    with torch.no_grad():
        pixels = [pil_to_tensor(Image.open(path).resize((64, 64))) / 255 for path in paths]
        features = model.forward_head(model.forward_features(torch.stack(pixels) * 2 - 1), pre_logits=True)
        centre = features.mean(dim=0)
        prototypes = torch.nn.functional.normalize(features - centre)
        torch.nn.init.normal_(model.fc.weight, std=0.5 / prototypes.shape[1] ** 0.5)
        model.fc.weight[wnid_labels(paths)] = prototypes
        model.fc.weight.mul_(20 / (features - centre).norm(dim=1).mean())
        model.fc.bias.copy_(-model.fc.weight @ centre)
    return model


def wnid_labels(paths):
    return torch.tensor([imagenet_classes()[path.parent.name] for path in paths])


def result(capsys) -> dict:
    """What `validate.py` printed as its result."""
    return json.loads(capsys.readouterr().out.split('--result\n')[1])


def error(capsys) -> str:
    """The line by which `validate.py` refused something."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith('timm-debias validate: error: '), lines
    return lines[-1]
