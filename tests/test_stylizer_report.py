"""The stylizer report against stylizers whose effect is known."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from timm_debias import Stylizer, cli, create_stylizer
from timm_debias.data.shapes_textures import CLASSES, ShapesTextures
from timm_debias.stylizer_report import main as report_main
from timm_debias.stylizer_report.readers import CueReader, read_cues, train_reader
from timm_debias.stylizer_report.statistics import mirrored, shuffled, statistics_removed
from timm_debias.stylizer_training.measure import psnr, texture_removed
from timm_debias.stylizer_training.texture import RandomTexture
from timm_debias.untrusted import read_json


class Keep(Stylizer):
    """Changes nothing."""

    def encode(self, images):
        return (images,)

    def style(self, features):
        return features

    def decode(self, features, style, alpha):
        return features[0]


class Swap(Keep):
    """Returns the partner."""

    def decode(self, features, style, alpha):
        return style[0]


class Oracle(CueReader):
    """Reads the shape from the first pixel's red and the texture from its green."""

    def forward(self, images):
        classes = (images[:, :2, 0, 0] * len(CLASSES)).long()
        one_hot = nn.functional.one_hot(classes, len(CLASSES)).float()
        return one_hot[:, 0], one_hot[:, 1]


@pytest.fixture
def marked(monkeypatch):
    """Drawn images whose first pixel says their classes."""
    draw = ShapesTextures.__getitem__

    def marked_draw(self, index):
        image, target = draw(self, index)
        image[:2, 0, 0] = (torch.tensor([self.shape_labels[index], self.texture_labels[index]]) + 0.5) / len(CLASSES)
        return image, target

    monkeypatch.setattr(ShapesTextures, '__getitem__', marked_draw)


class TestReadCues:
    def test_nothing_changed(self, marked):
        found = read_cues(Oracle(), Keep(), 1.0, 32, 56, seed=0)
        assert found == {'shape': 1.0, 'texture': 0.0, 'content_texture': 1.0}

    def test_without_a_stylizer(self, marked):
        assert read_cues(Oracle(), None, 0.0, 32, 56, seed=0) == {'shape': 1.0, 'texture': 0.0, 'content_texture': 1.0}

    def test_all_from_the_partner(self, marked):
        """A partner is never of the content's class, so its shape is never the content's."""
        found = read_cues(Oracle(), Swap(), 1.0, 32, 56, seed=0)
        assert found == {'shape': 0.0, 'texture': 1.0, 'content_texture': 0.0}


class TestStatistics:
    images = torch.rand(5, 3, 48, 48, generator=torch.Generator().manual_seed(0))

    def test_nothing_and_everything(self):
        torch.manual_seed(0)
        judge = CueReader().eval().requires_grad_(False)
        assert statistics_removed(Keep(), self.images, judge, batch_size=2) == pytest.approx(0, abs=1e-6)
        assert statistics_removed(Swap(), self.images, judge, batch_size=2) == pytest.approx(1, abs=1e-6)

    def test_against_the_definition(self):
        torch.manual_seed(0)
        judge = CueReader().eval().requires_grad_(False)
        grey = lambda content, style, alpha: content.mean(1, keepdim=True).expand_as(content)  # noqa: E731
        partners = self.images[[1, 2, 3, 4, 0]]
        left = []
        for level in range(len(judge.statistics(self.images))):
            ours, own, wanted = (
                judge.statistics(x)[level] for x in (grey(self.images, None, 1), self.images, partners)
            )
            after = sum(float((a - b).square().sum().sqrt()) for a, b in zip(ours, wanted, strict=True))
            before = sum(float((a - b).square().sum().sqrt()) for a, b in zip(own, wanted, strict=True))
            left.append(after / before)
        found = statistics_removed(grey, self.images, judge)
        assert found == pytest.approx(1 - sum(left) / len(left), abs=1e-4)


class TestMeasures:
    """PSNR is that of alpha = 0, the share removed that of alpha = 1."""

    images = torch.rand(5, 3, 48, 48, generator=torch.Generator().manual_seed(0))

    @staticmethod
    def blend(content, style, alpha):
        return torch.lerp(content, style, alpha) + 0.1 * (alpha == 0) * (0.5 - content).sign()

    def test_psnr(self):
        """An error of 0.1 everywhere is 20 dB."""
        assert psnr(self.blend, self.images, batch_size=2) == pytest.approx(20, abs=1e-3)
        assert psnr(Keep(), self.images) == pytest.approx(150)

    def test_texture_removed(self):
        judge = RandomTexture(seed=1)
        assert texture_removed(Keep(), self.images, judge, batch_size=2) == pytest.approx(0, abs=1e-6)
        assert texture_removed(self.blend, self.images, judge, batch_size=2) == pytest.approx(1, abs=1e-6)


class TestReferences:
    images = torch.rand(2, 3, 50, 63, generator=torch.Generator().manual_seed(0))

    def test_mirrored(self):
        found = mirrored(torch.zeros_like(self.images), self.images, 1.0)
        assert torch.equal(found[..., 5], self.images[..., 57])

    def test_shuffled_has_the_partners_blocks_elsewhere(self):
        """Of 12×15 pixels; two rows and three columns are left over."""
        found = shuffled(torch.zeros_like(self.images), self.images, 1.0)
        blocks, expected = (
            [x[:, :, y : y + 12, z : z + 15] for y in range(0, 48, 12) for z in range(0, 60, 15)]
            for x in (found, self.images)
        )
        places = [[torch.equal(block, other) for other in expected].index(True) for block in blocks]
        assert sorted(places) == list(range(16))
        assert sum(place != index for index, place in enumerate(places)) > 10
        assert torch.equal(found[:, :, 48:], self.images[:, :, 48:])
        assert torch.equal(found[..., 60:], self.images[..., 60:])


@pytest.mark.slow
def test_adain_lite_carries_both_cues():
    """At alpha = 1 the partner's texture is read at three times chance and more, the content's shape at 70 %.

    By a reader of half the images of the report's, which knows both cues of images of another seed.
    """
    reader = train_reader(1000, epochs=5, num_samples=2048)
    before = read_cues(reader, None, 0.0, 64, 280, seed=3000)
    assert min(before['shape'], before['content_texture']) > 0.85
    found = read_cues(reader, create_stylizer('adain_lite'), 1.0, 64, 280, seed=3000)
    assert found['texture'] >= 3 / len(CLASSES)
    assert found['shape'] >= 0.7


@pytest.fixture
def noise_folder(tmp_path):
    """Forty images of noise, of which two are held out."""
    folder = tmp_path / 'noise'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (60, 64, 3), dtype=np.uint8)).save(folder / f'{number:02d}.png')
    return folder


class TestCommand:
    @pytest.fixture
    def quick(self, monkeypatch):
        monkeypatch.setattr(report_main, 'train_reader', lambda seed, size: CueReader().eval())

    def test_report(self, quick, noise_folder, tmp_path, capsys):
        out = tmp_path / 'report'
        argv = ['--data-dir', str(noise_folder), '--output', str(out), '--pairs', '8', '--repeats', '0']
        argv += ['--img-size', '48', '--stylizers', 'adain_lite', 'band_statistics']
        assert cli.run('stylizer-report', argv) == 0
        report = read_json(out / 'report.json', 'a report')
        assert list(report['stylizers']) == ['adain_lite', 'band_statistics']
        assert report['stylizers']['band_statistics']['psnr'] > 60  # Float rounding only: nothing is lost at alpha 0.
        assert report['stylizers']['band_statistics']['parameters'] == 0
        for row in (*report['stylizers'].values(), *report['references'].values()):
            assert row['texture_removed_least'] < row['texture_removed']
        assert list(report['references']) == ['partner mirrored', 'partner shuffled']
        assert (out / 'report.png').is_file()
        assert capsys.readouterr().out == (out / 'report.md').read_text()

    @pytest.mark.parametrize(
        ('argv', 'message'),
        [
            ([], '--data-dir'),
            (['--data-dir', 'absent'], 'absent'),
            (['--stylizers', 'adain_light'], "Did you mean 'adain_lite'"),
            (['--pairs', '9'], 'multiple of the 8 classes'),
            (['--pairs', '0'], '--pairs is 0'),
            (['--img-size', '20'], '--img-size is 20'),
            (['--seed', '-1'], '--seed is -1'),
            (['--max-images', '0'], '--max-images is 0'),
            (['--output', __file__], 'is a file; name a folder'),
            (['--weights', 'adain_lite'], 'NAME=PATH'),
            (['--weights', 'adain_vgg19=x'], "does not name 'adain_vgg19'"),
            (['--weights', 'adain_lite=absent.safetensors'], 'absent.safetensors'),
            (['--weights', 'band_statistics=x'], 'no weights'),
        ],
    )
    def test_mistakes(self, argv, message, noise_folder, capsys):
        given = argv if '--data-dir' in argv or not argv else [*argv, '--data-dir', str(noise_folder)]
        assert cli.run('stylizer-report', given) == 2
        assert message in capsys.readouterr().err
