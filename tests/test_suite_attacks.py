"""The attacks of `validate.py --benchmarks`, on a few photographs, against a plain loop."""

import pytest
import timm
import torch
from miniatures import IMG_SIZE, result, wnid_labels
from PIL import Image

from timm_debias.validation.attacks import PixelModel, fgsm, pgd


@pytest.fixture(scope='module')
def model(suite_checkpoint):
    return timm.create_model('test_resnet', checkpoint_path=str(suite_checkpoint)).eval()


def test_attacks_against_a_plain_loop(suite, miniatures, model, capsys):
    arguments = ['--benchmarks', 'fgsm,pgd', '--epsilons', '0', '1.5', '--pgd-steps', '2', '--pgd-step-size', '1']
    assert suite(*arguments) == 0
    measured = result(capsys)['benchmarks']
    config = timm.data.resolve_data_config({'img_size': IMG_SIZE}, model=model)
    transform = timm.data.create_transform(**config, normalize=False)
    paths = sorted((miniatures / 'imagenet' / 'val').glob('*/*'))
    images = torch.stack([transform(Image.open(path).convert('RGB')) for path in paths]) / 255
    labels, pixel_model = wnid_labels(paths), PixelModel(model, config['mean'], config['std'])
    generators = [torch.Generator().manual_seed(1_000_003 * 42 + index) for index in range(len(images))]
    right = {'fgsm': 0, 'pgd': 0}
    for start in range(0, len(images), 4):
        batch, truth = images[start : start + 4], labels[start : start + 4]
        for name, moved in (
            ('fgsm', fgsm(pixel_model, batch, truth, 1.5 / 255)),
            ('pgd', pgd(pixel_model, batch, truth, 1.5 / 255, 2, 1 / 255, 1, generators[start : start + 4])),
        ):
            right[name] += int((pixel_model(moved).topk(5, dim=1).indices == truth[:, None]).sum())
    for name, count in right.items():
        clean, attacked = measured[name]['metrics']['curve']
        assert (clean['epsilon'], attacked['epsilon']) == (0, 1.5)
        assert attacked['top5'] == pytest.approx(100 * count / len(images))
    assert '2 steps of size 1/255' in measured['pgd']['protocol']


def test_attacks_on_a_model_that_keeps_tensors(suite, tmp_path, capsys):
    """ConViT keeps relative positions of a forward without gradients, which the gradients of a single image need."""
    torch.manual_seed(0)
    torch.save(timm.create_model('convit_tiny', img_size=IMG_SIZE, depth=2).state_dict(), tmp_path / 'convit.pth')
    flags = ['--model', 'convit_tiny', '--checkpoint', tmp_path / 'convit.pth']
    flags += ['--model-kwargs', f'img_size={IMG_SIZE}', 'depth=2', '--epsilons', 0, 2, '-b', 3]
    assert suite('--benchmarks', 'fgsm,imagenet,pgd', *flags) == 0
    together = result(capsys)['benchmarks']
    assert suite('--benchmarks', 'pgd', *flags) == 0
    assert result(capsys)['benchmarks']['pgd'] == together['pgd']
    assert together['pgd']['metrics']['curve'][0]['top1'] == together['imagenet']['metrics']['top1']


def test_pgd_has_what_the_flags_say(suite, monkeypatch, capsys):
    calls = []

    def record(model, images, labels, epsilon, steps, step_size, restarts, generators):
        draws = [torch.rand(1, generator=generator).item() for generator in generators]
        calls.append((255 * epsilon, steps, 255 * step_size, restarts, draws[0]))
        assert len(set(draws)) == len(images)
        return images

    monkeypatch.setattr('timm_debias.validation.attacks.pgd', record)
    assert suite('--benchmarks', 'pgd', '--epsilons', 2, 8, '--pgd-steps', 5, '--pgd-restarts', 3) == 0
    assert suite('--benchmarks', 'pgd', '--epsilons', 8, '--pgd-step-size', 1.5, '--seed', 1) == 0
    assert [call[:4] for call in calls[::2]] == [
        pytest.approx(expected) for expected in ((2, 5, 1, 3), (8, 5, 4, 3), (8, 10, 1.5, 1))
    ]
    # Every part starts from the seed, so that it does not matter which parts were measured before.
    assert calls[0][4] == calls[2][4] != calls[1][4]
    assert calls[0][4] != calls[4][4]
