"""`timm-debias train-stylizer`."""

import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bad_files import deep
from PIL import Image
from test_stylizers import ENCODER, random_state

from timm_debias import create_stylizer
from timm_debias.cli import main
from timm_debias.stylizer_training.data import Crops
from timm_debias.stylizer_training.figures import make_batch
from timm_debias.stylizer_training.objectives import LiteObjective
from timm_debias.stylizer_training.texture import RandomTexture, local_distance
from timm_debias.stylizers.adain_lite import AdainLite
from timm_debias.stylizers.adain_vgg19 import AdainVgg19
from timm_debias.stylizers.patches import GRID, cut_patches

FAST = ['--steps', '4', '-b', '4', '--img-size', '48', '--log-interval', '2', '--checkpoint-interval', '2']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """60 small pictures: smooth gradients with noise, in sub-folders."""
    root = tmp_path_factory.mktemp('images')
    generator = np.random.default_rng(0)
    for index in range(60):
        ramp = np.linspace(0, 1, 60)[:, None, None] * generator.uniform(0, 1, 3)
        pixels = 255 * np.clip(ramp + generator.uniform(0, 0.3, (60, 64, 3)), 0, 1)
        path = root / f'{index % 3}' / f'{index:02d}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def run(*argv) -> int:
    return main(['train-stylizer', *map(str, argv)])


def test_run_leaves_weights_metrics_and_picture(folder, tmp_path):
    assert run('--data-dir', folder, '--output', tmp_path / 'a', *FAST) == 0
    names = {path.name for path in (tmp_path / 'a').iterdir()}
    assert names == {'adain_lite.safetensors', 'metrics.json', 'preview.png', 'args.yaml', 'checkpoint.pth'}
    assert set(json.loads((tmp_path / 'a' / 'metrics.json').read_text())) == {'psnr', 'texture_removed'}
    create_stylizer('adain_lite', tmp_path / 'a' / 'adain_lite.safetensors')


def test_training_lowers_the_loss(folder, tmp_path, caplog):
    arguments = ['--data-dir', folder, '--output', tmp_path, '-b', 4, '--img-size', 48, '--checkpoint-interval', 100]
    with caplog.at_level('INFO'):
        assert run(*arguments, '--steps', 40, '--log-interval', 10) == 0
    terms = [line for line in caplog.messages if line.startswith('Step ')]
    first, last = (float(line.split('reconstruction: ')[1].split()[0]) for line in (terms[0], terms[-1]))
    assert last < 0.7 * first


def test_resumed_run_is_bit_identical(folder, tmp_path, monkeypatch):
    assert run('--data-dir', folder, '--output', tmp_path / 'whole', *FAST) == 0

    from timm_debias.stylizer_training.loop import StylizerTrainer

    update = StylizerTrainer.update

    def interrupted(self):
        if self.step == 3:  # After the checkpoint of step 2, one step is lost.
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(StylizerTrainer, 'update', interrupted)
    assert run('--data-dir', folder, '--output', tmp_path / 'a', *FAST) == 130
    monkeypatch.setattr(StylizerTrainer, 'update', update)
    assert run('--data-dir', folder, '--output', tmp_path / 'a', *FAST, '--resume') == 0
    whole, resumed = (
        torch.load(tmp_path / name / 'checkpoint.pth', weights_only=True)['stylizer'] for name in ('whole', 'a')
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_vgg_decoder_for_a_given_encoder(folder, tmp_path):
    encoder = random_state(ENCODER, 0)
    torch.save(encoder, tmp_path / 'vgg_normalised.pth')
    arguments = ['--data-dir', folder, '--output', tmp_path / 'a', *FAST, '--steps', '2']
    assert run(*arguments, '--stylizer', 'adain_vgg19', '--encoder-weights', tmp_path) == 0
    trained = create_stylizer('adain_vgg19', tmp_path / 'a' / 'adain_vgg19.safetensors')
    assert isinstance(trained, AdainVgg19)
    torch.testing.assert_close(trained.encoder[2].weight, encoder['2.weight'], rtol=0, atol=0)


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--data-dir', 'nowhere'], ["'nowhere'", 'no such folder']),
        (['--steps', '0'], ['--steps is 0']),
        (['-b', '3'], ['--batch-size is 3', 'at least 4']),
        (['--img-size', '16'], ['--img-size is 16', '48']),
        (['--resume'], ['checkpoint.pth does not exist']),
        (['--stylizer', 'adain_vgg19'], ['vgg_normalised.pth', '--encoder-weights']),
        (['--stylizer', 'adain_vgg19', '--encoder-weights', 'nowhere'], ['nowhere/vgg_normalised.pth']),
        (['--encoder-weights', 'x'], ['--stylizer adain_vgg19']),
        (['--max-images', '10'], ['--max-images is 10', '40']),
        (['--seed', '-1'], ['--seed is -1']),
        (['--lr', '0'], ['--lr is 0']),
        (['--lr', '1e30'], ['the loss is', '--lr']),
    ],
    ids=lambda value: ' '.join(value) if value[0].startswith('-') else '',
)
def test_mistakes(folder, tmp_path, capsys, flags, parts):
    assert run('--data-dir', folder, '--output', tmp_path / 'a', *FAST, *flags) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith('timm-debias train-stylizer: error: ')
    for part in parts:
        assert part in message


def test_bad_images(tmp_path, capsys):
    (tmp_path / 'images').mkdir()
    arguments = ['--data-dir', tmp_path / 'images', '--output', tmp_path / 'a', *FAST]
    assert run(*arguments) == 2
    assert 'has no images' in capsys.readouterr().err
    for index in range(40):
        Image.new('RGB', (64, 64)).save(tmp_path / 'images' / f'{index}.png')
    broken = tmp_path / 'images' / '39.png'
    broken.unlink()
    assert run(*arguments) == 2
    assert '39 images are too few' in capsys.readouterr().err
    broken.write_bytes(b'torn')
    assert run(*arguments) == 2
    assert str(broken) in capsys.readouterr().err
    deep(broken)
    assert run(*arguments) == 2
    assert 'grey values of 16 bits' in capsys.readouterr().err
    Image.new('RGB', (64, 8)).save(broken)
    assert run(*arguments) == 2
    assert '64×8 pixels' in capsys.readouterr().err


def test_folder_of_a_run_is_not_written_over(folder, tmp_path, capsys):
    arguments = ['--data-dir', folder, '--output', tmp_path, *FAST]
    assert run(*arguments) == 0
    assert run(*arguments) == 2
    assert 'holds a run already' in capsys.readouterr().err
    assert run(*arguments, '--resume', '--seed', '3') == 2
    assert '--seed 0, not 3' in capsys.readouterr().err


def test_what_a_run_may_go_on_with(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run('--data-dir', folder, '--output', 'a', *FAST) == 0
    (tmp_path / 'a').rename(tmp_path / 'b')
    others = ['--device', 'cpu:0', '--log-interval', '1', '--checkpoint-interval', '1']
    assert run('--data-dir', folder, '--output', './b', *FAST, *others, '--resume') == 0


def test_resume_from_a_checkpoint_that_is_none(folder, tmp_path, capsys):
    arguments = ['--data-dir', folder, '--output', tmp_path, *FAST]
    assert run(*arguments) == 0
    checkpoint = tmp_path / 'checkpoint.pth'
    whole = checkpoint.read_bytes()
    for cut in (0, 1000, len(whole) // 2, len(whole) - 100):
        checkpoint.write_bytes(whole[:cut])
        assert run(*arguments, '--resume') == 2
        assert 'checkpoint.pth: half-written, damaged' in capsys.readouterr().err
        assert checkpoint.read_bytes() == whole[:cut]
    for content in ({'state_dict': {}, 'epoch': 1}, [1, 2], torch.zeros(3)):
        torch.save(content, checkpoint)
        assert run(*arguments, '--resume') == 2
        assert 'is no checkpoint of train-stylizer' in capsys.readouterr().err
    state = torch.load(io.BytesIO(whole), weights_only=True)
    state['stylizer'].pop('to_pixels.weight')
    torch.save(state, checkpoint)
    assert run(*arguments, '--resume') == 2
    assert "'to_pixels.weight' is missing" in capsys.readouterr().err


def test_output_that_cannot_be_written(folder, tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert run('--data-dir', folder, '--output', tmp_path / 'file', *FAST) == 2
    assert 'file is a file; name a folder' in capsys.readouterr().err


def test_crops_are_reproducible_and_varied(folder):
    crops = Crops(sorted(folder.rglob('*.png')), 48)
    first, second = (crops.sample(8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (8, 3, 48, 48)
    assert first.flatten(1).unique(dim=0).shape[0] == 8
    assert not torch.equal(first, crops.sample(8, torch.Generator().manual_seed(4)))


def test_texture_distance_sees_texture_not_place():
    """A texture moved by half a period, every pixel another, stays near; another texture of the same colours is far."""
    axis = torch.arange(96)
    stripes = ((axis // 8) % 2).float().expand(3, 96, 96)[None]
    moved = stripes.roll(8, -1)
    checks = (((axis[:, None] // 8) + (axis // 8)) % 2).float().expand(3, 96, 96)[None]
    for seed in (0, 1):
        texture = RandomTexture(seed)
        assert texture.distance(stripes, stripes) == 0
        assert texture.distance(moved, stripes) < 0.2 * texture.distance(checks, stripes)


def test_gram_distance_by_a_loop():
    texture = RandomTexture(0)
    images, others = (torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    expected = 0.0
    for ours, theirs in zip(texture(images), texture(others), strict=True):
        grams = []
        for responses in (ours[0].flatten(1), theirs[0].flatten(1)):
            grams.append(sum(torch.outer(pixel, pixel) for pixel in responses.T) / responses.shape[1])
        expected += float((grams[0] - grams[1]).norm() / (grams[1].norm() + 1e-3))
    assert float(texture.distance(images, others)) == pytest.approx(expected, rel=1e-4)


def test_responses_by_the_definition():
    texture = RandomTexture(0)
    images = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    levels = texture(images)
    assert [level.shape[-1] for level in levels] == [40, 20, 10, 5]
    patch = images[0, :, 10:17, 20:27]  # Around pixel (13, 23).
    expected = F.relu((texture.filters * patch).sum((1, 2, 3)) + texture.bias)
    torch.testing.assert_close(levels[0][0, :, 13, 23], expected)


def test_local_distance_sees_the_place():
    """Two halves of stripes and plain ground: the texture of both orders is one, the places are not."""
    axis = torch.arange(96)
    stripes = ((axis // 4) % 2).float().expand(3, 96, 96)
    ground = torch.full((3, 96, 96), 0.5)
    left = torch.where(axis[:, None] < 48, stripes, ground)[None]
    right = torch.where(axis[:, None] < 48, ground, stripes)[None]
    shifted = torch.where(axis[:, None] < 48, stripes.roll(4, -1), ground)[None]
    texture = RandomTexture(0)
    far = local_distance(texture(left), texture(right))
    assert local_distance(texture(left), texture(left)) == 0
    assert local_distance(texture(shifted), texture(left)) < 0.2 * far
    assert texture.distance(right, left) < 0.2 * far  # Gram matrices do not see it.


def test_a_size_that_strides_round_up():
    """At 49 pixels the decoder gives 52 rows; the loss looks at those of the image."""
    torch.manual_seed(0)
    batch = make_batch(torch.rand(4, 3, 49, 49), 2, torch.Generator().manual_seed(0))
    losses = LiteObjective(AdainLite(), 0, torch.device('cpu'))(batch)
    assert all(value.isfinite() for value in losses.values())


def choice(queries: torch.Tensor, inside: torch.Tensor) -> dict[str, torch.Tensor]:
    """The losses of choice of two images that are each other's partners."""
    partners = torch.tensor([1, 0])
    return LiteObjective._choice(queries, cut_patches(queries, 2).mean((3, 4))[partners], partners, inside)


def test_loss_of_choice_is_zero_for_a_right_choice():
    """Keys that say what is inside choose inside patches for inside places; keys that say nothing cannot."""
    inside = torch.zeros(2, 1, 48, 48)
    inside[..., :24] = 1
    signs = 2 * F.adaptive_avg_pool2d(inside, (24, 24)) - 1
    for scale, low, high in ((30.0, 0.0, 0.02), (0.0, 0.8, 1.2)):
        assert low <= choice(scale * signs, inside)['choice'] <= high


def test_choosing_few_patches_and_the_same_as_neighbours_costs_nothing():
    inside = torch.zeros(0, 1, 48, 48)
    losses = choice(torch.zeros(2, 1, 24, 24), inside)
    assert losses['entropy'] == pytest.approx(0.05 * np.log(GRID**2), rel=1e-3)  # Undecided everywhere.
    assert losses['changes'] == 0
    keys = 100 * (torch.arange(24) - 11.5).expand(2, 1, 24, 24)  # Chooses the patches at the left and right border.
    losses = choice(keys, inside)
    assert losses['entropy'] == pytest.approx(0.05 * np.log(GRID), rel=0.01)
    assert losses['changes'] == pytest.approx(0.2 * 2 / 23, rel=0.01)
